"""What the runtime relies on of a broker, held over the real one and the one in memory."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol, TypeVar
from uuid import uuid4

import pytest
from kafka import KafkaAdminClient, KafkaProducer
from kafka.admin import MemberToRemove

from pulsetrain_consumers.runtime.broker import (
    Assigned,
    BrokerUnavailable,
    CommitRefused,
    Consumer,
    LogRange,
    MessageTooLarge,
    Partition,
    Polled,
    Position,
    Publisher,
    Record,
    Revoked,
    SystemClock,
)
from pulsetrain_consumers.runtime.kafka import KafkaGroupConsumer, KafkaPublisher
from pulsetrain_consumers.runtime.membership import Membership
from pulsetrain_consumers.runtime.memory import MemoryBroker, MemoryConsumer
from pulsetrain_consumers.runtime.roster import Roster
from pulsetrain_schemas.addresses import KafkaAddress
from tests.stack_fixture import Broker, running_broker
from tests.waiting import wait_for

T = TypeVar("T")


class Backend(Protocol):
    """A broker with one topic of two partitions."""

    topic: str

    def consumer(self) -> Consumer: ...
    def publisher(self) -> Publisher: ...
    def append(self, partition: int, values: Sequence[bytes]) -> None: ...
    def recreate(self) -> None: ...

    def expel(self, consumer: Consumer) -> None:
        """The group goes on without this member, which does not know."""

    def kill(self) -> None:
        """The broker is away from now on, with all connections."""

    def start(self) -> None:
        """It is back, with what it had."""


class Memory:
    """The broker in memory."""

    def __init__(self) -> None:
        self.topic = "t"
        self.broker = MemoryBroker()
        self.broker.create_topic("t", 2, 1 << 20)

    def consumer(self) -> Consumer:
        return self.broker.consumer("g", ["t"])

    def publisher(self) -> Publisher:
        return self.broker

    def append(self, partition: int, values: Sequence[bytes]) -> None:
        for value in values:
            self.broker.append(Partition("t", partition), value, b"key")

    def recreate(self) -> None:
        self.broker.delete_topic("t")
        self.broker.create_topic("t", 2, 1 << 20)

    def expel(self, consumer: Consumer) -> None:
        assert isinstance(consumer, MemoryConsumer)
        self.broker.expel(consumer)

    def kill(self) -> None:
        self.broker.away = True

    def start(self) -> None:
        self.broker.away = False


class Real:
    """Apache Kafka."""

    def __init__(self, address: str, roster: Path, broker: Broker | None = None) -> None:
        """`broker` where it is this test's own, to be killed."""
        self.address = KafkaAddress((address,))
        self.roster = roster
        self.broker = broker
        self.memberships: dict[Consumer, Membership] = {}
        self.topic, self.group = f"contract-{uuid4().hex}", f"g-{uuid4().hex}"
        self.opened: list[Consumer | Publisher] = []
        self.producer = KafkaProducer(bootstrap_servers=address, acks="all")
        self._create()

    def _create(self) -> None:
        admin = KafkaAdminClient(bootstrap_servers=list(self.address.bootstrap_servers))
        admin.create_topics(
            {self.topic: {"num_partitions": 2, "replication_factor": 1, "configs": {"max.message.bytes": "1048576"}}}
        )
        admin.wait_for_topics([self.topic])
        admin.close()

    def consumer(self) -> Consumer:
        membership = Membership(self.address, self.group, Roster(self.roster))
        consumer = KafkaGroupConsumer(
            self.address,
            self.group,
            [self.topic],
            SystemClock(),
            membership=membership,
            session_timeout=6,
            poll_interval=6,
        )
        self.memberships[consumer] = membership
        self.opened.append(consumer)
        return consumer

    def publisher(self) -> Publisher:
        publisher = KafkaPublisher(self.address)
        self.opened.append(publisher)
        return publisher

    def append(self, partition: int, values: Sequence[bytes]) -> None:
        for value in values:
            self.producer.send(self.topic, value, b"key", partition=partition)
        self.producer.flush()

    def recreate(self) -> None:
        admin = KafkaAdminClient(bootstrap_servers=list(self.address.bootstrap_servers))
        admin.delete_topics([self.topic])
        wait_for(lambda: self.topic not in admin.list_topics(), 10, "the topic's end")
        admin.close()
        self._create()

    def expel(self, consumer: Consumer) -> None:
        name = self.memberships[consumer].enter()  # it has entered before, and keeps its name
        admin = KafkaAdminClient(bootstrap_servers=list(self.address.bootstrap_servers))
        admin.remove_group_members(self.group, [MemberToRemove(group_instance_id=name)])
        admin.close()

    def kill(self) -> None:
        assert self.broker is not None
        self.broker.kill()

    def start(self) -> None:
        assert self.broker is not None
        self.broker.start()

    def close(self) -> None:
        for client in self.opened:
            client.close()
        self.producer.close(timeout=1)


@pytest.fixture(params=["memory", pytest.param("kafka", marks=pytest.mark.kafka)])
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Backend]:
    if request.param == "memory":
        yield Memory()
        return
    real = Real(request.getfixturevalue("kafka_broker"), tmp_path / "roster")
    yield real
    real.close()


@pytest.fixture(params=["memory", pytest.param("kafka", marks=pytest.mark.kafka)])
def mortal(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Backend]:
    """A backend whose broker may be killed."""
    if request.param == "memory":
        yield Memory()
        return
    with running_broker(tmp_path / "kafka") as broker:
        real = Real(broker.address, tmp_path / "roster", broker)
        yield real
        real.close()


class Reader:
    """Polls a consumer and keeps what it got; goes to the start of what it is assigned."""

    def __init__(self, consumer: Consumer, start: Callable[[Partition], int] = lambda _: 0) -> None:
        self.consumer = consumer
        self.start = start
        self.assigned: set[Partition] = set()
        self.records: list[Record] = []

    def poll(self) -> Polled:
        polled = self.consumer.poll(0.05)
        for rebalance in polled.rebalances:
            if isinstance(rebalance, Revoked):
                self.assigned -= rebalance.partitions
            else:
                assert isinstance(rebalance, Assigned)
                self.assigned |= rebalance.partitions
        located = {partition for rebalance in polled.rebalances for partition in rebalance.partitions & self.assigned}
        assert not located & {record.partition for record in polled.records}, "records before the first seek"
        for partition in located:
            self.consumer.seek(partition, self.start(partition))
        self.records += polled.records
        return polled

    def until(self, condition: Callable[[], object], what: str) -> None:
        def polled() -> object:
            self.poll()
            return condition()

        wait_for(polled, 30, what)

    def values(self, partition: Partition) -> list[bytes | None]:
        return [record.value for record in self.records if record.partition == partition]


def partitions(backend: Backend) -> list[Partition]:
    return [Partition(backend.topic, 0), Partition(backend.topic, 1)]


def joined(backend: Backend) -> Reader:
    reader = Reader(backend.consumer())
    reader.until(lambda: reader.assigned == set(partitions(backend)), "both partitions")
    return reader


def test_records_come_in_order_with_their_offsets_keys_and_times(backend: Backend) -> None:
    backend.append(0, [b"a", b"b", b"c"])
    reader = joined(backend)
    reader.until(lambda: len(reader.records) == 3, "three records")
    assert [(r.offset, r.key, r.value) for r in reader.records] == [
        (0, b"key", b"a"),
        (1, b"key", b"b"),
        (2, b"key", b"c"),
    ]
    assert all(1.6e15 < record.time < 4e15 for record in reader.records)


def test_what_is_committed_is_read_back_with_its_text_by_the_next_member(backend: Backend) -> None:
    reader = joined(backend)
    p0, p1 = partitions(backend)
    assert reader.consumer.committed(p0) is None
    reader.consumer.commit({p0: Position(7, '{"pending": [7, 9]}'), p1: Position(0, "")})
    reader.consumer.close()
    successor = joined(backend)
    assert successor.consumer.committed(p0) == Position(7, '{"pending": [7, 9]}')
    assert successor.consumer.committed(p1) == Position(0, "")


def test_seek_goes_back_and_forth(backend: Backend) -> None:
    backend.append(0, [b"%d" % number for number in range(10)])
    reader = joined(backend)
    p0 = partitions(backend)[0]
    reader.until(lambda: len(reader.values(p0)) == 10, "ten records")
    reader.records.clear()
    reader.consumer.seek(p0, 8)
    reader.until(lambda: len(reader.values(p0)) == 2, "two records")
    assert reader.values(p0) == [b"8", b"9"]


def test_a_paused_partition_is_silent_until_it_is_resumed(backend: Backend) -> None:
    reader = joined(backend)
    p0, p1 = partitions(backend)
    reader.consumer.pause([p0])
    backend.append(0, [b"a"])
    backend.append(1, [b"b"])
    reader.until(lambda: reader.values(p1) == [b"b"], "the other partition's record")
    assert reader.values(p0) == []
    reader.consumer.resume([p0])
    reader.until(lambda: reader.values(p0) == [b"a"], "the record after resume")


def test_what_was_fetched_before_a_pause_is_given_after_it(backend: Backend) -> None:
    """More than one poll gives, so that the pause comes between; the other partition is read to its end meanwhile."""
    p0, p1 = partitions(backend)
    numbers = [b"%d" % number for number in range(3_000)]
    backend.append(0, numbers)
    reader = joined(backend)
    reader.until(lambda: reader.values(p0), "the first records")
    assert len(reader.values(p0)) < len(numbers)
    reader.consumer.pause([p0])
    backend.append(1, [b"other"])
    reader.until(lambda: reader.values(p1) == [b"other"], "the other partition's record")
    reader.consumer.resume([p0])
    reader.until(lambda: reader.values(p0) == numbers, "all records")


def test_the_log_says_what_it_holds(backend: Backend) -> None:
    backend.append(0, [b"a", b"b"])
    reader = joined(backend)
    p0, p1 = partitions(backend)
    assert reader.consumer.log_range(p0) == LogRange(0, 2)
    assert reader.consumer.log_range(p1) == LogRange(0, 0)
    reader.until(lambda: reader.consumer.known_end(p0) == 2, "the end as known from a fetch")


def test_a_topic_that_is_created_again_has_another_id(backend: Backend) -> None:
    reader = joined(backend)
    reader.until(lambda: reader.consumer.topic_id(backend.topic), "an id")
    before = reader.consumer.topic_id(backend.topic)
    assert reader.consumer.topic_id("no-such-topic") is None
    backend.recreate()
    reader.until(lambda: reader.consumer.topic_id(backend.topic) not in (None, before), "another id")


def test_of_a_topic_that_is_created_again_the_new_records_are_read(backend: Backend) -> None:
    backend.append(0, [b"old", b"old", b"old"])
    reader = joined(backend)
    p0 = partitions(backend)[0]
    reader.until(lambda: len(reader.records) == 3, "the records of the old topic")
    before = reader.consumer.topic_id(backend.topic)
    backend.recreate()
    reader.until(lambda: reader.consumer.topic_id(backend.topic) not in (None, before), "another id")
    backend.append(0, [b"new"])
    reader.records.clear()
    reader.consumer.seek(p0, 0)
    reader.until(lambda: reader.values(p0)[-1:] == [b"new"], "the record of the new topic")
    assert reader.records[-1].offset == 0
    assert reader.consumer.log_range(p0) == LogRange(0, 1)


def test_members_share_the_partitions_and_each_is_told_first_what_it_loses(backend: Backend) -> None:
    first = joined(backend)
    second = Reader(backend.consumer())

    def shared() -> bool:
        second.poll()
        return len(first.assigned) == len(second.assigned) == 1

    first.until(shared, "one partition each")
    assert first.assigned | second.assigned == set(partitions(backend))
    second.consumer.close()
    first.until(lambda: len(first.assigned) == 2, "both partitions again")


def test_a_commit_is_refused_once_the_group_has_gone_on_without_the_member(backend: Backend) -> None:
    first = joined(backend)
    second = Reader(backend.consumer())
    second.until(lambda: len(second.assigned) > 0, "partitions for the one that polls")
    with pytest.raises(CommitRefused):
        first.consumer.commit({partitions(backend)[0]: Position(1, "")})


def test_a_member_that_was_thrown_out_commits_nothing_until_it_is_one_again(backend: Backend) -> None:
    reader = joined(backend)
    p0 = partitions(backend)[0]
    reader.consumer.commit({p0: Position(1, "before")})
    backend.expel(reader.consumer)
    with pytest.raises(CommitRefused):
        reader.consumer.commit({p0: Position(2, "meanwhile")})
    rebalances: list[object] = []

    def again() -> bool:
        rebalances.extend(reader.poll().rebalances)
        return any(isinstance(rebalance, Assigned) for rebalance in rebalances)

    wait_for(again, 30, "the partitions, once more")
    assert rebalances[0] == Revoked(frozenset(partitions(backend)))
    assert reader.consumer.committed(p0) == Position(1, "before")
    reader.consumer.commit({p0: Position(3, "after")})
    assert reader.consumer.committed(p0) == Position(3, "after")


def test_what_was_committed_outlives_the_broker_and_a_commit_without_an_answer_may_stand_or_not(
    mortal: Backend,
) -> None:
    reader = joined(mortal)
    p0 = partitions(mortal)[0]
    reader.consumer.commit({p0: Position(7, '{"pending": [7, 9]}')})
    mortal.kill()
    with pytest.raises(BrokerUnavailable):
        reader.consumer.commit({p0: Position(10, "unheard")})
    mortal.start()

    def after(act: Callable[[], T]) -> T | None:
        """What it gives, None while the broker does not answer or has not let the member in again."""
        reader.poll()
        try:
            return act()
        except (BrokerUnavailable, CommitRefused):
            return None

    found = wait_for(lambda: after(lambda: reader.consumer.committed(p0)), 30, "what is committed")
    assert found in (Position(7, '{"pending": [7, 9]}'), Position(10, "unheard"))

    def commit() -> bool:
        reader.consumer.commit({p0: Position(11, "heard")})
        return True

    wait_for(lambda: after(commit), 30, "a commit")
    assert reader.consumer.committed(p0) == Position(11, "heard")


def test_what_is_published_is_there_when_publish_returns(backend: Backend) -> None:
    backend.publisher().publish(backend.topic, [(b"k", b"a"), (None, b"b")])
    reader = joined(backend)
    reader.until(lambda: len(reader.records) == 2, "two records")
    assert {(record.key, record.value) for record in reader.records} == {(b"k", b"a"), (None, b"b")}


def test_a_message_that_its_topic_does_not_take_is_said_to_be_too_large_and_the_next_one_is_taken(
    backend: Backend,
) -> None:
    publisher = backend.publisher()
    for _ in range(2):
        with pytest.raises(MessageTooLarge):
            publisher.publish(backend.topic, [(None, bytes(2 << 20))])
        publisher.publish(backend.topic, [(None, b"small")])
    reader = joined(backend)
    reader.until(lambda: [record.value for record in reader.records] == [b"small"] * 2, "the small ones")
