"""CSV, TSV and Markdown."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any, BinaryIO

from pulsetrain_consumers.reading.formats.base import Column, as_text


class Csv:
    """Comma-separated, RFC 4180 quoting with line feeds, a heading line; NULL is an empty cell."""

    delimiter = ","

    def __init__(self, out: BinaryIO) -> None:
        self._text = io.TextIOWrapper(out, encoding="utf-8", newline="", write_through=True)
        self._csv = csv.writer(self._text, delimiter=self.delimiter, lineterminator="\n")

    def begin(self, columns: Sequence[Column]) -> None:
        """Writes the heading."""
        self._csv.writerow([name for name, _ in columns])

    def rows(self, batch: Sequence[tuple[Any, ...]]) -> None:
        """Writes a line a row."""
        self._csv.writerows([as_text(value) for value in row] for row in batch)

    def end(self) -> None:
        """Leaves the underlying file open for its owner."""
        self._text.flush()
        self._text.detach()


class Tsv:
    r"""As ClickHouse's TabSeparatedWithNames: tabs, line feeds and backslashes as \t, \n and \\, NULL as \N."""

    _ESCAPES = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r", "\0": "\\0"})

    def __init__(self, out: BinaryIO) -> None:
        self._out = out

    def begin(self, columns: Sequence[Column]) -> None:
        """Writes the heading."""
        self._line([name.translate(self._ESCAPES) for name, _ in columns])

    def rows(self, batch: Sequence[tuple[Any, ...]]) -> None:
        """Writes a line a row."""
        for row in batch:
            self._line(["\\N" if value is None else as_text(value).translate(self._ESCAPES) for value in row])

    def end(self) -> None:
        """Nothing stands after the last row."""

    def _line(self, cells: list[str]) -> None:
        self._out.write(("\t".join(cells) + "\n").encode())


class Markdown:
    """A GitHub table; numbers stand to the right."""

    _NUMBERS = ("Int", "UInt", "Float", "Decimal")

    def __init__(self, out: BinaryIO) -> None:
        self._out = out

    def begin(self, columns: Sequence[Column]) -> None:
        """Writes the heading and the line under it."""
        self._line([name for name, _ in columns])
        rules = ("---:" if kind.removeprefix("Nullable(").startswith(self._NUMBERS) else "---" for _, kind in columns)
        self._out.write(f"| {' | '.join(rules)} |\n".encode())

    def rows(self, batch: Sequence[tuple[Any, ...]]) -> None:
        """Writes a line a row."""
        for row in batch:
            self._line([as_text(value) for value in row])

    def end(self) -> None:
        """Nothing stands after the last row."""

    def _line(self, cells: list[str]) -> None:
        escaped = (
            cell.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("\n", "<br>") for cell in cells
        )
        self._out.write(f"| {' | '.join(escaped)} |\n".encode())
