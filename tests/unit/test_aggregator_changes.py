"""What a message marks as changed covers every bucket that any of its rows falls into."""

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pulsetrain_consumers.aggregator.changes import (
    BASE_STEPS,
    Changes,
    MetricSeries,
    Run,
    SystemSeries,
    begin_of,
    bucket_of,
    changes_of,
    merged,
    ranges,
)
from pulsetrain_consumers.writer import tables
from pulsetrain_consumers.writer.tables import Kept
from pulsetrain_schemas import events
from pulsetrain_schemas.events import LogBatch, MetricBatch, Origin, RunEvent, SystemBatch

STARTED = 1_700_000_000_000_000
steps = st.integers(-(2**63), 2**63 - 1) | st.integers(-200, 5000)
times = st.integers(0, 2**32 * 1_000_000 - 1) | st.integers(STARTED, STARTED + 10**9)


def origin(rows: int, rank: int = 3, attempt: int = 0) -> Origin:
    return Origin("p", "r", "w", rank, attempt, STARTED, 1, max(1, rows))


@st.composite
def shaped(draw: st.DrawFn, keys: int) -> dict[str, Any]:
    """Shapes over so many keys, and rows that have them."""
    shapes = draw(st.lists(st.lists(st.integers(0, keys - 1), unique=True, max_size=keys), min_size=1, max_size=4))
    rows = draw(st.lists(st.integers(0, len(shapes) - 1), max_size=12))
    return {
        "shape_lengths": np.array([len(shape) for shape in shapes], np.int64),
        "shape_keys": np.array([key for shape in shapes for key in shape], np.int64),
        "row_shapes": np.array(rows, np.int64),
        "row_sequences": np.arange(1, len(rows) + 1),
        "values": np.zeros(sum(len(shapes[row]) for row in rows)),
    }


@st.composite
def metric_batches(draw: st.DrawFn) -> MetricBatch:
    layout = draw(shaped(3))
    rows = len(layout["row_shapes"])
    return MetricBatch(
        origin=origin(rows),
        keys=("loss", "acc", "lr"),
        row_steps=np.array(draw(st.lists(steps, min_size=rows, max_size=rows)), np.int64),
        row_times=np.full(rows, STARTED),
        **layout,
    )


@st.composite
def system_batches(draw: st.DrawFn) -> SystemBatch:
    layout = draw(shaped(3))
    rows = len(layout["row_shapes"])
    return SystemBatch(
        origin=origin(rows),
        host="h",
        series_metrics=("power_watts", "power_watts", "cpu_percent"),
        series_gpus=("g0", "g1", ""),
        series_gpu_indexes=np.array([0, 1, -1]),
        row_times=np.array(draw(st.lists(times, min_size=rows, max_size=rows)), np.int64),
        **layout,
    )


def marked_metrics(changes: Changes) -> set[tuple[str, str, int, str, int]]:
    return {
        (*series.run, series.rank, metric, bucket)
        for series, buckets in changes.metrics.items()
        for metric in series.metrics
        for bucket in buckets
    }


def marked_system(changes: Changes) -> set[tuple[str, str, str, int]]:
    return {
        (host.host, gpu, metric, begin)
        for host, begins in changes.system.items()
        for gpu, metric in host.series
        for begin in begins
    }


def truncated(step: int, width: int) -> int:
    """What ClickHouse's intDiv gives."""
    return step // width if step >= 0 else -(-step // width)


@given(st.lists(metric_batches(), min_size=1, max_size=4))
def test_every_bucket_that_a_point_of_a_batch_falls_into_is_marked_and_no_other(batches: list[MetricBatch]) -> None:
    rows: dict[str, Any] = dict(tables.metric_tables([Kept(batch) for batch in batches])["metrics"])
    stored = {
        ("p", "r", 3, rows["metric"].values[code], truncated(int(step), BASE_STEPS))
        for code, step in zip(rows["metric"].codes, rows["step"], strict=True)
    }
    assert marked_metrics(merged(map(changes_of, batches))) == stored


@given(st.lists(system_batches(), min_size=1, max_size=4))
def test_every_ten_seconds_that_a_sample_of_a_batch_falls_into_are_marked_and_no_others(
    batches: list[SystemBatch],
) -> None:
    rows: dict[str, Any] = dict(tables.system_tables([Kept(batch) for batch in batches])["system"])
    stored = {
        ("h", rows["gpu"].values[gpu], rows["metric"].values[metric], min(int(ts) // 10_000_000 * 10, 4_294_967_290))
        for gpu, metric, ts in zip(rows["gpu"].codes, rows["metric"].codes, rows["ts"], strict=True)
    }
    assert marked_system(merged(map(changes_of, batches))) == stored


@given(st.lists(metric_batches(), min_size=1, max_size=3), st.integers(1, 9))
def test_the_pieces_of_changes_are_the_changes(batches: list[MetricBatch], size: int) -> None:
    whole = merged(map(changes_of, batches))
    parts = list(whole.parts(size))
    assert merged(parts) == whole
    assert all(part.size <= max(size, 3) for part in parts), "no piece is larger than asked, but for one series"


@given(st.lists(st.tuples(st.integers(0, 1000), st.integers(1, 50)), unique_by=lambda one: one[0]), st.integers(1, 100))
def test_ranges_cover_every_number_once_and_are_no_larger_than_is_allowed(
    sizes: list[tuple[int, int]], limit: int
) -> None:
    sizes.sort()
    found = ranges(sizes, limit)
    inside = [[size for number, size in sizes if first <= number <= last] for first, last in found]
    assert [size for part in inside for size in part] == [size for _, size in sizes]
    assert all(sum(part) <= limit or len(part) == 1 for part in inside)


@given(st.lists(metric_batches() | system_batches(), max_size=4), st.randoms(use_true_random=False))
def test_order_and_repetition_of_messages_do_not_matter(batches: list[MetricBatch | SystemBatch], dice: object) -> None:
    found = list(map(changes_of, batches))
    again = found + found
    dice.shuffle(again)  # type: ignore[attr-defined]
    assert merged(again) == merged(found)


@given(steps, st.sampled_from([1, 64, 512, 2**21]))
def test_buckets_of_steps_are_those_of_clickhouse_below_zero_too(step: int, width: int) -> None:
    assert bucket_of(np.array([step]), width).tolist() == [truncated(step, width)]


def test_a_time_that_a_datetime_cannot_hold_counts_as_the_nearest_that_it_can() -> None:
    told = np.array([-5, 0, 9_999_999, 10_000_000, 2**63 - 1])
    assert begin_of(told).tolist() == [0, 0, 0, 10, 4_294_967_290]


def test_a_later_attempt_marks_the_run_from_its_first_step_on() -> None:
    def event(attempt: int, first_step: int | None, kind: str = "start") -> RunEvent:
        return RunEvent(
            origin=origin(1, attempt=attempt), kind=kind, time=STARTED, is_primary=True, first_step=first_step
        )

    assert not changes_of(event(0, 0)), "the first attempt replaces nothing"
    assert not changes_of(event(2, None, "heartbeat"))
    both = merged(map(changes_of, (event(1, 70), event(2, 50, "update"), event(1, 90))))
    assert both == Changes(rewinds={Run("p", "r"): 50})


def test_logs_change_nothing() -> None:
    none = np.empty(0, np.int64)
    assert not changes_of(LogBatch(origin(1), none, none, none, ()))


def test_a_batch_of_a_thousand_rows_of_many_metrics_is_a_few_marks() -> None:
    rows = 1_000
    batch = MetricBatch(
        origin=origin(rows),
        keys=tuple(f"m{number}" for number in range(50)),
        shape_lengths=np.array([50]),
        shape_keys=np.arange(50),
        row_sequences=np.arange(1, rows + 1),
        row_steps=np.arange(rows),
        row_times=np.full(rows, STARTED),
        row_shapes=np.zeros(rows, np.int64),
        values=np.zeros(rows * 50),
    )
    changes = changes_of(events.decode(events.encode(batch), MetricBatch))
    [(series, buckets)] = changes.metrics.items()
    assert series == MetricSeries(Run("p", "r"), 3, tuple(batch.keys))
    assert buckets == set(range(16))
    assert changes.size == 800


def test_series_are_equal_where_the_same_things_are_sampled_together() -> None:
    assert SystemSeries("h", (("g", "m"),)) == SystemSeries("h", (("g", "m"),))
