"""Which runs are long enough to be read from the step pyramid, and are in it whole.

The aggregator is behind by some seconds, or is not running. A run whose pyramid has not all of its points is read from
the points, as is one that begins with another's, whose points are under that one's id.
"""

from __future__ import annotations

from collections.abc import Sequence

from pulsetrain_consumers.reading.database import Database
from pulsetrain_consumers.reading.model import RunKey
from pulsetrain_consumers.reading.runs import text

LONG = 1_000_000
"""Points from which on a run is read from its pyramid. Shorter ones are read as fast, and exactly."""

# The highest level has next to one row a series. What a later attempt has replaced counts twice in `version` and not in
# `count` (see 0006_aggregates.sql), so this is the number of rows that were summed up.
_WHOLE = """
SELECT project, run_id
FROM
(
    SELECT project, run_id, count() AS points FROM metrics
    WHERE (project, run_id) IN {keys:Array(Tuple(String, String))}
    GROUP BY project, run_id
    HAVING points >= {least:UInt64}
) AS logged
INNER JOIN
(
    SELECT project, run_id, intDiv(sum(version + count), 2) AS points FROM metric_buckets FINAL
    WHERE (project, run_id) IN {keys:Array(Tuple(String, String))} AND level = 5
    GROUP BY project, run_id
) AS summed USING (project, run_id)
WHERE logged.points = summed.points
    AND (project, run_id) NOT IN
        (SELECT project, run_id FROM inheritance WHERE (project, run_id) IN {keys:Array(Tuple(String, String))})
"""


def summed_up(database: Database, keys: Sequence[RunKey], least: int | None = None) -> list[RunKey]:
    """Those of the runs that have `least` points (LONG, unless said) and whose pyramid has all of them."""
    found = database.query(_WHOLE, keys=list(keys), least=LONG if least is None else least)
    return sorted((text(project), text(run_id)) for project, run_id in found.rows)
