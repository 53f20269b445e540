"""The aggregator's sink: it waits for the writers, hurries for a run's end, and rejects nothing."""

from collections.abc import Iterable, Mapping

import numpy as np
import pytest

from pulsetrain_consumers.aggregator.changes import Changes, MetricSeries, Run
from pulsetrain_consumers.aggregator.sink import LIMITS, AggregatorSink
from pulsetrain_consumers.aggregator.stored import stored_up_to
from pulsetrain_consumers.aggregator.telemetry import AggregatorTelemetry
from pulsetrain_consumers.clickhouse import ClickHouseUnavailable
from pulsetrain_consumers.runtime.broker import BrokerUnavailable, Partition, Position, Record
from pulsetrain_consumers.runtime.progress import OffsetRange, Progress
from pulsetrain_consumers.runtime.sink import Batch, Message, StoreUnavailable
from pulsetrain_schemas import events
from pulsetrain_schemas.events import MetricBatch, Origin, RunEvent
from pulsetrain_schemas.framing import SINGLE_OBJECT
from pulsetrain_schemas.topics import TOPICS
from tests.writer_rig import STARTED, ManualClock, metric_batch

METRICS = Partition(TOPICS["metrics"].kafka_name, 0)
RUNS = Partition(TOPICS["runs"].kafka_name, 0)
PROGRESS = Progress("topic-id", "era")


class Aggregates:
    """A store that notes what it was asked to compute."""

    def __init__(self) -> None:
        self.asked: list[Changes] = []
        self.away = False

    def recompute(self, changes: Changes) -> int:
        self.check()
        self.asked.append(changes)
        return changes.size

    def check(self) -> None:
        if self.away:
            raise ClickHouseUnavailable("it is away")


class Writers:
    """What the writers have committed."""

    def __init__(self) -> None:
        self.positions: dict[Partition, Position] = {}
        self.away = False

    def committed(self, partitions: Iterable[Partition]) -> Mapping[Partition, Position]:
        if self.away:
            raise BrokerUnavailable("Kafka is away")
        return {partition: self.positions[partition] for partition in partitions if partition in self.positions}

    def close(self) -> None:
        """Nothing to free."""


class Rig:
    def __init__(self) -> None:
        self.clock = ManualClock()
        self.store = Aggregates()
        self.writers = Writers()
        self.telemetry = AggregatorTelemetry()
        self.commits: list[tuple[float, Position]] = []
        self.sink = AggregatorSink(self.store, self.writers, SINGLE_OBJECT, self.clock, self.telemetry, self.pause)

    def pause(self, seconds: float) -> None:
        self.clock.time += seconds
        while self.commits and self.commits[0][0] <= self.clock.time:
            self.writers.positions[METRICS] = self.commits.pop(0)[1]

    def batch(self, message: Message[Changes], last: int = 0) -> Batch[Changes]:
        stored = OffsetRange(0, last)
        return Batch(METRICS, stored, PROGRESS.token(METRICS, stored), 1, [message], [], message.rows, 0)


def record(event: MetricBatch | RunEvent | None, partition: Partition = METRICS) -> Record:
    return Record(partition, 0, 0, b"r1", None if event is None else events.encode(event))


def finish(sequence: int = 1) -> RunEvent:
    origin = Origin("p", "r1", "w", 0, 0, STARTED, sequence, sequence)
    return RunEvent(origin=origin, kind="finish", time=STARTED, is_primary=True, state="finished")


def test_a_message_is_what_it_changes_and_its_payload_is_let_go() -> None:
    message = Rig().sink.decode(record(metric_batch("w1", 1, 130)))
    assert message.body == Changes(metrics={MetricSeries(Run("p", "r1"), 0, ("loss", "acc")): {0, 1, 2}})
    assert (message.rows, message.record.value) == (6, None)


@pytest.mark.parametrize("payload", [None, b"", b"garbage", b"\xc3\x01" + b"\0" * 12])
def test_what_cannot_be_read_changes_nothing_and_is_counted(payload: bytes | None) -> None:
    rig = Rig()
    message = rig.sink.decode(Record(METRICS, 5, 0, None, payload))
    assert not message.body
    assert message.rows == 0
    counted = rig.telemetry.registry.get_sample_value("pulsetrain_consumer_errors_total", {"kind": "unreadable"})
    assert counted == (None if payload is None else 1)


def test_nothing_is_computed_before_the_writers_have_committed_the_batch() -> None:
    rig = Rig()
    message = rig.sink.decode(record(metric_batch("w1", 1, 10)))
    rig.commits = [(1001.0, PROGRESS.pending_position(OffsetRange(7, 9))), (1002.0, PROGRESS.position(10))]
    assert rig.sink.store([rig.batch(message, last=9)]) == ()
    assert rig.clock.time >= 1002.0
    assert rig.store.asked == [message.body]


def test_writers_that_do_not_come_are_waited_for_with_an_end() -> None:
    rig = Rig()
    message = rig.sink.decode(record(metric_batch("w1", 1, 10)))
    with pytest.raises(StoreUnavailable, match="are they running"):
        rig.sink.store([rig.batch(message)])
    assert rig.store.asked == []
    rig.writers.positions[METRICS] = PROGRESS.position(1)
    rig.sink.store([rig.batch(message)])
    assert rig.store.asked == [message.body]


def test_what_was_committed_for_a_topic_that_is_no_more_says_nothing() -> None:
    assert stored_up_to(Progress("other", "era").position(100), "topic-id") == 0
    assert stored_up_to(PROGRESS.position(100), "topic-id") == 100
    assert stored_up_to(Position(100, "set by hand"), "topic-id") == 100
    assert stored_up_to(None, "topic-id") == 0


def test_batches_that_change_nothing_wait_for_nobody() -> None:
    rig = Rig()
    rig.writers.away = True
    assert rig.sink.store([rig.batch(Message(record(None), Changes(), 0))]) == ()
    assert rig.store.asked == []


def test_a_broker_or_a_clickhouse_that_is_away_is_waited_for() -> None:
    rig = Rig()
    message = rig.sink.decode(record(metric_batch("w1", 1, 10)))
    rig.writers.away = True
    with pytest.raises(StoreUnavailable, match="Kafka is away"):
        rig.sink.store([rig.batch(message)])
    rig.writers.away, rig.store.away = False, True
    rig.writers.positions[METRICS] = PROGRESS.position(1)
    for ask in (lambda: rig.sink.store([rig.batch(message)]), rig.sink.check):
        with pytest.raises(StoreUnavailable, match="it is away"):
            ask()


def test_a_batch_that_goes_away_while_the_writers_are_waited_for_is_let_go() -> None:
    rig = Rig()
    batch = rig.batch(rig.sink.decode(record(metric_batch("w1", 1, 10))))
    batch.abandoned = True
    assert rig.sink.store([batch]) == ()
    assert rig.store.asked == []


def test_the_end_of_a_run_fills_a_batch_but_not_again_and_again() -> None:
    rig = Rig()
    assert rig.sink.decode(record(finish(), RUNS)).rows == LIMITS.rows
    assert rig.sink.decode(record(finish(2), RUNS)).rows == 0
    rig.clock.time += 6
    assert rig.sink.decode(record(finish(3), RUNS)).rows == LIMITS.rows


def test_many_batches_are_computed_together_each_bucket_once() -> None:
    rig = Rig()
    messages = [rig.sink.decode(record(metric_batch("w1", first, first + 9))) for first in (1, 11, 1)]
    rig.writers.positions[METRICS] = PROGRESS.position(3)
    rig.sink.store([rig.batch(message) for message in messages])
    [asked] = rig.store.asked
    assert asked.size == 2
    assert np.isclose(rig.telemetry.registry.get_sample_value("pulsetrain_aggregator_buckets_total") or 0, 2)
