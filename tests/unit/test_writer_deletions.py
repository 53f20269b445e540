"""What was sent of a deleted run is not stored, whenever it comes; everything beside it is, once."""

from collections import Counter
from dataclasses import replace

import pytest

from pulsetrain_consumers.runtime.broker import Partition
from pulsetrain_schemas import events
from tests.writer_rig import METRICS, STARTED, Rig, expected_points, metric_batch

P0 = Partition(METRICS, 0)
DELETED_AT = STARTED + 5_000_000


def later_attempt(first: int, last: int) -> bytes:
    batch = metric_batch("again", first, last)
    return events.encode(replace(batch, origin=replace(batch.origin, attempt_started=DELETED_AT + 1, attempt=1)))


def test_messages_of_a_deleted_run_are_left_out_and_others_of_the_same_batch_stored() -> None:
    rig = Rig()
    rig.store.deleted = {("p", "r1"): DELETED_AT}
    process = rig.process()
    for index in range(4):
        rig.broker.append(P0, events.encode(metric_batch("gone", index * 10 + 1, index * 10 + 10)))
        rig.broker.append(P0, events.encode(metric_batch("kept", index * 10 + 1, index * 10 + 10, run_id="r2")))
    rig.settle(process)
    assert rig.points() == expected_points("kept", 1, 40)
    assert {row["run_id"] for row in rig.store.tables["stored_batches"]} == {"r2"}
    assert process.count("messages_of_deleted_runs_total", topic=METRICS) == 4
    assert not rig.dead_letters()


def test_an_attempt_that_begins_after_the_deletion_is_stored() -> None:
    rig = Rig()
    rig.store.deleted = {("p", "r1"): DELETED_AT}
    rig.broker.append(P0, events.encode(metric_batch("gone", 1, 10)))
    rig.broker.append(P0, later_attempt(1, 10))
    rig.settle(rig.process())
    assert rig.points() == expected_points("again", 1, 10)


def test_a_deletion_counts_from_the_next_round_on() -> None:
    rig = Rig()
    process = rig.process()
    rig.broker.append(P0, events.encode(metric_batch("w", 1, 10)))
    rig.settle(process)
    assert rig.points() == expected_points("w", 1, 10)
    rig.store.deleted = {("p", "r1"): DELETED_AT}
    rig.store.tables.clear()
    rig.broker.append(P0, events.encode(metric_batch("w", 11, 20)))
    rig.settle(process)
    assert not rig.points()


@pytest.mark.parametrize("boundary", range(1, 13))
def test_a_crash_about_a_deletion_stores_the_others_once(boundary: int) -> None:
    rig = Rig()
    process = rig.process(inline=False)
    rig.settle(process, 3)
    for index in range(3):
        rig.broker.append(P0, events.encode(metric_batch("w", index * 10 + 1, index * 10 + 10, texts=True)))
        rig.broker.append(
            P0, events.encode(metric_batch("v", index * 10 + 1, index * 10 + 10, run_id="r2", texts=True))
        )
    process.loop.tick(0)
    process.faults.remaining = boundary
    process.executor.run()
    rig.broker.expel(process.member)
    rig.store.deleted = {("p", "r1"): DELETED_AT}
    rig.settle(rig.process())
    # What the first writer had stored of it before, the deletion itself takes away.
    kept = Counter({key: count for key, count in rig.points().items() if key[0] == "v"})
    assert kept == expected_points("v", 1, 30)
    assert Counter(row["sequence"] for row in rig.store.tables["texts"] if row["run_id"] == "r2") == Counter(
        range(1, 31)
    )
