"""The writer among messages of versions that it does not know: it waits a little, puts aside, and loses nothing."""

from collections import Counter
from collections.abc import Mapping

import pytest

from pulsetrain_consumers.runtime.batching import Limits
from pulsetrain_consumers.runtime.broker import Partition
from pulsetrain_schemas import catalog, events
from pulsetrain_schemas.catalog import Schema
from pulsetrain_schemas.codec import RecordCodec
from pulsetrain_schemas.framing import SingleObject
from pulsetrain_schemas.published import PublishedSchemas
from tests import writer_rig
from tests.unit.test_schemas_published import FakeTopic, text
from tests.versions import newer
from tests.writer_rig import METRICS, Crash, Process, Rig, metric_batch

DOCUMENT = newer(catalog.load("metrics"))
NEXT = Schema("metrics", DOCUMENT, catalog.fingerprint(DOCUMENT))
PARTITION = Partition(METRICS, 0)


def by_next_version(payload: bytes) -> bytes:
    """The message as the next release would have written it."""
    record = RecordCodec(catalog.load("metrics")).decode(payload[10:])
    return b"\xc3\x01" + NEXT.fingerprint + RecordCodec(DOCUMENT).encode(record)


@pytest.fixture
def topic(monkeypatch: pytest.MonkeyPatch) -> FakeTopic:
    """Where the rig's writers look for schemas, with the rig's patience of none."""
    found = FakeTopic()
    monkeypatch.setattr(writer_rig, "SINGLE_OBJECT", SingleObject(PublishedSchemas(found, patience=0)))
    return found


def patient(rig: Rig, topic: FakeTopic, monkeypatch: pytest.MonkeyPatch) -> None:
    schemas = PublishedSchemas(topic, monotonic=rig.clock.monotonic)
    monkeypatch.setattr(writer_rig, "SINGLE_OBJECT", SingleObject(schemas))


def test_a_message_that_was_faster_than_its_schema_waits_for_it(topic: FakeTopic, monkeypatch: pytest.MonkeyPatch):
    rig = Rig(partitions=1)
    patient(rig, topic, monkeypatch)
    process = rig.process()
    rig.broker.append(PARTITION, events.encode(metric_batch("w", 1, 5)))
    rig.broker.append(PARTITION, by_next_version(events.encode(metric_batch("w", 6, 10))))
    rig.broker.append(PARTITION, events.encode(metric_batch("w", 11, 15)))
    rig.settle(process, ticks=3)
    assert max(sequence for _, sequence, _ in rig.points()) == 5
    topic.content[NEXT.fingerprint] = text(NEXT)
    rig.settle(process)
    assert rig.points() == Counter({("w", s, key): 1 for s in range(1, 16) for key in ("loss", "acc")})
    assert rig.dead_letters() == []


def test_a_flood_of_unknown_versions_is_put_aside_and_the_rest_is_stored(
    topic: FakeTopic, monkeypatch: pytest.MonkeyPatch
):
    rig = Rig(partitions=1, limits=Limits(max_age=0.0, messages=50))
    patient(rig, topic, monkeypatch)
    process = rig.process()
    for number in range(300):
        rig.broker.append(PARTITION, events.encode(metric_batch("w", number + 1, number + 1)))
        rig.broker.append(PARTITION, b"\xc3\x01" + number.to_bytes(8, "little") + b"body")
    rig.settle(process, ticks=80)
    assert len(rig.points()) == 600
    letters = rig.dead_letters()
    assert len(letters) == 300
    assert {letter.reason for letter in letters} == {"unknown_schema"}
    assert topic.reads <= 80 * 0.6 / 2 + 1


def crash_after(process: Process, boundaries: int, rig: Rig) -> bool:
    """Lets a process work until it has passed so many boundaries; whether it came to that."""
    process.faults.remaining = boundaries
    try:
        rig.settle(process, ticks=8)
    except Crash:
        return True
    return False


@pytest.mark.parametrize("known_at_first", [False, True])
def test_a_batch_that_is_stored_again_when_more_of_it_can_be_read_loses_nothing_of_it(
    topic: FakeTopic, monkeypatch: pytest.MonkeyPatch, known_at_first: bool
):
    """The process dies at each boundary in turn; meanwhile the schema of some messages comes, or goes."""
    content: Mapping[bytes, bytes] = {NEXT.fingerprint: text(NEXT)}
    crashes = 0
    for boundaries in range(40):
        rig = Rig(partitions=1)
        for number in range(6):
            payload = events.encode(metric_batch(f"w{number}", 1, 3))
            rig.broker.append(PARTITION, by_next_version(payload) if number % 2 else payload)
        topic.content = dict(content) if known_at_first else {}
        patiently = SingleObject(PublishedSchemas(topic, patience=0))
        monkeypatch.setattr(writer_rig, "SINGLE_OBJECT", patiently)
        first = rig.process()
        crashed = crash_after(first, boundaries, rig)
        crashes += crashed
        rig.broker.expel(first.member)
        topic.content = {} if known_at_first else dict(content)
        monkeypatch.setattr(writer_rig, "SINGLE_OBJECT", SingleObject(PublishedSchemas(topic, patience=0)))
        rig.settle(rig.process())
        stored = rig.points()
        assert set(stored.values()) == {1}
        put_aside = {letter.offset for letter in rig.dead_letters()}
        for number in range(6):
            points = {point for point in stored if point[0] == f"w{number}"}
            assert len(points) in (0, 6)
            assert points or number in put_aside, f"message {number} is nowhere, after {boundaries} boundaries"
            assert points or number % 2
        if not crashed:
            break
    assert crashes > 5
