"""The contract of a delivery, over the broker in memory and the real one."""

import contextlib
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition
from kafka.admin import NewTopic
from kafka.errors import KafkaTimeoutError, TopicAlreadyExistsError

from pulsetrain.forwarder.delivery import Delivery, Message
from pulsetrain.forwarder.kafka_delivery import KafkaDelivery
from pulsetrain.forwarder.memory_delivery import MemoryBroker, MemoryDelivery
from pulsetrain_schemas.addresses import KafkaAddress
from pulsetrain_schemas.topics import PREFIX
from tests.waiting import wait_for

# Topics of the test's own: the broker is shared, and what is sent here is no event.
A, B = "delivery-contract-a", "delivery-contract-b"
Received = Callable[[], list[Message]]


@pytest.fixture(params=["memory", pytest.param("kafka", marks=pytest.mark.kafka)])
def line(request: pytest.FixtureRequest) -> Iterator[tuple[Delivery, Received, bytes]]:
    """A delivery, what has arrived by it under a key of the test's own, and that key."""
    key = uuid.uuid4().hex.encode()
    if request.param == "memory":
        broker = MemoryBroker()
        yield MemoryDelivery(broker), lambda: broker.messages, key
        return
    address = request.getfixturevalue("kafka_broker")
    admin = KafkaAdminClient(bootstrap_servers=address)
    settings = {"max.message.bytes": str(8 << 20)}
    with contextlib.suppress(TopicAlreadyExistsError):
        admin.create_topics([NewTopic(PREFIX + name, 2, 1, topic_configs=settings) for name in (A, B)])
    admin.close()
    delivery = KafkaDelivery(lambda: KafkaAddress((address,)))
    yield delivery, lambda: received(address, key), key
    delivery.close(1.0)


def received(address: str, key: bytes) -> list[Message]:
    consumer = KafkaConsumer(bootstrap_servers=address, enable_auto_commit=False)
    try:
        found = []
        for topic in (A, B):
            partitions = [TopicPartition(PREFIX + topic, p) for p in consumer.partitions_for_topic(PREFIX + topic)]
            consumer.assign(partitions)
            consumer.seek_to_beginning(*partitions)
            ends = consumer.end_offsets(partitions)
            while any(consumer.position(partition) < ends[partition] for partition in partitions):
                for records in consumer.poll(timeout_ms=500).values():
                    found += [Message(topic, record.key, record.value) for record in records if record.key == key]
        return found
    finally:
        consumer.close()


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


def test_what_is_sent_arrives_in_order_and_is_confirmed_once(line):
    delivery, arrived, key = line
    messages = [Message(A, key, b"%d" % number) for number in range(200)]
    for number, message in enumerate(messages):
        delivery.send(message, ("w", number))
    confirmed = drain(delivery, {("w", number) for number in range(200)})
    assert confirmed == [("w", number) for number in range(200)]
    assert delivery.poll().confirmed == ()
    assert arrived() == messages


def test_bytes_in_flight_are_counted_until_they_are_confirmed(line):
    delivery, _, key = line
    assert delivery.in_flight_bytes == 0
    delivery.send(Message(A, key, bytes(1000)), 1)
    delivery.send(Message(B, key, bytes(500)), 2)
    drain(delivery, {1, 2})
    assert delivery.in_flight_bytes == 0
    assert delivery.state.broker == "connected"


def test_a_message_of_seven_megabytes_goes_through(line):
    delivery, arrived, key = line
    delivery.send(Message(A, key, bytes(7 << 20)), 1)
    drain(delivery, {1})
    assert [len(message.payload) for message in arrived()] == [7 << 20]


def test_closing_sends_what_is_in_flight(line):
    delivery, arrived, key = line
    delivery.send(Message(A, key, b"first"), 0)
    drain(delivery, {0})
    for number in range(1, 20):
        delivery.send(Message(A, key, b"%d" % number), number)
    delivery.close(10.0)
    assert set(delivery.poll().confirmed) == set(range(1, 20))
    assert len(arrived()) == 20


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

    def make(address: KafkaAddress) -> ScriptedProducer:
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

    def make(address: KafkaAddress) -> ScriptedProducer:
        producers.append(ScriptedProducer())
        return producers[-1]

    delivery = KafkaDelivery(lambda: addresses[-1], make_producer=make)
    wait_for(lambda: delivery.state.broker == "away", 5, "word that nothing is known")
    assert "pulsetrain up" in delivery.state.detail
    delivery.send(Message(A, b"k", b"x"), 1)
    addresses.append(KafkaAddress(("a:1",)))
    sent(producers, 1)
    delivery.close(0.1)
