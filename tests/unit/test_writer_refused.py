"""Messages whose rows ClickHouse refuses are found, put aside one by one, and do not hold up the others."""

from typing import Any

import pytest

from pulsetrain_consumers.runtime.broker import Partition
from pulsetrain_schemas import events
from tests.writer_rig import METRICS, Rig, expected_points, metric_batch

P0 = Partition(METRICS, 0)


def test_only_the_message_with_the_bad_row_is_put_aside() -> None:
    rig = Rig()
    process = rig.process()
    rig.store.refuses = lambda table, row: table == "metrics" and row["sequence"] == 57
    for index in range(10):
        rig.broker.append(P0, events.encode(metric_batch("w", index * 10 + 1, index * 10 + 10)), b"r1")
    rig.settle(process)
    assert rig.points() == expected_points("w", 1, 50) + expected_points("w", 61, 100)
    (letter,) = rig.dead_letters()
    assert (letter.reason, letter.offset) == ("refused", 5)
    assert "VIOLATED_CONSTRAINT" in letter.error


def test_a_refused_message_counts_as_not_stored_and_may_be_sent_again() -> None:
    rig = Rig()
    process = rig.process()
    rig.store.refuses = lambda table, row: row.get("sequence") == 7
    rig.broker.append(P0, events.encode(metric_batch("w", 1, 10)))
    rig.settle(process)
    assert not rig.points()
    rig.store.refuses = lambda _table, _row: False
    rig.broker.append(P0, events.encode(metric_batch("w", 1, 10)))
    rig.settle(process)
    assert rig.points() == expected_points("w", 1, 10)


def test_a_crash_amid_the_search_for_the_bad_row_doubles_nothing() -> None:
    rig = Rig()
    process = rig.process(inline=False)
    rig.settle(process, 3)
    rig.store.refuses = lambda table, row: table == "metrics" and row["sequence"] == 57
    for index in range(8):
        rig.broker.append(P0, events.encode(metric_batch("w", index * 10 + 1, index * 10 + 10, texts=True)))
    process.loop.tick(0)
    process.faults.remaining = 7
    process.executor.run()
    rig.broker.expel(process.member)
    rig.settle(rig.process())
    assert rig.points() == expected_points("w", 1, 50) + expected_points("w", 61, 80)
    assert len(rig.store.tables["texts"]) == 70


def test_a_fault_of_our_own_in_reading_puts_the_message_aside_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a day when a field was added to one place and forgotten in another."""
    rig = Rig()
    process = rig.process()
    decode = events.decode

    def faulty(payload: bytes, *rest: Any) -> Any:
        event = decode(payload, *rest)
        if isinstance(event, events.MetricBatch) and event.origin.writer == "w1":
            raise KeyError("a field that was forgotten")
        return event

    for writer in ("w0", "w1", "w2"):
        rig.broker.append(P0, events.encode(metric_batch(writer, 1, 3)))
    with monkeypatch.context() as patched:
        patched.setattr(events, "decode", faulty)
        rig.settle(process)
    assert rig.points() == expected_points("w0", 1, 3) + expected_points("w2", 1, 3)
    (letter,) = rig.dead_letters()
    assert letter.offset == 1
    assert "forgotten" in letter.error
