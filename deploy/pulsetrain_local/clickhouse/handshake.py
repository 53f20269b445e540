"""The beginning of a connection: who comes, in what protocol, and whether they may enter."""

import hmac
import logging
from collections.abc import Sequence
from dataclasses import dataclass

from pulsetrain_local.clickhouse import protocol
from pulsetrain_local.clickhouse.protocol import ClientHello, FromClient
from pulsetrain_local.clickhouse.replies import Replies
from pulsetrain_local.clickhouse.wire import ProtocolError, Source

log = logging.getLogger(__name__)

FIRST_LETTERS_OF_HTTP = frozenset(b"GPHOD")  # GET, POST, PUT, PATCH, HEAD, OPTIONS, DELETE
AUTHENTICATION_FAILED = 516


@dataclass(frozen=True, slots=True)
class Login:
    """A user. One that `reads_only` changes nothing, and reaches nothing but tables."""

    user: str
    password: str
    reads_only: bool = False

    def admits(self, hello: ClientHello) -> bool:
        """Whether that is the user, with the password. Takes the same time for every wrong one."""
        user = hmac.compare_digest(hello.user.encode(), self.user.encode())
        password = hmac.compare_digest(hello.password.encode(), self.password.encode())
        return user and password

    def __repr__(self) -> str:
        return f"Login({self.user!r})"


def greet(
    source: Source, replies: Replies, logins: Sequence[Login], peer: str, port: int
) -> tuple[ClientHello, Login] | None:
    """Reads the Hello of a client, who is one of the users. None where the client was refused, and told why.

    Raises ProtocolError for what is no ClickHouse client, or one older than can be served.
    """
    kind = source.varint()
    if kind in FIRST_LETTERS_OF_HTTP:
        log.warning("%s: refused, for it speaks HTTP on the native port", peer)
        _refuse_http(replies, port)
        return None
    if kind != FromClient.HELLO:
        raise ProtocolError(f"the first packet is of type {kind}, and no Hello: this is not a ClickHouse client")
    hello = protocol.read_hello(source)
    if hello.revision < protocol.OLDEST_REVISION:
        raise ProtocolError(f"{hello!r} is too old: revision {protocol.OLDEST_REVISION} is the least")
    admitted = [login for login in logins if login.admits(hello)]
    if not admitted:
        log.warning("%s: authentication failed for %r", peer, hello)
        message = f"{hello.user}: Authentication failed: password is incorrect, or there is no user with such name."
        replies.send(protocol.exception(AUTHENTICATION_FAILED, f"{message} (AUTHENTICATION_FAILED)"))
        replies.flush()
        return None
    return hello, admitted[0]


def _refuse_http(replies: Replies, port: int) -> None:
    text = (
        f"Port {port} is for clickhouse-client program\r\n"
        "It speaks ClickHouse's native protocol; this server has no port for HTTP.\r\n"
    )
    replies.send(f"HTTP/1.0 400 Bad Request\r\nContent-Type: text/plain\r\n\r\n{text}".encode())
    replies.flush()
