"""Which runs, in which order: conditions and sort keys over a run's fields, its config and its summary.

A path is a field (`state`, `name`, `group`, `duration` …), `config.KEY` or `summary.KEY`; a bare KEY that is no field
is looked for in the summary and then in the config.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

from pulsetrain_consumers.reading.model import RunRecord
from pulsetrain_schemas.errors import UserError

ABSENT: Any = object()
_FIELDS = frozenset(field.name for field in fields(RunRecord)) - {"config", "summary"}
_ALIASES = {"id": "run_id", "tag": "tags", "commit": "git_commit"}


class SelectionError(UserError):
    """A condition or sort key is not understood."""


def _comparing(compare: Callable[[Any, Any], bool]) -> Callable[[Any, Any], bool]:
    def holds(value: Any, wanted: Any) -> bool:
        if isinstance(value, datetime):
            value = value.isoformat(sep=" ")
        try:
            return compare(value, wanted)
        except TypeError:
            return False

    return holds


def _equal(value: Any, wanted: Any) -> bool:
    if isinstance(value, tuple):
        return wanted in value
    return bool(value == wanted) or (isinstance(value, str | int) and str(value) == str(wanted))


_OPERATORS: Mapping[str, Callable[[Any, Any], bool]] = {
    "=": _equal,
    "!=": lambda value, wanted: not _equal(value, wanted),
    "<": _comparing(operator.lt),
    "<=": _comparing(operator.le),
    ">": _comparing(operator.gt),
    ">=": _comparing(operator.ge),
    "~": lambda value, wanted: bool(
        re.search(str(wanted), ",".join(value) if isinstance(value, tuple) else str(value))
    ),
    "in": lambda value, wanted: any(_equal(value, one) for one in wanted),
}
_MONGO = {"$eq": "=", "$ne": "!=", "$lt": "<", "$lte": "<=", "$gt": ">", "$gte": ">=", "$regex": "~", "$in": "in"}
_CONDITION = re.compile(r"(?P<path>.+?)\s*(?P<operator>!=|<=|>=|=|<|>|~)\s*(?P<value>.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Condition:
    """Holds for a run whose value at `path` compares so with `value`; never for one that has none, except `!=`."""

    path: str
    operator: str
    value: Any

    def holds(self, run: RunRecord) -> bool:
        """Whether it holds for the run."""
        value = look_up(run, self.path)
        if value is ABSENT:
            return self.operator == "!="
        return _OPERATORS[self.operator](value, self.value)


def parse_condition(text: str) -> Condition:
    """`lr>=0.01`, `state=finished`, `name~^baseline`, `tag=digits`; a number, true, false or null counts as such."""
    found = _CONDITION.fullmatch(text)
    if found is None:
        raise SelectionError(
            f"the filter {text!r} is not understood: write KEY=VALUE, or with != < <= > >= or ~ (a regular expression)"
        )
    value: Any = found["value"]
    if found["operator"] == "~":
        _check_pattern(value)
    else:
        value = _scalar(value)
    return Condition(found["path"].strip(), found["operator"], value)


def conditions(filters: Mapping[str, Any]) -> list[Condition]:
    """W&B's form: `{"state": "finished", "config.lr": {"$gte": 0.01}, "name": {"$regex": "^base"}}`."""
    made: list[Condition] = []
    for path, wanted in filters.items():
        if not isinstance(wanted, Mapping):
            made.append(Condition(path, "=", wanted))
            continue
        for name, value in wanted.items():
            if name not in _MONGO:
                raise SelectionError(
                    f"the filter of {path} has an unknown operator {name!r}; known are {', '.join(_MONGO)}"
                )
            if name == "$regex":
                _check_pattern(value)
            made.append(Condition(path, _MONGO[name], value))
    return made


def select(runs: Iterable[RunRecord], where: Sequence[Condition] = (), order: str | None = None) -> list[RunRecord]:
    """The runs for which all conditions hold, by `order`: a path, with `-` before it for the highest first.

    Runs without a value come last either way.
    """
    chosen = [run for run in runs if all(condition.holds(run) for condition in where)]
    if not order:
        return chosen
    path = order.lstrip("+-")
    present = [(run, value) for run in chosen if _is_value(value := look_up(run, path))]
    if chosen and not present:
        known = sorted({key for run in chosen for key in (*run.summary, *run.config)} | _FIELDS)
        raise SelectionError(
            f"no run has {path!r} to sort by; there are {', '.join(known[:20])}{' …' if len(known) > 20 else ''}"
        )
    present.sort(key=lambda pair: _sort_key(pair[1]), reverse=order.startswith("-"))
    have = {run.key for run, _ in present}
    return [run for run, _ in present] + [run for run in chosen if run.key not in have]


def look_up(run: RunRecord, path: str) -> Any:
    """The value at a path, or ABSENT."""
    section, _, key = path.partition(".")
    if section in ("config", "summary") and key:
        return getattr(run, section).get(key, ABSENT)
    name = _ALIASES.get(path, path)
    if name in _FIELDS:
        return getattr(run, name)
    return run.summary.get(path, run.config.get(path, ABSENT))


def _is_value(value: Any) -> bool:
    return value is not ABSENT and value is not None and not (isinstance(value, float) and math.isnan(value))


def _sort_key(value: Any) -> tuple[int, Any]:
    if isinstance(value, int | float):
        return 0, value
    if isinstance(value, datetime):
        return 1, value.timestamp()
    return 2, str(value)


def _scalar(text: str) -> Any:
    for name, value in (("true", True), ("false", False), ("null", None)):
        if text == name:
            return value
    try:
        return int(text)
    except ValueError:
        pass  # not an integer: perhaps a float
    try:
        return float(text)
    except ValueError:
        return text


def _check_pattern(text: str) -> None:
    try:
        re.compile(text)
    except re.error as error:
        raise SelectionError(f"{text!r} is no regular expression: {error}") from error
