"""What clickhouse-driver must find in the embedded server, held by the `clickhouse` binary too where there is one."""

import datetime as dt
import threading
import time
from collections.abc import Iterator
from decimal import Decimal
from uuid import UUID

import numpy as np
import pytest
from clickhouse_driver import Client
from clickhouse_driver.errors import ErrorCodes, NetworkError, ServerException

from tests.clickhouse_fixture import ClickHouse
from tests.waiting import wait_for

pytestmark = pytest.mark.clickhouse

UTC = dt.UTC
MOMENT = dt.datetime(2026, 11, 23, 18, 30, 1, 123456, tzinfo=UTC)


@pytest.fixture(params=[False, True], ids=["plain", "lz4"])
def client(request: pytest.FixtureRequest, any_clickhouse: ClickHouse, database: str) -> Iterator[Client]:
    client = any_clickhouse.client(database, compression=request.param)
    yield client
    client.disconnect()


def refused(client: Client, sql: str, *args: object, **options: object) -> ServerException:
    with pytest.raises(ServerException) as caught:
        client.execute(sql, *args, **options)
    return caught.value


def test_a_select_gives_values_of_many_types_with_their_names_and_types(client: Client) -> None:
    rows, columns = client.execute(
        "SELECT toUInt8(1) AS a, 'x' AS b, toNullable(2.5) AS c, [1, 2] AS d, map('k', 1) AS e, (1, 'two') AS f,"
        " toLowCardinality('low') AS g, NULL AS h, true AS i, toDecimal64(1.25, 2) AS j,"
        " toDateTime64('2026-11-23 18:30:01.123456', 6, 'UTC') AS k, toDate('2026-11-23') AS l,"
        " toUUID('61f0c404-5cb3-11e7-907b-a6006ad3dba0') AS m, [toLowCardinality('x')] AS n, toIPv4('1.2.3.4') AS o",
        with_column_types=True,
    )
    assert [name for name, _ in columns] == list("abcdefghijklmno")
    assert dict(columns)["k"] == "DateTime64(6, 'UTC')"
    assert dict(columns)["n"] == "Array(LowCardinality(String))"
    [row] = rows
    assert row[:10] == (1, "x", 2.5, [1, 2], {"k": 1}, (1, "two"), "low", None, True, Decimal("1.25"))
    assert row[10:13] == (MOMENT, dt.date(2026, 11, 23), UUID("61f0c404-5cb3-11e7-907b-a6006ad3dba0"))
    assert row[13] == ["x"]
    assert str(row[14]) == "1.2.3.4"


def test_an_empty_result_still_names_its_columns(client: Client) -> None:
    sql = "SELECT number AS n, toString(n) AS s FROM numbers(3) WHERE n > 5 ORDER BY n -- the end"
    assert client.execute(sql, with_column_types=True) == ([], [("n", "UInt64"), ("s", "String")])
    assert client.execute("SHOW TABLES", with_column_types=True) == ([], [("name", "String")])


def test_what_was_inserted_comes_back(client: Client) -> None:
    client.execute(
        "CREATE TABLE t (a Int64, s String, low LowCardinality(Nullable(String)), at DateTime64(6, 'UTC'),"
        " n Nullable(Float64),"
        " list Array(Nullable(String)), m Map(String, Array(UInt8)), t Tuple(x Int8, y LowCardinality(String)), b Bool,"
        " e Enum8('red' = 1, 'blue' = 2), f FixedString(3), d Decimal(20, 3)) ENGINE = MergeTree ORDER BY a"
    )
    rows = [
        (
            number,
            "s" * (number * 50),
            None if number % 3 == 0 else f"low{number % 5}",
            MOMENT + dt.timedelta(microseconds=number),
            None if number % 2 else number / 7,
            ["x", None] * (number % 4),
            {"k": [number % 256]} if number % 2 else {},
            (number % 100, "é"),
            bool(number % 2),
            "red" if number % 2 else "blue",
            "abc",
            Decimal(number) / 1000,
        )
        for number in range(400)
    ]
    assert client.execute("INSERT INTO t VALUES", rows) == len(rows)
    assert client.execute("SELECT * FROM t ORDER BY a") == rows


def test_columns_may_be_given_in_any_order_and_left_to_their_defaults(client: Client) -> None:
    client.execute("CREATE TABLE t (a Int32, b String DEFAULT 'none', c Int32 MATERIALIZED a * 2) ENGINE = Memory")
    client.execute("/* why\nnot */ -- so\n insert INTO `t` (b, a) VALUES", [("x", 1)])
    client.execute("INSERT INTO t (* EXCEPT(b)) VALUES", [(2,)])
    client.execute("INSERT INTO t (a) SETTINGS max_threads = 1 VALUES", [(3,)])
    assert client.execute("SELECT a, b, c FROM t ORDER BY a") == [(1, "x", 2), (2, "none", 4), (3, "none", 6)]


def test_an_insert_may_carry_its_rows_in_its_text(client: Client) -> None:
    client.execute("CREATE TABLE t (a Int32, s String) ENGINE = Memory")
    client.execute("INSERT INTO t VALUES (1, 'semi;colon'), (2, 'FORMAT TSV')")
    client.execute("INSERT INTO t FORMAT TSV\n3\tit's; FORMAT\n4\tx\n")
    client.execute('INSERT INTO t FORMAT JSONEachRow {"a": 5, "s": "json"}')
    client.execute("INSERT INTO t SELECT number + 6, 'selected' FROM numbers(1)")
    client.execute("INSERT INTO t (a, s) (WITH 7 AS seven SELECT seven, 'with')")
    client.execute("WITH x AS (SELECT 8 AS a) INSERT INTO t SELECT a, 'cte' FROM x")
    assert client.execute("SELECT s FROM t ORDER BY a") == [
        (text,) for text in ("semi;colon", "FORMAT TSV", "it's; FORMAT", "x", "json", "selected", "with", "cte")
    ]


def test_numpy_columns_go_in_and_come_out(any_clickhouse: ClickHouse, database: str) -> None:
    client = any_clickhouse.client(database, settings={"use_numpy": True})
    client.execute("CREATE TABLE t (a Int64, low LowCardinality(String), v Float64) ENGINE = MergeTree ORDER BY a")
    count = 250_000
    columns = [np.arange(count), np.array(["x", "y"])[np.arange(count) % 2].astype(object), np.arange(count) / 3]
    client.execute("INSERT INTO t VALUES", columns, columnar=True)
    a, low, v = client.execute("SELECT a, low, v FROM t ORDER BY a", columnar=True)
    assert np.array_equal(a, columns[0])
    assert np.array_equal(v, columns[2])
    assert list(low[:3]) == ["x", "y", "x"]
    client.disconnect()


def test_a_long_result_streams_in_blocks(client: Client) -> None:
    total = sum(number for number, _ in client.execute_iter("SELECT number, toString(number) FROM numbers(500000)"))
    assert total == 500_000 * 499_999 // 2
    assert client.last_query.profile_info.rows == 500_000


def test_progress_tells_what_was_read(client: Client) -> None:
    client.execute("SELECT count() FROM numbers(1000000) WHERE number % 2")
    assert client.last_query.progress.rows == 1_000_000


def test_errors_carry_the_code_and_the_name_that_clickhouse_gives_them(client: Client) -> None:
    assert refused(client, "SELECT * FROM nothing_of_the_kind").code == ErrorCodes.UNKNOWN_TABLE
    assert refused(client, "SELEC 1").code == ErrorCodes.SYNTAX_ERROR
    assert refused(client, "SELECT 1; SELECT 2").code == ErrorCodes.SYNTAX_ERROR
    assert refused(client, "INSERT INTO nothing_of_the_kind VALUES", [(1,)]).code == ErrorCodes.UNKNOWN_TABLE
    assert refused(client, "SELECT no_such_function(1)").code == ErrorCodes.UNKNOWN_FUNCTION
    late = refused(client, "SELECT throwIf(number = 300000, 'so it is') FROM numbers(1000000)")
    assert late.code == ErrorCodes.FUNCTION_THROW_IF_VALUE_IS_NON_ZERO
    assert "so it is" in late.message
    assert "FUNCTION_THROW_IF_VALUE_IS_NON_ZERO" in late.message
    assert client.execute("SELECT 1") == [(1,)]


def test_a_wrong_password_or_user_is_refused_with_the_code_for_it(any_clickhouse: ClickHouse) -> None:
    for login in ({"password": "wrong"}, {"user": "nobody"}):
        refusal = refused(any_clickhouse.client(**login), "SELECT 1")
        assert refusal.code == 516


def test_an_unknown_database_is_refused_at_the_start(any_clickhouse: ClickHouse) -> None:
    assert refused(any_clickhouse.client("no_such_database"), "SELECT 1").code == ErrorCodes.UNKNOWN_DATABASE


def test_each_connection_has_its_own_current_database_and_session(any_clickhouse: ClickHouse, database: str) -> None:
    one, two = any_clickhouse.client(database), any_clickhouse.client()
    assert one.execute("SELECT currentDatabase()") == [(database,)]
    two.execute(f"USE {database}")
    two.execute("SET max_block_size = 12345")
    two.execute("CREATE TEMPORARY TABLE mine (a Int8)")
    assert two.execute("SELECT currentDatabase(), getSetting('max_block_size')") == [(database, 12345)]
    assert two.execute("SELECT count() FROM mine") == [(0,)]
    assert one.execute("SELECT getSetting('max_block_size') = 12345") == [(0,)]
    assert refused(one, "SELECT * FROM mine").code == ErrorCodes.UNKNOWN_TABLE
    one.disconnect()
    two.disconnect()


def test_settings_of_a_query_hold_for_that_query_alone(client: Client) -> None:
    asked = "SELECT getSetting('max_result_rows'), getSetting('log_comment') = 'mine'"
    client.execute("SET max_result_rows = 7")
    assert client.execute(asked, settings={"max_result_rows": 9, "log_comment": "mine"}) == [(9, 1)]
    assert client.execute(asked) == [(7, 0)]
    client.execute("SET max_result_rows = 8", settings={"max_result_rows": 9})
    assert client.execute(asked) == [(8, 0)]
    assert "max_result_rows" in refused(client, "SELECT 1", settings={"max_result_rows": "max_result_rows?"}).message


def test_an_unknown_setting_is_an_error_where_it_is_important_and_passed_over_where_not(
    any_clickhouse: ClickHouse,
) -> None:
    casual = any_clickhouse.client()
    assert casual.execute("SELECT 1", settings={"no_such_setting": 1}) == [(1,)]
    casual.disconnect()
    strict = any_clickhouse.client(settings_is_important=True)
    assert refused(strict, "SELECT 1", settings={"no_such_setting": 1}).code == ErrorCodes.UNKNOWN_SETTING
    assert strict.execute("SELECT 1") == [(1,)]
    strict.disconnect()


def test_two_inserts_with_one_deduplication_token_store_one(client: Client) -> None:
    client.execute(
        "CREATE TABLE t (a Int64) ENGINE = MergeTree ORDER BY a SETTINGS non_replicated_deduplication_window = 100"
    )
    for token, rows in (("first", 10), ("first", 10), ("second", 10), ("first", 10)):
        client.execute(
            "INSERT INTO t VALUES", [(n,) for n in range(rows)], settings={"insert_deduplication_token": token}
        )
    assert client.execute("SELECT count() FROM t") == [(20,)]
    client.execute("INSERT INTO t VALUES", [(100,)])
    client.execute("INSERT INTO t VALUES", [(101,)])
    assert client.execute("SELECT count() FROM t") == [(22,)], "a token must not outlive its query"


def test_statements_about_the_database_give_their_rows(client: Client, database: str) -> None:
    client.execute("CREATE TABLE t (a Int32) ENGINE = Memory")
    assert client.execute("SHOW TABLES") == [("t",)]
    assert client.execute("DESCRIBE TABLE t")[0][:2] == ("a", "Int32")
    assert client.execute("EXISTS TABLE t") == [(1,)]
    assert client.execute("EXPLAIN SELECT * FROM t")
    assert "ENGINE = Memory" in client.execute("SHOW CREATE TABLE t")[0][0]
    assert client.execute(f"SELECT name FROM system.tables WHERE database = '{database}'") == [("t",)]
    assert client.execute("DROP TABLE t") == []


def test_a_format_clause_is_the_clients_business(client: Client) -> None:
    assert client.execute("SELECT 1 AS format FORMAT JSON") == [(1,)]
    assert client.execute(
        "SELECT format.a FROM (SELECT 2 AS a) AS format FORMAT TabSeparated SETTINGS max_threads = 1"
    ) == [(2,)]
    assert client.execute("(SELECT 'FORMAT x' UNION ALL SELECT 'FORMAT x') FORMAT Null;") == [("FORMAT x",)] * 2


def test_parameters_are_put_in_by_the_client(client: Client) -> None:
    assert client.execute("SELECT %(s)s, %(n)s", {"s": "it's \\ ; -- FORMAT", "n": 3}) == [("it's \\ ; -- FORMAT", 3)]


def test_external_tables_come_with_a_query_and_go_with_it(client: Client) -> None:
    tables = [
        {
            "name": "ext",
            "structure": [("x", "Int32"), ("y", "String")],
            "data": [{"x": 1, "y": "a"}, {"x": 2, "y": "b"}],
        }
    ]
    assert client.execute("SELECT sum(x), max(y) FROM ext", external_tables=tables) == [(3, "b")]
    assert refused(client, "SELECT * FROM ext").code == ErrorCodes.UNKNOWN_TABLE


def test_a_query_that_runs_long_is_cancelled_at_once(any_clickhouse: ClickHouse) -> None:
    client = any_clickhouse.client()
    began = time.monotonic()
    progress = client.execute_with_progress("SELECT sum(number) FROM numbers(1000000000000000)")
    for done, _total in progress:
        if done:
            break
    client.cancel()
    assert time.monotonic() - began < 10
    assert client.execute("SELECT 1") == [(1,)]
    client.disconnect()


def test_the_query_of_a_client_that_went_away_is_stopped(any_clickhouse: ClickHouse) -> None:
    gone, other = any_clickhouse.client(), any_clickhouse.client()
    running = (
        "SELECT count() FROM system.processes WHERE query LIKE '%1000000000000001%' AND query NOT LIKE '%processes%'"
    )

    def run() -> None:
        with pytest.raises((NetworkError, EOFError, OSError, ServerException)):
            gone.execute("SELECT sum(number) FROM numbers(1000000000000001)")

    thread = threading.Thread(target=run)
    thread.start()
    wait_for(lambda: other.execute(running) == [(1,)], 10, "the query running")
    gone.connection.socket.shutdown(2)
    thread.join()
    wait_for(lambda: other.execute(running) == [(0,)], 10, "the end of the query")
    other.disconnect()


def test_a_query_can_be_killed_from_another_connection(any_clickhouse: ClickHouse) -> None:
    one, other = any_clickhouse.client(), any_clickhouse.client()
    failures = list[ServerException]()
    thread = threading.Thread(
        target=lambda: failures.append(refused(one, "SELECT sum(number) FROM numbers(1000000000000002)"))
    )
    thread.start()
    kill = "KILL QUERY WHERE query LIKE '%1000000000000002%' AND query NOT LIKE 'KILL%' SYNC"
    # A KILL that meets the server while it still asks for the query's columns ends no more than that.
    wait_for(lambda: other.execute(kill) and failures, 20, "the end of the query")
    thread.join()
    assert [failure.code for failure in failures] == [ErrorCodes.QUERY_WAS_CANCELLED]
    assert one.execute("SELECT 1") == [(1,)]
    one.disconnect()
    other.disconnect()


def test_many_connections_write_and_read_at_once(any_clickhouse: ClickHouse, database: str) -> None:
    setup = any_clickhouse.client(database)
    setup.execute("CREATE TABLE t (writer UInt8, a Int64) ENGINE = MergeTree ORDER BY (writer, a)")
    failures = list[BaseException]()

    def work(writer: int) -> None:
        try:
            client = any_clickhouse.client(database)
            for batch in range(5):
                client.execute("INSERT INTO t VALUES", [(writer, batch * 1000 + n) for n in range(1000)])
                assert client.execute(f"SELECT count() FROM t WHERE writer = {writer}") == [((batch + 1) * 1000,)]
            client.disconnect()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(writer,)) for writer in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert setup.execute("SELECT count(), uniqExact(writer, a) FROM t") == [(30_000, 30_000)]
    setup.disconnect()
