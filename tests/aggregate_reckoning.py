"""What the aggregates must come to, reckoned from what was logged, in plain Python and numpy, without SQL."""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from pulsetrain_schemas.events import MetricBatch, SystemBatch

LEVELS = 6


class Point(NamedTuple):
    """A number that was logged."""

    project: str
    run_id: str
    metric: str
    rank: int
    step: int
    ts: int
    value: float
    attempt: int


class Sample(NamedTuple):
    """A number that was sampled."""

    host: str
    gpu: str
    metric: str
    ts: int
    value: float
    project: str
    run_id: str


def points_of(event: MetricBatch) -> list[Point]:
    """The points of a batch."""
    origin = event.origin
    return [
        Point(
            origin.project, origin.run_id, event.keys[key], origin.rank, int(event.row_steps[row]),
            int(event.row_times[row]), float(value), origin.attempt,
        )
        for row, key, value in zip(event.point_rows, event.point_keys, event.values, strict=True)
    ]  # fmt: skip


def samples_of(event: SystemBatch) -> list[Sample]:
    """The samples of a batch."""
    return [
        Sample(
            event.host, event.series_gpus[key], event.series_metrics[key], int(event.row_times[row]), float(value),
            event.origin.project, event.origin.run_id,
        )
        for row, key, value in zip(event.point_rows, event.point_keys, event.values, strict=True)
    ]  # fmt: skip


def same(found: Mapping[str, Any], wanted: Mapping[str, Any], key: object) -> None:
    """Columns agree; sums of floats to within what their order changes."""
    for name, value in wanted.items():
        other = found[name]
        if isinstance(value, float) and isinstance(other, float):
            assert (math.isnan(value) and math.isnan(other)) or math.isclose(
                value, other, rel_tol=1e-9, abs_tol=1e-9
            ), (
                key,
                name,
                other,
                value,
            )
        else:
            assert other == value, (key, name, other, value)


@dataclass(frozen=True, slots=True)
class _Told:
    """A column of numbers, finite or not."""

    values: Any

    @property
    def finite(self) -> Any:
        return self.values[np.isfinite(self.values)]

    def moments(self) -> dict[str, Any]:
        finite = self.finite
        if not len(finite):
            return {"min": None, "max": None, "mean": None}
        return {"min": float(finite.min()), "max": float(finite.max()), "mean": float(finite.mean())}


def expected_pyramid(points: Iterable[Point]) -> dict[tuple[Any, ...], dict[str, Any]]:
    """The rows of metric_pyramid by their key."""
    groups: dict[tuple[Any, ...], list[Point]] = defaultdict(list)
    for point in points:
        for level in range(LEVELS):
            bucket = math.trunc(point.step / (64 * 8**level))
            groups[point.project, point.run_id, level, point.metric, point.rank, bucket].append(point)
    return {key: _bucket(sorted(found, key=lambda point: (point.step, point.ts))) for key, found in groups.items()}


def _bucket(points: Sequence[Point]) -> dict[str, Any]:
    told = _Told(np.array([point.value for point in points]))
    finite = [point for point in points if math.isfinite(point.value)]
    low, high = (choose((point.value for point in finite), default=None) for choose in (min, max))
    return {
        "count": len(points),
        "min_step": min((point.step for point in finite if point.value == low), default=None),
        "max_step": min((point.step for point in finite if point.value == high), default=None),
        "nans": int(np.isnan(told.values).sum()),
        "pos_infs": int(np.isposinf(told.values).sum()),
        "neg_infs": int(np.isneginf(told.values).sum()),
        **told.moments(),
        "first": points[0].value,
        "last": points[-1].value,
        "first_step": points[0].step,
        "last_step": points[-1].step,
    }


def expected_ranks(points: Iterable[Point]) -> dict[tuple[Any, ...], dict[str, Any]]:
    """The rows of rank_spread by their key."""
    groups: dict[tuple[Any, ...], list[Point]] = defaultdict(list)
    for point in points:
        groups[point.project, point.run_id, point.metric, point.step].append(point)
    rows = {}
    for key, found in groups.items():
        if len({point.rank for point in found}) < 2:
            continue
        told = _Told(np.array([point.value for point in found]))
        finite = [point for point in found if math.isfinite(point.value)]
        rows[key] = {
            "ranks": len({point.rank for point in found}),
            "count": len(finite),
            "not_finite": len(found) - len(finite),
            **told.moments(),
            "rank_of_min": min(((point.value, point.rank) for point in finite), default=(0.0, None))[1],
            "rank_of_max": max(((point.value, point.rank) for point in finite), default=(0.0, None))[1],
        }
    return rows


def expected_rollups(samples: Iterable[Sample]) -> dict[tuple[Any, ...], dict[str, Any]]:
    """The rows of system_rollups by their key; `quantiles` has the two values between which each lies."""
    groups: dict[tuple[Any, ...], list[Sample]] = defaultdict(list)
    for sample in samples:
        own = sample.metric.startswith(("process_", "container_"))
        for seconds in (10, 60, 3600):
            begin = sample.ts // 1_000_000 // seconds * seconds
            run = (sample.project, sample.run_id) if own else ("", "")
            groups[seconds, sample.host, sample.gpu, sample.metric, *run, begin].append(sample)
    rows = {}
    for key, found in groups.items():
        told = _Told(np.array([sample.value for sample in found]))
        finite = np.sort(told.finite)
        between = {}
        for name, share in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99)):
            if len(finite):
                place = share * (len(finite) - 1)
                between[name] = (float(finite[math.floor(place)]), float(finite[math.ceil(place)]))
        rows[key] = {
            "count": len(finite),
            "not_finite": len(found) - len(finite),
            **told.moments(),
            "run_ids": sorted({sample.run_id for sample in found}),
            "quantiles": between,
        }
    return rows
