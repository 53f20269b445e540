"""ClickHouse servers for tests: the embedded one, and beside it the `clickhouse` binary where there is one.

`clickhouse_server` is shared by the whole session: use databases of your own names. A test that kills one takes one of
its own with `running_clickhouse`. They end with the test process, however that ends.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil
import pytest
from clickhouse_driver import Client

from pulsetrain_local import clickhouse_server as binary_server
from pulsetrain_local.ports import HOST
from pulsetrain_local.tether import tethered
from tests.waiting import wait_for

USER, PASSWORD = binary_server.USER, "p@ss 'word"
READER, READER_PASSWORD = binary_server.READER, "another"


class ClickHouse:
    """A server that a test may stop, kill and start again over the same data."""

    module = "pulsetrain_local.clickhouse"

    def __init__(self, directory: Path, *options: str) -> None:
        self.directory = directory
        self.host, self.user, self.password = HOST, USER, PASSWORD
        self.port = self.http_port = 0
        self.process: subprocess.Popen[bytes] | None = None
        self._options = options
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "password").write_text(PASSWORD)
        (directory / "reader").write_text(READER_PASSWORD)

    @property
    def log(self) -> str:
        """What the server has logged so far."""
        return (self.directory / "log").read_text(errors="replace")

    def start(self) -> None:
        port_file, http_port_file = self.directory / "port", self.directory / "http-port"
        http_port_file.unlink(missing_ok=True)
        places = ["--path", str(self.directory / "data"), "--port-file", str(port_file)]
        places += ["--http-port-file", str(http_port_file)]
        login = ["--user", USER, "--password-file", str(self.directory / "password")]
        login += ["--reader", READER, "--reader-password-file", str(self.directory / "reader")]
        self._run([sys.executable, "-m", self.module, "--port", "0", *places, *login, *self._options])
        wait_for(lambda: self._alive() and http_port_file.exists(), 30, "the ports of the ClickHouse server")
        self.port, self.http_port = int(port_file.read_text()), int(http_port_file.read_text())

    def _run(self, command: list[str]) -> None:
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen(tethered(command, os.getpid()), stdout=log, stderr=log)

    def _alive(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log[-3000:]
        return True

    def stop(self) -> int:
        """Asks it to end, as an orderly shutdown does; returns its exit status."""
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(timeout=20)

    def kill(self) -> None:
        """kill -9."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def memory(self) -> int:
        """Its resident memory in bytes."""
        assert self.process is not None
        return int(psutil.Process(self.process.pid).memory_info().rss)

    def client(self, database: str = "", **options: Any) -> Client:
        """A clickhouse-driver client."""
        login = {"user": self.user, "password": self.password, **options}
        return Client(self.host, port=self.port, database=database, **login)

    def run_client(
        self, *arguments: str, data: bytes = b"", check: bool = True, timeout: float = 30
    ) -> "subprocess.CompletedProcess[bytes]":
        """Runs the command-line client, and waits for it."""
        done = subprocess.run(
            [*self.client_command(), *arguments], input=data, capture_output=True, timeout=timeout, check=False
        )
        if check:
            assert done.returncode == 0, (arguments, done.returncode, done.stdout, done.stderr)
        return done

    def client_command(self) -> list[str]:
        """The command-line client with its connection, or a skip where it is not installed."""
        binary = shutil.which("clickhouse-client")
        if binary is None:
            pytest.skip("clickhouse-client is not installed")
        login = ["--user", self.user, "--password", self.password]
        return [binary, "--host", self.host, "--port", str(self.port), *login]


class BinaryClickHouse(ClickHouse):
    """The same over the `clickhouse` binary."""

    def start(self) -> None:
        binary = binary_server.find_binary()
        assert binary is not None
        from pulsetrain_local.ports import free_ports

        self.port, self.http_port = free_ports(2)
        ports = binary_server.ServerPorts(self.port, self.http_port)
        self._run(binary_server.binary_command(binary, self.directory / "data", ports, PASSWORD, READER_PASSWORD))
        wait_for(lambda: self._alive() and binary_server.answers(self.port, PASSWORD), 60, "an answer of the binary")


@contextmanager
def running_clickhouse(directory: Path, *options: str, kind: type[ClickHouse] = ClickHouse) -> Iterator[ClickHouse]:
    """A server of one's own, for a test that kills it or gives it options."""
    server = kind(directory, *options)
    server.start()
    try:
        yield server
    finally:
        server.kill()


@pytest.fixture(scope="session")
def clickhouse_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClickHouse]:
    """The embedded server, shared by the session: use databases of your own names."""
    with running_clickhouse(tmp_path_factory.mktemp("clickhouse")) as server:
        yield server


@pytest.fixture(scope="session")
def clickhouse_binary(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClickHouse]:
    """The binary, shared by the session."""
    if binary_server.find_binary() is None:
        pytest.skip("no recent clickhouse binary on the PATH")
    with running_clickhouse(tmp_path_factory.mktemp("clickhouse-binary"), kind=BinaryClickHouse) as server:
        yield server


@pytest.fixture(params=["embedded", "binary"])
def any_clickhouse(request: pytest.FixtureRequest) -> ClickHouse:
    """Each kind of server in turn: what holds for one holds for the other."""
    name = "clickhouse_server" if request.param == "embedded" else "clickhouse_binary"
    server: ClickHouse = request.getfixturevalue(name)
    return server


@pytest.fixture
def database(request: pytest.FixtureRequest, any_clickhouse: ClickHouse) -> Iterator[str]:
    """A database of the test's own on `any_clickhouse`."""
    name = re.sub(r"\W+", "_", f"{request.node.name[:60]}_{uuid4().hex[:8]}")
    client = any_clickhouse.client()
    client.execute(f"CREATE DATABASE {name}")
    yield name
    client.execute(f"DROP DATABASE {name}")
    client.disconnect()
