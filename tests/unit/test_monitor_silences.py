"""Silences: what is told to nobody and recorded all the same, until when, and across restarts."""

import json
from dataclasses import replace

import pytest

from pulsetrain_consumers.monitor.alerts import AlertBook, Policy
from pulsetrain_consumers.monitor.findings import Finding, Severity
from pulsetrain_consumers.monitor.notifications import Route
from pulsetrain_consumers.monitor.silences import LOOK_SECONDS, MemorySilences, Silence, Silences, lift
from pulsetrain_schemas.events import Alert
from tests.monitor_rig import NAN, Process, Rig

T0 = 1_700_000_000.0
BAD, GOOD = [NAN, NAN], [1.0] * 25


@pytest.mark.parametrize(
    ("silence", "is_silenced"),
    [
        (Silence(), True),
        (Silence(project="p", run="r", kind="nan", subject="train/loss"), True),
        (Silence(project="p*", subject="*loss"), True),
        (Silence(project="q"), False),
        (Silence(run="r2"), False),
        (Silence(kind="rule"), False),
        (Silence(subject="loss"), False),
        (Silence(starts=T0, ends=T0 + 1), True),
        (Silence(starts=T0 + 1), False),
        (Silence(ends=T0), False),
    ],
)
def test_all_that_a_silence_says_must_fit_and_its_time(silence: Silence, is_silenced: bool):
    book = Silences((silence,), MemorySilences())
    assert book.of_run("p", "r")("nan", "train/loss", T0) is is_silenced


def test_the_store_is_looked_at_every_two_seconds_and_counts_as_it_was_while_it_is_away():
    store = MemorySilences()
    book = Silences((), store)
    book.look(10.0, T0)
    store.save(Silence(starts=T0, ends=T0 + 60), T0)
    is_silenced = book.of_run("p", "r")
    book.look(10.0 + LOOK_SECONDS / 2, T0)
    assert not is_silenced("nan", "", T0)
    book.look(10.0 + LOOK_SECONDS, T0)
    assert is_silenced("nan", "", T0)
    store.away = True
    with pytest.raises(Exception, match="away"):
        book.look(100.0, T0)
    assert not book.look(100.0 + LOOK_SECONDS / 2, T0)  # not before its time
    assert is_silenced("nan", "", T0)


def silenced(rig: Rig, **more: str) -> Silence:
    now = rig.clock.now()
    made = Silence(**more, starts=now, ends=now + 60)
    rig.silences[made.silence_id] = made
    return made


def told(rig: Rig, kind: str = "nan") -> list[tuple[int, str, bool]]:
    return [(alert.sequence, alert.state, alert.silenced) for alert in rig.told() if alert.kind == kind]


def started() -> tuple[Rig, Process]:
    rig = Rig()
    process = Process(rig)
    rig.settle(process, 2)
    return rig, process


def test_what_begins_and_ends_in_a_silence_is_recorded_and_wanted_by_no_sink():
    rig, process = started()
    silenced(rig, kind="nan")
    rig.settle(process, 4)
    rig.metrics("r", BAD)
    rig.settle(process)
    rig.metrics("r", GOOD)
    rig.settle(process)
    assert told(rig) == [(0, "firing", True), (1, "resolved", True)]
    route = Route(sink=None)  # type: ignore[arg-type]
    assert not any(route.wants(alert) for alert in rig.told())
    assert all(route.wants(replace(alert, silenced=False)) for alert in rig.told())


def test_the_end_is_told_to_whom_the_beginning_was_told():
    rig, process = started()
    rig.metrics("r", BAD)
    rig.settle(process)
    silenced(rig, run="r")
    rig.settle(process, 4)
    rig.metrics("r", GOOD)
    rig.settle(process)
    assert told(rig) == [(0, "firing", False), (1, "resolved", False)]


@pytest.mark.parametrize("ending", ["over", "lifted"])
def test_what_outlasts_its_silence_is_told_then_and_once_whoever_comes_up(ending: str):
    rig, process = started()
    made = silenced(rig, kind="nan")
    rig.settle(process, 4)
    rig.metrics("r", BAD)
    rig.settle(process, 4)
    process = Process(rig)  # the other was killed, and saved or not
    rig.settle(process, 4)
    assert told(rig) == [(0, "firing", True)]
    if ending == "lifted":
        lift(MemorySilences(rig.silences), made, rig.clock.now())
    else:
        rig.clock.time += 60
    rig.settle(process, 5)
    rig.settle(Process(rig), 20)
    assert told(rig) == [(0, "firing", True), (1, "firing", False)]


@pytest.mark.parametrize("ticks", [False, True], ids=["tick-lost", "tick-added"])
def test_a_book_that_lives_its_past_again_tells_no_change_of_a_silence_twice(ticks: bool):
    """The silence is over at T0 + 10: which tick first sees that, or none before the end, is another each time."""

    def book() -> AlertBook:
        return AlertBook("p", "r", "m", lambda kind, _: Policy(kind), lambda kind, subject, at: at < T0 + 10)

    def act(one: AlertBook, at: float) -> list[Alert]:
        if at in (5, 20):
            return list(one.note(Finding("nan", "", at == 5, Severity.INFO, "", T0 + at), T0 + at))
        return list(one.tick(T0 + at))

    first, second = ([5, 12, 20], [5, 20]) if not ticks else ([5, 20], [5, 8, 11, 15, 20])
    for saved in range(len(first)):
        one, said, state = book(), list[tuple[int, Alert]](), book().state()
        for number, at in enumerate(first):
            state = json.loads(json.dumps(one.state())) if number == saved else state
            said += [(number, alert) for alert in act(one, at)]
        other = book()
        other.restore(state)
        for number, alert in said:
            if number >= saved:
                other.heard(alert)
        again = [alert for at in second if at >= first[saved] for alert in act(other, at)]
        assert not [*again, *other.lived(T0 + 21), *other.tick(T0 + 22)]
        assert [alert.sequence for _, alert in said] == list(range(len(said)))


def test_run_alert_is_silenced_too():
    rig, process = started()
    silenced(rig, kind="user", subject="look*")
    rig.settle(process, 4)
    rig.alert("r")
    rig.alert("r", "else")
    rig.settle(process)
    assert told(rig, "user") == [
        (0, "firing", True),
        (1, "resolved", True),
        (0, "firing", False),
        (1, "resolved", False),
    ]


def test_a_monitor_begins_when_it_knows_what_is_silent():
    rig = Rig()
    store = MemorySilences(rig.silences)
    store.away = True
    process = Process(rig, silences=Silences((), store))
    rig.settle(process, 5)
    assert not process.health.ready()[0]
    store.away = False
    rig.settle(process, 5)
    assert process.health.ready() == (True, "ready")
    store.away = True
    rig.metrics("r", BAD)
    rig.settle(process)
    assert told(rig) == [(0, "firing", False)]
    assert "silences" in process.health.ready()[1]
