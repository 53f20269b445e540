"""What input that no honest client sends gets: the connection is closed, the log says why, the server lives on."""

import random
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from clickhouse_driver.errors import ServerException

from pulsetrain_local.clickhouse.wire import string, varint
from tests.clickhouse_fixture import ClickHouse, running_clickhouse
from tests.waiting import wait_for

pytestmark = pytest.mark.clickhouse

REVISION = 54453
DATA_OF_THE_QUERY = varint(2) + string("")
BLOCK_INFO = b"\x01\x00\x02\xff\xff\xff\xff\x00"
EMPTY_BLOCK = BLOCK_INFO + varint(0) + varint(0)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClickHouse]:
    with running_clickhouse(tmp_path_factory.mktemp("hostile"), "--max-connections", "8") as server:
        client = server.client()
        client.execute("CREATE TABLE t (a Int64, s String) ENGINE = MergeTree ORDER BY a")
        client.disconnect()
        yield server


def hello(server: ClickHouse) -> bytes:
    login = string("") + string(server.user) + string(server.password)
    return varint(0) + string("test") + varint(22) + varint(1) + varint(REVISION) + login


def query(text: str, compressed: bool = False) -> bytes:
    client_info = (
        b"\x01"
        + string("") * 2
        + string("0.0.0.0:0")
        + struct.pack("<Q", 0)
        + b"\x01"
        + string("") * 3
        + varint(22)
        + varint(1)
        + varint(REVISION)
        + string("")
        + varint(0)
        + varint(0)
        + b"\x00"
        + varint(0) * 3
    )
    return (
        varint(1)
        + string("")
        + client_info
        + string("")
        + string("")
        + varint(2)
        + varint(int(compressed))
        + string(text)
    )


def connect(server: ClickHouse) -> socket.socket:
    return socket.create_connection((server.host, server.port), timeout=10)


def answer(connection: socket.socket) -> bytes:
    """All that the server sends until it closes."""
    received = b""
    try:
        while piece := connection.recv(1 << 16):
            received += piece
    except ConnectionResetError:
        pass  # it closed while something of ours was unread
    return received


def works(server: ClickHouse) -> bool:
    client = server.client()
    try:
        return bool(client.execute("SELECT 1") == [(1,)])
    finally:
        client.disconnect()


def test_http_on_the_native_port_is_told_so(server: ClickHouse) -> None:
    with connect(server) as connection:
        connection.sendall(b"GET /ping HTTP/1.1\r\nHost: localhost\r\n\r\n")
        told = answer(connection)
    assert told.startswith(b"HTTP/1.0 400 Bad Request\r\n")
    assert f"Port {server.port} is for clickhouse-client program".encode() in told
    assert "it speaks HTTP on the native port" in server.log
    assert works(server)


def test_garbage_closes_the_connection_and_nothing_else(server: ClickHouse) -> None:
    dice = random.Random(4)
    for begin in (b"", hello(server), hello(server) + query("SELECT 1")):
        for _ in range(15):
            with connect(server) as connection:
                connection.sendall(begin + dice.randbytes(dice.randrange(1, 4000)))
                connection.shutdown(socket.SHUT_WR)
                answer(connection)
    assert works(server)
    assert "Traceback" not in server.log


def test_a_connection_cut_at_any_byte_harms_nothing(server: ClickHouse) -> None:
    block = BLOCK_INFO + varint(1) + varint(1) + string("a") + string("Int64") + struct.pack("<q", 1)
    whole = (
        hello(server) + query("INSERT INTO t (a) VALUES") + DATA_OF_THE_QUERY + EMPTY_BLOCK + DATA_OF_THE_QUERY + block
    )
    for length in range(len(whole)):
        with connect(server) as connection:
            connection.sendall(whole[:length])
    wait_for(lambda: works_at_last(server), 10, "room for a connection")
    client = server.client()
    assert client.execute("SELECT count() FROM t") == [(0,)]
    client.disconnect()
    assert "Traceback" not in server.log


def works_at_last(server: ClickHouse) -> bool:
    try:
        return works(server)
    except (ServerException, OSError, EOFError):
        return False


@pytest.mark.parametrize(
    "packet",
    [
        pytest.param(varint(0) + varint(2**62), id="the name in Hello"),
        pytest.param(varint(0) + b"\xff" * 20, id="a number without an end"),
        pytest.param(varint(77), id="an unknown first packet"),
    ],
)
def test_an_absurd_length_in_hello_is_refused(server: ClickHouse, packet: bytes) -> None:
    with connect(server) as connection:
        connection.sendall(packet)
        assert answer(connection)[:1] == varint(2), "an Exception packet"
    assert works(server)


@pytest.mark.parametrize(
    "packet",
    [
        pytest.param(varint(1) + varint(2**60), id="the query id"),
        pytest.param(query("SELECT 1")[:-9] + varint(2**50), id="the text of the query"),
        pytest.param(query("SELECT 1") + DATA_OF_THE_QUERY + BLOCK_INFO + varint(2**40) + varint(1), id="columns"),
        pytest.param(
            query("SELECT 1")
            + DATA_OF_THE_QUERY
            + BLOCK_INFO
            + varint(1)
            + varint(2**60)
            + string("a")
            + string("Int64"),
            id="rows",
        ),
        pytest.param(
            query("SELECT 1")
            + DATA_OF_THE_QUERY
            + BLOCK_INFO
            + varint(1)
            + varint(1)
            + string("a")
            + string("String")
            + varint(2**60),
            id="a string",
        ),
        pytest.param(
            query("SELECT 1")
            + DATA_OF_THE_QUERY
            + BLOCK_INFO
            + varint(1)
            + varint(1)
            + string("a")
            + string("Array(Int8)")
            + struct.pack("<Q", 2**63),
            id="an array",
        ),
        pytest.param(
            query("SELECT 1")
            + DATA_OF_THE_QUERY
            + BLOCK_INFO
            + varint(1)
            + varint(1)
            + string("a")
            + string("Array(" * 5000),
            id="a type nested without end",
        ),
        pytest.param(
            query("SELECT 1") + DATA_OF_THE_QUERY + BLOCK_INFO + varint(1) + varint(1) + string("a") + string("JSON"),
            id="a type that cannot be walked",
        ),
        pytest.param(
            query("SELECT 1", compressed=True)
            + DATA_OF_THE_QUERY
            + bytes(16)
            + b"\x82"
            + struct.pack("<II", 2**31, 2**31),
            id="a compressed frame",
        ),
        pytest.param(
            query("SELECT 1", compressed=True)
            + DATA_OF_THE_QUERY
            + bytes(16)
            + b"\x82"
            + struct.pack("<II", 19, 2**29)
            + bytes(10),
            id="a compressed frame that says it holds more than it can",
        ),
        pytest.param(varint(99), id="an unknown packet"),
    ],
)
def test_an_absurd_length_later_is_refused_and_costs_no_memory(server: ClickHouse, packet: bytes) -> None:
    works(server)
    before = server.memory()
    with connect(server) as connection:
        connection.sendall(hello(server) + packet)
        told = answer(connection)
        assert b"DB::Exception" in told
    assert server.memory() < before + (64 << 20)
    assert "closing the connection" in server.log
    assert "Traceback" not in server.log
    assert works(server)


def test_connections_past_the_limit_are_refused_with_the_reason_and_taken_again_later(server: ClickHouse) -> None:
    wait_for(lambda: works_at_last(server), 10, "room for a connection")
    clients = []
    for _ in range(8):
        clients.append(server.client())
        clients[-1].execute("SELECT 1")
    with pytest.raises(ServerException) as caught:
        server.client().execute("SELECT 1")
    assert caught.value.code == 202
    assert "Too many connections" in caught.value.message
    for client in clients:
        client.disconnect()
    wait_for(lambda: works_at_last(server), 10, "room for a connection")


def test_a_password_never_reaches_the_log(server: ClickHouse, tmp_path: Path) -> None:
    with pytest.raises(ServerException):
        server.client(password="a wrong secret").execute("SELECT 1")
    assert "a wrong secret" not in server.log
    assert server.password not in server.log
