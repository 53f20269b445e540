"""One run: its curves, its hardware, its configuration, and what went wrong."""

from pulsetrain_grafana import curves, hardware
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
from pulsetrain_grafana.colours import BAD, GOOD
from pulsetrain_grafana.panels import banded, by_step, figure, lines, right, rows, series, stacked, words
from pulsetrain_grafana.sql import ROLLUP, of_runs, sql

_OF = of_runs()

_MISSING = sql(f"""
    SELECT toInt64(told.points) - toInt64(stored.points) AS missing
    FROM
    (
        SELECT sum(points) AS points
        FROM (SELECT max(points) AS points FROM run_events WHERE {_OF} AND writer IN (SELECT writer FROM metrics
            WHERE {_OF}) GROUP BY writer)
    ) AS told
    CROSS JOIN (SELECT count() AS points FROM metrics WHERE {_OF}) AS stored
""")

_STEP_TIME = sql(f"""
    SELECT $__timeInterval(ts) AS time, replaceRegexpOne(metric, '^pulsetrain/(.*)_seconds$', '\\\\1') AS part,
        avg(value) AS seconds
    FROM latest_metrics
    WHERE {_OF} AND metric LIKE 'pulsetrain/%\\_seconds' AND metric != 'pulsetrain/step_seconds' AND isFinite(value)
        AND $__timeFilter(ts)
    GROUP BY time, part
    ORDER BY time
""")

_LOSS = sql(f"""
    SELECT $__timeInterval(ts) AS time, metric AS line, avg(value) AS mean
    FROM latest_metrics
    WHERE {_OF} AND isFinite(value) AND $__timeFilter(ts) AND metric IN
        (SELECT metric FROM metrics WHERE {_OF} AND positionCaseInsensitive(metric, 'loss') > 0
            GROUP BY metric ORDER BY metric LIMIT 3)
    GROUP BY time, line
    ORDER BY time
""")

_WORK = sql(f"""
    SELECT $__timeInterval(r.time) AS time,
        if(r.gpu = '', concat('CPU of ', r.host), concat('GPU ', toString(any(r.gpu_index)), ' of ', r.host)) AS line,
        avg(r.mean) AS utilization
    FROM system_rollups AS r
    WHERE r.seconds = {ROLLUP} AND r.metric IN ('utilization_percent', 'cpu_percent') AND $__timeFilter(r.time)
        AND {hardware.OF_RUN}
    GROUP BY time, r.host, r.gpu
    ORDER BY time
""")

_ALERTS = sql(f"""
    SELECT severity, kind, state, title, text, step, started, if(resolved IS NULL, NULL, dateDiff('second', started,
        resolved)) AS lasted, ending
    FROM alerts
    WHERE {_OF} AND fired IS NOT NULL
    ORDER BY state = 'firing' DESC, started DESC
    LIMIT 1000
""")

_VALUES = """
    SELECT key, argMax(ifNull(value, ''), (attempt, ts, sequence)) AS value
    FROM run_values
    WHERE {of} AND section = '{section}'
    GROUP BY key
    HAVING value != ''
    ORDER BY key
"""

_CONSOLE = sql(f"""
    SELECT ts AS timestamp, line AS body, if(stream = 'stderr', 'error', 'info') AS level
    FROM logs
    WHERE {_OF}
    ORDER BY ts DESC
    LIMIT 1000
""")


def _of_run(expression: str, name: str) -> str:
    return sql(f"SELECT {expression} AS {name} FROM runs WHERE {_OF}")


BOARD = Board(
    "run",
    "Pulsetrain / Run",
    "One run, live: curves by step and by time, the hardware beside them, alerts, configuration, summary and console.",
    [
        Row(
            "The run",
            [
                words(
                    "State",
                    "A run that is said to run and was not heard of for five minutes has crashed",
                    _of_run("state", "state"),
                ),
                figure(
                    "Duration",
                    "Time of all attempts, without the time between them",
                    "s",
                    _of_run("duration", "duration"),
                ),
                figure(
                    "Last step",
                    "The highest step that is stored",
                    "locale",
                    sql(f"""
                SELECT max(step) AS step FROM latest_metrics WHERE {_OF}
            """),
                ),
                figure(
                    "Heard",
                    "When something was last heard of the run",
                    "dateTimeFromNow",
                    _of_run("toUnixTimestamp64Milli(last_seen)", "heard"),
                ),
                figure(
                    "Points missing",
                    "What was logged and is not stored: some while they are on their way, none once they are there",
                    "locale",
                    _MISSING,
                    colour=GOOD,
                    steps={1: BAD},
                ),
                figure(
                    "Alerts that fire",
                    "At this moment",
                    "short",
                    sql(f"SELECT countIf(state = 'firing') AS alerts FROM alerts WHERE {_OF}"),
                    colour=GOOD,
                    steps={1: BAD},
                ),
            ],
        ),
        Row(
            "Curves by step",
            [
                banded(
                    by_step(
                        "${metric}",
                        "Mean and, as a band, least and greatest of a step or a bucket of steps, over all ranks",
                        "short",
                        curves.band(),
                        width=8,
                    ),
                    "min",
                    "max",
                )
                .repeat("metric")
                .repeat_direction("h")
                .max_per_row(3),
            ],
        ),
        Row(
            "Curves by time",
            [
                series("${metric}", "Mean over time, over all ranks", "short", curves.over_time(), by="run", width=8)
                .repeat("metric")
                .repeat_direction("h")
                .max_per_row(3),
            ],
            collapsed=True,
        ),
        Row(
            "Alerts",
            [
                rows(
                    "Alerts",
                    "What the monitor noticed, what rules and run.alert() said; what fires still is first",
                    _ALERTS,
                    height=7,
                    units={"started": "dateTimeAsIso", "lasted": "s", "step": "locale"},
                ),
            ],
        ),
        Row(
            "Is the hardware at work?",
            [
                right(
                    series(
                        "Losses, and how busy the devices are",
                        "Losses by the left axis; CPUs and GPUs by the right one, as filled areas",
                        "short",
                        _LOSS,
                        _WORK,
                        by="line",
                        width=12,
                    ),
                    "B",
                    "percent",
                ),
                stacked(
                    series(
                        "Where a step's time goes",
                        "Mean seconds of a step, by part, as run.step_timer() measures them",
                        "s",
                        _STEP_TIME,
                        by="part",
                        width=12,
                    )
                ),
                hardware.gpu("utilization_percent", hardware.OF_RUN, "GPU utilisation"),
                hardware.gpu("memory_used_bytes", hardware.OF_RUN, "GPU memory"),
                hardware.gpu("power_watts", hardware.OF_RUN, "GPU power"),
                hardware.host("process_cpu_percent", hardware.OF_RUN, "CPU of its processes"),
                hardware.host("process_memory_rss_bytes", hardware.OF_RUN, "Memory of its processes"),
                hardware.host("memory_percent", hardware.OF_RUN, "Memory of the machine"),
            ],
        ),
        Row(
            "Configuration and summary",
            [
                rows(
                    "Configuration",
                    "What the script was configured with, as JSON",
                    sql(_VALUES.format(of=_OF, section="config")),
                    width=8,
                ),
                rows(
                    "Summary",
                    "The last or best values, as the script defines them",
                    sql(_VALUES.format(of=_OF, section="summary")),
                    width=8,
                ),
                rows(
                    "Environment",
                    "Where it ran: program, commit, machine, versions",
                    sql(_VALUES.format(of=_OF, section="environment")),
                    width=8,
                ),
            ],
        ),
        Row(
            "Console",
            [
                lines("Console", "What the script printed, the newest thousand lines", _CONSOLE),
            ],
        ),
    ],
    variables=[project_variable(), run_variable(), metric_variable(), scale_variable(), smoothing_variable()],
    annotations=[alert_annotations()],
)
