"""Rules of the user's: what fires and what must not, over windows and in time, of files and of the run itself."""

import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from pulsetrain_consumers.monitor.findings import Finding
from pulsetrain_consumers.monitor.rule_series import EARLY_POINTS, EARLY_SECONDS
from pulsetrain_consumers.monitor.rules import MOST_OWN_RULES, MOST_SERIES, RuleWatch
from pulsetrain_schemas.alert_rules import Rule, parse
from pulsetrain_schemas.events import MetricBatch, Origin, RunEvent, SystemBatch
from tests.monitor_rig import Process, Rig
from tests.writer_rig import STARTED

T0 = 1_700_000_000.0
NAN = math.nan


def rule(**more: Any) -> Rule:
    return parse({"name": "low", "metric": "acc", "condition": "< 0.2"} | more, "a test")


def metrics(
    values: Sequence[float], at: float = T0, every: float = 1.0, key: str = "acc", attempt: int = 0, rank: int = 0
) -> MetricBatch:
    """Values of one metric, `every` so many seconds, from `at` on."""
    numbers = np.arange(len(values))
    return MetricBatch(
        origin=Origin("p", "r", "w", rank, attempt, STARTED, 1, len(values)),
        keys=("other", key),
        shape_lengths=np.array([2]),
        shape_keys=np.array([0, 1]),
        row_sequences=numbers + 1,
        row_steps=numbers,
        row_times=np.round((at + numbers * every) * 1e6).astype(np.int64),
        row_shapes=np.zeros(len(values), np.int64),
        values=np.array([[0.0, value] for value in values]).ravel(),
    )


def samples(series: dict[tuple[str, str, int], float], at: float = T0) -> SystemBatch:
    """One sample of the hardware: (metric, GPU, its index) with values."""
    return SystemBatch(
        origin=Origin("p", "r", "w", 0, 0, STARTED, 1, 1),
        host="h",
        series_metrics=[metric for metric, _, _ in series],
        series_gpus=[gpu for _, gpu, _ in series],
        series_gpu_indexes=np.array([index for *_, index in series]),
        shape_lengths=np.array([len(series)]),
        shape_keys=np.arange(len(series)),
        row_sequences=np.array([1]),
        row_times=np.array([round(at * 1e6)]),
        row_shapes=np.array([0]),
        values=np.array(list(series.values())),
    )


def said(at: float = T0, attempt: int = 0, **rules: dict | None) -> RunEvent:
    """What alert_when() said of rules of a name."""
    texts = {name: None if given is None else json.dumps(given) for name, given in rules.items()}
    return RunEvent(Origin("p", "r", "w", 0, attempt, STARTED, 1, 1), "update", round(at * 1e6), True, rules=texts)


def presences(found: Sequence[Finding]) -> list[bool]:
    return [finding.present for finding in found]


def test_a_condition_on_the_latest_value_is_said_when_it_turns():
    watch = RuleWatch("p", [rule()])
    found = watch.metrics(metrics([0.5, 0.1, 0.1, 0.3, 0.1]), T0)
    assert presences(found) == [True, False, True]
    assert [finding.step for finding in found] == [1, 3, 4]
    assert found[0].subject == "low: acc"
    assert found[0].message == "acc is 0.1, < 0.2"
    assert found[1].message == "acc is 0.3, no longer < 0.2"
    assert not watch.metrics(metrics([0.1, 0.19]), T0 + 9)


@pytest.mark.parametrize("values", [[0.5, 0.2], [NAN, math.inf], [-0.0 + 1]])
def test_what_does_not_meet_the_condition_is_no_trouble(values: list[float]):
    assert not RuleWatch("p", [rule()]).metrics(metrics(values), T0)


def test_a_rule_is_for_its_projects_and_its_metrics():
    rules = [rule(projects=["vision-*"]), rule(name="other", metric=["loss", "val/*"])]
    assert not RuleWatch("p", rules).metrics(metrics([0.1]), T0)
    assert presences(RuleWatch("vision-1", rules).metrics(metrics([0.1]), T0)) == [True]
    assert presences(RuleWatch("p", rules).metrics(metrics([0.1], key="val/x"), T0)) == [True]


@pytest.mark.parametrize(
    ("over", "condition", "values", "seen"),
    [
        ("mean", "< 0.2", [0.5, 0.1, 0.1], []),
        ("mean", "< 0.2", [0.3, 0.0, 0.0], [True]),
        ("mean", "< 0.2", [NAN, 0.1, NAN], [True]),
        ("mean", "< 0.2", [NAN, NAN], []),
        ("min", "> 1", [2.0, 3.0], [True]),
        ("min", "> 1", [2.0, 0.5, 3.0], [True, False]),
        ("max", "> 1", [0.5, 2.0, 0.5], [True]),
        ("count", "> 2", [1.0, NAN, 1.0, 1.0], [True]),
        ("last", "> 1", [2.0, 0.5], [True, False]),
    ],
)
def test_a_window_has_a_mean_a_least_a_greatest_and_a_number(over: str, condition: str, values: list, seen: list):
    watch = RuleWatch("p", [rule(over=over, condition=condition, window="10m")])
    assert presences(watch.metrics(metrics(values), T0)) == seen


def test_what_was_logged_long_ago_leaves_the_window_with_values_and_with_time():
    watch = RuleWatch("p", [rule(over="max", condition="> 1", window="1m")])
    assert presences(watch.metrics(metrics([2.0]), T0)) == [True]
    assert presences(watch.metrics(metrics([0.5], at=T0 + 30), T0 + 30)) == []
    assert presences(watch.metrics(metrics([0.5], at=T0 + 70), T0 + 70)) == [False]
    assert presences(watch.metrics(metrics([3.0], at=T0 + 80), T0 + 80)) == [True]
    assert not watch.tick(T0 + 130, is_over=False)
    (over,) = watch.tick(T0 + 150, is_over=False)
    assert (over.present, over.message) == (False, "max of acc over 1m is nothing, no longer > 1")


def test_that_nothing_is_logged_can_be_a_rule():
    watch = RuleWatch("p", [rule(over="count", condition="< 1", window="1m")])
    assert not watch.tick(T0, is_over=False)
    assert not watch.metrics(metrics([1.0]), T0)
    assert not watch.tick(T0 + 30, is_over=False)
    assert presences(watch.tick(T0 + 70, is_over=False)) == [True]
    assert presences(watch.metrics(metrics([1.0], at=T0 + 80), T0 + 80)) == [False]


def test_what_comes_late_and_at_once_has_lasted_as_long_as_its_own_times_say():
    """As an offline run that is sent on: hours arrive within a second."""
    watch = RuleWatch("p", [rule(**{"for": "5m"})])
    found = watch.metrics(metrics([0.1, 0.1, 0.1, 0.1, 0.5], every=120), T0 + 9999)
    assert [(finding.present, finding.has_lasted, finding.step) for finding in found] == [
        (True, False, 0), (True, True, 3), (False, False, 4),
    ]  # fmt: skip
    short = RuleWatch("p", [rule(**{"for": "5m"})]).metrics(metrics([0.1, 0.1, 0.5, 0.1], every=120), T0 + 9999)
    assert not any(finding.has_lasted for finding in short)
    windowed = RuleWatch("p", [rule(over="mean", window="10m", **{"for": "5m"})])
    assert [finding.has_lasted for finding in windowed.metrics(metrics([0.1] * 9, every=60), T0)] == [False, True]


def test_ranks_are_series_of_their_own():
    watch = RuleWatch("p", [rule()])
    watch.metrics(metrics([0.1]), T0)
    (found,) = watch.metrics(metrics([0.1], rank=3), T0)
    assert (found.subject, found.rank) == ("low: acc, rank 3", 3)


def test_hardware_is_meant_by_our_names_by_w_and_bs_and_by_what_it_is():
    entries = {
        "both": "memory_percent", "gpu": "gpu/memory_percent", "host": "host/memory_percent",
        "first": "system.gpu.0.memoryAllocated", "any": "system.gpu.*.memoryAllocated",
    }  # fmt: skip
    rules = [parse({"name": name, "system": system, "condition": "> 90"}, "a test") for name, system in entries.items()]
    batch = samples(
        {("memory_percent", "", -1): 95.0, ("memory_percent", "U0", 0): 96, ("memory_percent", "U1", 1): 97}
    )
    found = RuleWatch("p", rules).system(batch, T0)
    assert sorted(finding.subject for finding in found) == [
        "any: memory_percent, h, GPU 0", "any: memory_percent, h, GPU 1",
        "both: memory_percent, h", "both: memory_percent, h, GPU 0", "both: memory_percent, h, GPU 1",
        "first: memory_percent, h, GPU 0",
        "gpu: memory_percent, h, GPU 0", "gpu: memory_percent, h, GPU 1",
        "host: memory_percent, h",
    ]  # fmt: skip
    assert {(finding.host, finding.gpu) for finding in found} == {("h", ""), ("h", "U0"), ("h", "U1")}


def test_w_and_bs_name_has_w_and_bs_unit():
    (disk,) = RuleWatch(
        "p", [parse({"name": "d", "system": "system.disk./.usageGB", "condition": "> 100"}, "t")]
    ).system(samples({("disk_used_bytes", "", -1): 150 * 2.0**30}), T0)
    assert disk.value == 150


def test_a_pattern_has_a_bounded_number_of_series():
    watch = RuleWatch("p", [rule(metric="*", condition="== 0.1")])
    for number in range(MOST_SERIES + 50):
        watch.metrics(metrics([0.1], key=f"k{number}"), T0)
    assert len(watch.state()["series"]) == MOST_SERIES


def test_the_end_of_the_run_ends_what_goes_on_also_where_values_come_after_it():
    watch = RuleWatch("p", [rule()])
    watch.metrics(metrics([0.1]), T0)
    assert not watch.tick(T0 + 1, is_over=False)
    (over,) = watch.tick(T0 + 2, is_over=True)
    assert (over.present, over.message) == (False, "the run has ended")
    assert presences(watch.metrics(metrics([0.1]), T0 + 3)) == [True]
    assert presences(watch.tick(T0 + 4, is_over=True)) == [False]


def test_a_new_attempt_ends_what_was_and_what_the_one_before_logs_counts_no_more():
    watch = RuleWatch("p", [rule()])
    watch.metrics(metrics([0.1]), T0)
    found = watch.metrics(metrics([0.5], attempt=1), T0 + 1)
    assert [(finding.present, finding.message) for finding in found] == [(False, "attempt 1 has begun")]
    assert not watch.metrics(metrics([0.1], attempt=0), T0 + 2)


# --- rules that the run says


LOW = {"name": "low", "metric": "acc", "condition": "< 0.2"}


def test_a_run_says_a_rule_changes_it_and_takes_it_back():
    watch = RuleWatch("p", [])
    assert not watch.metrics(metrics([0.1]), T0)
    watch.event(said(T0 + 20, low=LOW | {"for": "30s", "cooldown": "0s", "labels": {"a": "b"}}), T0 + 20)
    assert presences(watch.metrics(metrics([0.1], at=T0 + 21), T0 + 21)) == [True]
    policy = watch.policy("low: acc")
    assert (policy.title, policy.hold, policy.cooldown, policy.labels) == ("low: acc", 30, 0, {"a": "b"})
    watch.event(said(T0 + 22, low=LOW | {"condition": "< 0.05"}), T0 + 22)
    assert presences(watch.metrics(metrics([0.1], at=T0 + 23), T0 + 23)) == [False]
    assert presences(watch.metrics(metrics([0.0], at=T0 + 24), T0 + 24)) == [True]
    watch.event(said(T0 + 25, low=None), T0 + 25)
    assert presences(watch.tick(T0 + 26, is_over=False)) == [False]
    assert not watch.metrics(metrics([0.0], at=T0 + 27), T0 + 27)


def test_a_rule_of_the_run_stands_in_place_of_one_of_a_file_of_the_same_name():
    watch = RuleWatch("p", [rule(severity="critical")])
    watch.event(said(low=LOW | {"severity": "info"}), T0)
    (found,) = watch.metrics(metrics([0.1]), T0)
    assert found.severity == "info"


def test_values_that_overtook_the_rule_that_was_said_before_them_count():
    watch = RuleWatch("p", [])
    assert not watch.metrics(metrics([0.1, 0.1, 0.5], at=T0 - 1), T0 + 2)
    found = watch.event(said(T0, low=LOW), T0 + 2)
    assert [(finding.present, finding.step) for finding in found] == [(True, 1), (False, 2)]
    assert not watch.event(said(T0, low=LOW), T0 + 2)


def test_early_values_are_kept_for_seconds_and_not_without_end():
    late = RuleWatch("p", [])
    late.metrics(metrics([0.1]), T0)
    late.tick(T0 + EARLY_SECONDS + 1, is_over=False)
    assert not late.event(said(T0 - 9, low=LOW), T0 + 2)
    many = RuleWatch("p", [])
    many.metrics(metrics([0.1]), T0)
    many.metrics(metrics([0.1] * (EARLY_POINTS // 2)), T0)
    assert not many.event(said(T0 - 9, low=LOW), T0 + 2)


def test_a_run_has_a_bounded_number_of_rules_and_what_is_no_rule_is_left_out(caplog):
    watch = RuleWatch("p", [])
    for number in range(MOST_OWN_RULES + 5):
        watch.event(said(**{f"n{number}": LOW | {"name": f"n{number}"}}), T0)
    assert len(watch.state()["said"]) == MOST_OWN_RULES
    other = RuleWatch("p", [])
    other.event(said(low=LOW | {"newer": 1}), T0)
    assert "low" in caplog.text
    assert not other.metrics(metrics([0.1]), T0)


# --- coming up again


def again(watch: RuleWatch, rules: Sequence[Rule]) -> RuleWatch:
    """The watch of a monitor that comes up, with the rules that it has then."""
    other = RuleWatch("p", rules)
    other.restore(json.loads(json.dumps(watch.state())))
    return other


def test_a_watch_that_comes_up_goes_on_and_says_nothing_twice():
    rules = [rule(over="mean", window="10m", **{"for": "5m"})]
    whole, halves = RuleWatch("p", rules), RuleWatch("p", rules)
    first, second = metrics([0.3, 0.0, NAN], every=100), metrics([0.1, 0.1, 0.1, 9.0], at=T0 + 300, every=100)
    for watch in (whole, halves):
        watch.event(said(own=LOW | {"name": "own"}), T0)
    expected = [*whole.metrics(first, T0), *whole.metrics(second, T0), *whole.tick(T0 + 1, is_over=False)]
    found = list(halves.metrics(first, T0))
    halves = again(halves, rules)
    found += halves.metrics(second, T0)
    found += again(halves, rules).tick(T0 + 1, is_over=False)
    assert str(found) == str(expected)
    assert len(found) > 4


def test_what_fires_of_a_rule_that_is_gone_or_looks_elsewhere_now_is_over():
    for rules in ([], [rule(over="mean", window="1m")], [rule(metric="val/acc")]):
        watch = RuleWatch("p", [rule()])
        watch.metrics(metrics([0.1]), T0)
        (over,) = again(watch, rules).tick(T0 + 1, is_over=False)
        assert (over.subject, over.present) == ("low: acc", False)
    kept = RuleWatch("p", [rule()])
    kept.metrics(metrics([0.1]), T0)
    kept = again(kept, [rule(condition="< 0.3", severity="info")])
    assert not kept.tick(T0 + 1, is_over=False)
    assert not kept.metrics(metrics([0.25]), T0 + 2)


def test_what_cannot_be_read_leaves_the_watch_as_it_was():
    watch = RuleWatch("p", [rule()])
    with pytest.raises((KeyError, TypeError, ValueError)):
        watch.restore({"attempt": 3, "said": {}, "looks": {}, "gone": [], "behind": [None, None], "series": [[1]]})
    assert presences(watch.metrics(metrics([0.1]), T0)) == [True]


# --- in the monitor


def states(rig: Rig) -> list[tuple[str, str, str]]:
    return [(alert.subject, alert.state, alert.severity) for alert in rig.told() if alert.kind == "rule"]


def test_a_rule_of_a_file_has_its_time_its_severity_and_its_labels():
    rig = Rig()
    rules = [rule(severity="critical", labels={"team": "vision"}, **{"for": "20s"})]
    process = Process(rig, rules=rules)
    rig.settle(process, 2)
    rig.metrics("r", [0.1], key="acc")
    rig.settle(process, 10)
    assert states(rig) == [("low: acc", "pending", "critical")]
    rig.settle(process, 20)
    rig.metrics("r", [0.9], key="acc")
    rig.settle(process)
    assert [state for _, state, _ in states(rig)] == ["pending", "firing", "resolved"]
    assert {(alert.title, alert.labels["team"]) for alert in rig.told()} == {("low: acc", "vision")}


def test_a_trouble_that_does_not_last_never_fires():
    rig = Rig()
    process = Process(rig, rules=[rule(**{"for": "20s"})])
    rig.settle(process, 2)
    for _ in range(3):
        rig.metrics("r", [0.1], key="acc")
        rig.settle(process, 5)
        rig.metrics("r", [0.9], key="acc")
        rig.settle(process, 5)
    assert "firing" not in [state for _, state, _ in states(rig)]


def test_an_offline_run_that_arrives_at_once_fires_by_its_own_times_and_is_over_with_its_end():
    rig = Rig()
    process = Process(rig)
    rig.settle(process, 2)
    rig.clock.time += 40_000
    early = rig.clock.now() - 36_000
    first, last = rig.next_sequences("pulsetrain.metrics", "r", 5)
    batch = rig.batch("r", first, last, [0.1] * 5, key="acc")
    object.__setattr__(batch, "row_times", (early + np.arange(5) * 600) * 1e6)
    object.__setattr__(batch, "row_times", batch.row_times.astype(np.int64))
    rig.append("pulsetrain.metrics", "r", batch)
    rig.event("r", "start", time=early, state="running")
    rig.event("r", "update", time=early, rules={"low": json.dumps(LOW | {"for": "30m"})})
    rig.event("r", "finish", time=early + 3000, state="finished", exit_code=0)
    rig.settle(process)
    assert [state for _, state, _ in states(rig)] == ["pending", "firing", "resolved"]
    assert rig.told()[-1].text == "the run has ended"


def test_a_monitor_that_comes_up_knows_the_rules_that_a_run_said_and_its_alert():
    rig = Rig()
    process = Process(rig)
    rig.settle(process, 2)
    rig.event("r", "start", state="running", rules={"low": json.dumps(LOW | {"labels": {"a": "b"}})})
    rig.metrics("r", [0.1], key="acc")
    rig.settle(process)
    process.monitor.finish()
    rig.clock.time += 2_000  # the past that would be read without a state is over
    other = Process(rig)
    rig.settle(other, 5)
    rig.metrics("r", [0.9], key="acc")
    rig.settle(other)
    assert [state for _, state, _ in states(rig)] == ["firing", "resolved"]
    rig.clock.time += 600
    rig.metrics("r", [0.1], key="acc")
    rig.settle(other)
    assert [state for _, state, _ in states(rig)] == ["firing", "resolved", "firing"]
    assert {alert.labels["a"] for alert in rig.told()} == {"b"}
