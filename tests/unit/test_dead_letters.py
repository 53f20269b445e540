"""How messages are put aside: packed, bounded, never about each other; and how they reach their table."""

import contextlib
import logging

import numpy as np
import pytest

from pulsetrain_consumers.dead_letters.letters import unpack
from pulsetrain_consumers.runtime import dead_letters
from pulsetrain_consumers.runtime.broker import Partition, Record
from pulsetrain_consumers.runtime.dead_letters import DeadLetters
from pulsetrain_consumers.runtime.memory import MemoryBroker
from pulsetrain_consumers.runtime.sink import Rejected
from pulsetrain_consumers.runtime.telemetry import Telemetry
from pulsetrain_consumers.writer import tables
from pulsetrain_consumers.writer.sink import WRITER_TOPICS
from pulsetrain_consumers.writer.tables import Kept, PlacedLetter
from pulsetrain_schemas import events
from pulsetrain_schemas.events import DeadLetter
from tests.writer_rig import DEAD_LETTERS, METRICS, Crash, ManualClock, Rig, expected_points, metric_batch

P0, P1 = Partition(METRICS, 0), Partition(METRICS, 1)
LETTERS = Partition(DEAD_LETTERS, 0)


def rejected(offset: int, *, partition: Partition = P0, reason: str = "undecodable", size: int = 10) -> Rejected:
    return Rejected(Record(partition, offset, 5_000 + offset, b"r%d" % offset, b"x" * size), reason, f"wrong {offset}")


@pytest.fixture
def broker() -> MemoryBroker:
    broker = MemoryBroker(ManualClock())
    broker.create_topic(DEAD_LETTERS, 1, max_message_bytes=17 << 20)
    return broker


def put_aside(broker: MemoryBroker, letters: list[Rejected]) -> None:
    DeadLetters(
        broker, DEAD_LETTERS, "group", ManualClock(), Telemetry(), topic_id=lambda topic: f"id of {topic}"
    ).publish(letters)


def messages(broker: MemoryBroker) -> list[DeadLetter]:
    return [events.decode(record.value or b"", DeadLetter) for record in broker.records(DEAD_LETTERS)]


def test_many_letters_travel_in_one_message_and_come_out_as_they_went_in(broker: MemoryBroker) -> None:
    entries = [rejected(offset) for offset in range(2_500)] + [
        rejected(7, partition=P1),
        rejected(9_000, reason="refused"),
    ]
    put_aside(broker, entries)
    found = messages(broker)
    assert len(found) == 5
    letters = [letter for number, message in enumerate(found) for letter in unpack(message, 0, number)]
    assert {(letter.partition, letter.offset, letter.reason) for letter in letters} == {
        (entry.record.partition.number, entry.record.offset, entry.reason) for entry in entries
    }
    seventh = next(letter for letter in letters if (letter.partition, letter.offset) == (0, 1_007))
    assert (seventh.key, seventh.payload, seventh.error) == (b"r1007", b"x" * 10, "wrong 1007")
    assert (seventh.record_time, seventh.topic_id, seventh.place.index) == (6_007, f"id of {METRICS}", 7)


def test_large_letters_are_not_packed_into_larger_messages(broker: MemoryBroker) -> None:
    put_aside(broker, [rejected(offset, size=300_000) for offset in range(5)])
    assert len(messages(broker)) == 5
    assert max(len(record.value or b"") for record in broker.records(DEAD_LETTERS)) < dead_letters.PACKED_BYTES


def test_what_cannot_be_read_in_the_dead_letters_leads_to_no_letter_and_is_said_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    rig = Rig()
    process = rig.process(topics=WRITER_TOPICS)
    for _ in range(50):
        rig.broker.append(LETTERS, b"garbage")
    rig.broker.append(P0, b"bad", b"r1")
    rig.broker.append(P0, events.encode(metric_batch("w", 1, 5)), b"r1")
    with caplog.at_level(logging.WARNING):
        rig.settle(process)
    assert rig.points() == expected_points("w", 1, 5)
    assert len(rig.broker.records(DEAD_LETTERS)) == 51
    assert process.count("errors_total", kind="unreadable_dead_letter") == 50
    assert sum("no dead letter" in record.message for record in caplog.records) == 1


def test_a_letter_that_the_store_refuses_leads_to_no_letter() -> None:
    rig = Rig()
    process = rig.process(topics=WRITER_TOPICS)
    rig.store.refuses = lambda table, _row: table == "dead_letter_events"
    rig.broker.append(P0, b"bad")
    rig.settle(process)
    assert len(rig.broker.records(DEAD_LETTERS)) == 1
    assert process.count("errors_total", kind="unreadable_dead_letter") == 1


def test_letters_reach_their_table_once_though_the_writer_dies_amid_them() -> None:
    rig = Rig()
    rig.broker.append(P0, b"bad", b"r1")
    rig.broker.append(P1, b"worse", None)
    rig.settle(rig.process(topics=WRITER_TOPICS), 3)
    for _ in range(8):
        process = rig.process(inline=False, topics=WRITER_TOPICS)
        process.faults.remaining = 1
        with contextlib.suppress(Crash):
            rig.settle(process, 4)
        rig.broker.expel(process.member)
    rig.settle(rig.process(topics=WRITER_TOPICS))
    rows = rig.store.tables["dead_letter_events"]
    assert sorted((row["kafka_partition"], row["kafka_offset"], row["key"], row["payload_start"]) for row in rows) == [
        (0, 0, b"r1", b"bad"),
        (1, 0, None, b"worse"),
    ]
    assert {row["topic_id"] for row in rows} == {""}


def test_an_action_becomes_a_row_for_each_offset() -> None:
    told = DeadLetter(
        "",
        "",
        METRICS,
        1,
        10,
        99,
        "",
        topic_id="id",
        action="dropped",
        actor="me@host",
        more_offsets=np.array([12, 15]),
    )
    letter = DeadLetter("refused", "e", METRICS, 1, 3, 98, "group", b"\xff", None)
    columns = tables.letter_tables([Kept(PlacedLetter(told, 0, 7)), Kept(PlacedLetter(letter, 0, 8))])[
        "dead_letter_events"
    ]
    assert columns["kafka_offset"].tolist() == [10, 12, 15, 3]  # type: ignore[union-attr]
    assert columns["letter_offset"].tolist() == [7, 7, 7, 8]  # type: ignore[union-attr]
    assert columns["letter_index"].tolist() == [0, 1, 2, 0]  # type: ignore[union-attr]
    actions = columns["action"]
    assert [actions.values[code] for code in actions.codes] == ["dropped"] * 3 + [""]  # type: ignore[union-attr]
    assert columns["payload_bytes"] == [None] * 4
    assert columns["key"] == [None, None, None, b"\xff"]


def test_nothing_is_stored_while_a_rebuild_holds_the_tables_and_the_ledger_is_asked_only_after_it() -> None:
    rig = Rig()
    process = rig.process()
    rig.store.fenced = "pid 1"
    asked: list[object] = []
    ask = rig.store.stored_sequences
    rig.store.stored_sequences = lambda topic, writers: asked.append(writers) or ask(topic, writers)  # type: ignore[method-assign]
    rig.broker.append(P0, events.encode(metric_batch("w", 1, 5)), b"r1")
    rig.settle(process)
    assert not rig.store.tables
    assert not asked
    assert "pid 1" in process.health.ready()[1]
    rig.store.fenced = None
    rig.settle(process)
    assert rig.points() == expected_points("w", 1, 5)
