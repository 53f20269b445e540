"""Brings a database to the schema that this version needs: applies the migrations that it lacks, and records them.

ClickHouse has neither transactions nor locks for this, so a table with a fixed name is the lock: creating it is atomic,
and only one of two processes succeeds. A migration that died half way is taken up again: what it has created is there.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import numpy as np

from pulsetrain_consumers.clickhouse.client import Client, connect
from pulsetrain_consumers.clickhouse.cluster import make_database
from pulsetrain_consumers.clickhouse.errors import ClickHouseError, ClickHouseRefused
from pulsetrain_consumers.clickhouse.native import Dictionary
from pulsetrain_schemas import migrations
from pulsetrain_schemas.addresses import ClickHouseAddress
from pulsetrain_schemas.cluster import Form
from pulsetrain_schemas.migrations import Migration

_TABLE_ALREADY_EXISTS = 57
_DUPLICATE_COLUMN = 15
_UNKNOWN_DATABASE = 81
_LOCK_TABLE = "migrations_lock"
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

    With a `cluster` (a name in system.clusters) it is made on all servers of that. Of one that was made so, that need
    not be said again.
    """
    known = migrations.load()
    with connect(address, database="default") as client:
        form = make_database(client, address.database, cluster)
    with ExitStack() as stack:
        clients = {name: stack.enter_context(connect(address, database=name)) for name in form.databases}
        client = clients[form.database]
        for placed in form.of(_RECORD.strip()):
            clients[placed.database].execute(placed.statement)
        if not migrations.pending(_applied(client), known):
            return MigrationReport(address.database, known, (), ())
        with _lock(client, sleep, patience):
            missing = migrations.pending(_applied(client), known)
            for migration in missing:
                _apply(clients, migration, form, now())
    return MigrationReport(address.database, known[: len(known) - len(missing)], missing, ())


def _apply(clients: Mapping[str, Client], migration: Migration, form: Form, now: float) -> None:
    for statement in migration.statements:
        for placed in form.of(statement):
            try:
                clients[placed.database].execute(placed.statement)
            except ClickHouseRefused as error:
                # Not recorded, and there: an attempt that died got so far.
                if error.code not in (_TABLE_ALREADY_EXISTS, _DUPLICATE_COLUMN):
                    raise
    clients[form.database].insert(
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
