"""Parameters of queries, as ClickHouse writes them: `{name:Type}`, filled in here with literals.

Older servers know no parameters of their own, so the literals are made on this side: the only place where a value meets
the text of a query. A value is never read as anything but a value: strings are quoted and escaped, the rest is cast to
its type.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from pulsetrain_schemas.errors import UserError
from pulsetrain_schemas.sql import identifier, literal

# What may hold a `{`, a `;` or a quote without meaning it, then what we look for.
_TOKENS = re.compile(
    r"""
    (?P<quoted>  '(?:[^'\\]|\\.|'')*' | "(?:[^"\\]|\\.|"")*" | `(?:[^`\\]|\\.|``)*` | \$(?P<tag>\w*)\$.*?\$(?P=tag)\$ )
  | (?P<comment> --[^\n]* | \#[\ !][^\n]* | /\*.*?\*/ )
  | (?P<parameter> \{\s*(?P<name>[A-Za-z_]\w*)\s*:\s*(?P<type>[^{}]+?)\s*\} )
  | (?P<end> ; )
    """,
    re.VERBOSE | re.DOTALL,
)


class ParameterError(UserError):
    """A query has a parameter without a value, or a value that fits nothing."""


def bind(sql: str, values: Mapping[str, Any] | None = None) -> str:
    """The query with a literal for each `{name:Type}`. ParameterError names what is missing or unused."""
    given = values or {}
    used: set[str] = set()

    def replace(found: re.Match[str]) -> str:
        if found["parameter"] is None:
            return found[0]
        name, kind = found["name"], found["type"]
        if name not in given:
            raise ParameterError(f"the query's parameter {{{name}:{kind}}} has no value; give it with -p {name}=…")
        used.add(name)
        return _literal(given[name], kind)

    bound = _TOKENS.sub(replace, sql)
    unused = sorted(set(given) - used)
    if unused:
        raise ParameterError(
            f"the query has no parameter called {', '.join(unused)}; parameters are written {{name:Type}}"
        )
    return bound


def statements(sql: str) -> list[str]:
    """The statements of a text: what stands between semicolons, without those of nothing but space and comments."""
    cuts = [found.start() for found in _TOKENS.finditer(sql) if found["end"]]
    pieces = [sql[start:end] for start, end in zip([0, *(cut + 1 for cut in cuts)], [*cuts, len(sql)], strict=True)]
    return [piece for piece in pieces if without_comments(piece).strip()]


def without_comments(sql: str) -> str:
    """The text with each comment replaced by a space."""
    return _TOKENS.sub(lambda found: " " if found["comment"] else found[0], sql)


def _literal(value: Any, kind: str) -> str:
    if kind == "Identifier":
        return identifier(str(value))
    plain = _plain(value)
    return plain if kind == "String" and isinstance(value, str) else f"CAST({plain} AS {kind})"


def _plain(value: Any) -> str:
    match value:
        case None:
            return "NULL"
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case float():
            return (
                repr(value) if math.isfinite(value) else "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"
            )
        case str():
            return literal(value)
        case bytes():
            return literal(value.decode("utf-8", errors="replace"))
        case datetime():
            utc = value.astimezone(UTC) if value.tzinfo else value
            return literal(utc.strftime("%Y-%m-%d %H:%M:%S.%f"))
        case date() | UUID() | Decimal():
            return literal(str(value))
        case tuple():
            return f"({', '.join(map(_plain, value))}{',' if len(value) == 1 else ''})"
        case Sequence():
            return f"[{', '.join(map(_plain, value))}]"
        case _:
            item = getattr(value, "item", None)  # numpy scalars
            if callable(item):
                return _plain(item())
            raise ParameterError(f"a value of type {type(value).__name__} cannot be a parameter of a query")
