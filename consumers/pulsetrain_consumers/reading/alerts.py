"""Alerts as ClickHouse has them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from datetime import datetime
from typing import Any

from pulsetrain_consumers.reading.database import Database
from pulsetrain_consumers.reading.model import AlertRecord, RunKey
from pulsetrain_consumers.reading.runs import text, utc

_NAMES = [field.name for field in fields(AlertRecord)]


def list_alerts(
    database: Database, keys: Sequence[RunKey] | None = None, *, state: str | None = None, limit: int | None = None
) -> list[AlertRecord]:
    """The alerts of these runs, or of all; what fires first, then the newest. `state`: pending, firing or resolved.

    A trouble that was over before its alert fired is none.
    """
    conditions, params = ["(fired IS NOT NULL OR state = 'pending')"], dict[str, Any]()
    if keys is not None:
        conditions.append("(project, run_id) IN {keys:Array(Tuple(String, String))}")
        params["keys"] = list(keys)
    if state is not None:
        conditions.append("state = {state:String}")
        params["state"] = state
    sql = (
        f"SELECT {', '.join(_NAMES)} FROM alerts WHERE {' AND '.join(conditions)} "  # noqa: S608  all of it is ours
        "ORDER BY state = 'firing' DESC, started DESC, alert_id"
    )
    if limit is not None:
        sql += " LIMIT {limit:UInt32}"
        params["limit"] = limit
    return [AlertRecord(*map(_value, row)) for row in database.query(sql, **params).rows]


def _value(value: Any) -> Any:
    if isinstance(value, datetime):
        return utc(value)
    return text(value) if isinstance(value, bytes) else value
