"""What the embedded server keeps, and what it leaves behind, when a client or the server itself is killed."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from clickhouse_driver import Client

from tests.clickhouse_fixture import ClickHouse, running_clickhouse
from tests.waiting import wait_for

pytestmark = pytest.mark.clickhouse

# Sends blocks of 100,000 rows for ever, or so many, and says when so many are on their way.
WRITER = """
import sys
from clickhouse_driver import Client
host, port, user, password, database, compression, last = sys.argv[1:]
client = Client(host, port=int(port), user=user, password=password, database=database, compression=compression == "1")
def rows():
    number = 0
    while last == "never" or number < int(last):
        yield (number, "x" * 20)
        number += 1
        if number == 600_000:
            print("on the way", flush=True)
client.execute("INSERT INTO t VALUES", rows(), settings={"insert_block_size": 100_000})
print("stored", flush=True)
"""


def start_writer(server: ClickHouse, database: str, compression: bool, last: str) -> "subprocess.Popen[str]":
    place = [server.host, str(server.port), server.user, server.password, database, str(int(compression)), last]
    return subprocess.Popen([sys.executable, "-c", WRITER, *place], stdout=subprocess.PIPE, text=True)


def table(client: Client, engine: str = "MergeTree ORDER BY a") -> None:
    client.execute(f"CREATE TABLE t (a Int64, s String) ENGINE = {engine}")


@pytest.mark.parametrize("compression", [False, True], ids=["plain", "lz4"])
def test_a_client_killed_in_the_middle_of_an_insert_leaves_nothing_of_it(
    any_clickhouse: ClickHouse, database: str, compression: bool
) -> None:
    """Several blocks of 100,000 rows have arrived when it dies. A binary keeps a million rows whole too."""
    client = any_clickhouse.client(database)
    table(client)
    writer = start_writer(any_clickhouse, database, compression, "never")
    assert writer.stdout is not None
    assert writer.stdout.readline() == "on the way\n"
    os.kill(writer.pid, signal.SIGKILL)
    writer.wait()
    inserting = "SELECT count() FROM system.processes WHERE query LIKE 'INSERT INTO t%'"
    wait_for(lambda: client.execute(inserting) == [(0,)], 10, "the end of the insert")
    assert client.execute("SELECT count() FROM t") == [(0,)]
    assert client.execute(
        "SELECT count() FROM system.parts WHERE table = 't' AND database = %(d)s", {"d": database}
    ) == [(0,)]
    client.disconnect()


def test_more_rows_than_the_engine_takes_at_once_still_leave_nothing_when_the_client_dies(
    clickhouse_server: ClickHouse,
) -> None:
    """The engine by itself would have stored its first million."""
    client = clickhouse_server.client()
    client.execute("CREATE DATABASE deaths")
    client.execute("USE deaths")
    table(client)
    before = len(clickhouse_server.log)
    code = WRITER.replace("600_000", "2_300_000")
    place = [clickhouse_server.host, str(clickhouse_server.port), clickhouse_server.user, clickhouse_server.password]
    writer = subprocess.Popen(
        [sys.executable, "-c", code, *place, "deaths", "0", "never"], stdout=subprocess.PIPE, text=True
    )
    assert writer.stdout is not None
    assert writer.stdout.readline() == "on the way\n"
    writer.kill()
    writer.wait()
    wait_for(lambda: "in the middle of an INSERT" in clickhouse_server.log[before:], 10, "the end of the insert")
    assert client.execute("SELECT count() FROM t") == [(0,)]
    client.execute("DROP DATABASE deaths")
    client.disconnect()


def test_an_insert_of_more_than_is_held_in_memory_goes_through_a_file_and_is_stored_whole(tmp_path: Path) -> None:
    with running_clickhouse(tmp_path / "server", "--held-in-memory-mib", "1") as server:
        client = server.client()
        table(client)
        client.execute(
            "INSERT INTO t VALUES", ((n, "x" * 50) for n in range(300_000)), settings={"insert_block_size": 50_000}
        )
        assert client.execute("SELECT count(), sum(a), sum(length(s)) FROM t") == [
            (300_000, 300_000 * 299_999 // 2, 15_000_000)
        ]
        assert list((tmp_path / "server" / "data" / "held").iterdir()) == []
        client.disconnect()


def test_what_was_committed_survives_a_kill_of_the_server(tmp_path: Path) -> None:
    with running_clickhouse(tmp_path / "server") as server:
        client = server.client()
        client.execute("CREATE DATABASE kept")
        client.execute("USE kept")
        table(client, "MergeTree ORDER BY a SETTINGS non_replicated_deduplication_window = 100")
        for batch in range(5):
            client.execute(
                "INSERT INTO t VALUES",
                [(batch * 1000 + n, "x") for n in range(1000)],
                settings={"insert_deduplication_token": f"batch {batch}"},
            )
        server.kill()
        client.disconnect()
        server.start()
        client = server.client("kept")
        assert client.execute("SELECT count(), uniqExact(a) FROM t") == [(5000, 5000)]
        client.execute("INSERT INTO t VALUES", [(4000, "again")], settings={"insert_deduplication_token": "batch 4"})
        assert client.execute("SELECT count() FROM t") == [(5000,)], "tokens are remembered over a crash"
        client.disconnect()


def test_a_server_killed_in_the_middle_of_an_insert_comes_back_without_it(tmp_path: Path) -> None:
    with running_clickhouse(tmp_path / "server") as server:
        client = server.client()
        table(client)
        writer = start_writer(server, "default", compression=True, last="never")
        assert writer.stdout is not None
        assert writer.stdout.readline() == "on the way\n"
        server.kill()
        writer.wait()
        client.disconnect()
        server.start()
        client = server.client()
        assert client.execute("SELECT count() FROM t") == [(0,)]
        client.disconnect()


def test_sigterm_ends_the_server_in_order_though_clients_are_connected_and_a_query_runs(tmp_path: Path) -> None:
    with running_clickhouse(tmp_path / "server") as server:
        idle, busy = server.client(), server.client()
        idle.execute("SELECT 1")
        running = busy.execute_iter("SELECT number FROM numbers(1000000000000)")
        next(running)
        assert server.stop() == 0
        assert "Traceback" not in server.log
        idle.disconnect()
        busy.disconnect()
        server.start()
        again = server.client()
        assert again.execute("SELECT 1") == [(1,)]
        again.disconnect()


def test_a_second_server_over_the_same_directory_is_refused_with_the_reason(tmp_path: Path) -> None:
    with running_clickhouse(tmp_path / "server") as server:
        command = [sys.executable, "-m", "pulsetrain_local.clickhouse", "--port", "0", "--user", "u"]
        places = ["--path", str(tmp_path / "server" / "data"), "--password-file", str(server.directory / "password")]
        second = subprocess.run([*command, *places], capture_output=True, text=True, timeout=30, check=False)
        assert second.returncode == 1
        assert "already" in second.stderr
        assert "Traceback" not in second.stderr
