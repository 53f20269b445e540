"""Curves by step, of some thousand rows at most, from the points of short runs and the pyramid of long ones.

The pyramid holds each metric by buckets of 64, 512, 4096 … steps. Which level is fine enough is decided in the query:
the points themselves, in a thousand buckets, while a run has fewer than 64,000 steps; else the level with 1,000 to
8,000.
"""

from pulsetrain_grafana.sql import RUN_NAMES, number, of_runs, one, sql

_BUCKETS = 1_000
_RAW = 64 * _BUCKETS


def _wanted(metric: str) -> str:
    return f"{of_runs()} AND metric = {metric}"


def _curves(metric: str) -> str:
    """Common parts: by run, `points` as (step, mean, low, high) in order, and the means alone."""
    return f"""
        WITH
            (
                SELECT ifNull(max(last_step) - min(first_step), 0)
                FROM metric_pyramid
                WHERE level = 5 AND {_wanted(metric)}
            ) AS span,
            multiIf(span < {_RAW}, -1, span < {8 * _RAW}, 0, span < {64 * _RAW}, 1, span < {512 * _RAW}, 2, 3)
                AS fine_enough,
            greatest(1, intDiv(span, {_BUCKETS})) AS width_of_points,
            greatest(1, {number("smoothing", 1)}) AS smoothing
        SELECT run_id, arraySort(groupArray((step, mean, low, high))) AS points, arrayMap(p -> p.2, points) AS means,
            smoothing
        FROM
        (
            SELECT run_id, intDiv(step, width_of_points) * width_of_points AS step,
                avgIf(value, isFinite(value)) AS mean, minIf(value, isFinite(value)) AS low,
                maxIf(value, isFinite(value)) AS high
            FROM latest_metrics
            WHERE fine_enough = -1 AND {_wanted(metric)}
            GROUP BY run_id, step
            HAVING isFinite(mean)
            UNION ALL
            SELECT run_id, bucket * min(width) AS step, sum(assumeNotNull(mean) * finite) / sum(finite) AS mean,
                min(assumeNotNull(min)) AS low, max(assumeNotNull(max)) AS high
            FROM metric_pyramid
            WHERE level = fine_enough AND finite > 0 AND {_wanted(metric)}
            GROUP BY run_id, bucket
        )
        GROUP BY run_id
    """


_SMOOTH = "arrayAvg(arraySlice(means, greatest(1, place - smoothing + 1), least(smoothing, place)))"


def _drawn(value: str) -> str:
    """A value on the scale that is chosen."""
    return f"if({one('scale')} = 'log10', if({value} > 0, log10({value}), NULL), {value})"


def band(metric: str = one("metric")) -> str:
    """Of one run, a row a step: its mean, smoothed, and the extremes."""
    return sql(f"""
        SELECT point.1 AS step, {_drawn(_SMOOTH)} AS mean, {_drawn("point.3")} AS min, {_drawn("point.4")} AS max
        FROM ({_curves(metric)})
        ARRAY JOIN points AS point, arrayEnumerate(points) AS place
        ORDER BY step
    """)


def together(metric: str = one("metric")) -> str:
    """Of several runs, a row a step and run: step, run (its name) and its mean, smoothed."""
    return sql(f"""
        SELECT point.1 AS step, names.run AS run, {_drawn(_SMOOTH)} AS mean
        FROM ({_curves(metric)}) AS curves
        ANY LEFT JOIN ({RUN_NAMES}) AS names ON names.run_id = toString(curves.run_id)
        ARRAY JOIN points AS point, arrayEnumerate(points) AS place
        ORDER BY step, run
    """)


def over_time(metric: str = one("metric")) -> str:
    """The same over time: series by run."""
    return sql(f"""
        SELECT $__timeInterval(ts) AS time, names.run AS run, avg(value) AS mean
        FROM latest_metrics AS m
        ANY LEFT JOIN ({RUN_NAMES}) AS names ON names.run_id = toString(m.run_id)
        WHERE {of_runs("m")} AND m.metric = {metric} AND isFinite(m.value) AND $__timeFilter(m.ts)
        GROUP BY time, run
        ORDER BY time
    """)
