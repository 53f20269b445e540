"""The ClickHouse client and the migrations, against a real engine."""

import threading

import numpy as np
import pytest
from click.testing import CliRunner

from pulsetrain_consumers.clickhouse import (
    ClickHouseRefused,
    ClickHouseUnavailable,
    Client,
    Dictionary,
    connect,
)
from pulsetrain_consumers.clickhouse.migrate import check, migrate
from pulsetrain_consumers.commands.migrate import migrate as migrate_command
from pulsetrain_consumers.writer.coverage import Intervals, Writer
from pulsetrain_consumers.writer.store import ClickHouseStore
from pulsetrain_local.ports import free_ports
from pulsetrain_schemas import migrations
from pulsetrain_schemas.addresses import ClickHouseAddress
from tests.clickhouse_fixture import ClickHouse

pytestmark = pytest.mark.clickhouse


def address(server: ClickHouse, database: str, **options: str) -> ClickHouseAddress:
    return ClickHouseAddress(server.host, server.port, server.user, server.password, database, False, options)


@pytest.fixture(params=["plain", "lz4"])
def client(request: pytest.FixtureRequest, any_clickhouse: ClickHouse, database: str) -> Client:
    options = {"compression": request.param} if request.param != "plain" else {}
    return connect(address(any_clickhouse, database, **options))


def test_every_kind_of_column_is_stored_as_it_was_given(client: Client) -> None:
    client.execute(
        "CREATE TABLE t (n UInt32, f Float64, i Int64, b Bool, d DateTime('UTC'), e DateTime64(6, 'UTC'), s String, "
        "l LowCardinality(String), ns Nullable(String), nf Nullable(Float64), a Array(String)) ENGINE = Memory"
    )
    rows = 70_000
    labels = [f"label {number} ✓" for number in range(300)]
    codes = np.arange(rows) % 300
    stored = client.insert(
        "t",
        {
            "n": np.arange(rows),
            "f": np.arange(rows) / 2,
            "i": -np.arange(rows),
            "b": np.arange(rows) % 2,
            "d": np.full(rows, 1_700_000_000),
            "e": np.full(rows, 1_700_000_000_123_456),
            "s": [f"text {'x' * (number % 200)}" for number in range(rows)],
            "l": Dictionary(codes, labels),
            "ns": [None if number % 3 else "here" for number in range(rows)],
            "nf": [None if number % 3 else 0.5 for number in range(rows)],
            "a": [["x"] * (number % 3) for number in range(rows)],
        },
    )
    assert stored == rows
    row = client.query("SELECT * FROM t WHERE n = 60001").rows[0]
    assert row[:4] == (60001, 30000.5, -60001, True)
    assert row[6:] == ("text " + "x" * 1, labels[1], None, None, ["x"])
    checked = client.query(
        "SELECT count(), sum(n), sum(length(s)), uniq(l), countIf(ns = 'here'), sum(nf), sum(length(a)), "
        "min(toUnixTimestamp(d)), max(toUnixTimestamp64Micro(e)) FROM t"
    ).rows[0]
    lengths = sum(5 + number % 200 for number in range(rows))
    arrays = sum(number % 3 for number in range(rows))
    assert checked == (
        rows, rows * (rows - 1) // 2, lengths, 300, 23_334, 11_667.0, arrays, 1_700_000_000, 1_700_000_000_123_456
    )  # fmt: skip


def test_a_token_stores_once_and_another_token_stores_again(client: Client) -> None:
    client.execute(
        "CREATE TABLE t (n UInt64) ENGINE = MergeTree ORDER BY n SETTINGS non_replicated_deduplication_window = 100"
    )
    for token in ("a", "a", "b", "a"):
        client.insert("t", {"n": np.arange(3)}, token=token)
    assert client.query("SELECT count() FROM t").one() == 6


def test_errors_say_whether_to_try_again(any_clickhouse: ClickHouse, database: str, client: Client) -> None:
    with pytest.raises(ClickHouseRefused) as unknown:
        client.query("SELECT * FROM nowhere")
    assert (unknown.value.code, unknown.value.name, unknown.value.is_data_error) == (60, "UNKNOWN_TABLE", False)
    client.execute("CREATE TABLE t (n UInt64, CONSTRAINT small CHECK n < 10) ENGINE = MergeTree ORDER BY n")
    with pytest.raises(ClickHouseRefused) as refused:
        client.execute("INSERT INTO t SELECT 11")
    assert refused.value.is_data_error
    assert client.insert("t", {"n": np.array([1])}) == 1
    gone = ClickHouseAddress("127.0.0.1", free_ports(1)[0], "u", "hunter2", database)
    with pytest.raises(ClickHouseUnavailable) as away:
        connect(gone).ping()
    assert "hunter2" not in str(away.value)
    with pytest.raises(ClickHouseRefused):
        connect(ClickHouseAddress(any_clickhouse.host, any_clickhouse.port, "default", "wrong", database)).ping()


def test_an_insert_of_rows_that_cannot_be_stored_is_refused(client: Client) -> None:
    client.execute("CREATE TABLE t (n UInt64, CONSTRAINT small CHECK n < 10) ENGINE = MergeTree ORDER BY n")
    with pytest.raises(ClickHouseRefused):
        client.insert("t", {"n": np.array([11])})


def test_migrations_are_applied_once_though_two_run_at_once(any_clickhouse: ClickHouse, database: str) -> None:
    where = address(any_clickhouse, f"{database}_m")
    assert check(where).missing == migrations.load()
    reports = []
    threads = [threading.Thread(target=lambda: reports.append(migrate(where))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(len(report.applied) for report in reports) == [0, 0, len(migrations.load())]
    assert check(where).missing == ()
    with connect(where) as client:
        assert client.query("SELECT count() FROM migrations").one() == len(migrations.load())
        assert client.query("EXISTS TABLE migrations_lock").one() == 0
        client.execute(f"DROP DATABASE {where.database}")


def test_a_migration_that_died_half_way_is_taken_up_again(any_clickhouse: ClickHouse, database: str) -> None:
    where = address(any_clickhouse, database)
    with connect(where) as client:
        client.execute(migrations.load()[0].statements[0])
    assert len(migrate(where).applied) == len(migrations.load())


def test_a_changed_migration_is_refused_in_a_sentence(
    any_clickhouse: ClickHouse, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = address(any_clickhouse, database)
    monkeypatch.setenv("PULSETRAIN_CLICKHOUSE", where.url())
    done = CliRunner().invoke(migrate_command, ["--json"])
    assert done.exit_code == 0, done.output
    with connect(where) as client:
        client.execute("TRUNCATE TABLE migrations")
        first = migrations.load()[0]
        client.insert(
            "migrations",
            {
                "number": np.array([1]),
                "name": Dictionary.constant(first.name, 1),
                "checksum": ["0" * 64],
                "applied_at": np.array([0]),
            },
        )
    done = CliRunner().invoke(migrate_command, ["--check"])
    assert done.exit_code == 1
    assert "is not what was applied" in done.output


def test_the_ledger_is_read_back_as_intervals(any_clickhouse: ClickHouse, database: str) -> None:
    where = address(any_clickhouse, database)
    migrate(where)
    ranges = {"w1": [(1, 10), (11, 20), (31, 40), (35, 50)], "w'2": [(1, 5)], "w3": [(3, 4)]}
    with connect(where) as client:
        for writer, spans in ranges.items():
            for first, last in spans:
                client.execute(
                    "INSERT INTO stored_batches (topic, project, run_id, writer, first_sequence, last_sequence) "
                    "SELECT 't', 'p', 'r', %(w)s, %(f)s, %(l)s",
                    {"w": writer, "f": first, "l": last},
                )
        store = ClickHouseStore(client)
        asked = [Writer("p", "r", name) for name in ("w1", "w'2", "nobody")]
        found = store.stored_sequences("t", asked)
        assert found == {asked[0]: Intervals(((1, 20), (31, 50))), asked[1]: Intervals(((1, 5),))}
        assert store.stored_sequences("t", asked[1:2]) == {asked[1]: Intervals(((1, 5),))}
        assert store.stored_sequences("other", asked) == {}


def test_clickhouse_reads_every_statement_of_a_cluster(clickhouse_server: ClickHouse) -> None:
    """It cannot run them: the embedded engine serves no other replicas."""
    from pulsetrain_schemas import migrations
    from pulsetrain_schemas.cluster import Shards

    client = clickhouse_server.client()
    for migration in migrations.load():
        for statement in migration.statements:
            for placed in Shards("db", "main").of(statement):
                assert client.execute(f"EXPLAIN AST {placed.statement}")
