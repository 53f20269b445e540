"""The second user of the stack's ClickHouse, who only reads: it sees all tables, and can change and reach nothing."""

from collections.abc import Iterator
from uuid import uuid4

import pytest
from clickhouse_driver import Client
from clickhouse_driver.errors import ServerException

from tests.clickhouse_fixture import READER, READER_PASSWORD, ClickHouse

pytestmark = pytest.mark.clickhouse


@pytest.fixture
def database(clickhouse_server: ClickHouse) -> Iterator[str]:
    server, name = clickhouse_server, f"read_{uuid4().hex[:8]}"
    owner = Client(server.host, port=server.port, user=server.user, password=server.password)
    owner.execute(f"CREATE DATABASE {name}")
    owner.execute(f"CREATE TABLE {name}.t (a Int32) ENGINE = MergeTree ORDER BY a")
    owner.execute(f"INSERT INTO {name}.t VALUES", [(1,), (2,)])
    yield name
    assert owner.execute(f"SELECT sum(a) FROM {name}.t") == [(3,)]
    owner.execute(f"DROP DATABASE {name}")
    owner.disconnect()


@pytest.fixture
def reader(clickhouse_server: ClickHouse, database: str) -> Iterator[Client]:
    server = clickhouse_server
    client = Client(server.host, port=server.port, user=READER, password=READER_PASSWORD, database=database)
    yield client
    client.disconnect()


def test_it_reads_tables_and_those_of_the_system(reader: Client, database: str) -> None:
    assert reader.execute("SELECT sum(a) FROM t") == [(3,)]
    assert reader.execute("SHOW TABLES") == [("t",)]
    assert reader.execute(f"SELECT count() FROM system.parts WHERE database = '{database}'") == [(1,)]


def test_settings_that_a_client_sends_with_a_query_count(reader: Client) -> None:
    asked = "SELECT getSetting('max_execution_time')"
    assert [float(value) for ((value,),) in [reader.execute(asked, settings={"max_execution_time": 17})]] == [17.0]


@pytest.mark.parametrize(
    "statement",
    [
        "DROP TABLE t",
        "CREATE TABLE u (a Int32) ENGINE = MergeTree ORDER BY a",
        "ALTER TABLE t DELETE WHERE 1",
        "TRUNCATE TABLE t",
        "OPTIMIZE TABLE t",
        "SET readonly = 0",
        "SELECT 1 SETTINGS readonly = 0",
        "SELECT * FROM file('/etc/hostname', 'LineAsString')",
        "SELECT * FROM url('http://127.0.0.1:1/', 'LineAsString')",
        "SELECT * FROM (SELECT * FROM file('/etc/hostname', 'LineAsString'))",
        "INSERT INTO t SELECT 5",
        "KILL QUERY WHERE 1",
        "  /* quietly */ kill query WHERE 1",
        "SYSTEM FLUSH LOGS",
    ],
)
def test_it_changes_and_reaches_nothing(reader: Client, statement: str) -> None:
    with pytest.raises(ServerException) as refused:
        reader.execute(statement)
    assert refused.value.code in (164, 497), refused.value  # READONLY, ACCESS_DENIED
    assert reader.execute("SELECT 1") == [(1,)], "the connection lives"


def test_rows_that_it_sends_are_refused(reader: Client) -> None:
    with pytest.raises(ServerException) as refused:
        reader.execute("INSERT INTO t VALUES", [(7,)])
    assert refused.value.code in (164, 497)


def test_a_setting_of_a_query_does_not_lift_it(reader: Client) -> None:
    with pytest.raises(ServerException):
        reader.execute("DROP TABLE t", settings={"readonly": 0})


def test_its_password_is_its_own(clickhouse_server: ClickHouse) -> None:
    server = clickhouse_server
    for user, password in ((READER, server.password), (server.user, READER_PASSWORD)):
        with pytest.raises(ServerException, match="Authentication failed"):
            Client(server.host, port=server.port, user=user, password=password).execute("SELECT 1")
