"""What reading says when it cannot: errors for the person who asked."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

from pulsetrain_consumers.clickhouse import ClickHouseRefused
from pulsetrain_schemas.errors import UserError


class NotReachable(UserError):
    """There is no ClickHouse to ask, or it does not answer."""


class UnknownRun(UserError):
    """No run, or no project, is called so; the text has what is called nearly so."""


class AmbiguousRun(UserError):
    """Several runs are called so; the text says how each is told from the others."""


class QueryError(UserError):
    """ClickHouse refuses a query. `line` and `column` count from 1, where ClickHouse says them."""

    def __init__(self, text: str, *, code: int = 0, line: int | None = None, column: int | None = None) -> None:
        super().__init__(text)
        self.code = code
        self.line = line
        self.column = column


_POSITION = re.compile(r"\s*\(line (\d+), col (\d+)\)")
_OFFSET = re.compile(r"(?:failed at|Max query size exceeded at) position (\d+)")
# What ClickHouse adds for its developers, and the list of every token that would have been legal.
_NOISE = re.compile(r"\s*\(version [^)]*\)\s*$|^(?:DB::Exception: )+|\s*Expected one of:.*$", re.DOTALL)
_NAME = re.compile(r"\s*\(([A-Z][A-Z_]+)\)\.?$")
_MAX_LENGTH = 600


def from_refusal(error: ClickHouseRefused, sql: str) -> QueryError:
    """ClickHouse's message, trimmed, with the line it is about and a caret under the place."""
    message = error.message.strip()
    line, column = _position(message, sql)
    text = _NOISE.sub("", _POSITION.sub("", message)).strip()
    named = _NAME.search(text)
    name = error.name or (named[1] if named else str(error.code))
    text = _NAME.sub("", text)
    if len(text) > _MAX_LENGTH:
        text = text[:_MAX_LENGTH] + " …"
    if line is not None and column is not None and line <= len(sql.splitlines()):
        shown = sql.splitlines()[line - 1]
        start = max(0, column - 61)
        head = f"  line {line}: "
        text += f" [{name}]\n{head}{shown[start : start + 120]}\n{' ' * (len(head) + column - 1 - start)}^"
    else:
        text += f" [{name}]"
    return QueryError(text, code=error.code, line=line, column=column)


def suggestion(wanted: str, known: Iterable[str]) -> str:
    """' Did you mean …?' with the known names nearest to the one wanted; empty where none is near."""
    names = list(dict.fromkeys(known))
    near = difflib.get_close_matches(wanted, names, n=3, cutoff=0.5)
    near += [name for name in names if wanted and wanted.lower() in name.lower() and name not in near]
    return f" Did you mean {' or '.join(near[:3])}?" if near else ""


def _position(message: str, sql: str) -> tuple[int | None, int | None]:
    found = _POSITION.search(message)
    if found:
        return int(found[1]), int(found[2])
    found = _OFFSET.search(message)
    if found is None:
        return None, None
    # ClickHouse counts bytes, from 1.
    before = sql.encode()[: int(found[1]) - 1].decode(errors="replace")
    return before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1
