"""The writer on a broker and a store in memory, with time, storing and crashes in the hands of the test."""

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, Future
from typing import Any, cast

import numpy as np

from pulsetrain_consumers.dead_letters.letters import Letter, unpack
from pulsetrain_consumers.runtime.batching import Limits
from pulsetrain_consumers.runtime.broker import BrokerUnavailable, Consumer, Partition, Position, Publisher
from pulsetrain_consumers.runtime.dead_letters import DeadLetters
from pulsetrain_consumers.runtime.health import Health
from pulsetrain_consumers.runtime.loop import Loop
from pulsetrain_consumers.runtime.memory import MemoryBroker, MemoryConsumer
from pulsetrain_consumers.runtime.telemetry import Telemetry
from pulsetrain_consumers.writer.coverage import Intervals, Writer
from pulsetrain_consumers.writer.memory_store import MemoryStore
from pulsetrain_consumers.writer.sink import WRITER_TOPICS, WriterEvent, WriterSink
from pulsetrain_consumers.writer.store import Columns, Look
from pulsetrain_schemas import events
from pulsetrain_schemas.events import MetricBatch, Origin
from pulsetrain_schemas.framing import SINGLE_OBJECT
from pulsetrain_schemas.topics import TOPICS

METRICS = TOPICS["metrics"].kafka_name
DEAD_LETTERS = TOPICS["dead_letters"].kafka_name
GROUP = "pulsetrain-writer"
KEYS = ("loss", "acc")
STARTED = 1_700_000_000_000_000


class Crash(BaseException):
    """The process is gone at this very point."""


class ManualClock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.time = 1_000.0

    def now(self) -> float:
        return 1_700_000_000.0 + self.time

    def monotonic(self) -> float:
        return self.time


class ManualExecutor(Executor):
    """Runs what was submitted when told to, or at once where `inline`."""

    def __init__(self, inline: bool = True) -> None:
        self.inline = inline
        self._waiting: list[tuple[Future[Any], Callable[[], Any]]] = []

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self._waiting.append((future, lambda: function(*args, **kwargs)))
        if self.inline:
            self.run()
        return future

    def run(self) -> None:
        waiting, self._waiting = self._waiting, []
        for future, function in waiting:
            try:
                future.set_result(function())
            except BaseException as error:
                future.set_exception(error)


class Faults:
    """Crashes at the nth passing of a boundary from now on; the boundaries are before and after each effect."""

    def __init__(self) -> None:
        self.remaining: int | None = None

    def boundary(self) -> None:
        if self.remaining is not None:
            self.remaining -= 1
            if self.remaining < 0:
                self.remaining = None
                raise Crash


class FaultyConsumer:
    """A consumer that passes a boundary before and after each commit, and may lose one on its way."""

    def __init__(self, inner: MemoryConsumer, faults: Faults) -> None:
        self.inner = inner
        self.loses_commits = 0
        self._faults = faults

    def commit(self, positions: Mapping[Partition, Position]) -> None:
        self._faults.boundary()
        if self.loses_commits:
            self.loses_commits -= 1
            raise BrokerUnavailable("the commit was lost")
        self.inner.commit(positions)
        self._faults.boundary()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


class FaultyStore:
    """A store that passes a boundary before and after each insert."""

    def __init__(self, inner: MemoryStore, faults: Faults) -> None:
        self._inner = inner
        self._faults = faults

    def insert(self, table: str, columns: Columns, token: str | None) -> int:
        self._faults.boundary()
        rows = self._inner.insert(table, columns, token)
        self._faults.boundary()
        return rows

    def stored_sequences(self, topic: str, writers: Sequence[Writer]) -> Mapping[Writer, Intervals]:
        return self._inner.stored_sequences(topic, writers)

    def look(self) -> Look:
        return self._inner.look()

    def check(self) -> None:
        self._inner.check()


class FaultyPublisher:
    """A publisher that passes a boundary before and after each call."""

    def __init__(self, inner: MemoryBroker, faults: Faults) -> None:
        self._inner = inner
        self._faults = faults

    def publish(self, topic: str, messages: Sequence[tuple[bytes | None, bytes]]) -> None:
        self._faults.boundary()
        self._inner.publish(topic, messages)
        self._faults.boundary()

    def close(self) -> None:
        """Nothing to free."""


class Process:
    """One writer process."""

    def __init__(self, rig: "Rig", limits: Limits, *, inline: bool = True, topics: Sequence[str] = (METRICS,)) -> None:
        self.faults = Faults()
        self.member = rig.broker.consumer(GROUP, topics)
        self.executor = ManualExecutor(inline)
        self.telemetry = Telemetry()
        self.health = Health(rig.clock)
        self.consumer = FaultyConsumer(self.member, self.faults)
        publisher: Publisher = FaultyPublisher(rig.broker, self.faults)
        store = FaultyStore(rig.store, self.faults)
        sink = WriterSink(store, SINGLE_OBJECT, rig.clock, self.telemetry)
        self.loop: Loop[WriterEvent] = Loop(
            cast(Consumer, self.consumer),
            sink,
            DeadLetters(publisher, DEAD_LETTERS, GROUP, rig.clock, self.telemetry),
            executor=self.executor,
            clock=rig.clock,
            random=rig.random,
            telemetry=self.telemetry,
            health=self.health,
            limits=limits,
        )

    def count(self, name: str, **labels: str) -> float:
        return self.telemetry.registry.get_sample_value(f"pulsetrain_consumer_{name}", labels) or 0.0


class Rig:
    """A broker with the writer's topics, a store, a clock, and processes between them."""

    def __init__(self, partitions: int = 2, limits: Limits | None = None) -> None:
        self.clock = ManualClock()
        self.random = random.Random(1)
        self.broker = MemoryBroker(self.clock)
        self.store = MemoryStore()
        self.limits = limits if limits is not None else Limits(max_age=0.0)
        for topic in WRITER_TOPICS:
            self.broker.create_topic(topic, partitions)
        self.broker.create_topic(DEAD_LETTERS, 1, max_message_bytes=64_000)

    def process(self, *, inline: bool = True, topics: Sequence[str] = (METRICS,)) -> Process:
        return Process(self, self.limits, inline=inline, topics=topics)

    def settle(self, process: Process, ticks: int = 60) -> None:
        """Lets a process work, with time passing, until there is nothing left to do."""
        for _ in range(ticks):
            process.loop.tick(0)
            process.executor.run()
            self.clock.time += 0.6

    def points(self) -> Counter[tuple[str, int, str]]:
        """How often each (writer, sequence, metric) is stored."""
        return Counter((row["writer"], row["sequence"], row["metric"]) for row in self.store.tables.get("metrics", []))

    def dead_letters(self) -> list[Letter]:
        """The letters that were put aside, in order, each by itself."""
        found = self.broker.records(DEAD_LETTERS)
        return [
            letter
            for record in found
            for letter in unpack(
                events.decode(record.value or b"", events.DeadLetter), record.partition.number, record.offset
            )
        ]


def metric_batch(
    writer: str,
    first: int,
    last: int,
    *,
    keys: Sequence[str] = ("loss", "acc"),
    run_id: str = "r1",
    texts: bool = False,
) -> MetricBatch:
    """Rows `first` to `last` of a writer, each with every key; what a row holds depends on its sequence alone."""
    count = last - first + 1
    sequences = np.arange(first, last + 1)
    return MetricBatch(
        origin=Origin("p", run_id, writer, 0, 0, STARTED, first, last),
        keys=tuple(keys),
        shape_lengths=np.array([len(keys)]),
        shape_keys=np.arange(len(keys)),
        row_sequences=sequences,
        row_steps=sequences - 1,
        row_times=STARTED + sequences * 1000,
        row_shapes=np.zeros(count, np.int64),
        values=np.repeat(sequences.astype(float), len(keys)),
        text_rows=np.arange(count) if texts else np.empty(0, np.int64),
        text_keys=np.zeros(count if texts else 0, np.int64),
        text_values=tuple(f'"t{sequence}"' for sequence in sequences) if texts else (),
    )


def expected_points(writer: str, first: int, last: int, keys: Sequence[str] = KEYS) -> Counter[Any]:
    return Counter({(writer, sequence, key): 1 for sequence in range(first, last + 1) for key in keys})
