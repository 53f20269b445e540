"""ClickHouse over TLS, as the production overlay names it: `clickhouses://…?ca_certs=…`."""

import asyncio
import queue
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote
from uuid import uuid4

import pytest

from pulsetrain_consumers.clickhouse import ClickHouseUnavailable, connect
from pulsetrain_consumers.clickhouse.migrate import check, migrate
from pulsetrain_local.ports import HOST
from pulsetrain_schemas.addresses import ClickHouseAddress
from tests.certificates import Certificates, certificates
from tests.clickhouse_fixture import PASSWORD, USER, ClickHouse

pytestmark = [pytest.mark.clickhouse]


@pytest.fixture
def trusted(tmp_path: Path) -> Certificates:
    return certificates(tmp_path / "certificates")


@pytest.fixture
def tls_port(clickhouse_server: ClickHouse, trusted: Certificates) -> Iterator[int]:
    """The embedded server has no TLS of its own: this puts it before it."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(trusted.server)
    started: queue.Queue[tuple[int, asyncio.AbstractEventLoop, asyncio.Event]] = queue.Queue()

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behind_reader, behind_writer = await asyncio.open_connection(HOST, clickhouse_server.port)
        await asyncio.gather(copy(reader, behind_writer), copy(behind_reader, writer))

    async def run() -> None:
        stop = asyncio.Event()
        async with await asyncio.start_server(serve, HOST, 0, ssl=context) as server:
            started.put((server.sockets[0].getsockname()[1], asyncio.get_running_loop(), stop))
            await stop.wait()

    thread = threading.Thread(target=asyncio.run, args=(run(),), daemon=True)
    thread.start()
    port, loop, stop = started.get(timeout=10)
    yield port
    loop.call_soon_threadsafe(stop.set)
    thread.join(timeout=10)


def _address(port: int, options: str = "") -> ClickHouseAddress:
    password, database = quote(PASSWORD, safe=""), f"tls_{uuid4().hex[:8]}"
    return ClickHouseAddress.parse(f"clickhouses://{USER}:{password}@{HOST}:{port}/{database}{options}")


def test_tables_are_made_over_tls_where_the_authority_is_named(tls_port: int, trusted: Certificates):
    address = _address(tls_port, f"?ca_certs={trusted.authority}")
    migrate(address)
    assert not check(address).missing


def test_a_server_whose_certificate_nobody_vouches_for_is_not_talked_to(tls_port: int):
    with connect(_address(tls_port)) as client, pytest.raises(ClickHouseUnavailable, match="CERTIFICATE_VERIFY_FAILED"):
        client.ping()
