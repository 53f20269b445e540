"""The monitor in bad times: what is away, late, damaged, hostile or too much, and what it makes of that."""

import json
import logging
import math
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pulsetrain_consumers.monitor import monitor as monitor_module
from pulsetrain_consumers.monitor.findings import Finding, Severity
from pulsetrain_consumers.monitor.monitor import FORGET_FIRING_SECONDS, FORGET_SECONDS, MONITOR_TOPICS
from pulsetrain_consumers.monitor.telling import ALERT_TOPIC
from pulsetrain_consumers.monitor.watch import RunWatch
from pulsetrain_consumers.monitor.watched import PLACE, part, place, place_text, unread
from pulsetrain_consumers.runtime.broker import MessageTooLarge, Partition
from pulsetrain_consumers.runtime.memory import MemoryBroker
from pulsetrain_schemas import events
from pulsetrain_schemas.events import Alert, MetricBatch, Origin
from tests.examples import examples
from tests.monitor_rig import METRICS, NAN, RUNS, SOURCE, SYSTEM, Process, Rig
from tests.unit.test_writer_tables import metric_batches

# This may be a busy one.
SLOW_MACHINE = 5
BAD, GOOD = [NAN, NAN], [1.0] * 25


def started() -> tuple[Rig, Process]:
    rig = Rig()
    process = Process(rig)
    rig.settle(process, 2)
    return rig, process


def told(rig: Rig, *kinds: str) -> list[tuple[str, str, str]]:
    return [(alert.run_id, alert.kind, alert.state) for alert in rig.told() if not kinds or alert.kind in kinds]


def test_it_is_ready_when_it_has_begun_and_says_why_it_is_not():
    rig = Rig()
    rig.store_away = rig.broker.away = True
    process = Process(rig)
    assert process.health.ready() == (False, "state: not read yet")
    rig.settle(process, 3)
    assert process.health.ready() == (False, "state: the store is away")
    process.store.inner.away = False
    rig.settle(process, 10)
    assert "kafka: the broker is away" in process.health.ready()[1]
    rig.broker.away = False
    rig.settle(process, 10)
    assert process.health.ready() == (True, "ready")


def test_a_trouble_is_told_once_and_its_end_once():
    rig, process = started()
    rig.metrics("r", BAD)
    rig.settle(process)
    rig.metrics("r", GOOD)
    rig.settle(process)
    assert told(rig, "nan") == [("r", "nan", "firing"), ("r", "nan", "resolved")]
    assert {alert.source for alert in rig.told()} == {SOURCE}
    assert process.count("monitor_alerts_total", kind="nan", state="firing") == 1


def test_a_message_that_comes_again_with_another_end_counts_for_what_is_new_in_it():
    """A single NaN may be a step that was skipped; sent twice it is still one."""
    rig, process = started()
    rig.metrics("r", [1.0, 1.0, NAN])
    rig.append(METRICS, "r", rig.batch("r", 2, 4, [1.0, NAN, 1.0]))
    rig.settle(process)
    assert told(rig, "nan") == []


# --- clocks


def test_where_the_brokers_clock_goes_back_troubles_still_begin_and_end():
    rig, process = started()
    rig.metrics("r", BAD)
    rig.settle(process)
    real, rig.broker._clock = rig.broker._clock, replace_clock(rig, -7_200.0)
    rig.metrics("r", GOOD)
    rig.metrics("other", BAD)
    rig.settle(process)
    assert told(rig, "nan") == [("r", "nan", "firing"), ("r", "nan", "resolved"), ("other", "nan", "firing")]
    process = Process(rig)
    rig.settle(process, 20)
    rig.metrics("other", GOOD)
    rig.settle(process, 5)
    rig.broker._clock = real
    assert told(rig, "nan")[3:] == [("other", "nan", "resolved")]


def replace_clock(rig: Rig, offset: float) -> Any:
    class Shifted:
        def now(self) -> float:
            return rig.clock.now() + offset

        monotonic = rig.clock.monotonic

    return Shifted()


def test_after_the_brokers_clock_was_ahead_for_a_while_runs_are_not_forgotten():
    rig, process = started()
    real, rig.broker._clock = rig.broker._clock, replace_clock(rig, 86_400.0)
    rig.metrics("r", [1.0])
    rig.settle(process, 3)
    rig.broker._clock = real
    for _ in range(5):
        rig.metrics("r", [1.0])
        rig.settle(process, 3)
    assert process.monitor.watched == 1


def beats(rig: Rig, run: str) -> None:
    rig.event(run, "heartbeat")


def test_a_run_whose_words_wait_in_a_partition_that_is_behind_is_not_silent():
    """Ten minutes are read a record at a time: all of one partition, and then the other."""
    rig, process = started()
    for _ in range(5):
        for run in ("a", "b"):
            beats(rig, run)
        rig.settle(process, 1, 10.0)
    for _ in range(60):
        rig.clock.time += 10.0
        beats(rig, "a")
        beats(rig, "b")
    process.follower.max_records = 1
    rig.settle(process, 150, 0.4)
    assert told(rig, "lost_host") == []
    rig.settle(process, 100)
    assert sorted(told(rig, "lost_host")) == [("a", "lost_host", "firing"), ("b", "lost_host", "firing")]


def test_while_the_broker_is_away_nobody_is_silent():
    rig, process = started()
    for _ in range(10):
        beats(rig, "r")
        rig.settle(process, 10)
    rig.broker.away = True
    rig.settle(process, 600)
    rig.broker.away = False
    beats(rig, "r")
    rig.settle(process, 10)
    assert told(rig) == []
    rig.settle(process, 100)
    assert told(rig, "lost_host") == [("r", "lost_host", "firing")], "and who is silent then is told"


def test_a_host_that_dies_while_no_monitor_is_up_is_missed_though_nothing_ever_comes_again():
    rig, process = started()
    for _ in range(10):
        beats(rig, "r")
        rig.settle(process, 10)
    process.monitor.finish()
    rig.clock.time += 3 * FORGET_SECONDS
    rig.settle(Process(rig), 200)
    assert told(rig, "lost_host") == [("r", "lost_host", "firing")]


def test_a_monitor_that_dies_right_after_the_first_message_ever_leaves_one_that_knows_the_time():
    rig = Rig()
    beats(rig, "r")
    rig.settle(Process(rig), 2, 0.1)
    saved = json.loads(rig.table[PLACE][1])
    assert saved["now"] == 0, "it has read, and has not looked at the time"
    assert 1 in saved["at"].values()
    rig.settle(Process(rig), 200, 10.0)
    assert told(rig, "lost_host") == [("r", "lost_host", "firing")]


# --- what is away, and damage


def test_with_the_store_away_for_an_hour_alerts_are_told_and_known_after_a_kill():
    rig, process = started()
    process.store.inner.away = True
    for number in range(12):
        rig.metrics(f"r{number}", BAD)
        rig.alert(f"r{number}", wait=100.0)
        rig.settle(process, 10, 30.0)
    before = rig.changes()
    assert len([change for change in before if change[2] == "firing"]) >= 24
    assert not process.health.ready()[0]
    rig.settle(Process(rig), 20)
    assert rig.changes("nan", "user") == [change for change in before if change in set(rig.changes("nan", "user"))]
    rig.metrics("r0", GOOD)
    rig.settle(Process(rig), 20)
    assert told(rig, "nan")[-1] == ("r0", "nan", "resolved")


def test_alerts_of_runs_that_began_after_the_last_save_are_not_told_again():
    rig, process = started()
    process.store.inner.away = True
    rig.metrics("new", BAD)
    rig.settle(process)
    rig.settle(Process(rig), 20)
    assert told(rig, "nan") == [("new", "nan", "firing")]


def test_a_topic_of_alerts_that_was_created_again_is_told_on():
    rig, process = started()
    rig.metrics("r", BAD)
    rig.settle(process)
    process.monitor.finish()
    rig.broker.delete_topic(ALERT_TOPIC)
    rig.broker.create_topic(ALERT_TOPIC, 1)
    process = Process(rig)
    rig.settle(process)
    rig.metrics("r", GOOD)
    rig.settle(process)
    assert told(rig, "nan") == [("r", "nan", "resolved")]


def test_a_topic_whose_records_are_all_gone_does_not_stop_it():
    rig, process = started()
    rig.metrics("r", BAD)
    rig.settle(process)
    for topic in (*MONITOR_TOPICS, ALERT_TOPIC):
        for partition, held in rig.broker.topics[topic].logs.items():
            rig.broker.expire(partition, held.end + 10)
    process = Process(rig)
    rig.settle(process)
    rig.metrics("r", GOOD)
    rig.settle(process)
    assert told(rig, "nan") == [("r", "nan", "resolved")]


@pytest.mark.parametrize("damage", ["{", "[]", "null", '{"run": ["p", "r"]}', '{"now": "x", "at": {"t": 1}}', "\x00"])
def test_what_was_saved_and_cannot_be_read_stops_nothing(damage: str, caplog: pytest.LogCaptureFixture):
    rig, process = started()
    rig.metrics("r", BAD)
    rig.metrics("s", [1.0])
    rig.settle(process)
    for name, (version, _) in rig.table.items():
        rig.table[name] = version, damage
    process = Process(rig)
    rig.settle(process)
    rig.metrics("s", BAD)
    rig.settle(process)
    assert told(rig, "nan") == [("r", "nan", "firing"), ("s", "nan", "firing")]
    assert "cannot be read" in caplog.text or damage == "null"


def test_of_a_run_that_another_release_watched_the_alerts_are_kept_and_end():
    rig, process = started()
    rig.metrics("r", BAD)
    rig.settle(process)
    process.monitor.finish()
    version, text = rig.table["p/r"]
    state = json.loads(text)
    state["watch"] = {"writers": 7}
    rig.table["p/r"] = version, json.dumps(state)
    process = Process(rig)
    for _ in range(70):
        beats(rig, "r")
        rig.settle(process, 10)
    assert told(rig, "nan") == [("r", "nan", "firing"), ("r", "nan", "resolved")]
    assert "not seen again" in rig.told()[-1].text


def test_a_run_that_cannot_be_saved_holds_up_no_other(monkeypatch: pytest.MonkeyPatch):
    rig, process = started()
    rig.metrics("bad", [1.0])
    rig.metrics("good", [1.0])
    real = RunWatch.state
    monkeypatch.setattr(RunWatch, "state", lambda self: {1, 2} if self.run_id == "bad" else real(self))
    rig.settle(process)
    assert "p/good" in rig.table
    assert process.count("consumer_errors_total", kind="state") >= 1


def test_a_message_that_cannot_be_judged_stops_nothing_and_its_alert_is_told(monkeypatch: pytest.MonkeyPatch):
    rig, process = started()

    def fails(*_: Any) -> Sequence[Finding]:
        raise ZeroDivisionError

    with monkeypatch.context() as patched:
        for name in ("metrics", "event", "tick"):
            patched.setattr(RunWatch, name, fails)
        rig.metrics("r", BAD)
        rig.alert("r")
        rig.settle(process)
    rig.metrics("r", [1.0, *BAD])
    rig.settle(process)
    assert told(rig) == [("r", "user", "firing"), ("r", "user", "resolved"), ("r", "nan", "firing")]
    assert process.count("consumer_errors_total", kind="detectors") > 2


def test_messages_that_cannot_be_read_are_counted_and_passed_over():
    rig, process = started()
    for topic in MONITOR_TOPICS:
        for garbage in (b"", b"garbage", None, events.encode(rig.batch("r", 1, 2, BAD))[:-1]):
            rig.broker.append(Partition(topic, 0), garbage)
    rig.broker.append(Partition(ALERT_TOPIC, 0), b"garbage")
    rig.metrics("r", BAD)
    rig.settle(process)
    assert [(alert.run_id, alert.state) for alert in decoded(rig)] == [("r", "firing")]
    assert process.count("consumer_errors_total", kind="unreadable") == 13


def decoded(rig: Rig) -> list[Alert]:
    values = [record.value or b"" for record in rig.broker.records(ALERT_TOPIC)]
    return [events.decode(value, Alert) for value in values if value != b"garbage"]


# --- hostile and odd


def test_alerts_of_another_group_are_none_of_ours():
    rig, process = started()
    rig.metrics("r", BAD)
    rig.settle(process)
    (firing,) = rig.told()
    theirs = replace(firing, source="staging", sequence=1, state="resolved", time=firing.time + 60_000_000)
    rig.broker.publish(ALERT_TOPIC, [(b"r", events.encode(theirs))])
    rig.settle(process)
    rig.metrics("r", GOOD)
    rig.settle(process)
    assert [alert.state for alert in rig.told() if alert.source == SOURCE] == ["firing", "resolved"]


def test_names_with_slashes_are_those_of_different_runs():
    rig, process = started()
    rig.metrics("c", BAD, project="a/b")
    rig.metrics("b/c", GOOD, project="a")
    rig.settle(process)
    process.monitor.finish()
    rig.metrics("c", GOOD, project="a/b")
    rig.metrics("b/c", BAD, project="a")
    rig.settle(Process(rig))
    assert sorted((alert.project, alert.run_id, alert.state) for alert in rig.told()) == [
        ("a", "b/c", "firing"), ("a/b", "c", "firing"), ("a/b", "c", "resolved"),
    ]  # fmt: skip


@examples(100)
@given(st.lists(st.tuples(st.text("ab/%2F한\ud800"), st.text("ab/%2F")), unique=True, max_size=20))
def test_parts_are_named_apart(keys: list[tuple[str, str]]):
    names = {part(key) for key in keys}
    assert len(names) == len(keys)
    assert PLACE not in names


def test_a_place_comes_back():
    positions = {Partition("a.b", 0): 5, Partition("x[1]", 12): 2**40}
    assert place(place_text(positions, 17.5)) == (positions, 17.5)
    assert place("") == ({}, 0.0)


@pytest.mark.parametrize(
    "finding",
    [
        Finding("odd", "s", True, Severity.INFO, "x", math.nan, value=math.inf),
        Finding("odd", "s" * 2_000, True, Severity.INFO, "x" * 2_000_000, -1e9, step=2**62),
        Finding("odd", "s", True, Severity.INFO, "\ud55c\uad6d\uc5b4\x00\u2028", 1e30),
        Finding("odd", "s", True, Severity.INFO, "x \ud800", 0.0),
    ],
)
def test_whatever_is_found_can_be_told_and_saved(finding: Finding, monkeypatch: pytest.MonkeyPatch):
    rig, process = started()
    monkeypatch.setattr(RunWatch, "metrics", lambda *_: [finding])
    rig.metrics("r", [1.0])
    rig.settle(process)
    rig.settle(Process(rig))
    assert told(rig, "odd") == [("r", "odd", "firing")]


@pytest.mark.parametrize(
    "finding",
    [
        Finding("odd", "s", True, Severity.INFO, "x", 0.0, step=2**70),
        Finding("odd", "s", True, Severity.INFO, "x", 0.0, rank=-1),
        Finding("odd", "s", True, "urgent", "x", 0.0),  # type: ignore[arg-type]
    ],
)
def test_what_cannot_be_told_is_counted_and_holds_up_nothing(finding: Finding, monkeypatch: pytest.MonkeyPatch):
    rig, process = started()
    with monkeypatch.context() as patched:
        patched.setattr(RunWatch, "metrics", lambda *_: [finding])
        rig.metrics("r", [1.0])
        rig.alert("r")
        rig.settle(process)
    assert told(rig) == [("r", "user", "firing"), ("r", "user", "resolved")]
    assert process.count("consumer_errors_total", kind="untellable") == 1


def test_an_alert_that_is_too_large_is_left_out_and_the_others_are_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    rig, process = started()
    rig.broker.topics[ALERT_TOPIC].max_message_bytes = 500
    rig.alert("a", "x" * 900)
    rig.alert("b", "short")
    rig.settle(process)
    assert told(rig) == [("b", "user", "firing"), ("b", "user", "resolved")]
    assert process.count("consumer_errors_total", kind="untellable") == 2
    assert isinstance(rig.broker, MemoryBroker)
    assert MessageTooLarge.__name__ not in caplog.text


@pytest.mark.parametrize("at", [0.0, 1e-6, 4.2e9, 9e12])
def test_run_alert_of_any_clock_is_told(at: float):
    rig, process = started()
    rig.alert("r", time=at)
    rig.settle(process)
    assert told(rig) == [("r", "user", "firing"), ("r", "user", "resolved")]


def test_what_is_not_a_number_is_remembered():
    rig, process = started()
    rig.metrics("r", [1.0] * 300)
    rig.metrics("r", [math.inf, -math.inf, NAN, 1e308, 1e308])
    rig.settle(process)
    process.monitor.finish()
    text = rig.table["p/r"][1]
    watch = RunWatch.restored("p", "r", json.loads(text)["watch"])
    assert json.dumps(watch.state()) == json.dumps(json.loads(text)["watch"])


# --- forgetting, and very many runs


def test_a_run_that_is_silent_for_an_hour_is_forgotten_and_with_an_alert_that_fires_after_a_day():
    rig, process = started()
    rig.metrics("quiet", [1.0])
    rig.metrics("firing", BAD)
    rig.event("firing", "finish", state="crashed", exit_code=1)
    rig.settle(process)
    rig.settle(process, 3, FORGET_SECONDS)
    assert process.monitor.watched == 1
    assert "p/firing" in rig.table
    assert rig.table["p/quiet"][1] == ""
    open_before = [alert.kind for alert in rig.told() if alert.state == "firing"]
    assert "crashed" in open_before
    rig.settle(process, 30, FORGET_FIRING_SECONDS / 20)
    assert process.monitor.watched == 0
    assert not [text for name, (_, text) in rig.table.items() if name != PLACE and text]
    last = {alert.alert_id: alert for alert in rig.told()}
    assert {alert.state for alert in last.values()} == {"resolved"}
    assert "watched no more" in rig.told()[-1].text


def test_a_run_that_comes_back_after_it_was_forgotten_is_watched_and_saved():
    rig, process = started()
    rig.metrics("r", [1.0])
    rig.settle(process)
    rig.clock.time += FORGET_SECONDS
    process.monitor.tick(0)
    rig.metrics("r", BAD)
    rig.settle(process)
    assert rig.table["p/r"][1]
    assert told(rig, "nan") == [("r", "nan", "firing")]


def test_very_many_runs_leave_the_monitor_time_to_watch():
    """What a tick costs for each run, in this process's time alone: 10,000 of them have a second."""
    rig, process = started()
    count = 300
    for number in range(count):
        rig.metrics(f"r{number}", [1.0])
    rig.settle(process, 8, 1.0)
    assert process.monitor.watched == count
    began = time.process_time()
    rig.settle(process, 20, 1.0)
    assert (time.process_time() - began) / 20 / count < 1e-4 * SLOW_MACHINE


def test_saving_that_takes_long_is_done_less_often(monkeypatch: pytest.MonkeyPatch):
    rig, process = started()
    saves = []
    inner = process.store.inner.save

    def slow(parts: Any) -> None:
        saves.append(rig.clock.time)
        rig.clock.time += 4.0
        inner(parts)

    monkeypatch.setattr(process.store.inner, "save", slow)
    for _ in range(100):
        rig.metrics("r", [1.0])
        rig.settle(process, 1, 1.0)
    gaps = np.diff(saves)
    assert len(gaps) >= 1
    assert gaps.min() >= 4.0 / monitor_module.SAVE_SHARE


# --- what of a message is new


@examples(100)
@given(kept=metric_batches(), after=st.integers(0, 60))
def test_what_of_a_message_came_before_is_cut_off_row_by_row(kept: Any, after: int):
    batch: MetricBatch = kept.event
    cut = unread(batch, after)
    events.decode(events.encode(cut), MetricBatch)
    assert points(cut) == [point for point in points(batch) if point[0] > after]
    assert texts(cut) == [text for text in texts(batch) if text[0] > after]
    assert cut.origin.first_sequence == max(after + 1, batch.origin.first_sequence)


def points(batch: MetricBatch) -> list[tuple[int, int, int, str, float]]:
    rows, keys = batch.point_rows, batch.point_keys
    return [
        (int(batch.row_sequences[row]), int(batch.row_steps[row]), int(batch.row_times[row]), batch.keys[key], value)
        for row, key, value in zip(rows, keys, np.asarray(batch.values).tolist(), strict=True)
    ]


def texts(batch: MetricBatch) -> list[tuple[int, str, str]]:
    rows = zip(batch.text_rows, batch.text_keys, batch.text_values, strict=True)
    return [(int(batch.row_sequences[row]), batch.keys[key], text) for row, key, text in rows]


def test_samples_of_the_hardware_are_cut_too():
    batch = events.SystemBatch(
        Origin("p", "r", "w", 0, 0, 0, 1, 3), "h", ["a"], [""], np.array([-1]), np.array([1]), np.array([0]),
        np.array([1, 2, 3]), np.array([10, 20, 30]), np.zeros(3, np.int64), np.array([1.0, 2.0, 3.0]),
    )  # fmt: skip
    cut = unread(batch, 2)
    assert (cut.values.tolist(), cut.row_times.tolist(), cut.origin.first_sequence) == ([3.0], [30], 3)
    assert unread(batch, 0) is batch


def test_the_topics_that_it_reads_are_these():
    assert MONITOR_TOPICS == (RUNS, METRICS, SYSTEM)
    assert logging.getLogger("pulsetrain_consumers.monitor.monitor") is monitor_module.log
