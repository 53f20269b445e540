"""Writer and aggregators on a broker in memory and a real ClickHouse; time and crashes are in the hands of the test."""

import random
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np

from pulsetrain_consumers.aggregator.changes import Changes
from pulsetrain_consumers.aggregator.service import GROUP, no_dead_letters
from pulsetrain_consumers.aggregator.sink import AGGREGATOR_TOPICS, LIMITS, AggregatorSink
from pulsetrain_consumers.aggregator.store import ClickHouseAggregates, Effort
from pulsetrain_consumers.aggregator.telemetry import AggregatorTelemetry
from pulsetrain_consumers.clickhouse import Client, connect
from pulsetrain_consumers.runtime.batching import Limits
from pulsetrain_consumers.runtime.broker import Consumer, Partition, Position
from pulsetrain_consumers.runtime.dead_letters import DeadLetters
from pulsetrain_consumers.runtime.health import Health
from pulsetrain_consumers.runtime.loop import Loop
from pulsetrain_consumers.runtime.memory import MemoryBroker
from pulsetrain_consumers.runtime.telemetry import Telemetry
from pulsetrain_consumers.writer.sink import WRITER_TOPICS, WriterSink
from pulsetrain_consumers.writer.store import ClickHouseStore
from pulsetrain_schemas import events
from pulsetrain_schemas.addresses import ClickHouseAddress
from pulsetrain_schemas.events import MetricBatch, Origin, RunEvent, SystemBatch
from pulsetrain_schemas.framing import SINGLE_OBJECT
from pulsetrain_schemas.topics import TOPICS
from tests.aggregate_reckoning import (
    Point,
    Sample,
    expected_pyramid,
    expected_ranks,
    expected_rollups,
    points_of,
    same,
    samples_of,
)
from tests.writer_rig import Faults, FaultyConsumer, ManualClock, ManualExecutor

WRITERS = "pulsetrain-writer"
STARTED = 1_700_000_000_000_000
# Samples are of today: ClickHouse drops what is past its TTL by its own clock.
SAMPLED = (int(time.time()) // 3600 * 3600 - 7200) * 1_000_000


class MemoryStored:
    """What the writers' group has committed in a MemoryBroker."""

    def __init__(self, broker: MemoryBroker) -> None:
        self._broker = broker

    def committed(self, partitions: Iterable[Partition]) -> Mapping[Partition, Position]:
        self._broker.answer()
        found = {partition: self._broker.group_position(WRITERS, partition) for partition in partitions}
        return {partition: at for partition, at in found.items() if at is not None}

    def close(self) -> None:
        """Nothing to free."""


class FaultyClient:
    """A client that passes a boundary before and after each statement that stores something."""

    def __init__(self, inner: Client, faults: Faults) -> None:
        self._inner = inner
        self._faults = faults

    def execute(self, *arguments: Any, **named: Any) -> None:
        self._faults.boundary()
        self._inner.execute(*arguments, **named)
        self._faults.boundary()

    def insert(self, *arguments: Any, **named: Any) -> int:
        self._faults.boundary()
        rows = self._inner.insert(*arguments, **named)
        self._faults.boundary()
        return rows

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class Aggregator:
    """One aggregator process."""

    def __init__(self, rig: "AggregatorRig", limits: Limits) -> None:
        self.faults = Faults()
        self.member = rig.broker.consumer(GROUP, AGGREGATOR_TOPICS)
        self.telemetry = AggregatorTelemetry()
        self.health = Health(rig.clock)
        client = cast(Client, FaultyClient(rig.client, self.faults))
        sink = AggregatorSink(
            ClickHouseAggregates(client, rig.now, Effort(threads=1, buckets=rig.buckets)),
            MemoryStored(rig.broker),
            SINGLE_OBJECT,
            rig.clock,
            self.telemetry,
            rig.pause,
            limits,
        )
        self.loop: Loop[Changes] = Loop(
            cast(Consumer, FaultyConsumer(self.member, self.faults)),
            sink,
            no_dead_letters(GROUP, rig.clock, self.telemetry),
            executor=ManualExecutor(),
            clock=rig.clock,
            random=rig.random,
            telemetry=self.telemetry,
            health=self.health,
            limits=limits,
        )


class AggregatorRig:
    """A broker, a database, a writer, and as many aggregators as the test makes."""

    def __init__(self, address: ClickHouseAddress, *, limits: Limits | None = None, buckets: int = 100_000) -> None:
        self.clock = ManualClock()
        self.random = random.Random(1)
        self.broker = MemoryBroker(self.clock)
        self.client = connect(address)
        self.buckets = buckets
        self.limits = limits if limits is not None else replace(LIMITS, max_age=1.0)
        for topic in WRITER_TOPICS:
            self.broker.create_topic(topic, 2 if topic == TOPICS["metrics"].kafka_name else 1)
        self.writer_telemetry = Telemetry()
        self.writer: Loop[Any] = Loop(
            self.broker.consumer(WRITERS, WRITER_TOPICS),
            WriterSink(ClickHouseStore(self.client), SINGLE_OBJECT, self.clock, self.writer_telemetry),
            DeadLetters(self.broker, TOPICS["dead_letters"].kafka_name, WRITERS, self.clock, self.writer_telemetry),
            executor=ManualExecutor(),
            clock=self.clock,
            random=self.random,
            telemetry=self.writer_telemetry,
            health=Health(self.clock),
            limits=Limits(max_age=0.0),
        )
        # By what tells them apart: NaN is not equal to itself.
        self.points: dict[tuple[Any, ...], Point] = {}
        self.samples: dict[tuple[Any, ...], Sample] = {}
        self.first_steps: dict[tuple[str, str], dict[int, int]] = defaultdict(dict)

    def now(self) -> float:
        """The time that rollups go by, which is the server's."""
        return time.time()

    def pause(self, seconds: float) -> None:
        """The aggregator waits for the writer: that is what the writer does meanwhile."""
        self.clock.time += seconds
        self.writer.tick(0)

    def aggregator(self, limits: Limits | None = None) -> Aggregator:
        return Aggregator(self, limits if limits is not None else self.limits)

    def send(self, event: Any, partition: int = 0) -> None:
        """Sends an event and notes what it says."""
        topic = TOPICS[events.schema_name(type(event))].kafka_name
        self.broker.append(Partition(topic, partition), events.encode(event))
        if isinstance(event, MetricBatch):
            self.points.update((point._replace(value=0.0), point) for point in points_of(event))
        elif isinstance(event, SystemBatch):
            self.samples.update((sample._replace(value=0.0), sample) for sample in samples_of(event))
        elif event.first_step is not None and event.origin.attempt:
            steps = self.first_steps[event.origin.project, event.origin.run_id]
            steps[event.origin.attempt] = min(event.first_step, steps.get(event.origin.attempt, event.first_step))

    def write(self, ticks: int = 12) -> None:
        """Lets the writer store all that there is."""
        for _ in range(ticks):
            self.writer.tick(0)
            self.clock.time += 0.6

    def aggregate(self, aggregator: Aggregator, ticks: int = 12) -> None:
        """Lets an aggregator work, with time passing."""
        for _ in range(ticks):
            aggregator.loop.tick(0)
            self.clock.time += 0.6

    def close(self) -> None:
        self.client.close()

    def alive(self) -> list[Point]:
        """The points that no later attempt has replaced."""
        return [
            point
            for point in self.points.values()
            if not any(
                attempt > point.attempt and first <= point.step
                for attempt, first in self.first_steps[point.project, point.run_id].items()
            )
        ]

    def check_pyramid(self) -> None:
        """Every level, every bucket, every column, and nothing besides."""
        wanted = expected_pyramid(self.alive())
        found = {
            (row["project"], row["run_id"], row["level"], row["metric"], row["rank"], row["bucket"]): row
            for row in self.client.query("SELECT * FROM metric_pyramid").dicts()
        }
        assert found.keys() == wanted.keys()
        for key, row in wanted.items():
            same(found[key], row, key)

    def check_ranks(self) -> None:
        """Every step of the metrics that several ranks have."""
        wanted = expected_ranks(self.alive())
        found = {
            (row["project"], row["run_id"], row["metric"], row["step"]): row
            for row in self.client.query("SELECT * FROM rank_spread").dicts()
        }
        assert found.keys() == wanted.keys()
        for key, row in wanted.items():
            same(found[key], row, key)

    def check_system(self) -> None:
        """All three rollups."""
        wanted = expected_rollups(self.samples.values())
        found = {
            (
                row["seconds"], row["host"], row["gpu"], row["metric"], row["project"], row["run_id"],
                int(row["time"].timestamp()),
            ): row
            for row in self.client.query("SELECT * FROM system_rollups").dicts()
        }  # fmt: skip
        assert found.keys() == wanted.keys()
        for key, row in wanted.items():
            quantiles = row.pop("quantiles")
            same(found[key], row, key)
            for name, exact in quantiles.items():
                # The sketch takes the value at the rank, to within 1 %; of few values, one of the two around it.
                low, high = sorted((exact[0] * 0.98, exact[1] * 1.02))
                assert low <= found[key][name] <= high, (key, name)

    def check(self) -> None:
        self.check_pyramid()
        self.check_ranks()
        self.check_system()


def metric_batch(
    writer: str,
    first: int,
    steps: Sequence[int],
    values: Mapping[str, Sequence[float]],
    *,
    run_id: str = "r1",
    rank: int = 0,
    attempt: int = 0,
) -> MetricBatch:
    """Rows that all have the same metrics; the n-th has sequence `first` + n, and with it a time of its own."""
    count = len(steps)
    sequences = np.arange(first, first + count)
    return MetricBatch(
        origin=Origin("p", run_id, writer, rank, attempt, STARTED, first, first + count - 1),
        keys=tuple(values),
        shape_lengths=np.array([len(values)]),
        shape_keys=np.arange(len(values)),
        row_sequences=sequences,
        row_steps=np.array(steps, np.int64),
        row_times=STARTED + sequences * 1000 + rank * 7 + attempt * 100_000_000,
        row_shapes=np.zeros(count, np.int64),
        values=np.array([values[name][row] for row in range(count) for name in values], np.float64),
    )


def system_batch(
    writer: str,
    first: int,
    seconds: Sequence[float],
    series: Mapping[tuple[str, str], Sequence[float]],
    *,
    host: str = "h1",
    run_id: str = "r1",
    started: int = SAMPLED,
) -> SystemBatch:
    """Samples so many seconds after the start, of (gpu, metric)."""
    count = len(seconds)
    sequences = np.arange(first, first + count)
    return SystemBatch(
        origin=Origin("p", run_id, writer, 0, 0, STARTED, first, first + count - 1),
        host=host,
        series_metrics=tuple(metric for _, metric in series),
        series_gpus=tuple(gpu for gpu, _ in series),
        series_gpu_indexes=np.array([0 if gpu else -1 for gpu, _ in series]),
        shape_lengths=np.array([len(series)]),
        shape_keys=np.arange(len(series)),
        row_sequences=sequences,
        row_times=started + (np.array(seconds) * 1e6).astype(np.int64),
        row_shapes=np.zeros(count, np.int64),
        values=np.array([series[name][row] for row in range(count) for name in series], np.float64),
    )


def attempt_event(
    run_id: str, attempt: int, first_step: int | None, *, kind: str = "start", sequence: int = 1
) -> RunEvent:
    """The start (or another event) of an attempt."""
    return RunEvent(
        origin=Origin("p", run_id, f"events-{run_id}-{attempt}", 0, attempt, STARTED, sequence, sequence),
        kind=kind,
        time=STARTED + attempt,
        is_primary=True,
        state="finished" if kind == "finish" else "running",
        first_step=first_step,
    )
