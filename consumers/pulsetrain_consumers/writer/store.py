"""What the writer needs of ClickHouse, as a contract; and ClickHouse behind it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from pulsetrain_consumers.clickhouse import Client, ColumnData
from pulsetrain_consumers.writer.coverage import Intervals, Writer

Columns = Mapping[str, ColumnData]


@dataclass(frozen=True, slots=True)
class Look:
    """`held`: why nothing may be stored at the moment, or None. `deleted`: runs, and when each was deleted (in µs)."""

    held: str | None = None
    deleted: Mapping[tuple[str, str], int] = field(default_factory=dict)


class Store(Protocol):
    """Tables, with inserts that count once. All methods raise ClickHouseUnavailable and ClickHouseRefused."""

    def insert(self, table: str, columns: Columns, token: str | None) -> int:
        """Stores rows, unless an insert into this table under this token has stored its rows before."""

    def stored_sequences(self, topic: str, writers: Sequence[Writer]) -> Mapping[Writer, Intervals]:
        """What the ledger holds of these writers; a writer that it does not know is left out."""

    def look(self) -> Look:
        """How things stand before a round is stored."""

    def check(self) -> None:
        """Returns when the server answers."""


# Adjacent and overlapping ranges of one writer become one, in the server: a long run has a range for every message.
_STORED_SEQUENCES = """
SELECT project, run_id, writer, min(first), max(last)
FROM
(
    SELECT project, run_id, writer, first, last,
           sum(begins) OVER (PARTITION BY project, run_id, writer ORDER BY first, last
                             ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW) AS island
    FROM
    (
        SELECT project, run_id, writer, first_sequence AS first, last_sequence AS last,
               first > 1 + max(last) OVER (PARTITION BY project, run_id, writer ORDER BY first, last
                                           ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS begins
        FROM stored_batches
        WHERE topic = %(topic)s AND (project, run_id, writer) IN %(writers)s
    )
)
GROUP BY project, run_id, writer, island
ORDER BY project, run_id, writer, island
"""
_WRITERS_PER_QUERY = 500
_LOOK = """
SELECT
    (SELECT holder FROM rebuild_fence WHERE until > now64(6) ORDER BY until DESC LIMIT 1),
    (SELECT count() FROM deletions),
    (SELECT max(deleted_at) FROM deletions)
"""
_DELETED = "SELECT project, run_id, toUnixTimestamp64Micro(max(deleted_at)) FROM deletions GROUP BY project, run_id"


class ClickHouseStore:
    """The tables in ClickHouse. One connection; belongs to one thread at a time."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._deletions: Any = None
        self._deleted: Mapping[tuple[str, str], int] = {}

    def insert(self, table: str, columns: Columns, token: str | None) -> int:
        return self._client.insert(table, columns, token=token)

    def stored_sequences(self, topic: str, writers: Sequence[Writer]) -> Mapping[Writer, Intervals]:
        found: dict[Writer, list[tuple[int, int]]] = {}
        for begin in range(0, len(writers), _WRITERS_PER_QUERY):
            asked = [tuple(writer) for writer in writers[begin : begin + _WRITERS_PER_QUERY]]
            result = self._client.query(_STORED_SEQUENCES, {"topic": topic, "writers": asked})
            for project, run_id, writer, first, last in result.rows:
                found.setdefault(Writer(project, run_id, writer), []).append((int(first), int(last)))
        return {writer: Intervals(tuple(spans)) for writer, spans in found.items()}

    def look(self) -> Look:
        ((holder, *deletions),) = self._client.query(_LOOK).rows
        if deletions != self._deletions:
            rows = self._client.query(_DELETED).rows
            self._deleted = {(project, run_id): int(when) for project, run_id, when in rows}
            self._deletions = deletions
        return Look(f"the tables are being exchanged by a rebuild ({holder})" if holder else None, self._deleted)

    def check(self) -> None:
        self._client.ping()
