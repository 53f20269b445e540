"""Where a monitor leaves what it knows, part by part, to go on from when it comes up again."""

import time
from collections.abc import Iterable, Mapping
from typing import Protocol

from pulsetrain_consumers.clickhouse import ClickHouseError, Client, ColumnData, Dictionary
from pulsetrain_consumers.runtime.sink import StoreUnavailable

# How many saves a monitor has in its versions: one a second for a century.
_SAVES_BITS = 32


class StateStore(Protocol):
    """Texts by the name of a part; an empty text removes the part. Both methods raise StoreUnavailable."""

    def load(self) -> dict[str, str]:
        """Every part, as it was saved last."""

    def save(self, parts: Mapping[str, str]) -> None:
        """Saves parts: all of them, or none."""


class MemoryState:
    """A store for tests. Those of monitors of one group share a table, and keep its rule about versions."""

    def __init__(self, table: dict[str, tuple[int, str]] | None = None) -> None:
        self.table: dict[str, tuple[int, str]] = {} if table is None else table
        self.away = False
        self._version = 0

    @property
    def parts(self) -> dict[str, str]:
        """What is saved."""
        return {part: text for part, (_, text) in self.table.items() if text}

    def load(self) -> dict[str, str]:
        self._answer()
        self._version = _first_version(version for version, _ in self.table.values())
        return self.parts

    def save(self, parts: Mapping[str, str]) -> None:
        self._answer()
        self._version += 1
        for part, text in parts.items():
            if self._version > self.table.get(part, (0, ""))[0]:
                self.table[part] = self._version, text

    def _answer(self) -> None:
        if self.away:
            raise StoreUnavailable("the store is away")


class ClickHouseState:
    """The table `monitor_state`, for the monitors of one group. One save is one insert: all of it is there, or none.

    What a later monitor has saved counts, whatever one that was frozen meanwhile and has lost its place saves after it:
    a version is the number of the monitor and of its save.
    """

    def __init__(self, client: Client, monitor: str) -> None:
        self._client = client
        self._monitor = monitor
        self._version = 0

    def load(self) -> dict[str, str]:
        sql = (
            "SELECT part, argMax(state, version) AS latest, max(version) FROM monitor_state "
            "WHERE monitor = %(monitor)s GROUP BY part"
        )
        try:
            rows = self._client.query(sql, {"monitor": self._monitor}).rows
        except ClickHouseError as error:
            raise StoreUnavailable(str(error)) from error
        self._version = _first_version(int(version) for *_, version in rows)
        return {part: text for part, text, _ in rows if text}

    def save(self, parts: Mapping[str, str]) -> None:
        if not parts:
            return
        self._version += 1
        columns: dict[str, ColumnData] = {
            "monitor": Dictionary.constant(self._monitor, len(parts)),
            "part": list(parts),
            "version": [self._version] * len(parts),
            "saved": [int(time.time() * 1e6)] * len(parts),
            "state": list(parts.values()),
        }
        try:
            self._client.insert("monitor_state", columns)
        except ClickHouseError as error:
            raise StoreUnavailable(str(error)) from error


def _first_version(found: Iterable[int]) -> int:
    """From where the versions of a monitor count that comes after those that are found."""
    return ((max(found, default=0) >> _SAVES_BITS) + 1) << _SAVES_BITS
