"""The tables that a rebuild fills, in a database of their own, until they change places with those that people read.

The fence keeps the writers from storing while they change places; it is a row with a time in the future, renewed as
long as the rebuild lives, so that one that was killed holds up nobody for long. The same row in the
rebuild's own database says that it lives.
"""

import re
import secrets
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from pulsetrain_consumers.clickhouse import ClickHouseError, Client, connect
from pulsetrain_consumers.clickhouse.cluster import REPLICATED
from pulsetrain_consumers.rebuilding.checksums import WRITER_TABLES
from pulsetrain_consumers.runtime.broker import Partition
from pulsetrain_consumers.writer.sink import LEDGER
from pulsetrain_schemas.addresses import ClickHouseAddress
from pulsetrain_schemas.errors import UserError
from pulsetrain_schemas.sql import identifier

_FENCE = "rebuild_fence"
_DELETIONS = "deletions"
# In a rebuild's own database: as the fence, and no fence for what is filled there.
_ALIVE = "rebuild_alive"
_HELD_SECONDS = 20
_RENEW_SECONDS = 4.0


class RebuildBusy(UserError):
    """Another rebuild of the same tables is under way."""


class RebuildImpossible(UserError):
    """The database is of a kind whose tables cannot be exchanged."""


@dataclass(frozen=True, slots=True)
class Loss:
    """Sequences of a run that the tables have and the log no longer has."""

    project: str
    run_id: str
    topic: str
    sequences: int


class Shadow:
    """A database beside the one that is rebuilt, with the same tables, empty at first. Gone when it is closed.

    Raises ClickHouseError.
    """

    def __init__(self, address: ClickHouseAddress, holder: str) -> None:
        self.home = address.database
        self.database = f"{self.home}_rebuild_{secrets.token_hex(4)}"
        self.address = ClickHouseAddress(
            address.host,
            address.port,
            address.user,
            address.password,
            self.database,
            address.secure,
            address.options,
        )
        self._home_address = address
        self._holder = holder
        self._client = connect(address)
        self._renewal = _Renewal(address, holder)

    def __enter__(self) -> Self:
        self._refuse_cluster()
        self._sweep()
        self._client.execute(f"CREATE DATABASE {identifier(self.database)}")
        self._client.execute(f"CREATE TABLE {self._new(_ALIVE)} AS {self._old(_FENCE)}")
        self._renewal.begin(self._new(_ALIVE))
        for table in (*WRITER_TABLES, _FENCE):
            self._client.execute(f"CREATE TABLE {self._new(table)} AS {self._old(table)}")
        # What was deleted is not filled in again.
        self._client.execute(f"CREATE TABLE {self._new(_DELETIONS)} AS {self._old(_DELETIONS)}")
        self._client.execute(f"INSERT INTO {self._new(_DELETIONS)} SELECT * FROM {self._old(_DELETIONS)}")  # noqa: S608
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._renewal.end()
        try:
            # After an interrupted query a connection is in no state to be used.
            self._client.close()
            self._client.execute(f"TRUNCATE TABLE {self._old(_FENCE)}")
            self._client.execute(f"DROP DATABASE IF EXISTS {identifier(self.database)} SYNC")
        except ClickHouseError:
            # The fence falls by itself, and the next rebuild sweeps up.
            if error is None:
                raise
        finally:
            self._client.close()

    def raise_fence(self) -> None:
        """From now on no writer begins to store anything."""
        self._renewal.begin(self._old(_FENCE))

    @property
    def fence_lapsed(self) -> bool:
        """Whether the fence may have fallen for a moment since it was raised: ClickHouse did not answer for long."""
        return self._renewal.longest_pause > _HELD_SECONDS / 2

    @property
    def knows_all_deletions(self) -> bool:
        """Whether no run was deleted since the shadow was made, which would be there again in it."""
        old, new = (
            self._client.query(f"SELECT count(), max(deleted_at) FROM {table}").rows  # noqa: S608
            for table in (self._old(_DELETIONS), self._new(_DELETIONS))
        )
        return old == new

    def uncommitted(self, ends: Mapping[Partition, int]) -> int:
        """Messages that are in the ledger though their group has not said so: they are stored again afterwards."""
        return int(
            self._client.query(f"SELECT count() FROM {self._old(LEDGER)} WHERE NOT ({_before(ends)})").one()  # noqa: S608
        )

    def losses(self, ends: Mapping[Partition, int]) -> list[Loss]:
        """What the tables have that the rebuilt ones lack, by run."""
        old = _covered(self._old(LEDGER), _before(ends))
        new = _covered(self._new(LEDGER), "1")
        keys = "topic, project, run_id, writer"
        found = self._client.query(
            f"SELECT project, run_id, topic, sum(toInt64(old.covered) - toInt64(new.covered)) AS lost "  # noqa: S608
            f"FROM ({old}) AS old LEFT JOIN ({new}) AS new USING ({keys}) WHERE old.covered > new.covered "
            "GROUP BY project, run_id, topic ORDER BY lost DESC, project, run_id, topic"
        )
        return [Loss(project, run_id, topic, int(lost)) for project, run_id, topic, lost in found.rows]

    def exchange(self) -> None:
        """The tables change places, the ledger first.

        Where this breaks off in between, nothing is lost: what a writer has still to store is told by the new ledger,
        and a table that was not exchanged has that under the same token, or has it not.
        """
        for table in WRITER_TABLES:
            self._renewal.renew(self._client, self._old(_FENCE))
            self._client.execute(f"EXCHANGE TABLES {self._old(table)} AND {self._new(table)}")

    def _refuse_cluster(self) -> None:
        engine = self._client.query("SELECT engine FROM system.databases WHERE name = currentDatabase()").one()
        if engine == REPLICATED:
            raise RebuildImpossible(
                f"the database {self.home} is a cluster's, and tables of such databases cannot change places: make "
                "another database (pulsetrain migrate --cluster), with writers of a group of its own that read from "
                "the beginning, and point readers at it when it has caught up"
            )

    def _sweep(self) -> None:
        """Drops what earlier rebuilds have left that died. Raises RebuildBusy where one lives."""
        left = re.compile(re.escape(self.home) + r"_rebuild_[0-9a-f]{8}")
        for (name,) in self._client.query("SELECT name FROM system.databases").rows:
            if not left.fullmatch(name):
                continue
            if self._client.query(
                "SELECT count() FROM system.tables WHERE database = %(name)s AND name = %(fence)s",
                {"name": name, "fence": _ALIVE},
            ).one():
                alive = self._client.query(
                    f"SELECT holder FROM {identifier(name)}.{_ALIVE} WHERE until > now64(6) LIMIT 1"  # noqa: S608
                ).rows
                if alive:
                    raise RebuildBusy(
                        f"{alive[0][0]} rebuilds these tables already; one that was killed counts for {_HELD_SECONDS} "
                        "seconds as alive"
                    )
            self._client.execute(f"DROP DATABASE IF EXISTS {identifier(name)} SYNC")

    def _old(self, table: str) -> str:
        return f"{identifier(self.home)}.`{table}`"

    def _new(self, table: str) -> str:
        return f"{identifier(self.database)}.`{table}`"


class _Renewal:
    """Renews the rows that say that the rebuild lives, on a thread and over a connection of its own."""

    def __init__(self, address: ClickHouseAddress, holder: str) -> None:
        self._address = address
        self._holder = holder
        self._tables: tuple[str, ...] = ()
        self._stop = threading.Event()
        self._renewed: dict[str, float] = {}
        self.longest_pause = 0.0
        self._thread: threading.Thread | None = None

    def begin(self, table: str) -> None:
        with connect(self._address) as client:
            self.renew(client, table)
        self._tables += (table,)
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="renewal", daemon=True)
            self._thread.start()

    def renew(self, client: Client, table: str) -> None:
        client.execute(
            f"INSERT INTO {table} SELECT now64(6) + INTERVAL {_HELD_SECONDS} SECOND, %(holder)s",
            {"holder": self._holder},
        )
        now = time.monotonic()
        self.longest_pause = max(self.longest_pause, now - self._renewed.get(table, now))
        self._renewed[table] = now

    def end(self) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        with connect(self._address) as client:
            while not self._stop.wait(_RENEW_SECONDS):
                for table in self._tables:
                    try:
                        self.renew(client, table)
                    except ClickHouseError:
                        continue  # the next time; the rebuild itself meets the same and says so


def _before(ends: Mapping[Partition, int]) -> str:
    """The rows of the ledger that come from offsets before the ends."""
    conditions = [
        f"(topic = '{partition.topic}' AND kafka_partition = {partition.number} AND kafka_offset >= {end})"
        for partition, end in sorted(ends.items())
    ]
    return f"NOT ({' OR '.join(conditions)})"


def _covered(ledger: str, where: str) -> str:
    """How many sequences of each writer the ledger has, whatever the ranges, adjacent or overlapping."""
    window = "PARTITION BY topic, project, run_id, writer ORDER BY first_sequence, last_sequence"
    islands = (
        "SELECT topic, project, run_id, writer, first_sequence, last_sequence, "  # noqa: S608
        f"max(last_sequence) OVER ({window} ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS reached "
        f"FROM {ledger} WHERE {where}"
    )
    return (
        "SELECT topic, project, run_id, writer, "  # noqa: S608
        "sum(toInt64(last_sequence) - toInt64(greatest(first_sequence, reached + 1)) + 1) AS covered "
        f"FROM ({islands}) WHERE last_sequence > reached GROUP BY topic, project, run_id, writer"
    )


def sizes(client: Client, tables: Sequence[str] = WRITER_TABLES) -> tuple[int, int]:
    """Rows and bytes on the disk of the tables."""
    found = client.query(
        "SELECT sum(rows), sum(bytes_on_disk) FROM system.parts "
        "WHERE active AND database = currentDatabase() AND table IN %(tables)s",
        {"tables": list(tables)},
    ).rows[0]
    return int(found[0] or 0), int(found[1] or 0)
