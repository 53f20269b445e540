"""What the unmodified `clickhouse-client` must find in the embedded server, Debian's old one (18.16) before all."""

import json
import os
import pty
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pulsetrain_schemas.migrations import load
from tests.clickhouse_fixture import ClickHouse
from tests.waiting import wait_for

pytestmark = pytest.mark.clickhouse

Run = Callable[..., "subprocess.CompletedProcess[bytes]"]


@pytest.fixture(params=["0", "1"], ids=["plain", "lz4"])
def run(request: pytest.FixtureRequest, any_clickhouse: ClickHouse, database: str) -> Run:
    """Runs a query by the client, in the test's own database."""

    def run_query(*arguments: str, data: bytes = b"", check: bool = True) -> "subprocess.CompletedProcess[bytes]":
        place = ("--database", database, "--compression", request.param)
        return any_clickhouse.run_client(*place, *arguments, data=data, check=check)

    return run_query


def test_a_query_gives_its_rows(run: Run) -> None:
    assert run("--query", "SELECT 1, 'x', [1, 2], NULL, toLowCardinality('low')").stdout == b"1\tx\t[1,2]\t\\N\tlow\n"
    assert run(data=b"SELECT 3").stdout == b"3\n"


def test_a_long_result_comes_whole(run: Run) -> None:
    lines = run("--query", "SELECT number, toString(number) FROM numbers(300000)").stdout.splitlines()
    assert len(lines) == 300_000
    assert lines[-1] == b"299999\t299999"


def test_an_empty_result_and_one_with_a_header(run: Run) -> None:
    assert run("--query", "SELECT 1 AS a WHERE 0").stdout == b""
    assert run("--query", "SELECT 1 AS a WHERE 0 FORMAT TabSeparatedWithNames").stdout == b"a\n"


def test_types_that_an_old_client_does_not_know_come_as_text(run: Run) -> None:
    sql = (
        "SELECT toDateTime64('2026-11-23 18:30:01.123456', 6, 'UTC') AS at, true AS yes, map('k', 1) AS m,"
        " toIPv4('1.2.3.4') AS ip, toInt128(5) AS big, [toDateTime64('2026-11-23 18:30:01.5', 1, 'UTC')] AS list,"
        " toDate32('1950-01-02') AS d, toNullable(true) AS maybe, (1, toDateTime64(0, 3, 'UTC')) AS pair"
    )
    row = json.loads(run("--query", f"{sql} FORMAT JSONEachRow").stdout)
    assert row["at"] == "2026-11-23 18:30:01.123456"
    assert row["yes"] == row["maybe"] in ("true", True)
    assert (row["ip"], row["big"], row["d"]) == ("1.2.3.4", "5", "1950-01-02")
    assert "2026-11-23 18:30:01.5" in str(row["list"])
    assert "1970-01-01 00:00:00.000" in str(row["pair"])
    assert "'k':1" in str(row["m"]).replace(" ", "")


def test_rows_keep_their_order_where_columns_are_cast(run: Run) -> None:
    sql = "SELECT number, toDateTime64(number, 3, 'UTC') AS t FROM numbers(200000) ORDER BY number % 7, number DESC"
    numbers = [int(line.split(b"\t")[0]) for line in run("--query", sql).stdout.splitlines()]
    assert numbers == sorted(range(200_000), key=lambda n: (n % 7, -n))


def test_the_tables_of_the_project_take_and_give_rows(run: Run, any_clickhouse: ClickHouse, database: str) -> None:
    client = any_clickhouse.client(database)  # the old client's own parser refuses CODEC
    for migration in load():
        for statement in migration.statements:
            client.execute(statement)
    client.disconnect()
    row = "p\tr\tloss\t0\t7\t2026-11-23 18:30:01.123456\t0.5\t1\tw\t1\t2026-11-23 18:00:00\n"
    run(
        "--query",
        "INSERT INTO metrics FORMAT TSV",
        data=b"".join(row.replace("\t7\t", f"\t{step}\t").encode() for step in range(7, 11)),
    )
    assert run("--query", "SELECT * FROM metrics ORDER BY step LIMIT 1").stdout.decode() == row
    assert run("--query", "SELECT count(), sum(value) FROM metrics").stdout == b"4\t2\n"
    assert run("--query", "SELECT * FROM run_events").stdout == b""
    described = run("--query", "DESCRIBE TABLE metrics").stdout.decode()
    assert "ts\tDateTime64(6, \\'UTC\\')" in described


def test_formats_are_written_and_read_by_the_client(run: Run) -> None:
    assert json.loads(run("--query", "SELECT 2 AS a FORMAT JSON").stdout)["data"] == [{"a": 2}]
    assert run("--query", "SELECT 1 AS a, 'x' AS b FORMAT CSVWithNames").stdout == b'"a","b"\n1,"x"\n'
    run("--query", "CREATE TABLE t (a Int32, b String) ENGINE = Memory")
    run("--query", "INSERT INTO t VALUES (1, 'a'), (2, 'b;')")
    run("--query", "INSERT INTO t (b, a) FORMAT CSV", data=b'"c",3\n')
    run("--query", "INSERT INTO t FORMAT JSONEachRow", data=b'{"a": 4, "b": "d"}\n')
    run("--query", "INSERT INTO t VALUES", data=b"(5, 'e')")
    native = run("--query", "SELECT a + 10 AS a, b FROM t FORMAT Native").stdout
    run("--query", "INSERT INTO t FORMAT Native", data=native)
    run("--query", "INSERT INTO t SELECT a + 100, b FROM t")
    assert run("--query", "SELECT count(), sum(a) FROM t").stdout == b"20\t1160\n"


def test_several_statements_run_one_after_another(run: Run) -> None:
    """An INSERT comes last: the old client takes all that follows VALUES for rows."""
    sql = "CREATE TABLE t (a Int8) ENGINE = Memory; SHOW TABLES; SELECT 5; INSERT INTO t VALUES (1), (2);"
    assert run("--multiquery", "--query", sql).stdout == b"t\n5\n"
    assert run("--query", "SELECT sum(a) FROM t").stdout == b"3\n"


def test_a_setting_on_the_command_line_reaches_the_query(run: Run) -> None:
    assert run("--max_threads", "3", "--query", "SELECT getSetting('max_threads')").stdout == b"3\n"


def test_errors_have_clickhouses_code_and_end_the_client_with_a_failure(run: Run) -> None:
    done = run("--query", "SELECT * FROM nothing_of_the_kind", check=False)
    assert done.returncode != 0
    assert b"Code: 60" in done.stderr
    done = run("--query", "INSERT INTO nothing_of_the_kind VALUES (1)", check=False)
    assert b"Code: 60" in done.stderr


def test_a_wrong_password_is_told(any_clickhouse: ClickHouse) -> None:
    command = [part if part != any_clickhouse.password else "wrong" for part in any_clickhouse.client_command()]
    done = subprocess.run([*command, "--query", "SELECT 1"], input=b"", capture_output=True, timeout=20, check=False)
    assert done.returncode != 0
    assert b"Code: 516" in done.stderr


def test_a_large_insert_from_stdin_is_stored_whole(run: Run) -> None:
    run(
        "--query",
        "CREATE TABLE t (a Int64, s LowCardinality(String), at DateTime64(3, 'UTC')) ENGINE = MergeTree ORDER BY a",
    )
    rows = b"".join(b"%d\tname%d\t2026-11-23 18:30:01.5\n" % (n, n % 9) for n in range(200_000))
    run("--query", "INSERT INTO t FORMAT TSV", data=rows)
    assert run("--query", "SELECT count(), sum(a), uniqExact(s), max(at) FROM t").stdout == (
        b"200000\t19999900000\t9\t2026-11-23 18:30:01.500\n"
    )


def test_a_client_killed_in_the_middle_of_stdin_leaves_nothing(any_clickhouse: ClickHouse, database: str) -> None:
    client = any_clickhouse.client(database)
    client.execute("CREATE TABLE t (a Int64, s String) ENGINE = MergeTree ORDER BY a")
    command = [*any_clickhouse.client_command(), "--database", database, "--query", "INSERT INTO t FORMAT TSV"]
    with subprocess.Popen([*command, "--max_insert_block_size", "100000"], stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        process.stdin.write(b"".join(b"%d\tx\n" % n for n in range(400_000)))
        process.stdin.flush()
        process.kill()
    running = "SELECT count() FROM system.processes WHERE query LIKE 'INSERT INTO t%'"
    wait_for(lambda: client.execute(running) == [(0,)], 10, "the end of the insert")
    assert client.execute("SELECT count() FROM t") == [(0,)]
    client.disconnect()


def test_ctrl_c_ends_a_long_query(any_clickhouse: ClickHouse) -> None:
    watching = any_clickhouse.client()
    sql = "SELECT sum(number) FROM numbers(1000000000000003)"
    running = (
        "SELECT count() FROM system.processes WHERE query LIKE '%1000000000000003%' AND query NOT LIKE '%processes%'"
    )
    with subprocess.Popen([*any_clickhouse.client_command(), "--query", sql], stdout=subprocess.DEVNULL) as process:
        wait_for(lambda: watching.execute(running) == [(1,)], 10, "the query running")
        process.send_signal(signal.SIGINT)
        process.wait(timeout=10)
    wait_for(lambda: watching.execute(running) == [(0,)], 10, "the end of the query")
    watching.disconnect()


def test_a_person_may_talk_to_it_at_a_terminal(any_clickhouse: ClickHouse, database: str, tmp_path: Path) -> None:
    """The interactive client, on a pseudo-terminal: it asks the server things of its own first."""
    master, slave = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "HOME": str(tmp_path)}
    process = subprocess.Popen(
        any_clickhouse.client_command(),
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env=environment,
        start_new_session=True,
    )
    os.close(slave)
    said = b""

    def read_until(text: bytes) -> None:
        nonlocal said
        deadline = time.monotonic() + 20
        while text not in said:
            assert time.monotonic() < deadline, said
            said += os.read(master, 65536)

    try:
        read_until(b":) ")
        for line, expected in (
            (f"USE {database};", b"Ok."),
            ("SELECT concat(currentDatabase(), '-current') AS c;", f"{database}-current".encode()),
            ("SET max_threads = 5;", b"Ok."),
            ("SELECT concat('threads-', toString(getSetting('max_threads')));", b"threads-5"),
            ("SELECT nothing_of_the_kind;", b"Code: 47"),
        ):
            said = b""
            os.write(master, line.encode() + b"\n")
            read_until(expected)
            read_until(b":) ")
        os.write(master, b"exit\n")
        process.wait(timeout=10)
    finally:
        process.kill()
        process.wait()
        os.close(master)
