"""Which runs are long enough to be read from the step pyramid, and up to which step that has all of their points.

The aggregator is behind by some seconds, or is not running. Of a run that is being logged the last steps are read from
the points. A run whose pyramid has not all of what was logged before these is read from the points altogether, as is
one that begins with another's, whose points are under that one's id.
"""

from __future__ import annotations

from collections.abc import Sequence

from pulsetrain_consumers.reading.database import Database
from pulsetrain_consumers.reading.model import RunKey
from pulsetrain_consumers.reading.runs import text

LONG = 1_000_000
"""Points from which on a run is read from its pyramid. Shorter ones are read as fast, and exactly."""
WHOLE = 1 << 62
"""The step under which the pyramid has all, where it has all there is."""

# The highest level has next to one row a series. What a later attempt has replaced counts twice in `version` and not in
# `count` (see 0006_aggregates.sql), so (version + count) / 2 is the number of rows that were summed up.
_SUMMED = """
SELECT project, run_id, logged.points = summed.points AS whole, summed.below AS below
FROM
(
    SELECT project, run_id, count() AS points FROM metrics
    WHERE (project, run_id) IN {keys:Array(Tuple(String, String))}
    GROUP BY project, run_id
    HAVING points >= {least:UInt64}
) AS logged
INNER JOIN
(
    SELECT project, run_id, intDiv(sum(version + count), 2) AS points,
        max(last_step) AS highest,
        -- A sixteenth of the run is left to its points: ranks and metrics may be that far apart.
        intDiv(highest - greatest(512, intDiv(highest, 16)), 512) * 512 AS below
    FROM metric_buckets FINAL
    WHERE (project, run_id) IN {keys:Array(Tuple(String, String))} AND level = 5
    GROUP BY project, run_id
) AS summed USING (project, run_id)
WHERE (whole OR below > 0)
    AND (project, run_id) NOT IN
        (SELECT project, run_id FROM inheritance WHERE (project, run_id) IN {keys:Array(Tuple(String, String))})
"""
# Level 1 has buckets of 512 steps, which `below` is a multiple of.
_WHOLE_BELOW = """
SELECT
    (
        SELECT count() FROM metrics
        WHERE project = {project:String} AND run_id = {run_id:String} AND step < {below:Int64}
    ) = (
        SELECT intDiv(sum(version + count), 2) FROM metric_buckets FINAL
        WHERE project = {project:String} AND run_id = {run_id:String}
            AND level = 1 AND bucket < intDiv({below:Int64}, 512)
    )
"""


def summed_up(database: Database, keys: Sequence[RunKey], least: int | None = None) -> dict[RunKey, int]:
    """The runs that have `least` points (LONG, unless said), each with the step under which the pyramid has them all.

    What is asked one after another may change meanwhile: a run that is just then logged may seem to lack something.
    """
    found = database.query(_SUMMED, keys=list(keys), least=LONG if least is None else least)
    summed: dict[RunKey, int] = {}
    for project, run_id, whole, below in found.rows:
        key = (text(project), text(run_id))
        if whole:
            summed[key] = WHOLE
        elif database.query(_WHOLE_BELOW, project=key[0], run_id=key[1], below=int(below)).rows[0][0]:
            summed[key] = int(below)
    return dict(sorted(summed.items()))
