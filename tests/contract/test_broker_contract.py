"""What the runtime relies on of a broker, held over the real one and the one in memory."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol
from uuid import uuid4

import pytest
from kafka import KafkaAdminClient, KafkaProducer

from pulsetrain_consumers.runtime.broker import (
    Assigned,
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
from pulsetrain_consumers.runtime.memory import MemoryBroker
from pulsetrain_consumers.runtime.roster import Roster
from pulsetrain_schemas.addresses import KafkaAddress
from tests.waiting import wait_for


class Backend(Protocol):
    """A broker with one topic of two partitions."""

    topic: str

    def consumer(self) -> Consumer: ...
    def publisher(self) -> Publisher: ...
    def append(self, partition: int, values: Sequence[bytes]) -> None: ...
    def recreate(self) -> None: ...


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


class Real:
    """Apache Kafka."""

    def __init__(self, address: str, roster: Path) -> None:
        self.address = KafkaAddress((address,))
        self.roster = roster
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
        consumer = KafkaGroupConsumer(
            self.address,
            self.group,
            [self.topic],
            SystemClock(),
            membership=Membership(self.address, self.group, Roster(self.roster)),
            session_timeout=6,
            poll_interval=6,
        )
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


def test_what_is_published_is_there_when_publish_returns(backend: Backend) -> None:
    backend.publisher().publish(backend.topic, [(b"k", b"a"), (None, b"b")])
    reader = joined(backend)
    reader.until(lambda: len(reader.records) == 2, "two records")
    assert {(record.key, record.value) for record in reader.records} == {(b"k", b"a"), (None, b"b")}


def test_a_message_that_its_topic_does_not_take_is_said_to_be_too_large(backend: Backend) -> None:
    with pytest.raises(MessageTooLarge):
        backend.publisher().publish(backend.topic, [(None, bytes(2 << 20))])
