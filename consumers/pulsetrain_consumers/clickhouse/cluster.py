"""Databases on a cluster of ClickHouse: making them, telling what kind one is, and where its rows really lie."""

import re
from dataclasses import dataclass
from urllib.parse import quote

from pulsetrain_consumers.clickhouse.client import Client
from pulsetrain_consumers.clickhouse.errors import ClickHouseError
from pulsetrain_schemas.cluster import Form, Shards, Undivided, replicated, shard_database, unchanged
from pulsetrain_schemas.sql import identifier, literal

REPLICATED = "Replicated"
"""The engine of a database that several servers have."""
_CLUSTER = re.compile(r"Distributed\('((?:[^'\\]|\\.)*)'")
_SYSTEM = re.compile(r"\bsystem\.(\w+)")


class NotOfACluster(ClickHouseError):
    """The database cannot be made on the cluster that was named."""


@dataclass(frozen=True, slots=True)
class Home:
    """Where rows lie: the database to be changed, and the cluster that has it over several shards."""

    database: str
    cluster: str | None = None

    def of(self, table: str) -> str:
        """A table in SQL."""
        return f"{identifier(self.database)}.{identifier(table)}"

    def everywhere(self, sql: str) -> str:
        """A query of tables of `system`, asked of all servers."""
        if self.cluster is None:
            return sql
        cluster = literal(self.cluster)
        return _SYSTEM.sub(lambda found: f"clusterAllReplicas({cluster}, system, {found[1]})", sql)


def home_of(client: Client) -> Home:
    """Where the rows of the client's database lie. Raises ClickHouseError."""
    database = client.address.database
    cluster = _distributed_over(client, database)
    if cluster is None:
        return Home(database)
    return Home(shard_database(database), cluster)


def make_database(client: Client, database: str, cluster: str | None) -> Form:
    """Makes the database where there is none; how its tables are made. Raises ClickHouseError.

    `client` is connected to another database. Without a `cluster` a new one is this server's own.
    """
    found = client.query("SELECT engine FROM system.databases WHERE name = %(name)s", {"name": database}).rows
    engine = found[0][0] if found else None
    if cluster is None:
        if engine == REPLICATED:
            over = _distributed_over(client, database)
            return Undivided(database, replicated) if over is None else Shards(database, over)
        client.execute(f"CREATE DATABASE IF NOT EXISTS {identifier(database)}")
        return Undivided(database, unchanged)
    if engine not in (None, REPLICATED):
        raise NotOfACluster(
            f"the database {database} is there already and is this server's own ({engine}): name another one in the "
            "address, or migrate without --cluster"
        )
    if _shards(client, cluster) == 1:
        _create(client, database, cluster, "{shard}", "{replica}")
        return Undivided(database, replicated)
    _create(client, shard_database(database), cluster, "{shard}", "{replica}")
    # Every server is a replica of the one that is asked, whatever its shard.
    _create(client, database, cluster, "all", "{shard}-{replica}")
    return Shards(database, cluster)


def _create(client: Client, database: str, cluster: str, shard: str, replica: str) -> None:
    # Keeper's paths know no quoting, so a name is told from every other by its percent-encoding.
    path = f"/clickhouse/databases/{quote(database, safe='')}"
    client.execute(
        f"CREATE DATABASE IF NOT EXISTS {identifier(database)} ON CLUSTER {identifier(cluster)} "
        f"ENGINE = Replicated({literal(path)}, {literal(shard)}, {literal(replica)})"
    )


def _shards(client: Client, cluster: str) -> int:
    shards = client.query(
        "SELECT uniqExact(shard_num) FROM system.clusters WHERE cluster = %(name)s", {"name": cluster}
    )
    if not shards.one():
        known = [name for (name,) in client.query("SELECT DISTINCT cluster FROM system.clusters ORDER BY cluster").rows]
        raise NotOfACluster(f"ClickHouse knows no cluster {cluster}; it knows {', '.join(known) or 'none'}")
    return int(shards.one())


def _distributed_over(client: Client, database: str) -> str | None:
    """The cluster that the tables of a database are distributed over; None where they are no such tables."""
    found = client.query(
        "SELECT any(engine_full) FROM system.tables WHERE database = %(name)s AND engine = 'Distributed'",
        {"name": database},
    ).one()
    cluster = _CLUSTER.match(found)
    return None if cluster is None else cluster[1].replace("\\'", "'").replace("\\\\", "\\")
