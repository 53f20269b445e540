"""The tables in memory, for tests: inserts under a token count once, a row that is refused fails its whole insert."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from pulsetrain_consumers.clickhouse import ClickHouseRefused, ClickHouseUnavailable, Dictionary
from pulsetrain_consumers.writer.coverage import Intervals, Writer
from pulsetrain_consumers.writer.store import Columns, Look

Row = dict[str, Any]


class MemoryStore:
    """Keeps every row that was stored, in `tables`. `refuses` says of a table's row whether it is bad data."""

    def __init__(self) -> None:
        self.tables: dict[str, list[Row]] = {}
        self.away = False
        self.fenced: str | None = None
        self.deleted: dict[tuple[str, str], int] = {}
        self.refuses: Callable[[str, Row], bool] = lambda _table, _row: False
        self._tokens: set[tuple[str, str]] = set()

    def insert(self, table: str, columns: Columns, token: str | None) -> int:
        self.check()
        plain = {name: _values(column) for name, column in columns.items()}
        rows = [dict(zip(plain, values, strict=True)) for values in zip(*plain.values(), strict=True)]
        if any(self.refuses(table, row) for row in rows):
            raise ClickHouseRefused(469, "VIOLATED_CONSTRAINT", f"a row of {table} is refused")
        if token is not None:
            if (table, token) in self._tokens:
                return 0
            self._tokens.add((table, token))
        self.tables.setdefault(table, []).extend(rows)
        return len(rows)

    def stored_sequences(self, topic: str, writers: Sequence[Writer]) -> Mapping[Writer, Intervals]:
        self.check()
        wanted = set(writers)
        found: dict[Writer, Intervals] = {}
        for row in self.tables.get("stored_batches", []):
            writer = Writer(row["project"], row["run_id"], row["writer"])
            if row["topic"] == topic and writer in wanted:
                before = found.get(writer, Intervals())
                found[writer] = before.add(row["first_sequence"], row["last_sequence"])
        return found

    def look(self) -> Look:
        self.check()
        return Look(self.fenced, self.deleted)

    def check(self) -> None:
        if self.away:
            raise ClickHouseUnavailable("the store is away")


def _values(column: Any) -> list[Any]:
    if isinstance(column, Dictionary):
        return [column.values[code] for code in column.codes]
    return list(column.tolist() if isinstance(column, np.ndarray) else column)
