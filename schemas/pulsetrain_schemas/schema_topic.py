"""The Kafka topic that holds schemas: the key is a fingerprint in hexadecimal, the value the schema's JSON.

It is compacted and small, so it is read whole, by a client that lives for as long as that takes. What is in it was
written by anybody who may write to the cluster: this module bounds how much of it is taken, and `published` trusts
none of it.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any

from pulsetrain_schemas.addresses import AddressError, KafkaAddress
from pulsetrain_schemas.registry import RegistryUnavailable
from pulsetrain_schemas.topics import TOPICS

TOPIC = TOPICS["schemas"].kafka_name
LARGEST_SCHEMA_BYTES = 64 << 10
MOST_SCHEMAS = 1_000
_ANSWER_MS = 5_000
_FINGERPRINT_BYTES = 8

_CONSUMER: Mapping[str, Any] = {
    "client_id": "pulsetrain-schemas",
    "enable_auto_commit": False,
    "allow_auto_create_topics": False,
    "bootstrap_timeout_ms": _ANSWER_MS,
    "request_timeout_ms": _ANSWER_MS,
    "fetch_max_wait_ms": 100,
    "metrics_enabled": False,
}
_PRODUCER: Mapping[str, Any] = {
    "client_id": "pulsetrain-schemas",
    "acks": "all",
    "allow_auto_create_topics": False,
    "bootstrap_timeout_ms": _ANSWER_MS,
    "max_block_ms": _ANSWER_MS,
    "request_timeout_ms": _ANSWER_MS,
    "delivery_timeout_ms": 2 * _ANSWER_MS,
    "metrics_enabled": False,
}


class NoSchemaTopic(RegistryUnavailable):
    """There is no topic for schemas that we may use: an earlier release set the cluster up, or it is kept from us."""


class SchemaTopic:
    """The topic in the Kafka that `resolve` names at each moment. Calls take some seconds at most."""

    def __init__(self, resolve: Callable[[], KafkaAddress | None]) -> None:
        self._resolve = resolve

    def read(self) -> dict[bytes, bytes]:
        """What the topic holds now, by fingerprint, the newest 1,000 of it. Raises RegistryUnavailable."""
        address = self._address()
        from kafka import KafkaConsumer
        from kafka.errors import AuthorizationError, KafkaError

        try:
            consumer = KafkaConsumer(**_CONSUMER, **address.client_config())
            try:
                return _read(consumer)
            finally:
                consumer.close()
        except AuthorizationError as error:
            raise NoSchemaTopic(f"Kafka at {address} does not let us read {TOPIC}: {error!r}") from error
        except (KafkaError, OSError) as error:
            raise RegistryUnavailable(f"the schemas on Kafka at {address} cannot be read: {error!r}") from error

    def write(self, schemas: Mapping[bytes, bytes]) -> None:
        """Returns once Kafka has these, by fingerprint. Raises RegistryUnavailable."""
        address = self._address()
        from kafka import KafkaProducer
        from kafka.errors import AuthorizationError, KafkaError

        try:
            producer = KafkaProducer(**_PRODUCER, **address.client_config())
            try:
                sent = [producer.send(TOPIC, value, key.hex().encode()) for key, value in schemas.items()]
                producer.flush(timeout=2 * _ANSWER_MS / 1000)
                for future in sent:
                    future.get(timeout=1)
            finally:
                producer.close(timeout=1)
        except AuthorizationError as error:
            raise NoSchemaTopic(f"Kafka at {address} does not let us write to {TOPIC}: {error!r}") from error
        except (KafkaError, OSError) as error:
            raise RegistryUnavailable(f"no schema can be published on Kafka at {address}: {error!r}") from error

    def _address(self) -> KafkaAddress:
        try:
            address = self._resolve()
        except AddressError as error:
            raise RegistryUnavailable(str(error)) from error
        if address is None:
            raise RegistryUnavailable("no Kafka is known; set PULSETRAIN_KAFKA=host:port, or run `pulsetrain up`")
        return address


def _read(consumer: Any) -> dict[bytes, bytes]:
    from kafka import TopicPartition

    partitions = [TopicPartition(TOPIC, number) for number in consumer.partitions_for_topic(TOPIC)]
    if not partitions:
        raise NoSchemaTopic(f"this cluster has no topic {TOPIC}; `pulsetrain topics` makes it")
    consumer.assign(partitions)
    consumer.seek_to_beginning(*partitions)
    ends = consumer.end_offsets(partitions, timeout_ms=_ANSWER_MS)
    deadline = time.monotonic() + _ANSWER_MS / 1000
    found: dict[bytes, bytes] = {}
    while any(_is_before(consumer, partition, ends[partition]) for partition in partitions):
        for records in consumer.poll(timeout_ms=200).values():
            for record in records:
                _take(found, record.key, record.value)
        if time.monotonic() > deadline:
            raise RegistryUnavailable(f"{TOPIC} was not read to its end within {_ANSWER_MS // 1000} s")
    return found


def _is_before(consumer: Any, partition: Any, end: int) -> bool:
    position = consumer.position(partition, timeout_ms=_ANSWER_MS)
    return position is None or position < end  # None: the broker did not answer in time


def _take(found: dict[bytes, bytes], key: bytes | None, value: bytes | None) -> None:
    try:
        fingerprint = bytes.fromhex((key or b"").decode("ascii"))
    except ValueError:
        return
    if len(fingerprint) != _FINGERPRINT_BYTES:
        return
    found.pop(fingerprint, None)
    if value is None or len(value) > LARGEST_SCHEMA_BYTES:
        return
    found[fingerprint] = value
    if len(found) > MOST_SCHEMAS:
        del found[next(iter(found))]
