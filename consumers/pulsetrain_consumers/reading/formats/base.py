"""What every format keeps to, and how a value of ClickHouse is written as text or as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from datetime import date, datetime
from typing import Any, Protocol

Column = tuple[str, str]
"""Name and ClickHouse type."""


class Writer(Protocol):
    """Called in this order: `begin` once, `rows` any number of times, `end` once."""

    def begin(self, columns: Sequence[Column]) -> None:
        """Told the columns before any row."""

    def rows(self, batch: Sequence[tuple[Any, ...]]) -> None:
        """Writes rows."""

    def end(self) -> None:
        """Writes what stands after the last row."""


def as_text(value: Any, absent: str = "") -> str:
    """A value as one line's cell: NaN is nan, an infinity inf, a time is ISO with a space, arrays and maps are JSON."""
    match value:
        case None:
            return absent
        case str():
            return value
        case bool():
            return "true" if value else "false"
        case float():
            return repr(value)
        case bytes():
            return value.decode("utf-8", errors="replace")
        case datetime():
            return _moment(value)
        case list() | tuple() | dict():
            return json.dumps(as_json(value), ensure_ascii=False)
        case _:
            return str(value)


def as_json(value: Any) -> Any:
    """A value as JSON has it. What JSON has no numbers for is written as "nan", "inf" and "-inf"."""
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else repr(value)
        case list() | tuple():
            return [as_json(item) for item in value]
        case dict():
            return {as_text(key): as_json(item) for key, item in value.items()}
        case datetime() | date() | bytes():
            return as_text(value)
        case _:
            return str(value)


def _moment(value: datetime) -> str:
    # DateTime64 has microseconds to show even where they are nought by chance; DateTime never has any.
    text = value.strftime("%Y-%m-%d %H:%M:%S")
    return f"{text}.{value.microsecond:06d}" if value.microsecond else text
