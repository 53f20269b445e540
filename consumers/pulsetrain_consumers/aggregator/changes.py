"""What of the aggregates a message changes: which buckets of which series, never by how much.

Nothing here looks at a value. What is marked is computed anew from the tables, so it does no harm to mark too much (a
message that came twice, a row that was refused), and all that matters is that nothing is left out.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from pulsetrain_schemas.columnar import Int64Array
from pulsetrain_schemas.events import Event, IntArray, MetricBatch, RunEvent, SystemBatch

BASE_STEPS = 64
"""The width in steps of the buckets of the lowest level of the pyramid."""
FACTOR = 8
"""How many buckets of a level are one of the level above it."""
LEVELS = 6
"""With factor 8 from 64 steps on, the highest has buckets of 2,097,152: 2,000 of them are four billion steps."""
BASE_SECONDS = 10
"""The shortest of the rollups of hardware."""
_MICROSECONDS = 1_000_000
_LATEST = (2**32 - 1) // BASE_SECONDS * BASE_SECONDS


class Run(NamedTuple):
    """One run."""

    project: str
    run_id: str


class MetricSeries(NamedTuple):
    """Metrics of one rank that are logged together, and so change together."""

    run: Run
    rank: int
    metrics: tuple[str, ...]


class SystemSeries(NamedTuple):
    """Metrics of one host that are sampled together, each with the GPU it is of ("" for the host itself)."""

    host: str
    series: tuple[tuple[str, str], ...]


@dataclass(slots=True)
class Changes:
    """Buckets by series: numbers of base buckets, and the seconds (since the epoch) where spans of ten begin.

    `rewinds` says of a run from which step on a later attempt replaces what earlier ones logged.
    """

    metrics: dict[MetricSeries, set[int]] = field(default_factory=dict)
    system: dict[SystemSeries, set[int]] = field(default_factory=dict)
    rewinds: dict[Run, int] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.metrics or self.system or self.rewinds)

    @property
    def size(self) -> int:
        """How many buckets there are, one by one."""
        return sum(
            len(series[-1]) * len(buckets) for part in (self.metrics, self.system) for series, buckets in part.items()
        )

    def add(self, other: "Changes") -> None:
        for series, buckets in other.metrics.items():
            self.metrics.setdefault(series, set()).update(buckets)
        for host, times in other.system.items():
            self.system.setdefault(host, set()).update(times)
        for run, step in other.rewinds.items():
            self.rewinds[run] = min(step, self.rewinds.get(run, step))

    def parts(self, size: int) -> Iterator["Changes"]:
        """The same in pieces of about so many buckets; what was rewound is in the first."""
        part = Changes(rewinds=dict(self.rewinds))
        held = 0
        for piece, count in _pieces(self, size):
            if held and held + count > size:
                yield part
                part, held = Changes(), 0
            part.add(piece)
            held += count
        if part:
            yield part


def _pieces(changes: Changes, size: int) -> Iterator[tuple[Changes, int]]:
    for series, buckets in changes.metrics.items():
        for some in _slices(buckets, max(1, size // max(1, len(series.metrics)))):
            yield Changes(metrics={series: some}), len(series.metrics) * len(some)
    for host, times in changes.system.items():
        for some in _slices(times, max(1, size // max(1, len(host.series)))):
            yield Changes(system={host: some}), len(host.series) * len(some)


def _slices(numbers: set[int], size: int) -> Iterator[set[int]]:
    if len(numbers) <= size:
        yield numbers
        return
    ordered = sorted(numbers)
    for begin in range(0, len(ordered), size):
        yield set(ordered[begin : begin + size])


def ranges(sizes: Iterable[tuple[int, int]], limit: int) -> list[tuple[int, int]]:
    """First and last number of neighbours, of numbers in order each with a size, that have `limit` together at most.

    One that is larger alone has a range of its own.
    """
    found: list[tuple[int, int]] = []
    held = 0
    for number, size in sizes:
        if found and held + size <= limit:
            found[-1] = (found[-1][0], number)
            held += size
        else:
            found.append((number, number))
            held = size
    return found


def merged(parts: Iterable[Changes]) -> Changes:
    """All of them as one."""
    whole = Changes()
    for part in parts:
        whole.add(part)
    return whole


def bucket_of(steps: IntArray, width: int = BASE_STEPS) -> Int64Array:
    """The bucket that each step is in: ClickHouse's intDiv(step, width), toward 0. `width` is a power of 2."""
    steps = np.asarray(steps, np.int64)
    shift = width.bit_length() - 1
    buckets: Int64Array = (steps + ((steps >> 63) & (width - 1))) >> shift
    return buckets


def begin_of(times: IntArray, seconds: int = BASE_SECONDS) -> Int64Array:
    """Where the span of so many seconds begins that each time (microseconds) is in: seconds since the epoch.

    A time that ClickHouse's DateTime cannot hold counts as the nearest one that it can, as it does there.
    """
    begins: Int64Array = np.clip(np.asarray(times, np.int64) // _MICROSECONDS, 0, _LATEST) // seconds * seconds
    return begins


def changes_of(event: Event) -> Changes:
    """What of the aggregates the event changes."""
    if isinstance(event, MetricBatch):
        return _of_metrics(event)
    if isinstance(event, SystemBatch):
        return _of_system(event)
    if isinstance(event, RunEvent) and event.origin.attempt > 0 and event.first_step is not None:
        return Changes(rewinds={Run(event.origin.project, event.origin.run_id): event.first_step})
    return Changes()


def _of_metrics(event: MetricBatch) -> Changes:
    origin = event.origin
    changes = Changes()
    for places, buckets in _by_shape(event, bucket_of(event.row_steps)):
        names = tuple(event.keys[place] for place in places)
        series = MetricSeries(Run(origin.project, origin.run_id), origin.rank, names)
        changes.metrics.setdefault(series, set()).update(buckets)
    return changes


def _of_system(event: SystemBatch) -> Changes:
    changes = Changes()
    for places, begins in _by_shape(event, begin_of(event.row_times)):
        names = tuple((event.series_gpus[place], event.series_metrics[place]) for place in places)
        changes.system.setdefault(SystemSeries(event.host, names), set()).update(begins)
    return changes


def _by_shape(event: MetricBatch | SystemBatch, buckets: Int64Array) -> Iterator[tuple[list[int], list[int]]]:
    """For each shape that has rows the keys that it has, and the buckets that its rows are in."""
    ends = np.cumsum(np.asarray(event.shape_lengths, np.int64))
    shapes = np.asarray(event.row_shapes)
    for shape in np.unique(shapes).tolist():
        keys = np.asarray(event.shape_keys)[ends[shape] - event.shape_lengths[shape] : ends[shape]]
        if len(keys):
            yield keys.tolist(), np.unique(buckets[shapes == shape]).tolist()
