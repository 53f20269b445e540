"""What the monitor relies on of a follower, held over the real broker and the one in memory."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol
from uuid import uuid4

import pytest
from kafka import KafkaAdminClient, KafkaProducer
from kafka.admin import NewPartitions

from pulsetrain_consumers.runtime import follower as follower_module
from pulsetrain_consumers.runtime.broker import Partition, Record
from pulsetrain_consumers.runtime.follower import Follower, KafkaFollower, MemoryFollower
from pulsetrain_consumers.runtime.memory import MemoryBroker
from pulsetrain_schemas.addresses import KafkaAddress
from tests.stack_fixture import Broker, running_broker
from tests.waiting import wait_for
from tests.writer_rig import ManualClock

BEGINNING = 0.0
T0 = 1_700_000_000.0


class Backend(Protocol):
    """A broker with two topics of two partitions."""

    topics: tuple[str, str]

    def follower(self) -> Follower: ...
    def append(self, partition: Partition, values: Sequence[bytes], time: float = T0) -> None: ...
    def expire(self, partition: Partition, first: int) -> None: ...
    def recreate(self, topic: str) -> None: ...
    def kill(self) -> None: ...
    def start(self) -> None: ...


class Memory:
    """The broker in memory."""

    def __init__(self) -> None:
        self.topics = ("a", "b")
        self.clock = ManualClock()
        self.broker = MemoryBroker(self.clock)
        for topic in self.topics:
            self.broker.create_topic(topic, 2)

    def follower(self) -> Follower:
        return MemoryFollower(self.broker, self.topics)

    def append(self, partition: Partition, values: Sequence[bytes], time: float = T0) -> None:
        self.clock.time = time - T0
        for value in values:
            self.broker.append(partition, value, b"key")

    def expire(self, partition: Partition, first: int) -> None:
        self.broker.expire(partition, first)

    def recreate(self, topic: str) -> None:
        self.broker.delete_topic(topic)
        self.broker.create_topic(topic, 2)

    def kill(self) -> None:
        self.broker.away = True

    def start(self) -> None:
        self.broker.away = False


class Real:
    """Apache Kafka."""

    def __init__(self, address: str, broker: Broker | None = None) -> None:
        """`broker` where it is this test's own, to be killed."""
        self.address = KafkaAddress((address,))
        self.broker = broker
        self.topics = (f"a-{uuid4().hex}", f"b-{uuid4().hex}")
        self.opened: list[Follower] = []
        self.producer = KafkaProducer(bootstrap_servers=address, acks="all")
        self.admin = KafkaAdminClient(bootstrap_servers=address)
        self._create(self.topics)

    def _create(self, topics: Sequence[str]) -> None:
        self.admin.create_topics({topic: {"num_partitions": 2, "replication_factor": 1} for topic in topics})
        self.admin.wait_for_topics(list(topics))

    def follower(self) -> Follower:
        found = KafkaFollower(self.address, self.topics, "contract")
        self.opened.append(found)
        return found

    def append(self, partition: Partition, values: Sequence[bytes], time: float = T0) -> None:
        for value in values:
            self.producer.send(
                partition.topic, value, b"key", partition=partition.number, timestamp_ms=int(time * 1000)
            )
        self.producer.flush()

    def expire(self, partition: Partition, first: int) -> None:
        self.admin.delete_records({follower_module._name(partition): first})

    def recreate(self, topic: str) -> None:
        self.admin.delete_topics([topic])
        wait_for(lambda: topic not in self.admin.list_topics(), 10, "the topic's end")
        self._create([topic])

    def kill(self) -> None:
        assert self.broker is not None
        self.broker.kill()

    def start(self) -> None:
        assert self.broker is not None
        self.broker.start()

    def close(self) -> None:
        for follower in self.opened:
            follower.close()
        self.admin.close()
        self.producer.close(timeout=1)


@pytest.fixture(params=["memory", pytest.param("kafka", marks=pytest.mark.kafka)])
def backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    if request.param == "memory":
        yield Memory()
        return
    real = Real(request.getfixturevalue("kafka_broker"))
    yield real
    real.close()


@pytest.fixture(params=["memory", pytest.param("kafka", marks=pytest.mark.kafka)])
def mortal(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Backend]:
    """A backend whose broker may be killed."""
    if request.param == "memory":
        yield Memory()
        return
    with running_broker(tmp_path / "kafka") as broker:
        real = Real(broker.address, broker)
        yield real
        real.close()


def partitions(backend: Backend) -> list[Partition]:
    return [Partition(topic, number) for topic in backend.topics for number in (0, 1)]


def begun(backend: Backend, positions: dict[Partition, int] | None = None, otherwise: float = BEGINNING) -> Follower:
    follower = backend.follower()
    wait_for(lambda: follower.begin(positions or {}, otherwise), 30, "a beginning")
    return follower


def read(follower: Follower, until: Callable[[list[Record]], bool]) -> list[Record]:
    found: list[Record] = []

    def polled() -> bool:
        found.extend(follower.poll(0.05))
        return until(found)

    wait_for(polled, 30, "the records")
    return found


def values(records: Sequence[Record], partition: Partition) -> list[bytes | None]:
    return [record.value for record in records if record.partition == partition]


def test_all_partitions_of_all_topics_are_read_in_order_and_on(backend: Backend) -> None:
    for partition in partitions(backend):
        backend.append(partition, [f"{partition.number}{n}".encode() for n in range(3)])
    follower = begun(backend)
    found = read(follower, lambda found: len(found) >= 12)
    for partition in partitions(backend):
        assert values(found, partition) == [f"{partition.number}{n}".encode() for n in range(3)]
    assert {(record.key, record.time) for record in found} == {(b"key", int(T0 * 1e6))}
    assert follower.positions() == dict.fromkeys(partitions(backend), 3) == follower.ends()
    backend.append(partitions(backend)[0], [b"more"])
    assert [record.value for record in read(follower, bool)] == [b"more"]
    assert follower.problem() is None


def test_it_begins_where_it_is_told_and_elsewhere_at_what_arrived_since_then(backend: Backend) -> None:
    told, since, old, empty = partitions(backend)
    for partition in (told, since):
        backend.append(partition, [b"0", b"1"], T0)
        backend.append(partition, [b"2", b"3"], T0 + 100)
    backend.append(old, [b"0", b"1"], T0)
    follower = begun(backend, {told: 1, Partition("gone", 0): 5}, T0 + 50)
    assert follower.positions() == {told: 1, since: 2, old: 2, empty: 0}
    found = read(follower, lambda found: len(found) >= 5)
    assert values(found, told) == [b"1", b"2", b"3"]
    assert values(found, since) == [b"2", b"3"]


def test_what_a_partition_holds_no_more_is_left_out(backend: Backend) -> None:
    some, all_gone, *_ = partitions(backend)
    for partition in (some, all_gone):
        backend.append(partition, [b"0", b"1", b"2", b"3"])
    backend.expire(some, 2)
    backend.expire(all_gone, 4)
    follower = begun(backend, {some: 1, all_gone: 1})
    assert (follower.positions()[some], follower.positions()[all_gone]) == (2, 4)
    assert values(read(follower, lambda found: len(found) >= 2), some) == [b"2", b"3"]
    assert follower.positions() == follower.ends()


def test_a_topic_that_was_created_again_is_read_from_its_beginning(backend: Backend) -> None:
    first, *_ = partitions(backend)
    backend.append(first, [b"old"] * 5)
    read(begun(backend), lambda found: len(found) >= 5)
    backend.recreate(first.topic)
    backend.append(first, [b"new", b"newer"])
    follower = begun(backend, {first: 5})
    assert follower.positions()[first] == 0
    assert values(read(follower, lambda found: len(found) >= 2), first) == [b"new", b"newer"]


def test_of_a_topic_that_is_created_again_meanwhile_the_new_records_are_read(backend: Backend) -> None:
    first, *_ = partitions(backend)
    backend.append(first, [b"old"] * 5)
    follower = begun(backend)
    read(follower, lambda found: len(found) >= 5)
    backend.recreate(first.topic)
    backend.append(first, [b"new", b"newer"])
    found = read(follower, lambda found: len(found) >= 2)
    assert values(found, first) == [b"new", b"newer"]
    assert follower.positions()[first] == 2


def test_it_may_begin_again(backend: Backend) -> None:
    first, *_ = partitions(backend)
    backend.append(first, [b"0", b"1"])
    follower = begun(backend)
    read(follower, lambda found: len(found) >= 2)
    wait_for(lambda: follower.begin({first: 1}, BEGINNING), 30, "another beginning")
    assert values(read(follower, bool), first) == [b"1"]


def test_before_it_begins_it_has_read_nothing_and_knows_nothing(backend: Backend) -> None:
    follower = backend.follower()
    assert not follower.poll(0)
    assert follower.positions() == {}
    assert not follower.ends()
    follower.close()


def test_while_the_broker_is_away_it_says_so_and_goes_on_where_it_was(mortal: Backend) -> None:
    first, *_ = partitions(mortal)
    mortal.append(first, [b"0", b"1"])
    follower = begun(mortal)
    read(follower, lambda found: len(found) >= 2)
    mortal.kill()
    assert not follower.poll(0.05)
    assert follower.ends() is None
    assert follower.problem()
    assert not mortal.follower().begin({}, BEGINNING)
    mortal.start()
    wait_for(lambda: follower.poll(0.05) or follower.ends() is not None, 60, "the broker")
    mortal.append(first, [b"2"])
    assert values(read(follower, bool), first) == [b"2"]
    assert follower.problem() is None


@pytest.mark.kafka
def test_partitions_that_a_topic_gets_are_read_from_their_beginning(
    kafka_broker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follower_module, "_LOOK_SECONDS", 0.5)
    real = Real(kafka_broker)
    follower = begun(real)
    real.admin.create_partitions({real.topics[0]: NewPartitions(3)})
    new = Partition(real.topics[0], 2)
    wait_for(lambda: 2 in real.producer.partitions_for(real.topics[0]), 30, "the partition")
    real.append(new, [b"0", b"1"])
    assert values(read(follower, lambda found: len(found) >= 2), new) == [b"0", b"1"]
    real.close()


@pytest.mark.kafka
def test_a_topic_that_is_not_there_is_a_problem_that_says_what_to_do(kafka_broker: str) -> None:
    follower = KafkaFollower(KafkaAddress((kafka_broker,)), ["no-such-topic"], "contract")
    assert not follower.begin({}, BEGINNING)
    assert "pulsetrain topics" in (follower.problem() or "")
    follower.close()
