"""Brings a database to the schema that this version needs: applies the migrations that it lacks, and records them.

ClickHouse has neither transactions nor locks for this, so a table with a fixed name is the lock: creating it is atomic,
and only one of two processes succeeds. A migration that died half way is taken up again: what it has created is there.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import quote

import numpy as np

from pulsetrain_consumers.clickhouse.client import Client, connect
from pulsetrain_consumers.clickhouse.errors import ClickHouseError, ClickHouseRefused
from pulsetrain_consumers.clickhouse.native import Dictionary
from pulsetrain_schemas import migrations
from pulsetrain_schemas.addresses import ClickHouseAddress
from pulsetrain_schemas.migrations import Migration

_TABLE_ALREADY_EXISTS = 57
_UNKNOWN_DATABASE = 81
_LOCK_TABLE = "migrations_lock"
REPLICATED = "Replicated"
"""The engine of a database that all replicas of a cluster have."""
# Creating tables takes seconds; a lock that is older belongs to a process that died.
_STALE_SECONDS = 60

_RECORD = """
CREATE TABLE IF NOT EXISTS migrations
(
    number     UInt32,
    name       LowCardinality(String),
    checksum   String,
    applied_at DateTime64(6, 'UTC')
)
ENGINE = ReplacingMergeTree
ORDER BY number
"""


class NotOfACluster(ClickHouseError):
    """The database cannot be made on the cluster that was named."""


class MigrationBusy(ClickHouseError):
    """Another process has been migrating the database for longer than we wait."""


@dataclass(frozen=True, slots=True)
class MigrationReport:
    """What a database had, and what it got (or, for a check, lacks)."""

    database: str
    already: tuple[Migration, ...]
    applied: tuple[Migration, ...]
    missing: tuple[Migration, ...]


def check(address: ClickHouseAddress) -> MigrationReport:
    """What the database lacks; changes nothing. Raises MigrationError and ClickHouseError."""
    known = migrations.load()
    with connect(address) as client:
        missing = migrations.pending(_applied(client), known)
    return MigrationReport(address.database, known[: len(known) - len(missing)], (), missing)


def migrate(
    address: ClickHouseAddress,
    *,
    cluster: str | None = None,
    now: Callable[[], float] = time.time,
    sleep: Callable[[float], None] = time.sleep,
    patience: float = 90.0,
) -> MigrationReport:
    """Creates the database if need be, and applies what it lacks. Raises MigrationError and ClickHouseError.

    With a `cluster` (a name in system.clusters) it is made on all replicas of that, with tables that they share. Of one
    that was made so, that need not be said again.
    """
    known = migrations.load()
    with connect(address, database="default") as client:
        form = _made(client, address.database, cluster)
    with connect(address) as client:
        client.execute(form(_RECORD.strip()))
        if not migrations.pending(_applied(client), known):
            return MigrationReport(address.database, known, (), ())
        with _lock(client, sleep, patience):
            missing = migrations.pending(_applied(client), known)
            for migration in missing:
                _apply(client, migration, form, now())
    return MigrationReport(address.database, known[: len(known) - len(missing)], missing, ())


def _made(client: Client, database: str, cluster: str | None) -> Callable[[str], str]:
    """Makes the database where there is none; what is to be made of the statements in it."""
    found = client.query("SELECT engine FROM system.databases WHERE name = %(name)s", {"name": database}).rows
    if cluster is not None:
        _check_cluster(client, database, cluster, [engine for (engine,) in found])
    if found:
        return migrations.replicated if found[0][0] == REPLICATED else _as_it_is
    if cluster is None:
        client.execute(f"CREATE DATABASE IF NOT EXISTS {_quoted(database)}")
        return _as_it_is
    # Keeper's paths know no quoting, so a name is told from every other by its percent-encoding.
    path = f"/clickhouse/databases/{quote(database, safe='')}"
    client.execute(
        f"CREATE DATABASE IF NOT EXISTS {_quoted(database)} ON CLUSTER {_quoted(cluster)} "
        f"ENGINE = Replicated('{path}', '{{shard}}', '{{replica}}')"
    )
    return migrations.replicated


def _check_cluster(client: Client, database: str, cluster: str, engines: list[str]) -> None:
    if engines and engines[0] != REPLICATED:
        raise NotOfACluster(
            f"the database {database} is there already and is this server's own ({engines[0]}): name another one in "
            "the address, or migrate without --cluster"
        )
    shards = client.query(
        "SELECT uniqExact(shard_num) FROM system.clusters WHERE cluster = %(name)s", {"name": cluster}
    )
    if not shards.one():
        known = [name for (name,) in client.query("SELECT DISTINCT cluster FROM system.clusters ORDER BY cluster").rows]
        raise NotOfACluster(f"ClickHouse knows no cluster {cluster}; it knows {', '.join(known) or 'none'}")
    if shards.one() > 1:
        raise NotOfACluster(
            f"the cluster {cluster} has {shards.one()} shards, and a run is in one place: name a cluster of one shard "
            "with all the replicas that are wanted"
        )


def _as_it_is(statement: str) -> str:
    return statement


def _apply(client: Client, migration: Migration, form: Callable[[str], str], now: float) -> None:
    for statement in migration.statements:
        try:
            client.execute(form(statement))
        except ClickHouseRefused as error:
            # Not recorded, and there: an attempt that died got so far.
            if error.code != _TABLE_ALREADY_EXISTS:
                raise
    client.insert(
        "migrations",
        {
            "number": np.array([migration.number]),
            "name": Dictionary.constant(migration.name, 1),
            "checksum": [migration.checksum],
            "applied_at": np.array([int(now * 1e6)]),
        },
    )


def _applied(client: Client) -> dict[int, str]:
    try:
        if not client.query("EXISTS TABLE migrations").one():
            return {}
        return dict(client.query("SELECT number, checksum FROM migrations").rows)
    except ClickHouseRefused as error:
        if error.code == _UNKNOWN_DATABASE:
            return {}
        raise


@contextmanager
def _lock(client: Client, sleep: Callable[[float], None], patience: float) -> Iterator[None]:
    waited = 0.0
    while not _take(client):
        if waited >= patience:
            raise MigrationBusy(
                f"another process holds the lock of the migrations; if none runs, DROP TABLE {_LOCK_TABLE}"
            )
        sleep(0.25)
        waited += 0.25
    try:
        yield
    finally:
        client.execute(f"DROP TABLE IF EXISTS {_LOCK_TABLE} SYNC")


def _take(client: Client) -> bool:
    try:
        client.execute(f"CREATE TABLE {_LOCK_TABLE} (held UInt8) ENGINE = Memory")
    except ClickHouseRefused as error:
        if error.code != _TABLE_ALREADY_EXISTS:
            raise
        age = client.query(
            "SELECT dateDiff('second', metadata_modification_time, now()) FROM system.tables "
            "WHERE database = currentDatabase() AND name = %(name)s",
            {"name": _LOCK_TABLE},
        ).rows
        if age and age[0][0] > _STALE_SECONDS:
            client.execute(f"DROP TABLE IF EXISTS {_LOCK_TABLE} SYNC")
        return False
    return True


def _quoted(name: str) -> str:
    return "`" + name.replace("\\", "\\\\").replace("`", "\\`") + "`"
