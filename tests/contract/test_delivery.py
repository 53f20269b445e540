"""The contract of a delivery, over the broker in memory and the real one."""

import contextlib
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition
from kafka.admin import NewTopic
from kafka.errors import KafkaTimeoutError, TopicAlreadyExistsError

from pulsetrain.forwarder.delivery import Delivery, Message, Outcome
from pulsetrain.forwarder.kafka_delivery import KafkaDelivery
from pulsetrain.forwarder.memory_delivery import MemoryBroker, MemoryDelivery
from pulsetrain_schemas.addresses import KafkaAddress
from pulsetrain_schemas.topics import PREFIX
from tests.waiting import wait_for

# Topics of the test's own: the broker is shared, and what is sent here is no event.
A, B, LIMITED = "delivery-contract-a", "delivery-contract-b", "delivery-contract-limited"
TOPICS = (A, B, LIMITED)


class MemoryLine:
    """The delivery in memory and its broker."""

    def __init__(self) -> None:
        self.key = uuid.uuid4().hex.encode()
        self.broker = MemoryBroker()
        self.delivery: Delivery = MemoryDelivery(self.broker)

    def arrived(self) -> list[Message]:
        """What the broker has under the key of this test."""
        return list(self.broker.messages)

    def go_away(self) -> None:
        """From the beginning there is no broker."""
        self.broker.away = True

    def come_back(self) -> None:
        self.broker.away = False

    def limit(self, size: int) -> None:
        """The topic `LIMITED` takes messages of at most this size."""
        self.broker.max_message_bytes = size

    def create_again(self, topic: str) -> None:
        """Deletes the topic with all that is in it, and makes it anew."""
        self.broker.messages = [message for message in self.broker.messages if message.topic != topic]

    def close(self) -> None:
        self.delivery.close(1.0)


class KafkaLine:
    """The delivery to a real broker, which other tests share."""

    def __init__(self, address: str) -> None:
        self.key = uuid.uuid4().hex.encode()
        self.address = address
        self._resolved = KafkaAddress((address,))
        for topic in TOPICS:
            self._create(topic, 8 << 20)
        self.delivery: Delivery = KafkaDelivery(lambda: self._resolved)

    def arrived(self) -> list[Message]:
        consumer = KafkaConsumer(bootstrap_servers=self.address, enable_auto_commit=False)
        try:
            found = []
            for topic in TOPICS:
                partitions = [TopicPartition(PREFIX + topic, p) for p in consumer.partitions_for_topic(PREFIX + topic)]
                consumer.assign(partitions)
                consumer.seek_to_beginning(*partitions)
                ends = consumer.end_offsets(partitions)
                while any(consumer.position(partition) < ends[partition] for partition in partitions):
                    for records in consumer.poll(timeout_ms=500).values():
                        found += [Message(topic, r.key, r.value) for r in records if r.key == self.key]
            return found
        finally:
            consumer.close()

    def go_away(self) -> None:
        self.delivery.close(0.1)
        self._resolved = KafkaAddress(("127.0.0.1:1",))
        self.delivery = KafkaDelivery(lambda: self._resolved)

    def come_back(self) -> None:
        self._resolved = KafkaAddress((self.address,))

    def limit(self, size: int) -> None:
        self._delete(LIMITED)
        self._create(LIMITED, size)

    def create_again(self, topic: str) -> None:
        self._delete(topic)
        self._create(topic, 8 << 20)

    def close(self) -> None:
        self.delivery.close(1.0)

    def _delete(self, topic: str) -> None:
        with contextlib.closing(KafkaAdminClient(bootstrap_servers=self.address)) as admin:
            admin.delete_topics([PREFIX + topic])

    def _create(self, topic: str, max_message_bytes: int) -> None:
        settings = {"max.message.bytes": str(max_message_bytes)}
        wanted = NewTopic(PREFIX + topic, 2, 1, topic_configs=settings)

        def is_there() -> bool:
            try:
                admin.create_topics([wanted])
            except TopicAlreadyExistsError:  # or one that is still being deleted
                return (PREFIX + topic) in admin.list_topics()
            return True

        with contextlib.closing(KafkaAdminClient(bootstrap_servers=self.address)) as admin:
            wait_for(is_there, 10, f"the topic {topic}")


Line = MemoryLine | KafkaLine


@pytest.fixture(params=["memory", pytest.param("kafka", marks=pytest.mark.kafka)])
def line(request: pytest.FixtureRequest) -> Iterator[Line]:
    made = MemoryLine() if request.param == "memory" else KafkaLine(request.getfixturevalue("kafka_broker"))
    yield made
    made.close()


def drain(delivery: Delivery, tickets: set[Any]) -> list[Any]:
    """The tickets in the order in which they were confirmed."""
    confirmed: list[Any] = []

    def all_of_them() -> bool:
        outcome = delivery.poll()
        assert not outcome.interrupted
        confirmed.extend(outcome.confirmed)
        return set(confirmed) >= tickets

    wait_for(all_of_them, 20, "all confirmations")
    return confirmed


def interrupted(delivery: Delivery) -> list[Any]:
    """What was confirmed up to an interruption, which is waited for."""
    confirmed: list[Any] = []

    def told() -> bool:
        outcome = delivery.poll()
        confirmed.extend(outcome.confirmed)
        return outcome.interrupted

    wait_for(told, 30, "an interruption")
    return confirmed


def persist(delivery: Delivery, messages: Sequence[Message], timeout: float = 40) -> None:
    """Sends the messages as the forwarder does: after an interruption again from the first that is not confirmed."""
    confirmed = 0

    def send() -> None:
        for number in range(confirmed, len(messages)):
            delivery.send(messages[number], number)

    def all_of_them() -> bool:
        nonlocal confirmed
        outcome = delivery.poll()
        for ticket in outcome.confirmed:
            assert ticket == confirmed, "confirmations of one topic and key come in order"
            confirmed += 1
        if outcome.interrupted:
            send()
        return confirmed == len(messages)

    send()
    wait_for(all_of_them, timeout, "all confirmations")


def test_what_is_sent_arrives_in_order_and_is_confirmed_once(line):
    messages = [Message(A, line.key, b"%d" % number) for number in range(200)]
    for number, message in enumerate(messages):
        line.delivery.send(message, ("w", number))
    confirmed = drain(line.delivery, {("w", number) for number in range(200)})
    assert confirmed == [("w", number) for number in range(200)]
    assert line.delivery.poll().confirmed == ()
    assert line.arrived() == messages


def test_bytes_in_flight_are_counted_until_they_are_confirmed(line):
    assert line.delivery.in_flight_bytes == 0
    line.delivery.send(Message(A, line.key, bytes(1000)), 1)
    line.delivery.send(Message(B, line.key, bytes(500)), 2)
    drain(line.delivery, {1, 2})
    assert line.delivery.in_flight_bytes == 0
    assert line.delivery.state.broker == "connected"


def test_a_message_of_seven_megabytes_goes_through(line):
    line.delivery.send(Message(A, line.key, bytes(7 << 20)), 1)
    drain(line.delivery, {1})
    assert [len(message.payload) for message in line.arrived()] == [7 << 20]


def test_closing_sends_what_is_in_flight(line):
    line.delivery.send(Message(A, line.key, b"first"), 0)
    drain(line.delivery, {0})
    for number in range(1, 20):
        line.delivery.send(Message(A, line.key, b"%d" % number), number)
    line.delivery.close(10.0)
    assert set(line.delivery.poll().confirmed) == set(range(1, 20))
    assert len(line.arrived()) == 20


def test_a_message_that_the_topic_does_not_take_interrupts_and_is_told_of(line):
    """What was in flight with it may have arrived in part; sent again, all but that one arrive, in order."""
    line.limit(20_000)
    small = [Message(LIMITED, line.key, b"%d" % number) for number in range(40)]
    for number, message in enumerate(small[:20]):
        line.delivery.send(message, number)
    line.delivery.send(Message(LIMITED, line.key, bytes(30_000)), "large")
    for number, message in enumerate(small[20:], 20):
        line.delivery.send(message, number)
    confirmed = interrupted(line.delivery)
    assert confirmed == list(range(len(confirmed)))
    assert line.delivery.in_flight_bytes == 0
    assert line.delivery.poll().confirmed == ()
    assert line.delivery.state.broker == "away"
    assert "larg" in line.delivery.state.detail.lower()
    assert set(small[: len(confirmed)]) <= set(line.arrived()), "what was confirmed is there"
    persist(line.delivery, small[len(confirmed) :])
    assert line.delivery.state.broker == "connected"
    assert list(dict.fromkeys(message for message in line.arrived() if message in small[:20])) == small[:20]
    assert set(line.arrived()) == set(small)


def test_a_broker_that_is_away_at_the_start_gets_everything_when_it_comes(line):
    line.go_away()
    messages = [Message(A, line.key, b"%d" % number) for number in range(30)]
    for number, message in enumerate(messages):
        line.delivery.send(message, number)
    wait_for(lambda: line.delivery.state.broker == "away", 10, "word that it is away")
    assert line.delivery.poll() == Outcome()
    assert line.delivery.in_flight_bytes == sum(len(message.payload) for message in messages)
    line.come_back()
    assert drain(line.delivery, set(range(30))) == list(range(30))
    assert line.arrived() == messages


def test_a_topic_that_is_made_anew_while_messages_are_under_way_gets_all_that_was_not_confirmed(line):
    before = [Message(A, line.key, b"before %d" % number) for number in range(20)]
    persist(line.delivery, before)
    line.create_again(A)
    after = [Message(A, line.key, b"after %d" % number) for number in range(50)]
    persist(line.delivery, after)
    assert list(dict.fromkeys(line.arrived())) == after


class ScriptedProducer:
    """Stands in for kafka-python's: futures are settled, and sends fail, as the test says."""

    def __init__(self) -> None:
        self.futures: list[Any] = []
        self.abandoned = False
        self.error: Exception | None = None

    def send(self, topic: str, value: bytes, key: bytes) -> Any:
        if self.error is not None:
            raise self.error
        future = ScriptedFuture()
        self.futures.append(future)
        return future

    def abandon(self) -> None:
        self.abandoned = True


class ScriptedFuture:
    def add_callback(self, function: Any, *arguments: Any) -> None:
        self.succeed = lambda: function(*arguments, None)

    def add_errback(self, function: Any, *arguments: Any) -> None:
        self.fail = lambda error: function(*arguments, error)


@pytest.fixture
def scripted() -> Iterator[tuple[KafkaDelivery, list[ScriptedProducer], list[KafkaAddress | None]]]:
    producers: list[ScriptedProducer] = []
    addresses: list[KafkaAddress | None] = [KafkaAddress(("a:1",))]

    def make(address: KafkaAddress, patience: float) -> ScriptedProducer:
        producers.append(ScriptedProducer())
        return producers[-1]

    delivery = KafkaDelivery(lambda: addresses[-1], make_producer=make)
    yield delivery, producers, addresses
    delivery.close(0.1)


def sent(producers: list[ScriptedProducer], count: int) -> None:
    wait_for(lambda: producers and len(producers[-1].futures) == count, 5, f"{count} sends")


def test_an_error_voids_all_that_is_in_flight_and_a_new_producer_takes_over(scripted):
    delivery, producers, _ = scripted
    for number in range(3):
        delivery.send(Message(A, b"k", b"x" * 10), number)
    sent(producers, 3)
    producers[0].futures[0].succeed()
    producers[0].futures[1].fail(OSError("the broker refused"))
    wait_for(lambda: producers[0].abandoned, 5, "the end of the producer")
    assert delivery.in_flight_bytes == 0
    delivery.send(Message(A, b"k", b"sent before we were told"), 9)
    outcome = delivery.poll()
    assert (outcome.confirmed, outcome.interrupted) == ((0,), True)
    producers[0].futures[2].succeed()  # late word of an old producer is not heard
    assert delivery.poll().confirmed == ()
    delivery.send(Message(A, b"k", b"again"), 1)
    wait_for(lambda: len(producers) == 2 and len(producers[1].futures) == 1, 5, "the new producer's send")
    producers[1].futures[0].succeed()
    assert delivery.poll().confirmed == (1,)


def test_a_send_that_raises_says_what_may_be_missing(scripted):
    delivery, producers, _ = scripted
    wait_for(lambda: producers, 5, "a producer")
    producers[0].error = KafkaTimeoutError("no metadata")
    delivery.send(Message(A, b"k", b"x"), 1)
    wait_for(lambda: delivery.poll().interrupted, 5, "the interruption")
    assert "pulsetrain topics" in delivery.state.detail


def test_a_broker_that_moved_is_followed(scripted):
    delivery, producers, addresses = scripted
    delivery.send(Message(A, b"k", b"x"), 1)
    sent(producers, 1)
    addresses.append(KafkaAddress(("b:2",)))
    wait_for(lambda: len(producers) == 2, 10, "a producer for the new address")
    assert delivery.poll().interrupted
    assert delivery.state.detail == "b:2"


def test_without_an_address_it_waits_and_connects_when_there_is_one(tmp_path: Path):
    producers: list[ScriptedProducer] = []
    addresses: list[KafkaAddress | None] = [None]

    def make(address: KafkaAddress, patience: float) -> ScriptedProducer:
        producers.append(ScriptedProducer())
        return producers[-1]

    delivery = KafkaDelivery(lambda: addresses[-1], make_producer=make)
    wait_for(lambda: delivery.state.broker == "away", 5, "word that nothing is known")
    assert "pulsetrain up" in delivery.state.detail
    delivery.send(Message(A, b"k", b"x"), 1)
    addresses.append(KafkaAddress(("a:1",)))
    sent(producers, 1)
    delivery.close(0.1)
