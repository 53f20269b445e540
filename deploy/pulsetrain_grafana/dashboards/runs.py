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


# What scripts call the length of their training; without any of these there is no progress to show.
_STEPS = (
    "'max_steps', 'total_steps', 'num_steps', 'num_training_steps', 'train_steps', 'steps', 'max_iters', 'iterations'"
)
_EPOCHS = "'epochs', 'num_epochs', 'max_epochs', 'num_train_epochs', 'n_epochs'"
_LATEST = "v.number, (v.attempt, v.ts, v.sequence)"
_PROGRESS = f"""
    SELECT v.run_id AS run_id, argMaxIf({_LATEST}, v.section = 'config' AND v.key IN ({_STEPS})) AS steps,
        argMaxIf({_LATEST}, v.section = 'config' AND v.key IN ({_EPOCHS})) AS epochs,
        argMaxIf({_LATEST}, v.section = 'summary' AND v.key = 'epoch') AS epoch
    FROM run_values AS v
    WHERE v.{_PROJECT} AND v.number IS NOT NULL
        AND (v.section = 'config' AND v.key IN ({_STEPS}, {_EPOCHS}) OR v.section = 'summary' AND v.key = 'epoch')
    GROUP BY run_id
"""
# The shape of the metric in each of the newest runs, in twenty places: from the points of those of fewer than 20 * 64
# steps, else from the highest level of the pyramid that has so many buckets. Which that is is asked once, as an array.
_PLACES = 20
_CURVES = sql(f"""
    WITH
        (
            SELECT groupArray((run_id, begin, length, multiIf(length < 1280, -1, length < 10240, 0, length < 81920, 1,
                length < 655360, 2, 3)))
            FROM
            (
                SELECT toString(p.run_id) AS run_id, min(p.first_step) AS begin,
                    max(p.last_step) - min(p.first_step) + 1 AS length
                FROM metric_pyramid AS p
                WHERE p.level = 5 AND p.{_PROJECT} AND p.metric = {one("metric")} AND p.run_id IN
                (
                    SELECT run_id FROM run_events WHERE kind = 'start' AND {_PROJECT}
                    GROUP BY run_id ORDER BY min(attempt_started) DESC LIMIT 100
                )
                GROUP BY p.run_id
            )
        ) AS spans,
        arrayMap(span -> span.1, spans) AS ids,
        arrayMap(span -> span.2, spans) AS begins,
        arrayMap(span -> span.3, spans) AS lengths,
        arrayMap(span -> span.1, arrayFilter(span -> span.4 < 0, spans)) AS short,
        arrayMap(span -> (span.1, toUInt8(span.4)), arrayFilter(span -> span.4 >= 0, spans)) AS long
    SELECT run_id, arrayStringConcat(arrayMap(one -> substringUTF8('▁▂▃▄▅▆▇█', toUInt8(1 + round(7 *
        if(arrayMax(means) > arrayMin(means), (one - arrayMin(means)) / (arrayMax(means) - arrayMin(means)), 0))), 1),
        means)) AS curve
    FROM
    (
        SELECT run_id, arrayMap(point -> point.2, arraySort(groupArray((place, mean)))) AS means
        FROM
        (
            SELECT run_id, intDiv((step - transform(run_id, ids, begins, toInt64(0))) * {_PLACES},
                transform(run_id, ids, lengths, toInt64(1))) AS place, avg(value) AS mean
            FROM
            (
                SELECT toString(m.run_id) AS run_id, m.step AS step, m.value AS value
                FROM latest_metrics AS m
                WHERE m.{_PROJECT} AND m.metric = {one("metric")} AND m.run_id IN short AND isFinite(m.value)
                UNION ALL
                SELECT toString(p.run_id) AS run_id, p.first_step AS step, assumeNotNull(p.mean) AS value
                FROM metric_pyramid AS p
                WHERE p.{_PROJECT} AND p.metric = {one("metric")} AND (p.run_id, p.level) IN long AND p.finite > 0
            )
            GROUP BY run_id, place
        )
        GROUP BY run_id
    )
""")
_RUNS = sql(f"""
    SELECT r.name AS run, r.run_id AS run_id, r.state AS state,
        multiIf(r.state = 'finished', 1, t.steps > 0, least(1, (m.last_step + 1) / t.steps),
            t.epochs > 0, least(1, t.epoch / t.epochs), NULL) AS progress,
        m.best AS best, m.last AS last, m.last_step AS `last step`,
        r.created AS created, r.duration AS duration, r.last_seen AS heard, r.host AS host, arrayStringConcat(r.tags,
            ', ') AS tags,
        r.`group` AS `group`, left(r.git_commit, 10) AS commit, r.attempt + 1 AS attempts
    FROM runs AS r
    LEFT JOIN
    (
        SELECT p.run_id AS run_id, max(p.last_step) AS last_step,
            if({one("goal")} = 'max', maxIf(p.max, p.metric = {one("metric")}), minIf(p.min,
                p.metric = {one("metric")})) AS best,
            argMaxOrNullIf(p.last, p.last_step, p.metric = {one("metric")}) AS last
        FROM metric_pyramid AS p
        WHERE p.level = 5 AND p.{_PROJECT}
        GROUP BY run_id
    ) AS m ON r.run_id = m.run_id
    LEFT JOIN ({_PROGRESS}) AS t ON r.run_id = t.run_id
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
                        "The newest first; best, last and curve (of the newest 100) are of the metric chosen above. "
                        "Progress is by the steps or epochs in the configuration. A click on a run opens it.",
                        _RUNS,
                        height=12,
                        units={
                            "duration": "s",
                            "created": "dateTimeAsIso",
                            "heard": "dateTimeFromNow",
                            "last step": "locale",
                        },
                        shares=["progress"],
                        beside=[_CURVES],
                        order=["run", "state", "progress", "best", "last", "curve"],
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
