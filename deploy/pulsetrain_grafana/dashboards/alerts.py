"""Alerts of all runs: what fires, what was, how often, how fast."""

from pulsetrain_grafana.boards import Board, Row, link_to_run, projects_variable
from pulsetrain_grafana.colours import BAD, BUSY, GOOD, WARN
from pulsetrain_grafana.panels import figure, linked, rows, series, stacked
from pulsetrain_grafana.sql import is_chosen, sql

_OF = is_chosen("project", "projects")
_WITHIN = "started <= $__toTime AND ifNull(resolved, now64(3)) >= $__fromTime"
_TO_RUN = link_to_run(run="run")
_COLUMNS = "severity, state, kind, title, text, project, run_id AS run, host, step, started"


def _firing(severity: str) -> str:
    return sql(f"SELECT countIf(state = 'firing' AND severity = '{severity}') AS alerts FROM alerts WHERE {_OF}")


_LISTED = """
    SELECT {columns}, {lasted} AS lasted, ending, silenced
    FROM alerts
    WHERE {of} AND fired IS NOT NULL AND {which}
    ORDER BY state = 'firing' DESC, started DESC
    LIMIT 1000
"""
_FIRING = sql(
    _LISTED.format(columns=_COLUMNS, lasted="dateDiff('second', started, now())", of=_OF, which="state = 'firing'")
)
_HISTORY = sql(
    _LISTED.format(
        columns=_COLUMNS, lasted="dateDiff('second', started, ifNull(resolved, now64(6)))", of=_OF, which=_WITHIN
    )
)
_BY_KIND = sql(f"""
    SELECT kind, severity, count() AS alerts, countIf(state = 'firing') AS firing, uniqExact(project, run_id) AS runs,
        quantile(0.5)(dateDiff('millisecond', started, fired) / 1000) AS `time to detect`,
            quantile(0.5)(dateDiff('second', started, resolved)) AS lasted
    FROM alerts
    WHERE {_OF} AND fired IS NOT NULL AND {_WITHIN}
    GROUP BY kind, severity
    ORDER BY alerts DESC
""")
_OVER_TIME = sql(f"""
    SELECT $__timeInterval(started) AS time, kind, count() AS alerts
    FROM alerts
    WHERE {_OF} AND fired IS NOT NULL AND $__timeFilter(started)
    GROUP BY time, kind
    ORDER BY time
""")
_DETECTED = sql(f"""
    SELECT $__timeInterval(fired) AS time, kind, max(dateDiff('millisecond', started, fired)) / 1000 AS seconds
    FROM alerts
    WHERE {_OF} AND kind NOT IN ('user') AND fired IS NOT NULL AND $__timeFilter(fired)
    GROUP BY time, kind
    ORDER BY time
""")
_SILENCES = sql("""
    SELECT count() AS silences
    FROM (SELECT argMax(starts, changed) AS starts, argMax(ends, changed) AS ends FROM silences GROUP BY silence_id)
    WHERE now64(6) BETWEEN starts AND ends
""")

BOARD = Board(
    "alerts",
    "Pulsetrain / Alerts",
    "What the monitor noticed, what rules and run.alert() said: what fires, what was, how often, how soon.",
    [
        Row(
            "Now",
            [
                figure(
                    "Critical",
                    "Alerts that fire and are worth waking somebody",
                    "short",
                    _firing("critical"),
                    width=6,
                    colour=GOOD,
                    steps={1: BAD},
                ),
                figure(
                    "Warnings",
                    "Alerts that fire and are worth looking at today",
                    "short",
                    _firing("warning"),
                    width=6,
                    colour=GOOD,
                    steps={1: WARN},
                ),
                figure(
                    "For information",
                    "Alerts that fire and are worth knowing",
                    "short",
                    _firing("info"),
                    width=6,
                    steps={1: BUSY},
                ),
                figure(
                    "Silences",
                    "That hold now",
                    "short",
                    _SILENCES,
                    width=6,
                ),
                linked(
                    rows(
                        "Firing",
                        "A click on a run opens it",
                        _FIRING,
                        height=8,
                        units={"started": "dateTimeAsIso", "lasted": "s", "step": "locale"},
                    ),
                    "run",
                    "Open the run",
                    _TO_RUN,
                ),
            ],
        ),
        Row(
            "Within the time range",
            [
                stacked(series("Alerts by kind", "How many began", "short", _OVER_TIME, by="kind")),
                series(
                    "Time to detect",
                    "From the beginning of the trouble to its alert, the slowest of each interval",
                    "s",
                    _DETECTED,
                    by="kind",
                ),
                rows(
                    "By kind",
                    "How many there were, of how many runs, and their median times",
                    _BY_KIND,
                    height=8,
                    units={"time to detect": "s", "lasted": "s"},
                ),
                linked(
                    rows(
                        "History",
                        "All that went on within the time range",
                        _HISTORY,
                        height=12,
                        units={"started": "dateTimeAsIso", "lasted": "s", "step": "locale"},
                    ),
                    "run",
                    "Open the run",
                    _TO_RUN,
                ),
            ],
        ),
    ],
    variables=[projects_variable()],
    since="now-24h",
)
