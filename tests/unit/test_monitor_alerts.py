"""An alert's life: what fires when, and that a book that lives its past again neither forgets nor repeats."""

import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pulsetrain_consumers.monitor.alerts import AlertBook, Policy
from pulsetrain_consumers.monitor.findings import Finding, Severity
from pulsetrain_schemas.events import LATEST_TIME, Alert, UserAlert, decode, encode
from tests.examples import examples

T0 = 1_700_000_000.0
HOLD = 30.0
COOLDOWN = 300.0
Change = tuple[str, int, str]


def policy(kind: str, subject: str) -> Policy:
    return Policy(f"{kind}: {subject}", hold=HOLD if kind == "slow" else 0.0, labels={"team": "vision"})


def book() -> AlertBook:
    return AlertBook("p", "r", "pulsetrain-monitor", policy)


def found(
    present: bool = True, kind: str = "nan", subject: str = "loss", time: float = T0, text: str = "it is"
) -> Finding:
    return Finding(kind, subject, present, Severity.CRITICAL, text, time, step=7, value=1.5, rank=0, host="h", gpu="g")


def states(alerts: Iterable[Alert]) -> list[str]:
    return [alert.state for alert in alerts]


def identities(alerts: Iterable[Alert]) -> list[Change]:
    return [(alert.alert_id, alert.sequence, alert.state) for alert in alerts]


def again(one: AlertBook) -> AlertBook:
    """The book that comes up from what the one saved, through JSON."""
    other = book()
    other.restore(json.loads(json.dumps(one.state())))
    return other


def test_a_trouble_fires_once_and_is_resolved_once():
    one = book()
    (firing,) = one.note(found(), T0 + 1)
    assert not [*one.note(found(text="still"), T0 + 2), *one.tick(T0 + 3)]
    (resolved,) = one.note(found(False, text="over"), T0 + 4)
    assert not [*one.note(found(False), T0 + 5), *one.tick(T0 + 6)]
    assert (firing.state, firing.sequence, resolved.state, resolved.sequence) == ("firing", 0, "resolved", 1)
    assert firing.alert_id == resolved.alert_id
    assert (firing.time, resolved.time) == (round((T0 + 1) * 1e6), round((T0 + 4) * 1e6))
    assert firing.started == resolved.started == round(T0 * 1e6)
    assert (firing.title, firing.text, resolved.text, firing.severity) == ("nan: loss", "it is", "over", "critical")
    assert (firing.step, firing.value, firing.rank, firing.host, firing.gpu) == (7, 1.5, 0, "h", "g")
    assert firing.labels == {"team": "vision"}
    assert [decode(encode(alert), Alert) for alert in (firing, resolved)] == [firing, resolved]


def test_what_is_over_and_never_was_there_changes_nothing():
    assert not [*book().note(found(False), T0)]


def test_a_trouble_that_must_last_is_pending_first():
    one = book()
    (pending,) = one.note(found(kind="slow"), T0)
    assert not [*one.tick(T0 + HOLD - 0.001)]
    (firing,) = one.tick(T0 + HOLD + 5)
    assert identities([pending, firing]) == [(pending.alert_id, 0, "pending"), (pending.alert_id, 1, "firing")]
    assert firing.time == round((T0 + HOLD) * 1e6)


def test_one_that_ends_before_it_fires_is_resolved_and_never_fired():
    one = book()
    changes = [*one.note(found(kind="slow"), T0), *one.note(found(False, kind="slow"), T0 + 10), *one.tick(T0 + 99)]
    assert states(changes) == ["pending", "resolved"]


def test_what_lasted_long_enough_has_fired_though_nobody_ticked_meanwhile():
    one = book()
    changes = [*one.note(found(kind="slow"), T0), *one.note(found(False, kind="slow"), T0 + HOLD)]
    assert states(changes) == ["pending", "firing", "resolved"]


def test_what_comes_back_within_the_cooldown_fires_after_it_if_it_is_still_there():
    one = book()
    (first, over) = [*one.note(found(), T0), *one.note(found(False), T0 + 10)]
    assert not [*one.note(found(), T0 + 20), *one.tick(T0 + 10 + COOLDOWN - 1)]
    (second,) = one.tick(T0 + 10 + COOLDOWN)
    assert (second.state, second.sequence) == ("firing", 0)
    assert second.alert_id != first.alert_id == over.alert_id


def test_what_comes_back_within_the_cooldown_and_goes_again_is_not_told():
    one = book()
    list(one.note(found(), T0))
    list(one.note(found(False), T0 + 10))
    flapping = [change for n in range(20, 200, 20) for change in one.note(found(n % 40 == 20), T0 + n)]
    assert not [*flapping, *one.note(found(False), T0 + 300), *one.tick(T0 + 2 * COOLDOWN)]


def test_what_comes_back_after_the_cooldown_fires_at_once():
    one = book()
    first = [*one.note(found(), T0), *one.note(found(False), T0 + 10)]
    list(one.tick(T0 + 10 + COOLDOWN))
    assert not one.is_open
    (second,) = one.note(found(), T0 + 10 + COOLDOWN)
    assert (second.state, second.sequence) == ("firing", 0)
    assert second.alert_id != first[0].alert_id


def test_kinds_and_subjects_have_alerts_of_their_own():
    one = book()
    pairs = [("nan", "loss"), ("nan", "val"), ("stall", "loss")]
    changes = [change for kind, subject in pairs for change in one.note(found(kind=kind, subject=subject), T0)]
    assert len({change.alert_id for change in changes}) == 3
    assert states(one.note(found(False, subject="val"), T0 + 1)) == ["resolved"]
    assert states(one.end_all(T0 + 2, "the run is over")) == ["resolved", "resolved"]
    assert not [*one.end_all(T0 + 3, "again")]


@pytest.mark.parametrize("back", [1e-6, 3.0, 3600.0, 1e9])
def test_where_the_broker_s_clock_goes_back_alerts_begin_and_end_all_the_same(back: float):
    one = book()
    changes = [*one.note(found(), T0), *one.note(found(False), T0 - back)]
    assert states(changes) == ["firing", "resolved"]
    assert changes[0].time <= changes[1].time
    list(one.note(found(), T0 - back))
    (later,) = one.tick(T0 + COOLDOWN)
    assert later.alert_id != changes[0].alert_id
    assert later.time > changes[1].time


def test_troubles_that_come_and_go_in_one_instant_are_told_apart():
    one = AlertBook("p", "r", "m", lambda kind, subject: Policy(kind, cooldown=0.0))
    changes = [change for n in range(6) for change in one.note(found(n % 2 == 0), T0)]
    assert len(set(identities(changes))) == 6
    assert len({change.alert_id for change in changes}) == 3


@pytest.mark.parametrize("time", [math.nan, math.inf, -math.inf, -1.0, 1e300])
def test_a_trouble_of_any_time_can_be_told(time: float):
    (alert,) = book().note(replace(found(), time=time, value=math.nan), T0)
    assert 0 <= alert.started <= LATEST_TIME
    assert math.isnan(decode(encode(alert), Alert).value or 0)


def test_titles_and_texts_fit_a_message_and_whatever_is_in_them_can_be_told():
    (alert,) = book().note(found(subject="s" * 100_000, text="\U0001f600" * 1_000_000), T0)
    assert len(encode(alert)) < 1 << 20
    assert alert.text.endswith("…")


# --- run.alert()


def said(title: str = "look", wait: float = 0.0, level: str = "WARN") -> UserAlert:
    return UserAlert(title=title, text="at this", level=level, wait_seconds=wait)


def test_run_alert_fires_and_is_over_at_once():
    firing, resolved = book().told_by_user(said(), "w", 5, T0)
    assert identities([firing, resolved]) == [("w-5", 0, "firing"), ("w-5", 1, "resolved")]
    assert (firing.kind, firing.subject, firing.title, firing.text, firing.severity) == (
        ("user", "look", "look", "at this", "warning")
    )


@pytest.mark.parametrize(
    ("level", "severity"), [("INFO", "info"), ("WARN", "warning"), ("ERROR", "critical"), ("PANIC", "info")]
)
def test_levels_become_severities(level: str, severity: str):
    assert next(book().told_by_user(said(level=level), "w", 1, T0)).severity == severity


def test_for_as_long_as_it_asked_further_ones_of_its_title_are_left_out():
    one = book()
    assert len([*one.told_by_user(said(wait=60), "w", 1, T0)]) == 2
    assert not [*one.told_by_user(said(wait=60), "w", 2, T0 + 59)]
    assert len([*one.told_by_user(said(title="other"), "w", 3, T0 + 59)]) == 2
    assert len([*one.told_by_user(said(wait=60), "w2", 1, T0 + 60)]) == 2
    assert not [*again(one).told_by_user(said(), "w", 4, T0 + 61)]


def test_a_record_counts_once_for_each_writer():
    one = book()
    assert len([*one.told_by_user(said(), "w", 5, T0)]) == 2
    assert not [*one.told_by_user(said(), "w", 5, T0)]
    assert not [*one.told_by_user(said(), "w", 4, T0)]
    assert len([*one.told_by_user(said(), "v", 4, T0)]) == 2


def test_what_was_told_is_quiet_for_as_long_as_it_asked_also_after_a_restart():
    one = book()
    saved = again(one)
    changes = [*one.told_by_user(said(wait=60), "w", 1, T0)]
    for change in changes:
        saved.heard(change)
    assert not [*saved.told_by_user(said(wait=60), "w", 1, T0)]
    assert not [*saved.told_by_user(said(wait=60), "w", 2, T0 + 30)]


def test_one_whose_end_was_not_told_is_told_again_whole():
    saved = book()
    firing, resolved = book().told_by_user(said(), "w", 1, T0)
    saved.heard(firing)
    assert [*saved.told_by_user(said(), "w", 1, T0)] == [firing, resolved]


def test_titles_without_end_take_no_room_without_end():
    one = book()
    for number in range(3_000):
        list(one.told_by_user(said(title=f"loss is nan at step {number}", wait=1e9), "w", number + 1, T0 + number))
    assert len(json.dumps(one.state())) < 100_000
    assert not [*one.told_by_user(said(title="loss is nan at step 2999", wait=1e9), "w", 4_000, T0 + 4_000)]


# --- restarts: what the book is told by a script, of which any part comes again

SUBJECTS = [("nan", "loss"), ("nan", "val"), ("slow", "loss")]
Step = Callable[[AlertBook], Iterable[Alert]]


@st.composite
def scripts(draw: st.DrawFn) -> list[Step]:
    """Findings that alternate for each subject, run.alert() and ticks, with times that mostly go forth."""
    steps: list[Step] = []
    now, present, sequence = T0, dict.fromkeys(SUBJECTS, False), 0

    def note(key: tuple[str, str], there: bool, at: float) -> Step:
        return lambda one: one.note(found(there, *key), at)

    def user(number: int, title: str, wait: float, at: float) -> Step:
        return lambda one: one.told_by_user(said(title, wait), "w", number, at)

    for _ in range(draw(st.integers(1, 25))):
        now += draw(st.sampled_from([0.0, 0.0, 0.001, 1.0, 29.0, 31.0, 170.0, 301.0]))
        kind = draw(st.sampled_from(["find", "find", "find", "user", "tick"]))
        if kind == "find":
            key = draw(st.sampled_from(SUBJECTS))
            present[key] = not present[key]
            steps.append(note(key, present[key], now))
        elif kind == "user":
            sequence += 1
            title, wait = draw(st.sampled_from(["a", "b"])), draw(st.sampled_from([0.0, 10.0, 200.0]))
            steps.append(user(sequence, title, wait, now))
        else:
            steps.append(lambda one, at=now: one.tick(at))  # type: ignore[misc]
    return steps


def lives(one: AlertBook, steps: Sequence[Step]) -> list[Alert]:
    return [alert for step in steps for alert in step(one)]


@examples(100)
@given(script=scripts(), data=st.data())
def test_a_book_that_is_saved_and_restored_anywhere_tells_the_same(script: list[Step], data: st.DataObject):
    whole = lives(book(), script)
    one, told = book(), []
    for step in script:
        if data.draw(st.booleans()):
            one = again(one)
        told += list(step(one))
    assert told == whole


@examples(300)
@given(script=scripts(), data=st.data())
def test_a_book_that_comes_up_from_an_older_state_neither_forgets_nor_repeats(script: list[Step], data: st.DataObject):
    """Killed after `told` of its changes were told, it was saved before, and lives on from there; and perhaps again."""
    whole = lives(book(), script)
    topic: list[Alert] = []
    saved, saved_at, heard_to, told_when_saved = book(), 0, 0, 0
    for _ in range(data.draw(st.integers(1, 3))):
        one = again(saved)
        for alert in topic[heard_to:]:
            one.heard(alert)
        heard = len(topic)
        killed_at = data.draw(st.integers(saved_at, len(script)))
        for place in range(saved_at, killed_at):
            if data.draw(st.integers(0, 4)) == 0:
                saved, saved_at, heard_to, told_when_saved = again(one), place, heard, len(topic)
            topic += list(script[place](one))
        if topic[heard:] and data.draw(st.booleans()):  # the last of them were not told any more
            untold = data.draw(st.integers(0, len(topic) - heard))
            # What is saved is told, so what is untold came after.
            del topic[max(len(topic) - untold, told_when_saved) :]
    one = again(saved)
    for alert in topic[heard_to:]:
        one.heard(alert)
    topic += lives(one, script[saved_at:])
    end = T0 + 1e6
    topic += [*one.lived(end), *one.tick(end)]
    reference = book()
    whole = [*lives(reference, script), *reference.tick(end)]
    assert set(identities(topic)) == set(identities(whole))
    twice = [change for change in identities(topic) if identities(topic).count(change) > 1]
    assert all(alert_id.startswith("w-") for alert_id, _, _ in twice), "told twice"
    assert {alert.alert_id: alert for alert in topic} == {alert.alert_id: alert for alert in whole}


# --- restarts where the past comes in other words: findings that time alone brings


def test_what_fires_and_is_not_found_again_goes_on_and_ends_when_it_is_over():
    (firing,) = book().note(found(kind="stall"), T0)
    one = book()
    assert one.heard(firing)
    assert not [*one.lived(T0 + 5), *one.tick(T0 + 60)]
    assert not [*one.note(found(kind="stall"), T0 + 61)]
    (resolved,) = one.note(found(False, kind="stall"), T0 + 900)
    assert identities([resolved]) == [(firing.alert_id, 1, "resolved")]


def test_what_fires_and_is_never_seen_again_does_not_fire_for_ever():
    (firing,) = book().note(found(kind="stall"), T0)
    one = book()
    one.heard(firing)
    list(one.lived(T0 + 5))
    one = again(one)
    list(one.lived(T0 + 5_000))
    assert not [*one.tick(T0 + 5_599)]
    (resolved,) = one.tick(T0 + 5_600)
    assert identities([resolved]) == [(firing.alert_id, 1, "resolved")]
    assert "not seen again" in resolved.text


def test_what_is_found_again_at_another_moment_is_the_same_alert():
    (firing,) = book().note(found(kind="stall"), T0)
    one = book()
    one.heard(firing)
    assert not [*one.note(found(kind="stall"), T0 + 3), *one.lived(T0 + 5), *one.tick(T0 + 5_000)]
    assert identities(one.note(found(False, kind="stall"), T0 + 5_001)) == [(firing.alert_id, 1, "resolved")]


def test_what_was_resolved_and_is_there_all_the_same_fires_again_after_the_cooldown():
    one = book()
    changes = [*one.note(found(kind="stall"), T0)]
    saved = again(one)
    changes += one.note(found(False, kind="stall"), T0 + 10)
    saved.heard(changes[-1])
    assert not [*saved.lived(T0 + 12), *saved.tick(T0 + 10 + COOLDOWN - 1)]
    (second,) = saved.tick(T0 + 10 + COOLDOWN)
    assert (second.state, second.sequence) == ("firing", 0)
    assert second.alert_id != changes[0].alert_id


def test_what_another_told_meanwhile_is_the_same_trouble():
    """Two monitors at once: the one that was frozen told what this one has not come to yet."""
    frozen, one = book(), book()
    changes = [*frozen.note(found(), T0), *frozen.note(found(False), T0 + 10)]
    for change in changes:
        one.heard(change)
    assert not [*one.lived(T0 + 11), *one.note(found(), T0), *one.note(found(False), T0 + 10), *one.tick(T0 + 999)]


def test_what_it_told_itself_is_no_news():
    one = book()
    for change in [*one.note(found(), T0), *one.note(found(False), T0 + 10)]:
        assert not one.heard(change)


def test_a_book_whose_run_is_known_no_more_ends_what_is_not_seen_again():
    one = book()
    list(one.note(found(), T0))
    one = again(one)
    one.doubt(lambda kind: kind != "rule")
    list(one.lived(T0 + 100))
    assert not [*one.tick(T0 + 699)]
    assert states(one.tick(T0 + 700)) == ["resolved"]


def test_changes_that_a_newer_monitor_invented_are_left_alone():
    (firing,) = book().note(found(), T0)
    one = book()
    assert not one.heard(replace(firing, state="unknown"))
    assert not one.is_open
