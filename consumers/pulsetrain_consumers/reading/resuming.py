"""What the SDK asks when a run goes on, goes back or is forked on a machine that does not have its journals.

Answers are plain values, for the SDK does not import this package. They tell what is stored; what is still on its way
is not in them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pulsetrain_consumers.reading.database import Database
from pulsetrain_consumers.reading.lineage import last_steps, sources
from pulsetrain_consumers.reading.model import RunKey
from pulsetrain_consumers.reading.runs import list_runs, text

_ATTEMPTS = """
SELECT
    attempt,
    ifNull(min(first_step), 0) AS first,
    argMax((inherited_runs, inherited_attempts, inherited_below), length(inherited_runs)) AS inherited
FROM run_events
WHERE project = {project:String} AND run_id = {run_id:String} AND kind != 'heartbeat'
GROUP BY attempt
"""
_MEMBERS = """
SELECT
    rank,
    anyIf(launch, launch != '') AS launch,
    max(last_seen) > now64(6, 'UTC') - INTERVAL 5 MINUTE AND countIf(NOT ended) > 0 AS is_heard
FROM
(
    SELECT rank, writer, max(ts) AS last_seen, countIf(kind = 'finish') > 0 AS ended
    FROM run_events
    WHERE project = {project:String} AND run_id = {run_id:String} AND attempt = {attempt:UInt32}
    GROUP BY rank, writer
) AS heard
LEFT JOIN
(
    SELECT writer, argMax(ifNull(value, ''), ts) AS launch
    FROM run_values
    WHERE project = {project:String} AND run_id = {run_id:String} AND section = 'environment' AND key = 'launch'
    GROUP BY writer
) AS launches ON heard.writer = launches.writer
GROUP BY rank
"""
_VALUES = """
SELECT key, argMax(ifNull(value, ''), (attempt, ts, sequence)) AS latest, argMax(ts, (attempt, ts, sequence)) AS told
FROM run_values
WHERE project = {project:String} AND run_id = {run_id:String} AND section = {section:String}
GROUP BY key
HAVING latest != ''
"""
_BEYOND = """
SELECT count(), min(ts) FROM metrics
WHERE project = {project:String} AND run_id = {run_id:String} AND step >= {below:Int64}
"""
# Of several ranks the lowest speaks.
_LAST_POINTS = """
SELECT toString(metric), argMax(value, (-toInt64(rank), ts, sequence)) FROM latest_metrics
WHERE (project, run_id) IN {keys:Array(Tuple(String, String))}
    AND (project, source_run_id) IN {sources:Array(Tuple(String, String))}
    AND step < {below:Int64}
GROUP BY metric
"""
_LAST_TEXTS = """
SELECT toString(key), argMax(value, (-toInt64(rank), ts, sequence)) FROM latest_texts
WHERE (project, run_id) IN {keys:Array(Tuple(String, String))}
    AND (project, source_run_id) IN {sources:Array(Tuple(String, String))}
    AND step < {below:Int64}
GROUP BY key
"""
_OPERATIONS = """
SELECT
    toString(metric),
    minIf(value, NOT isNaN(value)),
    maxIf(value, NOT isNaN(value)),
    sumIf(value, NOT isNaN(value)),
    countIf(NOT isNaN(value)),
    argMin(value, (ts, sequence)),
    argMax(value, (ts, sequence))
FROM latest_metrics
WHERE (project, run_id) IN {keys:Array(Tuple(String, String))}
    AND (project, source_run_id) IN {sources:Array(Tuple(String, String))}
    AND step < {below:Int64}
    AND rank = {rank:UInt32} AND metric IN {metrics:Array(String)}
GROUP BY metric
"""
_END = (1 << 63) - 1


def attempts(database: Database, key: RunKey) -> Mapping[str, Any] | None:
    """Of a run its attempts, who took part in the latest, and the step after the last one. None where it is unknown."""
    project, run_id = key
    rows = database.query(_ATTEMPTS, project=project, run_id=run_id).rows
    if not rows:
        return None
    latest = max(int(attempt) for attempt, *_ in rows)
    members = database.query(_MEMBERS, project=project, run_id=run_id, attempt=latest).rows
    last = last_steps(database, [key]).get(key)
    return {
        "first_steps": {int(attempt): int(first) for attempt, first, _ in rows},
        "inherited": {
            int(attempt): [
                {"run_id": text(run), "attempt": int(number), "below": int(below)}
                for run, number, below in zip(*inherited, strict=True)
            ]
            for attempt, _, inherited in rows
            if inherited[0]
        },
        "members": [{"rank": int(rank), "launch": _json(launch)} for rank, launch, _ in members],
        "is_heard": any(is_heard for *_, is_heard in members),
        "next_step": 0 if last is None else last + 1,
    }


def state_of(database: Database, key: RunKey, rank: int, below: int | None) -> Mapping[str, Any] | None:
    """What the run had come to: config, names, definitions, summary, and what `rank` has of min, max and so on.

    With `below`, as it was before that step: metrics and texts count up to there, and of what was set by hand, what was
    told before the first point that does not count.
    """
    found = list_runs(database, keys=[key])
    if not found:
        return None
    record = found[0]
    definitions = {name: _json(value) for name, (value, _) in _values(database, key, "definition").items()}
    asked = [name for name, data in definitions.items() if data.get("summary")]
    shown = {"keys": [key], "sources": sources(database, [key]), "below": _END if below is None else below}
    summary = dict(record.summary)
    if below is not None:
        summary = _summary_below(database, key, shown, definitions)
    operations = _operations(database, shown, rank, asked)
    for name in [name for metric in asked for name in _operation_names(metric, definitions[metric])]:
        summary.pop(name, None)
    return {
        "config": dict(record.config),
        "definitions": list(definitions.values()),
        "rules": {name: _json(value) for name, (value, _) in _values(database, key, "rule").items()},
        "summary": summary,
        "explicit": [name for name in asked if name in summary and "copy" not in definitions[name]["summary"]],
        "operations": operations,
        "start": {
            "name": record.label,
            "notes": record.notes or None,
            "tags": list(record.tags) or None,
            "group": record.group or None,
            "job_type": record.job_type or None,
        },
    }


def _operation_names(metric: str, definition: Mapping[str, Any]) -> list[str]:
    return [f"{metric}.{operation}" for operation in definition["summary"]]


def _summary_below(
    database: Database, key: RunKey, shown: Mapping[str, Any], definitions: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    project, run_id = key
    beyond = database.query(_BEYOND, project=project, run_id=run_id, below=shown["below"]).rows[0]
    found = {
        name: _json(value)
        for name, (value, told) in _values(database, key, "summary").items()
        if not beyond[0] or told <= beyond[1]
    }
    for name, value in database.query(_LAST_POINTS, **shown).rows:
        summary = definitions.get(text(name), {}).get("summary")
        if not summary or "copy" in summary:
            found[text(name)] = float(value)
    for name, value in database.query(_LAST_TEXTS, **shown).rows:
        found[text(name)] = _json(value)
    return found


def _operations(
    database: Database, shown: Mapping[str, Any], rank: int, metrics: list[str]
) -> dict[str, dict[str, float]]:
    if not metrics:
        return {}
    rows = database.query(_OPERATIONS, **shown, rank=rank, metrics=metrics).rows
    found = {}
    for name, low, high, total, count, first, last in rows:
        stats = {"first": float(first), "last": float(last)}
        if count:
            stats |= {"min": float(low), "max": float(high), "total": float(total), "count": int(count)}
        found[text(name)] = stats
    return found


def _values(database: Database, key: RunKey, section: str) -> dict[str, tuple[str, Any]]:
    rows = database.query(_VALUES, project=key[0], run_id=key[1], section=section).rows
    return {text(name): (text(value), told) for name, value, told in rows}


def _json(value: Any) -> Any:
    try:
        return json.loads(text(value)) if value else None
    except ValueError:
        return None
