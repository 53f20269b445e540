"""The local Kafka broker, as the stack runs it."""

from pathlib import Path

import pytest
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import NewTopic

from tests.stack_fixture import Broker, running_broker
from tests.waiting import wait_for

pytestmark = [pytest.mark.kafka]


def _make_topic(address: str, name: str) -> None:
    admin = KafkaAdminClient(bootstrap_servers=address)
    try:
        admin.create_topics([NewTopic(name, num_partitions=1, replication_factor=1)])
    finally:
        admin.close()


def _send(address: str, topic: str, values: list[bytes]) -> None:
    producer = KafkaProducer(bootstrap_servers=address, acks="all", max_request_size=8_000_000)
    try:
        for value in values:
            producer.send(topic, value).get(timeout=30)
    finally:
        producer.close()


def _read(address: str, topic: str, count: int) -> list[bytes]:
    consumer = KafkaConsumer(bootstrap_servers=address, enable_auto_commit=False, auto_offset_reset="earliest")
    try:
        partition = TopicPartition(topic, 0)
        consumer.assign([partition])
        consumer.seek_to_beginning(partition)
        values: list[bytes] = []

        def enough() -> bool:
            for records in consumer.poll(timeout_ms=200).values():
                values.extend(record.value for record in records)
            return len(values) >= count

        wait_for(enough, 30, f"{count} messages")
        return values
    finally:
        consumer.close()


def test_a_message_of_several_megabytes_travels(kafka_broker: str) -> None:
    _make_topic(kafka_broker, "large-messages")
    large = bytes(7_000_000)
    _send(kafka_broker, "large-messages", [large])
    assert _read(kafka_broker, "large-messages", 1) == [large]


@pytest.mark.parametrize("end", [Broker.kill, Broker.stop], ids=["killed", "stopped"])
def test_a_broker_that_comes_back_has_its_port_and_every_message(tmp_path: Path, end: object) -> None:
    with running_broker(tmp_path / "kafka") as broker:
        _make_topic(broker.address, "kept")
        _send(broker.address, "kept", [b"before"])
        end(broker)  # type: ignore[operator]
        broker.start()
        _send(broker.address, "kept", [b"after"])
        assert _read(broker.address, "kept", 2) == [b"before", b"after"]


def test_two_brokers_run_side_by_side(kafka_broker: str, tmp_path: Path) -> None:
    with running_broker(tmp_path / "kafka") as other:
        assert other.address != kafka_broker
        _make_topic(other.address, "only-there")
        admin = KafkaAdminClient(bootstrap_servers=kafka_broker)
        try:
            assert "only-there" not in admin.list_topics()
        finally:
            admin.close()
