"""The loop on a broker and a store in memory: what it announces, stores, commits, drops and waits for."""

import json

import pytest

from pulsetrain_consumers.runtime.batching import Limits
from pulsetrain_consumers.runtime.broker import CommitRefused, Partition, Position
from pulsetrain_schemas import events
from tests.writer_rig import GROUP, METRICS, Crash, Rig, expected_points, metric_batch

P0 = Partition(METRICS, 0)


def send(rig: Rig, writer: str, first: int, last: int, partition: Partition = P0) -> int:
    return rig.broker.append(partition, events.encode(metric_batch(writer, first, last)), b"r1")


def committed(rig: Rig, partition: Partition = P0) -> tuple[int, list[int] | None]:
    position = rig.broker.group_position(GROUP, partition)
    assert position is not None
    return position.offset, json.loads(position.metadata)["pending"]


def test_messages_are_stored_once_and_their_end_is_committed_when_nothing_follows() -> None:
    rig = Rig()
    process = rig.process()
    send(rig, "w", 1, 10)
    send(rig, "w", 11, 20)
    rig.settle(process)
    assert rig.points() == expected_points("w", 1, 20)
    assert committed(rig) == (2, None)


def test_a_range_is_announced_before_it_is_stored() -> None:
    rig = Rig()
    process = rig.process(inline=False)
    process.loop.tick(0)
    process.executor.run()
    send(rig, "w", 1, 10)
    send(rig, "w", 11, 20)
    process.loop.tick(0)
    assert rig.points() == {}
    assert committed(rig) == (0, [0, 1])
    process.executor.run()
    assert rig.points() == expected_points("w", 1, 20)


def test_the_end_of_a_batch_and_the_announcement_of_the_next_are_one_commit() -> None:
    rig = Rig()
    process = rig.process()
    rig.settle(process, 3)
    send(rig, "w", 1, 10)
    process.loop.tick(0)
    before = process.count("commit_seconds_count")
    send(rig, "w", 11, 20)
    process.loop.tick(0)
    assert process.count("commit_seconds_count") == before + 1
    assert committed(rig) == (1, [1, 1])


@pytest.mark.parametrize("boundary", range(10))
def test_a_crash_at_any_boundary_neither_loses_nor_doubles_a_row(boundary: int) -> None:
    rig = Rig()
    process = rig.process()
    rig.settle(process, 3)
    process.faults.remaining = boundary
    send(rig, "w", 1, 10)
    rig.broker.append(P0, b"garbage")
    try:
        rig.settle(process, 10)
    except Crash:
        rig.broker.expel(process.member)
    send(rig, "w", 11, 20)
    rig.settle(rig.process())
    assert rig.points() == expected_points("w", 1, 20)
    assert {letter.offset for letter in rig.dead_letters()} == {1}


def test_a_pending_range_is_replayed_with_the_same_boundaries_though_more_has_arrived() -> None:
    rig = Rig()
    process = rig.process(inline=False)
    rig.settle(process, 3)
    send(rig, "w", 1, 10)
    process.loop.tick(0)
    rig.broker.expel(process.member)
    send(rig, "w", 11, 20)
    successor = rig.process(inline=False)
    rig.settle(successor)
    process.executor.run()  # the first one stores after all, under the same token
    assert rig.points() == expected_points("w", 1, 20)
    assert successor.count("replays_total") == 1


def test_a_process_whose_commit_is_refused_stores_nothing_of_what_it_announced() -> None:
    rig = Rig()
    process = rig.process(inline=False)
    rig.settle(process, 3)
    send(rig, "w", 1, 10)
    polled = process.member.poll

    def poll_and_lose(timeout: float) -> object:
        found = polled(timeout)
        rig.broker.expel(process.member)
        return found

    process.member.poll = poll_and_lose  # type: ignore[method-assign,assignment]
    process.loop.tick(0)
    process.executor.run()
    assert rig.points() == {}
    assert process.count("errors_total", kind="commit_refused") == 1


def test_after_a_refused_commit_nothing_is_skipped_for_what_was_polled_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """The partitions deliver on from where they were until they are sought; that is no gap."""
    rig = Rig()
    process = rig.process()
    rig.settle(process, 3)
    send(rig, "w", 1, 10)

    def refuse(_positions: object) -> None:
        raise CommitRefused("the group rebalances")

    with monkeypatch.context() as patch:
        patch.setattr(process.member, "commit", refuse)
        process.loop.tick(0)
    send(rig, "w", 11, 20)
    rig.clock.time += 1
    rig.settle(process)
    assert rig.points() == expected_points("w", 1, 20)
    assert process.count("expired_offsets_total", topic=METRICS) == 0
    assert committed(rig) == (2, None)


def test_garbage_goes_to_the_dead_letters_and_the_partition_goes_on() -> None:
    rig = Rig()
    process = rig.process()
    send(rig, "w", 1, 10)
    rig.broker.append(P0, b"\xc3\x01 garbage", b"r1")
    rig.broker.append(P0, None)
    rig.broker.append(P0, b"\xc3\x01\x01\x02\x03\x04\x05\x06\x07\x08rest")
    send(rig, "w", 11, 20)
    rig.settle(process)
    assert rig.points() == expected_points("w", 1, 20)
    letters = sorted(rig.dead_letters(), key=lambda letter: letter.offset)
    assert [(letter.reason, letter.offset) for letter in letters] == [
        ("unknown_schema", 1),
        ("undecodable", 2),
        ("unknown_schema", 3),
    ]
    assert letters[0].payload == b"\xc3\x01 garbage"
    assert letters[0].key == b"r1"
    assert letters[0].topic == METRICS


def test_a_flood_of_garbage_is_worked_off_in_bounded_batches() -> None:
    rig = Rig(limits=Limits(messages=100, max_age=0.0, total_bytes=20_000))
    process = rig.process()
    for _ in range(2_000):
        rig.broker.append(P0, b"x" * 100)
    send(rig, "w", 1, 5)
    rig.settle(process)
    assert len(rig.dead_letters()) == 2_000
    assert rig.points() == expected_points("w", 1, 5)


def test_a_dead_letter_that_is_too_large_is_sent_without_its_payload() -> None:
    rig = Rig()
    process = rig.process()
    rig.broker.append(P0, b"x" * 70_000)
    rig.broker.append(P0, b"small")
    rig.settle(process)
    large, small = rig.dead_letters()
    assert large.payload is None
    assert "70000 bytes" in large.error
    assert small.payload == b"small"


def test_while_the_store_is_away_partitions_are_paused_polling_goes_on_and_readyz_says_why() -> None:
    rig = Rig(limits=Limits(max_age=0.0, total_rows=100, rows=60))
    process = rig.process()
    rig.settle(process, 3)
    assert process.health.ready() == (True, "ready")
    rig.store.away = True
    for index in range(50):
        send(rig, "w", index * 10 + 1, index * 10 + 10)
        rig.settle(process, 1)
    ready, text = process.health.ready()
    assert not ready
    assert "the store is away" in text
    assert process.health.alive()[0]
    assert process.count("buffered_rows") <= 200
    assert process.count("paused_partitions") >= 1
    rig.store.away = False
    rig.settle(process)
    assert rig.points() == expected_points("w", 1, 500)
    assert process.health.ready()[0]


def test_while_the_broker_is_away_nothing_ends_and_everything_is_stored_when_it_is_back() -> None:
    rig = Rig()
    process = rig.process()
    rig.settle(process, 3)
    send(rig, "w", 1, 10)
    rig.broker.away = True
    rig.settle(process, 10)
    assert not process.health.ready()[0]
    rig.broker.away = False
    rig.settle(process)
    assert rig.points() == expected_points("w", 1, 10)
    assert process.health.ready()[0]


def test_a_topic_that_is_created_again_is_read_from_its_start() -> None:
    rig = Rig()
    process = rig.process()
    send(rig, "w", 1, 10)
    rig.settle(process)
    rig.broker.delete_topic(METRICS)
    rig.broker.create_topic(METRICS, 2)
    send(rig, "v", 1, 10)  # at the offset at which something else was stored
    rig.settle(process)
    assert rig.points() == expected_points("w", 1, 10) + expected_points("v", 1, 10)


def test_offsets_that_were_set_by_hand_are_read_again_and_add_nothing() -> None:
    rig = Rig()
    process = rig.process()
    send(rig, "w", 1, 10)
    send(rig, "w", 11, 20)
    rig.settle(process)
    rig.broker.expel(process.member)
    rig.broker.set_group_position(GROUP, P0, Position(0))
    successor = rig.process()
    rig.settle(successor)
    assert rig.points() == expected_points("w", 1, 20)
    assert successor.count("duplicate_rows_total", topic=METRICS) == 40


def test_a_log_that_was_cut_back_does_not_hide_new_messages_behind_old_tokens() -> None:
    rig = Rig()
    process = rig.process()
    for index in range(4):
        send(rig, "w", index * 10 + 1, index * 10 + 10)
        rig.settle(process, 3)
    rig.broker.expel(process.member)
    rig.broker.cut_back(P0, 1)
    send(rig, "v", 1, 10)
    rig.settle(rig.process())
    assert rig.points() == expected_points("w", 1, 40) + expected_points("v", 1, 10)


def test_a_log_that_goes_back_while_it_is_read_is_read_from_there() -> None:
    rig = Rig()
    process = rig.process()
    for index in range(4):
        send(rig, "w", index * 10 + 1, index * 10 + 10)
    rig.settle(process)
    rig.broker.cut_back(P0, 0)
    send(rig, "v", 1, 10)
    send(rig, "v", 11, 20)
    rig.settle(process, 20)
    assert rig.points() == expected_points("w", 1, 40) + expected_points("v", 1, 20)
    assert committed(rig) == (2, None)


def test_a_pending_range_of_which_the_front_has_expired_is_stored_as_far_as_it_is_there() -> None:
    rig = Rig()
    process = rig.process(inline=False)
    rig.settle(process, 3)
    for index in range(3):
        send(rig, "w", index * 10 + 1, index * 10 + 10)
    process.loop.tick(0)
    rig.broker.expel(process.member)
    rig.broker.expire(P0, 2)
    successor = rig.process()
    rig.settle(successor)
    assert rig.points() == expected_points("w", 21, 30)
    assert successor.count("expired_offsets_total", topic=METRICS) == 2


def test_stopping_stores_and_commits_what_was_read() -> None:
    rig = Rig(limits=Limits(max_age=60))
    process = rig.process()
    rig.settle(process, 3)
    send(rig, "w", 1, 10)
    process.loop.tick(0)
    assert rig.points() == {}
    process.loop.finish(5)
    assert rig.points() == expected_points("w", 1, 10)
    assert committed(rig) == (1, None)


def test_two_processes_share_the_partitions_and_one_takes_over_when_the_other_is_gone() -> None:
    rig = Rig(partitions=4)
    first, second = rig.process(), rig.process()
    partitions = [Partition(METRICS, number) for number in range(4)]
    for number, partition in enumerate(partitions):
        send(rig, f"w{number}", 1, 10, partition)
    for _ in range(10):
        rig.settle(first, 1)
        rig.settle(second, 1)
    assert first.count("messages_total", topic=METRICS) == 2
    assert second.count("messages_total", topic=METRICS) == 2
    rig.broker.expel(first.member)
    for number, partition in enumerate(partitions):
        send(rig, f"w{number}", 11, 20, partition)
    rig.settle(second)
    assert rig.points() == sum((expected_points(f"w{number}", 1, 20) for number in range(4)), expected_points("", 1, 0))
