"""JSON: one array of objects, or an object a line."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, BinaryIO

from pulsetrain_consumers.reading.formats.base import Column, as_json


class JsonLines:
    """An object a line."""

    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self._names: list[str] = []

    def begin(self, columns: Sequence[Column]) -> None:
        """Learns the names."""
        self._names = [name for name, _ in columns]

    def rows(self, batch: Sequence[tuple[Any, ...]]) -> None:
        """Writes a line a row."""
        for row in batch:
            self._out.write(self._object(row) + b"\n")

    def end(self) -> None:
        """Nothing stands after the last row."""

    def _object(self, row: tuple[Any, ...]) -> bytes:
        values = dict(zip(self._names, map(as_json, row), strict=True))
        return json.dumps(values, ensure_ascii=False).encode("utf-8", errors="replace")


class Json(JsonLines):
    """One array of objects, an object a line."""

    def __init__(self, out: BinaryIO) -> None:
        super().__init__(out)
        self._between = b"[\n"

    def rows(self, batch: Sequence[tuple[Any, ...]]) -> None:
        """Writes a line a row."""
        for row in batch:
            self._out.write(self._between + self._object(row))
            self._between = b",\n"

    def end(self) -> None:
        """Closes the array."""
        self._out.write(b"[]\n" if self._between == b"[\n" else b"\n]\n")
