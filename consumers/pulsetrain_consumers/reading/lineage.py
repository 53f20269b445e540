"""What a run shows: which attempts of which runs, up to which step; its own attempts, and for a fork its parents'."""

from __future__ import annotations

from collections.abc import Sequence

from pulsetrain_consumers.reading.database import Database
from pulsetrain_consumers.reading.model import Attempt, RunKey, RunRecord
from pulsetrain_consumers.reading.runs import text, utc

_LINEAGE = """
SELECT project, run_id, source_run_id, attempt, started, first_step, below FROM run_lineage
WHERE (project, run_id) IN {keys:Array(Tuple(String, String))}
ORDER BY project, run_id, source_run_id = run_id, attempt, below
"""
_SOURCES = (
    "SELECT DISTINCT project, source_run_id FROM inheritance "
    "WHERE (project, run_id) IN {keys:Array(Tuple(String, String))}"
)

_LAST_STEPS = """
SELECT project, run_id, max(step)
FROM
(
    SELECT project, run_id, step FROM latest_metrics WHERE (project, run_id) IN {keys:Array(Tuple(String, String))}
        AND (project, source_run_id) IN {sources:Array(Tuple(String, String))}
    UNION ALL
    SELECT project, run_id, step FROM latest_texts WHERE (project, run_id) IN {keys:Array(Tuple(String, String))}
        AND (project, source_run_id) IN {sources:Array(Tuple(String, String))}
)
GROUP BY project, run_id
"""


def attempts(database: Database, keys: Sequence[RunKey]) -> dict[RunKey, list[Attempt]]:
    """By run what it shows, the inherited parts first, then its own attempts in order."""
    found: dict[RunKey, list[Attempt]] = {}
    for project, run_id, source, attempt, started, first, below in database.query(_LINEAGE, keys=list(keys)).rows:
        found.setdefault((text(project), text(run_id)), []).append(
            Attempt(
                run_id=text(source),
                attempt=int(attempt),
                started=None if started is None else utc(started),
                first_step=None if first is None else int(first),
                below=None if below is None else int(below),
            )
        )
    return found


def sources(database: Database, keys: Sequence[RunKey]) -> list[RunKey]:
    """The runs whose rows these runs show: themselves, and those that forks inherited from."""
    inherited = database.query(_SOURCES, keys=list(keys)).rows
    return sorted({*keys, *((text(project), text(run_id)) for project, run_id in inherited)})


def last_steps(database: Database, keys: Sequence[RunKey]) -> dict[RunKey, int]:
    """The greatest step that each run shows, of numbers and of texts."""
    if not keys:
        return {}
    result = database.query(_LAST_STEPS, keys=list(keys), sources=sources(database, keys))
    return {(text(project), text(run_id)): int(step) for project, run_id, step in result.rows}


def facts(record: RunRecord, shown: Sequence[Attempt]) -> dict[str, str]:
    """What there is to say of a run's attempts and of where it was forked: nothing of one that began once."""
    said = {}
    own = [attempt for attempt in shown if attempt.run_id == record.run_id]
    if len(own) > 1:
        starts = ", ".join("?" if one.first_step is None else f"{one.first_step:,}" for one in own)
        said["attempts"] = f"{len(own)}, from step {starts}; the latest is shown"
    elif record.attempt:
        said["attempt"] = str(record.attempt + 1)
    if record.parent_run_id is not None and record.parent_step is not None:
        said["fork of"] = f"{record.parent_run_id}, after step {record.parent_step:,}"
    return said
