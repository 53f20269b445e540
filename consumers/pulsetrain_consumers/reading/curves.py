"""Curves of many points in few: buckets of adjacent steps, made inside ClickHouse, that keep every extreme.

A bucket tells the least and the greatest value with their steps, the mean, the last value, and how many points were
NaN or infinite. The width of a curve's buckets is a power of two, so that curves of many lengths share their grid.

Long curves of long runs are made of the buckets that the aggregator has summed up already (view metric_pyramid), which
tell the same; the first and the last bucket of these may be cut where the grid of the pyramid cuts them. The last steps
of a run that is being logged are made of its points, in the same grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pulsetrain_consumers.reading.database import Database
from pulsetrain_consumers.reading.lineage import sources
from pulsetrain_consumers.reading.model import Curve, RunKey, Telemetry
from pulsetrain_consumers.reading.pyramid import WHOLE, summed_up

_SIZES = """
SELECT count() AS points FROM latest_metrics
WHERE (project, run_id) IN {keys:Array(Tuple(String, String))}
    AND (project, source_run_id) IN {sources:Array(Tuple(String, String))}
GROUP BY project, run_id, metric
"""
_SUMMED_SIZES = """
SELECT sum(count) AS points FROM metric_pyramid
WHERE (project, run_id) IN {keys:Array(Tuple(String, String))} AND level = 5
GROUP BY project, run_id, metric
"""
# Of the runs in `summed`, which series are long: these are made of the pyramid, by so wide buckets of that level, and
# after so many of them of the points.
_LONG = """
    long AS
    (
        SELECT project, run_id, metric, (toFloat64(max(last_step)) - min(first_step) + 1) / {buckets:UInt32} AS share,
               toInt64(exp2(ceil(log2(share)))) AS wide,
               toUInt8(least(5, intDiv(toInt64(log2(wide)) - 6, 3))) AS of_level,
               arrayFirst(one -> one.1 = project AND one.2 = run_id,
                          {belows:Array(Tuple(String, String, Int64))}).3 AS below,
               intDiv(below, wide) AS pieces
        FROM metric_pyramid
        WHERE (project, run_id) IN {summed:Array(Tuple(String, String))} AND level = 5
        GROUP BY project, run_id, metric
        HAVING sum(count) > {buckets:UInt32} AND share > 64 AND pieces > 0
    )
"""
_TELEMETRY_SIZES = """
SELECT count() AS points FROM system
WHERE (project, run_id) IN {keys:Array(Tuple(String, String))}
GROUP BY project, run_id, host, gpu, metric
"""

_CURVES = f"""
WITH
    {_LONG},
    points AS
    (
        SELECT project, run_id, metric, step, ts, value
        FROM latest_metrics
        WHERE (project, run_id) IN {{keys:Array(Tuple(String, String))}}
            AND (project, source_run_id) IN {{sources:Array(Tuple(String, String))}}
            AND (project, run_id, metric) NOT IN (SELECT project, run_id, metric FROM long)
    ),
    widths AS
    (
        SELECT project, run_id, metric, min(step) AS origin,
               (toFloat64(max(step)) - origin + 1) / {{buckets:UInt32}} AS share,
               if(count() <= {{buckets:UInt32}} OR share <= 1, 1, toInt64(exp2(ceil(log2(share))))) AS width
        FROM points
        GROUP BY project, run_id, metric
    )
SELECT
    points.project AS project,
    points.run_id AS run_id,
    points.metric AS metric,
    intDiv(step - origin, width) AS bucket,
    min(step) AS first_step,
    toUnixTimestamp64Micro(min(ts)) AS first_time,
    count() AS counts,
    avgIf(value, isFinite(value)) AS means,
    minIf(value, isFinite(value)) AS lows,
    maxIf(value, isFinite(value)) AS highs,
    argMinIf(step, value, isFinite(value)) AS low_steps,
    argMaxIf(step, value, isFinite(value)) AS high_steps,
    argMax(value, step) AS lasts,
    max(step) AS last_steps,
    countIf(isNaN(value)) AS nans,
    countIf(value = inf) AS positive_infinities,
    countIf(value = -inf) AS negative_infinities
FROM points
INNER JOIN widths ON points.project = widths.project AND points.run_id = widths.run_id AND points.metric = widths.metric
GROUP BY project, run_id, metric, bucket
ORDER BY project, run_id, metric, bucket
"""  # noqa: S608  all of it is ours

_LONG_CURVES = f"""
WITH {_LONG}
SELECT
    b.project AS project,
    b.run_id AS run_id,
    b.metric AS metric,
    intDiv(b.bucket, intDiv(wide, b.width)) AS at,
    min(b.first_step) AS first_step,
    toUnixTimestamp64Micro(min(b.first_ts)) AS first_time,
    sum(b.count) AS counts,
    sumIf(assumeNotNull(b.mean) * b.finite, b.finite > 0) / sum(b.finite) AS means,
    minIf(assumeNotNull(b.min), b.finite > 0) AS lows,
    maxIf(assumeNotNull(b.max), b.finite > 0) AS highs,
    minIf((assumeNotNull(b.min), assumeNotNull(b.min_step)), b.finite > 0).2 AS low_steps,
    -maxIf((assumeNotNull(b.max), -assumeNotNull(b.max_step)), b.finite > 0).2 AS high_steps,
    argMax(b.last, b.last_step) AS lasts,
    max(b.last_step) AS last_steps,
    sum(b.nans) AS nans,
    sum(b.pos_infs) AS positive_infinities,
    sum(b.neg_infs) AS negative_infinities
FROM metric_pyramid AS b
INNER JOIN long ON b.project = long.project AND b.run_id = long.run_id AND b.metric = long.metric
WHERE (b.project, b.run_id, b.level, b.metric) IN (SELECT project, run_id, of_level, metric FROM long)
    AND at < long.pieces
GROUP BY project, run_id, metric, at
"""  # noqa: S608  all of it is ours

_FIRST_OF_POINTS = f"WITH {_LONG} SELECT min(pieces * wide) FROM long"  # noqa: S608

# `first` is the lowest of the steps at which the series go on in points: it reaches the primary key.
_LAST_STEPS = f"""
WITH {_LONG}
SELECT
    m.project AS project,
    m.run_id AS run_id,
    m.metric AS metric,
    intDiv(m.step, wide) AS at,
    min(m.step) AS first_step,
    toUnixTimestamp64Micro(min(m.ts)) AS first_time,
    count() AS counts,
    avgIf(m.value, isFinite(m.value)) AS means,
    minIf(m.value, isFinite(m.value)) AS lows,
    maxIf(m.value, isFinite(m.value)) AS highs,
    argMinIf(m.step, m.value, isFinite(m.value)) AS low_steps,
    argMaxIf(m.step, m.value, isFinite(m.value)) AS high_steps,
    argMax(m.value, m.step) AS lasts,
    max(m.step) AS last_steps,
    countIf(isNaN(m.value)) AS nans,
    countIf(m.value = inf) AS positive_infinities,
    countIf(m.value = -inf) AS negative_infinities
FROM latest_metrics AS m
INNER JOIN long ON m.project = long.project AND m.run_id = long.run_id AND m.metric = long.metric
WHERE (m.project, m.run_id) IN {{summed:Array(Tuple(String, String))}}
    AND (m.project, m.source_run_id) IN {{summed:Array(Tuple(String, String))}}
    AND m.step >= {{first:Int64}} AND at >= long.pieces
GROUP BY project, run_id, metric, at
"""  # noqa: S608  all of it is ours
_IN_ORDER = "SELECT * FROM ({}) ORDER BY project, run_id, metric, at"

_TELEMETRY = """
WITH
    samples AS
    (
        SELECT project, run_id, host, gpu, gpu_index, metric, toUnixTimestamp64Micro(ts) AS time, value
        FROM system
        WHERE (project, run_id) IN {keys:Array(Tuple(String, String))}
    ),
    widths AS
    (
        SELECT project, run_id, host, gpu, metric, min(time) AS origin,
               if(count() <= {buckets:UInt32}, 1, intDiv(max(time) - origin, {buckets:UInt32}) + 1) AS width
        FROM samples
        GROUP BY project, run_id, host, gpu, metric
    )
SELECT
    samples.project AS project,
    samples.run_id AS run_id,
    samples.host AS host,
    samples.gpu AS gpu,
    any(gpu_index) AS gpu_index,
    samples.metric AS metric,
    min(time) AS first_time,
    count() AS counts,
    avgIf(value, isFinite(value)) AS means,
    minIf(value, isFinite(value)) AS lows,
    maxIf(value, isFinite(value)) AS highs,
    countIf(isFinite(value)) AS finite
FROM samples
INNER JOIN widths ON samples.project = widths.project AND samples.run_id = widths.run_id AND samples.host = widths.host
    AND samples.gpu = widths.gpu AND samples.metric = widths.metric
GROUP BY project, run_id, host, gpu, metric, intDiv(time - origin, width) AS bucket
ORDER BY project, run_id, host, gpu, metric, bucket
"""


@dataclass(frozen=True, slots=True)
class Sizes:
    """How many points each curve of a set has."""

    points: NDArray[np.int64]

    def buckets(self, budget: int, *, least: int = 16, most: int = 4_000) -> int:
        """How many buckets a curve may have for all of them to have at most `budget` (but never under `least`)."""
        low, high = least, most
        while low < high:
            middle = (low + high + 1) // 2
            # A cut by powers of two leaves between half of the buckets and all of them.
            if int(np.minimum(self.points, middle).sum()) <= budget:
                low = middle
            else:
                high = middle - 1
        return low


def metric_sizes(database: Database, keys: Sequence[RunKey]) -> Sizes:
    """The sizes of the runs' curves; of a long run that is being logged, as far as it is summed up."""
    summed = summed_up(database, keys)
    other = sorted(set(keys) - set(summed))
    parts = [_sizes(database, _SUMMED_SIZES, list(summed))] if summed else []
    parts += [_sizes(database, _SIZES, other, sources=sources(database, other))] if other else []
    return Sizes(np.concatenate([part.points for part in parts]) if parts else np.empty(0, np.int64))


def telemetry_sizes(database: Database, keys: Sequence[RunKey]) -> Sizes:
    """The sizes of the runs' series of hardware samples."""
    return _sizes(database, _TELEMETRY_SIZES, keys)


def curves(
    database: Database, keys: Sequence[RunKey], buckets: int, *, long: int | None = None
) -> dict[RunKey, list[Curve]]:
    """Every metric of the runs in at most about `buckets` buckets each, by run, in the order of the metrics' names.

    `long`: from how many points of a run on what the aggregator has summed up is taken; see `pyramid`.
    """
    summed = summed_up(database, keys, long)
    shown = {"keys": list(keys), "sources": sources(database, keys), **_summed(summed, buckets)}
    found = _curves(database.arrays(_CURVES, **shown))
    for which in (
        {key: below for key, below in summed.items() if below == WHOLE},
        {key: below for key, below in summed.items() if below != WHOLE},
    ):
        for key, more in _long_curves(database, which, buckets).items():
            found[key] = sorted([*found.get(key, ()), *more], key=lambda curve: curve.metric)
    return found


def _long_curves(database: Database, summed: dict[RunKey, int], buckets: int) -> dict[RunKey, list[Curve]]:
    """Of runs that are summed up, all whole or none of them."""
    if not summed:
        return {}
    about, sql = _summed(summed, buckets), _LONG_CURVES
    if WHOLE not in summed.values():
        about["first"] = int(database.query(_FIRST_OF_POINTS, **about).rows[0][0])
        sql = f"{_LONG_CURVES} UNION ALL {_LAST_STEPS}"
    return _curves(database.arrays(_IN_ORDER.format(sql), **about))


def _summed(summed: dict[RunKey, int], buckets: int) -> dict[str, Any]:
    """The parameters of `_LONG`."""
    return {
        "buckets": buckets,
        "summed": list(summed),
        "belows": [(project, run_id, below) for (project, run_id), below in summed.items()] or [("", "", 0)],
    }


def _curves(columns: dict[str, NDArray[Any]]) -> dict[RunKey, list[Curve]]:
    found: dict[RunKey, list[Curve]] = {}
    for (project, run_id, metric), part in _split(columns, "project", "run_id", "metric"):
        finite = (
            part["counts"].astype(np.int64)
            - _integers(part, "nans")
            - _integers(part, "positive_infinities")
            - _integers(part, "negative_infinities")
        )
        empty = finite == 0
        steps = _integers(part, "first_step")
        found.setdefault((project, run_id), []).append(
            Curve(
                metric=metric,
                steps=steps,
                times=part["first_time"] / 1e6,
                counts=_integers(part, "counts"),
                means=np.where(empty, np.nan, part["means"]),
                lows=np.where(empty, np.nan, part["lows"]),
                highs=np.where(empty, np.nan, part["highs"]),
                low_steps=np.where(empty, steps, part["low_steps"]),
                high_steps=np.where(empty, steps, part["high_steps"]),
                lasts=part["lasts"].astype(np.float64),
                last_steps=_integers(part, "last_steps"),
                nans=_integers(part, "nans"),
                positive_infinities=_integers(part, "positive_infinities"),
                negative_infinities=_integers(part, "negative_infinities"),
            )
        )
    return found


def telemetry(database: Database, keys: Sequence[RunKey], buckets: int) -> dict[RunKey, list[Telemetry]]:
    """Every series of hardware samples of the runs in at most about `buckets` buckets each, by run."""
    columns = database.arrays(_TELEMETRY, keys=list(keys), buckets=buckets)
    found: dict[RunKey, list[Telemetry]] = {}
    for (project, run_id, host, gpu, metric), part in _split(columns, "project", "run_id", "host", "gpu", "metric"):
        empty = part["finite"] == 0
        found.setdefault((project, run_id), []).append(
            Telemetry(
                host=host,
                gpu=gpu,
                gpu_index=int(part["gpu_index"][0]),
                metric=metric,
                times=part["first_time"] / 1e6,
                counts=_integers(part, "counts"),
                means=np.where(empty, np.nan, part["means"]),
                lows=np.where(empty, np.nan, part["lows"]),
                highs=np.where(empty, np.nan, part["highs"]),
            )
        )
    return found


def _sizes(database: Database, sql: str, keys: Sequence[RunKey], **more: Any) -> Sizes:
    return Sizes(database.arrays(sql, keys=list(keys), **more)["points"].astype(np.int64))


def _integers(columns: dict[str, NDArray[Any]], name: str) -> NDArray[np.int64]:
    return columns[name].astype(np.int64)


def _split(columns: dict[str, NDArray[Any]], *names: str) -> list[tuple[tuple[str, ...], dict[str, NDArray[Any]]]]:
    """Cuts sorted columns where any of the named ones changes."""
    rows = len(columns[names[0]])
    if not rows:
        return []
    changed = np.zeros(rows, dtype=bool)
    changed[0] = True
    for name in names:
        changed[1:] |= columns[name][1:] != columns[name][:-1]
    starts = np.flatnonzero(changed)
    ends = [*starts[1:], rows]
    return [
        (
            tuple(str(columns[name][start]) for name in names),
            {name: values[start:end] for name, values in columns.items() if name not in names},
        )
        for start, end in zip(starts, ends, strict=True)
    ]
