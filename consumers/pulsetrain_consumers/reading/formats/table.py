"""A table for a terminal."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Sequence
from typing import Any, BinaryIO

from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from pulsetrain_consumers.reading.formats.base import Column, as_text

_NUMBER = re.compile(r"(Nullable\()?(U?Int\d+|Float\d+|Decimal)")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_PLAIN_WIDTH = 10_000


def harmless(text: str) -> str:
    """The text with control characters shown instead of obeyed: what a run logged must not steer the terminal."""
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


class Table:
    """All rows in one table; holds them until the end, for widths are known only then. Coloured on a terminal."""

    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self._columns: Sequence[Column] = ()
        self._rows: list[tuple[Any, ...]] = []

    def begin(self, columns: Sequence[Column]) -> None:
        """Learns the columns."""
        self._columns = columns

    def rows(self, batch: Sequence[tuple[Any, ...]]) -> None:
        """Keeps the rows."""
        self._rows.extend(batch)

    def end(self) -> None:
        """Writes the table."""
        table = RichTable(box=box.ROUNDED if self._is_terminal else box.ASCII2, header_style="bold", border_style="dim")
        for name, kind in self._columns:
            table.add_column(Text(harmless(name)), justify="right" if _NUMBER.match(kind) else "left", overflow="fold")
        for row in self._rows:
            table.add_row(*(_cell(value) for value in row))
        text = io.StringIO()
        Console(
            file=text,
            force_terminal=self._is_terminal,
            width=None if self._is_terminal else _PLAIN_WIDTH,
            no_color="NO_COLOR" in os.environ,
        ).print(table, soft_wrap=False)
        count = len(self._rows)
        text.write(f"{count:,} row{'' if count == 1 else 's'}\n")
        self._out.write(text.getvalue().encode("utf-8", errors="replace"))

    @property
    def _is_terminal(self) -> bool:
        return self._out.isatty()


def _cell(value: Any) -> Text:
    return Text("NULL", style="dim") if value is None else Text(harmless(as_text(value)))
