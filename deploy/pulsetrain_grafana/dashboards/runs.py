"""All runs of a project: which go on, which is best, with what configuration."""

from pulsetrain_grafana.boards import (
    Board,
    Row,
    goal_variable,
    link_to_run,
    metric_of_project_variable,
    project_variable,
)
from pulsetrain_grafana.colours import BAD, BUSY, GOOD
from pulsetrain_grafana.panels import figure, linked, matrix, rows, series
from pulsetrain_grafana.sql import one, sql

_PROJECT = f"project = {one('project')}"
_TO_RUN = link_to_run("${project:percentencode}")


def _count(states: str) -> str:
    return sql(f"SELECT countIf(state IN ({states})) AS runs FROM runs WHERE {_PROJECT}")


_RUNS = sql(f"""
    SELECT r.name AS run, r.run_id AS run_id, r.state AS state, m.best AS best, m.last AS last,
        m.last_step AS `last step`,
        r.created AS created, r.duration AS duration, r.last_seen AS heard, r.host AS host, arrayStringConcat(r.tags,
            ', ') AS tags,
        r.`group` AS `group`, left(r.git_commit, 10) AS commit, r.attempt + 1 AS attempts
    FROM runs AS r
    LEFT JOIN
    (
        SELECT p.run_id AS run_id, max(p.last_step) AS last_step,
            if({one("goal")} = 'max', maxIf(p.max, p.metric = {one("metric")}), minIf(p.min,
                p.metric = {one("metric")})) AS best,
            argMaxIf(p.last, p.last_step, p.metric = {one("metric")}) AS last
        FROM metric_pyramid AS p
        WHERE p.level = 5 AND p.{_PROJECT}
        GROUP BY run_id
    ) AS m ON r.run_id = m.run_id
    WHERE r.{_PROJECT}
    ORDER BY r.created DESC
    LIMIT 10000
""")

_CONFIG = sql(f"""
    SELECT names.name AS run, v.key AS key, argMax(v.value, (v.attempt, v.ts, v.sequence)) AS value
    FROM run_values AS v
    INNER JOIN
    (
        SELECT run_id, concat(ifNull(argMaxIf(name, (ts, sequence), name IS NOT NULL), ''), ' · ', run_id) AS name
        FROM run_events
        WHERE kind != 'heartbeat' AND {_PROJECT}
        GROUP BY run_id
        ORDER BY min(attempt_started) DESC
        LIMIT 200
    ) AS names ON names.run_id = v.run_id
    WHERE v.{_PROJECT} AND v.section = 'config'
    GROUP BY run, key
    HAVING value IS NOT NULL
    ORDER BY key, run
""")

_STARTED = sql(f"""
    SELECT $__timeInterval(started) AS time, count() AS runs
    FROM (SELECT run_id, min(attempt_started) AS started FROM run_events WHERE {_PROJECT} AND kind = 'start'
        GROUP BY run_id)
    WHERE $__timeFilter(started)
    GROUP BY time
    ORDER BY time
""")

_POINTS = sql(f"""
    SELECT $__timeInterval(stored_at) AS time, sum(rows) / $__interval_s AS rows
    FROM stored_batches
    WHERE {_PROJECT} AND $__timeFilter(stored_at)
    GROUP BY time
    ORDER BY time
""")

BOARD = Board(
    "runs",
    "Pulsetrain / Runs",
    "All runs of a project: state, progress, best metrics and configuration. A click on a run opens it.",
    [
        Row(
            "Runs",
            [
                figure(
                    "Running",
                    "Runs that were heard of in the last five minutes and have not ended",
                    "short",
                    _count("'running'"),
                    colour=BUSY,
                ),
                figure("Finished", "Runs that ended by themselves", "short", _count("'finished'"), colour=GOOD),
                figure(
                    "Failed, crashed or killed",
                    "Runs that ended otherwise, or fell silent",
                    "short",
                    _count("'failed', 'crashed', 'killed'"),
                    colour="text",
                    steps={1: BAD},
                ),
                figure(
                    "Hours of training",
                    "The time of all runs together, without the time between attempts",
                    "h",
                    sql(f"SELECT sum(duration) / 3600 AS hours FROM runs WHERE {_PROJECT}"),
                ),
                figure(
                    "Points",
                    "Numbers that are stored of the runs of the project",
                    "short",
                    sql(f"SELECT sum(count) AS points FROM metric_pyramid WHERE level = 5 AND {_PROJECT}"),
                ),
                figure(
                    "Alerts that fire",
                    "Of runs of this project, at this moment",
                    "short",
                    sql(f"SELECT countIf(state = 'firing') AS alerts FROM alerts WHERE {_PROJECT}"),
                    steps={1: BAD},
                ),
                linked(
                    rows(
                        "Runs",
                        "The newest first; best and last are of the metric chosen above. A click on a run opens it.",
                        _RUNS,
                        height=12,
                        units={
                            "duration": "s",
                            "created": "dateTimeAsIso",
                            "heard": "dateTimeFromNow",
                            "last step": "locale",
                        },
                    ),
                    "run",
                    "Open the run",
                    _TO_RUN,
                    hidden=["run_id"],
                ),
            ],
        ),
        Row(
            "What they were configured with",
            [
                rows(
                    "Configuration", "Of the newest 200 runs, a column a key; values as JSON", _CONFIG, height=10
                ).with_transformation(matrix("run", "key", "value")),
            ],
        ),
        Row(
            "Activity",
            [
                series("Runs started", "How many began, by time", "short", _STARTED, fill=30),
                series(
                    "Rows stored",
                    "Rows of history, hardware, logs and events that reached the tables a second",
                    "rows/s",
                    _POINTS,
                    fill=10,
                ),
            ],
        ),
    ],
    variables=[project_variable(), metric_of_project_variable(), goal_variable()],
    since="now-7d",
    refresh="30s",
)
