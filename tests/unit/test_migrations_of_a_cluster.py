"""The tables of a cluster: the same migrations, with engines whose rows all replicas have."""

import re
from collections.abc import Callable
from typing import Any

import pytest

from pulsetrain_consumers.clickhouse import Result
from pulsetrain_consumers.clickhouse import migrate as migrating
from pulsetrain_consumers.clickhouse.cluster import NotOfACluster
from pulsetrain_consumers.clickhouse.migrate import migrate
from pulsetrain_schemas import migrations
from pulsetrain_schemas.addresses import ClickHouseAddress
from pulsetrain_schemas.cluster import SHARED, Shards, replicated

ADDRESS = ClickHouseAddress("db", 9000, "u", "p", "pulse train")
STATEMENTS = [statement for migration in migrations.load() for statement in migration.statements]
TABLES = [statement for statement in STATEMENTS if statement.startswith("CREATE TABLE")]


def test_every_table_is_replicated_and_nothing_else_is_changed() -> None:
    assert len(TABLES) > 15
    for statement in STATEMENTS:
        made = replicated(statement)
        if statement not in TABLES:
            assert made == statement
            continue
        (engine,) = re.findall(r"ENGINE = (\w+)", made)
        assert engine in ("ReplicatedMergeTree", "ReplicatedReplacingMergeTree")
        back = made.replace("ENGINE = Replicated", "ENGINE = ")
        assert back.replace(" replicated_dedup", " non_replicated_dedup") == statement
        assert "non_replicated" not in made
        assert replicated(made) == made, "twice is as once"


def test_over_shards_every_table_lies_in_a_shard_or_is_whole_on_every_server() -> None:
    form = Shards("db", "main")
    for statement in STATEMENTS:
        placed = form.of(statement)
        if statement in TABLES:
            (name,) = re.findall(r"^CREATE TABLE (\w+)", statement)
            assert placed[0].statement == replicated(statement)
            if name in SHARED:
                assert [it.database for it in placed] == ["db"]
                continue
            assert [it.database for it in placed] == ["db_shard", "db"]
            distributed = f"ENGINE = Distributed('main', 'db_shard', '{name}', "
            assert placed[1].statement.startswith(f"CREATE TABLE {name} AS `db_shard`.{name} {distributed}")
            columns = re.findall(r"\w+", placed[1].statement.partition(distributed)[2])[1:]
            assert columns
            assert all(re.search(rf"^\s+{column}\s", statement, re.MULTILINE) for column in columns), name
            # Rows that replace one another are in one shard.
            ordered_by = re.findall(r"\w+", re.findall(r"ORDER BY\s+\(?([\w, ]+)", statement)[0])
            assert set(columns) <= set(ordered_by) or name.endswith("_changes"), name
        elif statement.startswith("ALTER"):
            assert placed[0].database == "db_shard"
            assert placed[0].statement == statement
            assert all("COLUMN" in it.statement and "INDEX" not in it.statement for it in placed[1:])
        else:
            assert [(it.database, it.statement) for it in placed] == [("db", statement)]


class Server:
    """Answers as a ClickHouse server of which a test says what is there, and writes down the statements."""

    def __init__(self, databases: dict[str, str], clusters: dict[str, int]) -> None:
        self.databases, self.clusters = databases, clusters
        self.distributed = ""
        self.executed: list[str] = []
        self.inserted: list[str] = []

    def __call__(self, *_: Any, **__: Any) -> "Server":
        return self

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_: object) -> None:
        """Stays as it is."""

    def query(self, sql: str, params: dict[str, Any] | None = None) -> Result:
        name = (params or {}).get("name", "")
        answers: dict[str, Callable[[], list[tuple[Any, ...]]]] = {
            "system.databases": lambda: [(self.databases[name],)] if name in self.databases else [],
            "any(engine_full)": lambda: [(self.distributed,)],
            "uniqExact(shard_num)": lambda: [(self.clusters.get(name, 0),)],
            "DISTINCT cluster": lambda: [(cluster,) for cluster in self.clusters],
            "EXISTS TABLE migrations": lambda: [(1,)],
            "FROM migrations": list,
        }
        found = next(answer for words, answer in answers.items() if words in sql)
        return Result((), (), found())

    def execute(self, sql: str, *_: Any) -> None:
        self.executed.append(sql)

    def insert(self, table: str, columns: Any) -> int:
        self.inserted.append(table)
        return 1


def test_the_database_is_made_on_the_cluster_and_the_tables_in_it_once(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server({}, {"main": 1})
    monkeypatch.setattr(migrating, "connect", server)
    report = migrate(ADDRESS, cluster="main")
    assert len(report.applied) == len(migrations.load()) == len(server.inserted)
    assert server.executed[0] == (
        "CREATE DATABASE IF NOT EXISTS `pulse train` ON CLUSTER `main` "
        "ENGINE = Replicated('/clickhouse/databases/pulse%20train', '{shard}', '{replica}')"
    )
    tables = [sql for sql in server.executed if "MergeTree" in sql]
    assert len(tables) == len(TABLES) + 1, "and that of the migrations"
    assert all("ENGINE = Replicated" in sql for sql in tables)
    assert not any("ON CLUSTER" in sql for sql in server.executed[1:]), "the database itself tells the replicas"


def test_a_cluster_s_database_is_known_as_such_later(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server({"pulse train": "Replicated"}, {"main": 1})
    monkeypatch.setattr(migrating, "connect", server)
    migrate(ADDRESS)
    assert not any("CREATE DATABASE" in sql for sql in server.executed)
    assert all("ENGINE = Replicated" in sql for sql in server.executed if "MergeTree" in sql)


def test_over_shards_two_databases_are_made_and_later_migrations_know_them(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server({}, {"ma'in": 3})
    monkeypatch.setattr(migrating, "connect", server)
    migrate(ADDRESS, cluster="ma'in")
    paths = ("'/clickhouse/databases/pulse%20train_shard', '{shard}', '{replica}'",)
    paths += ("'/clickhouse/databases/pulse%20train', 'all', '{shard}-{replica}'",)
    assert server.executed[:2] == [
        f"CREATE DATABASE IF NOT EXISTS `{name}` ON CLUSTER `ma'in` ENGINE = Replicated({path})"
        for name, path in zip(("pulse train_shard", "pulse train"), paths, strict=True)
    ]
    made = [sql for sql in server.executed if "ENGINE = Distributed(" in sql]
    assert len(made) == len(TABLES) - len(SHARED - {"migrations"})
    later = Server({"pulse train": "Replicated"}, {"ma'in": 3})
    later.distributed = r"Distributed('ma\'in', 'pulse train_shard', 'metrics', cityHash64(project, run_id))"
    monkeypatch.setattr(migrating, "connect", later)
    migrate(ADDRESS)
    assert [sql for sql in later.executed if "ENGINE = Distributed(" in sql] == made


@pytest.mark.parametrize(
    ("databases", "clusters", "said"),
    [
        ({}, {}, "knows no cluster main; it knows none"),
        ({}, {"other": 1}, "it knows other"),
        ({"pulse train": "Atomic"}, {"main": 1}, "is this server's own"),
    ],
)
def test_what_cannot_be_made_there_is_said_and_nothing_is_changed(
    monkeypatch: pytest.MonkeyPatch, databases: dict[str, str], clusters: dict[str, int], said: str
) -> None:
    server = Server(databases, clusters)
    monkeypatch.setattr(migrating, "connect", server)
    with pytest.raises(NotOfACluster, match=said):
        migrate(ADDRESS, cluster="main")
    assert server.executed == []
