"""Schemas published for other versions: found, waited for, not waited for, and never believed without a look."""

import json
import logging
import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import pytest
from kafka.admin import KafkaAdminClient
from kafka.errors import TopicAuthorizationFailedError

from pulsetrain_schemas import catalog, events, published, schema_topic
from pulsetrain_schemas.addresses import AddressError, KafkaAddress
from pulsetrain_schemas.catalog import Schema
from pulsetrain_schemas.events import Origin, RunEvent
from pulsetrain_schemas.framing import Confluent, SingleObject, UnknownSchema
from pulsetrain_schemas.published import PublishedSchemas
from pulsetrain_schemas.registry import RegistryUnavailable
from pulsetrain_schemas.schema_topic import LARGEST_SCHEMA_BYTES, MOST_SCHEMAS, NoSchemaTopic, SchemaTopic
from pulsetrain_schemas.topics import TOPICS, create_or_check
from tests.versions import newer
from tests.waiting import wait_for

DOCUMENT = newer(catalog.load("logs"))
NEWER = Schema("logs", DOCUMENT, catalog.fingerprint(DOCUMENT))
UNKNOWN = b"\xab" * 8
EVENT = RunEvent(Origin("p", "r1", "w", 0, 0, 1_760_000_000_000_000, 1, 2), "finish", 1, True)


class FakeTopic:
    """The topic in memory; `failure` is raised by every call."""

    def __init__(self, content: Mapping[bytes, bytes] | None = None) -> None:
        self.content = dict(content or {})
        self.failure: RegistryUnavailable | None = None
        self.reads = 0
        self.writes = 0

    def read(self) -> Mapping[bytes, bytes]:
        self.reads += 1
        if self.failure is not None:
            raise self.failure
        return dict(self.content)

    def write(self, schemas: Mapping[bytes, bytes]) -> None:
        self.writes += 1
        self.content.update(schemas)


class Clock:
    def __init__(self) -> None:
        self.time = 100.0

    def __call__(self) -> float:
        return self.time


def text(schema: Schema) -> bytes:
    return json.dumps(schema.document).encode()


def finds(schemas: PublishedSchemas, fingerprint: bytes) -> Schema | str | None:
    """What `find` returns, or "wait"."""
    try:
        return schemas.find(fingerprint)
    except RegistryUnavailable:
        return "wait"


def test_a_published_schema_is_found_with_one_look_and_then_known():
    topic = FakeTopic({NEWER.fingerprint: text(NEWER)})
    schemas = PublishedSchemas(topic)
    found = schemas.find(NEWER.fingerprint)
    assert found is not None
    assert (found.name, found.document) == ("logs", NEWER.document)
    assert schemas.find(NEWER.fingerprint) is found
    assert topic.reads == 1


def test_a_schema_that_comes_after_its_first_message_is_waited_for():
    topic, clock = FakeTopic(), Clock()
    schemas = PublishedSchemas(topic, monotonic=clock)
    assert finds(schemas, NEWER.fingerprint) == "wait"
    topic.content[NEWER.fingerprint] = text(NEWER)
    clock.time += published.LOOK_SECONDS - 0.1
    assert finds(schemas, NEWER.fingerprint) == "wait"
    clock.time += 0.2
    assert isinstance(finds(schemas, NEWER.fingerprint), Schema)
    assert topic.reads == 2


def test_a_flood_of_unknown_fingerprints_costs_a_look_in_two_seconds_and_a_wait_a_minute():
    topic, clock = FakeTopic(), Clock()
    schemas = PublishedSchemas(topic, monotonic=clock)
    waits, began = 0, clock.time
    for number in range(10_000):
        while finds(schemas, number.to_bytes(8, "little")) == "wait":
            waits += 1
            clock.time += 0.05
        clock.time += 0.01
    passed = clock.time - began
    assert passed < 10_000 * 0.01 * 1.1
    assert topic.reads <= passed / published.LOOK_SECONDS + 1
    assert waits * 0.05 <= passed / 15
    topic.content[NEWER.fingerprint] = text(NEWER)
    clock.time += published.LOOK_SECONDS
    assert isinstance(finds(schemas, NEWER.fingerprint), Schema), "what is there is found in the middle of a flood"


def test_where_the_topic_cannot_be_read_it_is_waited_for_longer_and_not_for_ever():
    topic, clock = FakeTopic(), Clock()
    topic.failure = RegistryUnavailable("no broker answers")
    schemas = PublishedSchemas(topic, monotonic=clock)
    for _ in range(59):
        with pytest.raises(RegistryUnavailable, match="no broker answers"):
            schemas.find(UNKNOWN)
        clock.time += 1
    clock.time += 2
    assert schemas.find(UNKNOWN) is None
    assert topic.reads <= 31


def test_a_cluster_without_the_topic_is_one_where_nothing_is_published():
    topic, clock = FakeTopic(), Clock()
    topic.failure = NoSchemaTopic("no topic")
    schemas = PublishedSchemas(topic, monotonic=clock)
    assert finds(schemas, UNKNOWN) == "wait"
    clock.time += published.PATIENCE
    assert schemas.find(UNKNOWN) is None


@pytest.mark.parametrize("failure", [None, NoSchemaTopic("no topic"), RegistryUnavailable("away")])
def test_without_patience_nothing_is_waited_for(failure: RegistryUnavailable | None):
    topic = FakeTopic()
    topic.failure = failure
    schemas = PublishedSchemas(topic, patience=0)
    assert schemas.find(UNKNOWN) is None
    reader = SingleObject(schemas)
    with pytest.raises(UnknownSchema, match="abababab"):
        reader.unframe(b"\xc3\x01" + UNKNOWN)
    assert topic.reads == 1


HOSTILE: dict[str, bytes] = {
    "nothing": b"",
    "no JSON": b"{",
    "no UTF-8": b"\xff\xfe\xff",
    "no schema": b"[1]",
    "a bare type": b'"string"',
    "another record": b'{"type": "record", "name": "Other", "fields": []}',
    "a record without fields": b'{"type": "record", "name": "LogBatch"}',
    "fields that are none": b'{"type": "record", "name": "LogBatch", "fields": [1, null]}',
    "a name that is none": b'{"type": "record", "name": ["LogBatch"], "fields": []}',
    "a schema with another fingerprint": text(catalog.current("logs")),
    "very deep JSON": b"[" * 50_000,
    "a deep schema": b'{"type": "record", "name": "LogBatch", "fields": [{"name": "a", "type": '
    + b'{"type": "array", "items": ' * 500 + b'"int"' + b"}" * 500 + b"}]}",
    "a number without end": b'{"type": "record", "name": "LogBatch", "x": ' + b"9" * 60_000 + b"}",
}  # fmt: skip


@pytest.mark.parametrize("kind", HOSTILE)
def test_what_is_no_schema_of_ours_is_as_if_it_were_not_there(kind: str):
    schemas = PublishedSchemas(FakeTopic({UNKNOWN: HOSTILE[kind]}), patience=0)
    assert schemas.find(UNKNOWN) is None


RECURSIVE = {"type": "record", "name": "LogBatch", "fields": [{"name": "lines", "type": "LogBatch"}]}
BOMB = {"type": "record", "name": "LogBatch", "fields": [{"name": "a", "type": {"type": "array", "items": "null"}}]}

EMPTY = {"type": "record", "name": "Empty", "fields": []}
NOTHING = {"type": "record", "name": "LogBatch", "fields": [{"name": "a", "type": {"type": "array", "items": EMPTY}}]}


@pytest.mark.parametrize("document", [RECURSIVE, BOMB, NOTHING], ids=["recursive", "of null", "of empty records"])
def test_a_schema_that_reading_by_would_never_end_is_refused(document: dict[str, Any]):
    fingerprint = catalog.fingerprint(document)
    reader = SingleObject(PublishedSchemas(FakeTopic({fingerprint: json.dumps(document).encode()}), patience=0))
    body = b"\xfe\xff\xff\xff\xff\xff\xff\xff\x7f" * 4
    with pytest.raises(UnknownSchema):
        events.decode(b"\xc3\x01" + fingerprint + body, events.LogBatch, reader)


def settle(schemas: PublishedSchemas) -> None:
    """Returns when what was announced is published, or given up."""
    wait_for(lambda: schemas._publishing is None or not schemas._publishing.is_alive(), what="the publishing")


def publish(topic: FakeTopic, name: str = "runs") -> PublishedSchemas:
    """Frames a message, and returns when its schema's publishing has ended."""
    schemas = PublishedSchemas(topic)
    payload = events.encode(EVENT, SingleObject(schemas))
    assert payload == events.encode(EVENT)
    settle(schemas)
    return schemas


def test_the_first_message_has_its_schema_published_and_the_next_finds_it_there():
    topic = FakeTopic()
    schemas = publish(topic)
    current = catalog.current("runs")
    assert json.loads(topic.content[current.fingerprint]) == current.document
    events.encode(EVENT, SingleObject(schemas))
    publish(topic)
    assert (topic.reads, topic.writes) == (2, 1)


def test_what_somebody_else_wrote_under_our_fingerprint_is_put_right():
    current = catalog.current("runs")
    topic = FakeTopic({current.fingerprint: b"garbage"})
    publish(topic)
    assert json.loads(topic.content[current.fingerprint]) == current.document


def test_publishing_is_tried_again_until_the_broker_is_there(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(published, "RETRY_SECONDS", 0.01)
    topic = FakeTopic()
    topic.failure = RegistryUnavailable("away")
    schemas = PublishedSchemas(topic)
    events.encode(EVENT, SingleObject(schemas))
    wait_for(lambda: topic.reads > 2, what="more tries")
    topic.failure = None
    wait_for(lambda: topic.content, what="the schema")


def test_a_cluster_without_the_topic_is_asked_again_with_a_later_message(caplog: pytest.LogCaptureFixture):
    topic, clock = FakeTopic(), Clock()
    topic.failure = NoSchemaTopic("no topic pulsetrain.schemas")
    schemas = PublishedSchemas(topic, monotonic=clock)
    writer = SingleObject(schemas)

    def send() -> None:
        events.encode(EVENT, writer)
        settle(schemas)

    with caplog.at_level(logging.INFO):
        for _ in range(3):
            send()
    assert topic.reads == 1
    assert "pulsetrain.schemas" in caplog.text
    topic.failure = None
    clock.time += published.NO_TOPIC_SECONDS
    send()
    assert topic.content


def test_framing_is_by_the_registry_where_one_is_named():
    assert isinstance(published.framing({}), SingleObject)
    assert isinstance(published.framing({"PULSETRAIN_SCHEMA_REGISTRY": "http://localhost:1"}), Confluent)


def test_of_too_many_schemas_the_newest_are_kept_and_of_one_fingerprint_the_last():
    found: dict[bytes, bytes] = {}
    for number in range(MOST_SCHEMAS + 50):
        schema_topic._take(found, number.to_bytes(8, "little").hex().encode(), b"x")
    assert len(found) == MOST_SCHEMAS
    assert (49).to_bytes(8, "little") not in found
    key = (60).to_bytes(8, "little")
    schema_topic._take(found, key.hex().encode(), b"y")
    assert found[key] == b"y"
    schema_topic._take(found, key.hex().encode(), None)
    assert key not in found


@pytest.mark.parametrize("key", [None, b"", b"\xff" * 8, b"zz" * 8, b"ab" * 7])
def test_what_has_no_fingerprint_for_a_key_is_left_out(key: bytes | None):
    found: dict[bytes, bytes] = {}
    schema_topic._take(found, key, b"x")
    schema_topic._take(found, b"ab" * 8, b"x" * (LARGEST_SCHEMA_BYTES + 1))
    assert not found


def test_an_address_that_is_not_known_is_an_outage():
    def fail() -> KafkaAddress:
        raise AddressError("PULSETRAIN_KAFKA is not host:port")

    for topic, what in ((SchemaTopic(lambda: None), "pulsetrain up"), (SchemaTopic(fail), "not host:port")):
        with pytest.raises(RegistryUnavailable, match=what):
            topic.read()
        with pytest.raises(RegistryUnavailable, match=what):
            topic.write({})


def test_a_broker_that_is_not_there_is_an_outage(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(schema_topic, "_CONSUMER", schema_topic._CONSUMER | {"bootstrap_timeout_ms": 200})
    monkeypatch.setattr(schema_topic, "_PRODUCER", schema_topic._PRODUCER | {"bootstrap_timeout_ms": 200})
    topic = SchemaTopic(lambda: KafkaAddress(("127.0.0.1:1",)))
    with pytest.raises(RegistryUnavailable, match=r"127\.0\.0\.1:1"):
        topic.read()
    with pytest.raises(RegistryUnavailable, match=r"127\.0\.0\.1:1"):
        topic.write({UNKNOWN: b"x"})


def test_every_schema_of_ours_fits_the_topic():
    for name in catalog.names():
        assert len(text(catalog.current(name))) < LARGEST_SCHEMA_BYTES / 4


def test_a_topic_that_is_kept_from_us_is_as_none(monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: object, **__: object) -> None:
        raise TopicAuthorizationFailedError({schema_topic.TOPIC})

    monkeypatch.setattr("kafka.KafkaConsumer", refuse)
    monkeypatch.setattr("kafka.KafkaProducer", refuse)
    topic = SchemaTopic(lambda: KafkaAddress(("host:1",)))
    with pytest.raises(NoSchemaTopic, match="does not let us read"):
        topic.read()
    with pytest.raises(NoSchemaTopic, match="does not let us write"):
        topic.write({UNKNOWN: b"x"})


@pytest.mark.kafka
def test_a_process_that_ends_after_its_first_message_has_published_its_schema(kafka_broker: str):
    topic = SchemaTopic(lambda: KafkaAddress((kafka_broker,)))
    with pytest.raises(NoSchemaTopic, match="`pulsetrain topics`"):
        topic.read()
    with KafkaAdminClient(bootstrap_servers=kafka_broker) as admin:
        create_or_check(admin, [TOPICS["schemas"]], replication_factor=1)
    assert topic.read() == {}
    program = "from pulsetrain_schemas.published import framing; framing().frame('dead_letters', b'')"
    subprocess.run(
        [sys.executable, "-c", program], check=True, timeout=60, env={**os.environ, "PULSETRAIN_KAFKA": kafka_broker}
    )
    current = catalog.current("dead_letters")
    assert json.loads(topic.read()[current.fingerprint]) == current.document
    topic.write({NEWER.fingerprint: text(NEWER)})
    found = PublishedSchemas(topic).find(NEWER.fingerprint)
    assert found is not None
    assert found.document == NEWER.document
    assert set(topic.read()) == {current.fingerprint, NEWER.fingerprint}
