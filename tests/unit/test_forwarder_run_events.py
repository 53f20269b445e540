"""What the runs topic is told of where an attempt begins, of forks and of definitions, and that it comes back whole."""

import json

from pulsetrain._run.alert import alert_event
from pulsetrain._run.definitions import Definition
from pulsetrain.forwarder.acknowledgement import Counters
from pulsetrain.forwarder.run_events import run_events
from pulsetrain.forwarder.tail import Identity
from pulsetrain.journal.reader import Event
from pulsetrain_schemas.events import RunEvent, UserAlert, Waiting, decode, encode

IDENTITY = Identity(
    project="p", run_id="child", writer="w", rank=0, attempt=1, attempt_started=1_000_000, host="h", primary=True,
    role="run", offline=False, pid=1, pid_created=0.0, telemetry=True,
)  # fmt: skip


def told(*records: tuple[str, dict]) -> list[RunEvent]:
    events = [Event(number, 1.0, kind, data) for number, (kind, data) in enumerate(records, start=1)]
    found = list(run_events(IDENTITY, 1, events, Counters(0, 0, 0), {}))
    assert [decode(encode(event), RunEvent) for event in found] == found
    return found


def test_a_start_tells_where_the_attempt_begins_and_what_a_fork_inherits():
    inherited = [{"run_id": "root", "attempt": 0, "below": 5}, {"run_id": "root", "attempt": 2, "below": 8}]
    start = {"first_step": 8, "parent_run_id": "root", "parent_step": 7, "inherited": inherited}
    (event,) = told(("start", start))
    assert (event.first_step, event.parent_run_id, event.parent_step, event.inherited) == (8, "root", 7, inherited)


def test_an_update_tells_that_the_first_row_went_back_and_takes_the_lowest():
    (start,) = told(("start", {"first_step": 8}), ("config", {"config": {"a": 1}}), ("update", {"first_step": 3}))
    assert (start.kind, start.first_step, start.config) == ("start", 3, {"a": "1"})
    (event,) = told(("update", {"first_step": 3}), ("update", {"name": "x"}), ("update", {"first_step": 5}))
    assert (event.first_step, event.name) == (3, "x")
    assert told(("update", {"name": "x"}))[0].first_step is None


def test_what_define_metric_said_is_told_by_the_name_of_the_metric():
    one = Definition("loss", summary=("min", "mean"), goal="minimize").to_event(overwrite=True)
    two = Definition("val/*", step_metric="epoch").to_event(overwrite=True)
    (event,) = told(("define_metric", one), ("define_metric", two))
    assert event.kind == "update"
    found = {name: Definition.of_event(json.loads(str(text))) for name, text in event.definitions.items()}
    assert found == {"loss": Definition.of_event(one), "val/*": Definition.of_event(two)}


def test_each_alert_is_an_event_of_its_own_between_what_was_told_before_and_after():
    said = alert_event("look", "at this", "WARN", 60)
    found = told(("config", {"config": {"a": 1}}), ("alert", said), ("alert", said), ("update", {"name": "x"}))
    assert [event.kind for event in found] == ["update", "alert", "alert", "update"]
    assert [event.origin.last_sequence for event in found] == [1, 2, 3, 4]
    assert found[1].alert == UserAlert(title="look", text="at this", level="WARN", wait_seconds=60.0)
    assert (found[0].alert, found[3].alert) == (None, None)


def test_an_alert_that_is_too_large_for_a_message_is_cut():
    (event,) = told(("alert", alert_event("t" * 3_000_000, "x" * 3_000_000)))
    assert len(encode(event)) < 4 << 20


def test_rules_are_told_by_their_names_and_that_one_is_no_more():
    rule = {"name": "low", "metric": "acc", "condition": "< 0.2"}
    (event,) = told(("alert_rule", rule), ("define_metric", {"name": "acc"}), ("alert_rule", {**rule, "name": "x"}))
    assert event.kind == "update"
    assert {name: json.loads(str(text)) for name, text in event.rules.items()} == {
        "low": rule,
        "x": {**rule, "name": "x"},
    }
    (event,) = told(("alert_rule", rule), ("alert_rule", {"name": "low", "removed": True}))
    assert event.rules == {"low": None}


def test_each_wait_is_an_event_of_its_own():
    said = {"for": "data", "seconds": 31.5, "steps": 40, "is_over": False}
    found = told(("waiting", said), ("waiting", {**said, "seconds": 36.0, "is_over": True}), ("update", {"name": "x"}))
    assert [event.kind for event in found] == ["waiting", "waiting", "update"]
    assert found[0].waiting == Waiting(waits_for="data", seconds=31.5, steps=40, is_over=False)
    assert found[1].waiting == Waiting(waits_for="data", seconds=36.0, steps=40, is_over=True)
    assert found[2].waiting is None
