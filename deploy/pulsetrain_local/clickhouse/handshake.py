"""The beginning of a connection: who comes, in what protocol, and whether they may enter."""

import logging

from pulsetrain_local.clickhouse import protocol
from pulsetrain_local.clickhouse.host import Host, Login, refusal
from pulsetrain_local.clickhouse.protocol import ClientHello, FromClient
from pulsetrain_local.clickhouse.replies import Replies
from pulsetrain_local.clickhouse.wire import ProtocolError, Source

log = logging.getLogger(__name__)

FIRST_LETTERS_OF_HTTP = frozenset(b"GPHOD")  # GET, POST, PUT, PATCH, HEAD, OPTIONS, DELETE
AUTHENTICATION_FAILED = 516


def greet(source: Source, replies: Replies, host: Host, peer: str, port: int) -> tuple[ClientHello, Login] | None:
    """Reads the Hello of a client, who is one of the users. None where the client was refused, and told why.

    Raises ProtocolError for what is no ClickHouse client, or one older than can be served.
    """
    kind = source.varint()
    if kind in FIRST_LETTERS_OF_HTTP:
        log.warning("%s: refused, for it speaks HTTP on the native port", peer)
        _refuse_http(replies, port, host.http_port)
        return None
    if kind != FromClient.HELLO:
        raise ProtocolError(f"the first packet is of type {kind}, and no Hello: this is not a ClickHouse client")
    hello = protocol.read_hello(source)
    if hello.revision < protocol.OLDEST_REVISION:
        raise ProtocolError(f"{hello!r} is too old: revision {protocol.OLDEST_REVISION} is the least")
    login = host.admitted(hello.user, hello.password)
    if login is None:
        log.warning("%s: authentication failed for %r", peer, hello)
        replies.send(protocol.exception(AUTHENTICATION_FAILED, refusal(hello.user)))
        replies.flush()
        return None
    return hello, login


def _refuse_http(replies: Replies, port: int, http_port: int) -> None:
    text = (
        f"Port {port} is for clickhouse-client program\r\n"
        f"It speaks ClickHouse's native protocol; HTTP is at port {http_port}.\r\n"
    )
    replies.send(f"HTTP/1.0 400 Bad Request\r\nContent-Type: text/plain\r\n\r\n{text}".encode())
    replies.flush()
