"""What a machine whose clock is wrong sends is taken, and kept for as long as what others send."""

import time
import uuid

import pytest
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer

from pulsetrain_schemas.topics import TOPICS, create_or_check

pytestmark = [pytest.mark.kafka]


@pytest.mark.parametrize("off", [86_400.0, -1e9], ids=["a day ahead", "decades behind"])
def test_the_brokers_clock_counts_not_the_senders(kafka_broker: str, off: float) -> None:
    topic = TOPICS["system"].kafka_name
    admin = KafkaAdminClient(bootstrap_servers=kafka_broker)
    try:
        create_or_check(admin)
    finally:
        admin.close()
    key = uuid.uuid4().bytes
    producer = KafkaProducer(bootstrap_servers=kafka_broker, acks="all")
    try:
        sent = producer.send(topic, b"late or early", key=key, timestamp_ms=int((time.time() + off) * 1000))
        found = sent.get(timeout=30)
    finally:
        producer.close()
    consumer = KafkaConsumer(
        topic, bootstrap_servers=kafka_broker, auto_offset_reset="earliest", consumer_timeout_ms=20_000
    )
    try:
        message = next(one for one in consumer if one.key == key)
    finally:
        consumer.close()
    assert (message.partition, message.offset) == (found.partition, found.offset)
    assert abs(message.timestamp / 1000 - time.time()) < 3600
