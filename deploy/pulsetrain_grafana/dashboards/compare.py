"""Several runs over one another."""

from pulsetrain_grafana import curves
from pulsetrain_grafana.boards import (
    Board,
    Row,
    alert_annotations,
    metric_variable,
    project_variable,
    run_variable,
    scale_variable,
    smoothing_variable,
)
from pulsetrain_grafana.panels import by_step, matrix, matrix_x, rows, series
from pulsetrain_grafana.sql import RUN_NAMES, of_runs, one, sql

_OF = of_runs()

_DIFFERENCES = sql(f"""
    SELECT key, names.run AS run, value
    FROM
    (
        SELECT key, run_id, argMax(ifNull(value, ''), (attempt, ts, sequence)) AS value,
            count() OVER (PARTITION BY key, value) AS alike, count() OVER (PARTITION BY key) AS have
        FROM run_values
        WHERE {_OF} AND section = 'config'
        GROUP BY key, run_id
    ) AS v
    ANY LEFT JOIN ({RUN_NAMES}) AS names ON names.run_id = toString(v.run_id)
    WHERE v.alike < (SELECT uniqExact(run_id) FROM run_events WHERE {_OF})
    ORDER BY key, run
""")

_BEST = sql(f"""
    SELECT p.metric AS metric, names.run AS run, min(p.min) AS least, max(p.max) AS greatest, argMax(p.last,
        p.last_step) AS last
    FROM metric_pyramid AS p
    ANY LEFT JOIN ({RUN_NAMES}) AS names ON names.run_id = toString(p.run_id)
    WHERE p.level = 5 AND {of_runs("p")}
    GROUP BY metric, run
    ORDER BY metric, run
    LIMIT 10000
""")

_BY_SECOND = sql(f"""
    SELECT toInt64(dateDiff('second', started.first, m.ts)) AS second, names.run AS run, avg(m.value) AS value
    FROM latest_metrics AS m
    INNER JOIN (SELECT run_id, min(attempt_started) AS first FROM run_events WHERE {_OF} GROUP BY run_id) AS started
        ON started.run_id = m.run_id
    ANY LEFT JOIN ({RUN_NAMES}) AS names ON names.run_id = toString(m.run_id)
    WHERE {of_runs("m")} AND m.metric = {one("metric")} AND isFinite(m.value)
    GROUP BY second, run
    ORDER BY second, run
""")

BOARD = Board(
    "compare",
    "Pulsetrain / Compare",
    "Several runs over one another: by step, by time since their start, by the clock; what differs in them.",
    [
        Row(
            "By step",
            [
                by_step(
                    "${metric}",
                    "Mean by step, a line a run",
                    "short",
                    curves.together(),
                    x=matrix_x("step", "run"),
                    width=8,
                )
                .with_transformation(matrix("step", "run", "mean"))
                .repeat("metric")
                .repeat_direction("h")
                .max_per_row(3),
            ],
        ),
        Row(
            "By time since the start",
            [
                by_step(
                    "${metric}",
                    "Mean by seconds since the run began, a line a run",
                    "short",
                    _BY_SECOND,
                    x=matrix_x("second", "run"),
                    width=8,
                )
                .with_transformation(matrix("second", "run", "value"))
                .repeat("metric")
                .repeat_direction("h")
                .max_per_row(3),
            ],
            collapsed=True,
        ),
        Row(
            "By the clock",
            [
                series("${metric}", "Mean over time, a line a run", "short", curves.over_time(), by="run", width=8)
                .repeat("metric")
                .repeat_direction("h")
                .max_per_row(3),
            ],
            collapsed=True,
        ),
        Row(
            "What differs",
            [
                rows(
                    "Configuration",
                    "Keys whose values are not the same in all chosen runs, a column a run",
                    _DIFFERENCES,
                    width=12,
                ).with_transformation(matrix("key", "run", "value")),
                rows(
                    "Values of metrics",
                    "The least, the greatest and the last value of each metric of each run",
                    _BEST,
                    width=12,
                ),
            ],
        ),
    ],
    variables=[
        project_variable(),
        run_variable(several=True),
        metric_variable(),
        scale_variable(),
        smoothing_variable(),
    ],
    annotations=[alert_annotations()],
)
