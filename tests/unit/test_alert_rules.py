"""What a rule may say, and what a person reads who wrote something else."""

from datetime import timedelta

import pytest
import yaml

import pulsetrain
from pulsetrain._run.errors import UsageError
from pulsetrain._run.rules import rule_event
from pulsetrain.forwarder.acknowledgement import Acknowledged
from pulsetrain.forwarder.checkpoint import Checkpoint
from pulsetrain.forwarder.tail import Tail
from pulsetrain_local.stack import shipped_rules
from pulsetrain_schemas.alert_rules import RuleError, SystemSource, duration, parse, seconds, split
from pulsetrain_schemas.system_metrics import GPU_METRICS, HOST_METRICS
from tests.unit.sdk_harness import events, sdk

__all__ = ["sdk"]

QUIET = {"silent": True}
RULE = {"name": "a", "metric": "acc", "condition": "< 0.2"}


def test_a_rule_has_defaults_and_all_may_be_said():
    plain = parse(RULE, "it")
    assert (plain.metrics, plain.system, plain.compare, plain.threshold) == (("acc",), None, "<", 0.2)
    assert (plain.over, plain.window, plain.hold, plain.cooldown, plain.severity) == ("last", 0, 0, None, "warning")
    more = {
        "over": "mean", "window": "10m", "for": 90, "cooldown": "1.5h", "severity": "critical",
        "projects": "vision-*", "labels": {"team": "v", 1: 2}, "metric": ["a", "b/*"],
    }  # fmt: skip
    whole = parse(RULE | more, "it")
    assert (whole.over, whole.window, whole.hold, whole.cooldown, whole.severity) == ("mean", 600, 90, 5400, "critical")
    assert (whole.projects, whole.labels, whole.metrics) == (("vision-*",), {"team": "v", "1": "2"}, ("a", "b/*"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": ""}, "it has no name"),
        ({"name": 3}, "it has no name"),
        ({"name": "two\nlines"}, "it has no name"),
        ({"windw": "5m"}, r"it \(a\) has windw; known are name, metric"),
        ({"system": "cpu_percent"}, "names either a metric, or a system metric"),
        ({"metric": []}, "metric is a name, or a list of names"),
        ({"metric": 3}, "metric is a name, or a list of names"),
        ({"condition": None}, 'condition is a comparison with a number, as in "> 90"'),
        ({"condition": "high"}, "condition is a comparison"),
        ({"condition": "> high"}, "condition is a comparison"),
        ({"condition": "== nan"}, "condition is a comparison"),
        ({"over": "median"}, "over is one of last, mean, min, max, count, not 'median'"),
        ({"over": "mean"}, "mean is over a window, as in `window: 5m`"),
        ({"window": "5 minutes"}, "window is a time, as in 30s, 5m or 2h; not '5 minutes'"),
        ({"for": -1}, "for is a time"),
        ({"for": True}, "for is a time"),
        ({"severity": "bad"}, "severity is one of info, warning, critical, not 'bad'"),
        ({"labels": ["x"]}, "labels are names with values"),
        ({"projects": [1]}, "projects is a name, or a list of names"),
    ],
)
def test_what_cannot_be_is_said_with_what_would_be_right(change: dict, message: str):
    with pytest.raises(RuleError, match=message):
        parse(RULE | change, "it")


def test_what_is_no_rule_at_all_is_said():
    for entry in (None, 3, [RULE], "acc < 0.2"):
        with pytest.raises(RuleError, match="it is no mapping of names to values"):
            parse(entry, "it")


def system(name: str) -> SystemSource | None:
    return parse({"name": "a", "system": name, "condition": "> 1"}, "it").system


def test_system_metrics_are_called_as_here_or_as_w_and_b_calls_them():
    for name in [*HOST_METRICS, *GPU_METRICS]:
        assert system(name.replace("{i}", "3")) is not None
    for metric in [*HOST_METRICS.values(), *GPU_METRICS.values()]:
        if metric.wandb is not None:
            found = system(metric.wandb.replace("{i}", "3"))
            assert found is not None
            assert (found.pattern, found.factor) == (metric.name.replace("{i}", "3"), metric.wandb_factor)
            assert found.gpu_index == (3 if metric.scope == "gpu" else None)
    assert system("system.gpu.*.temp") == SystemSource("temperature_celsius", "gpu")
    assert system("system.temperature_celsius") == system("temperature_celsius") == SystemSource("temperature_celsius")
    assert system("cpu/*/percent") == SystemSource("cpu/*/percent")
    assert system("host/*percent") == SystemSource("*percent", "host")


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("gpu_temp", "temperature_celsius"),
        ("temprature_celsius", "temperature_celsius"),
        ("system.gpu.0.tmp", "system.gpu.0.temp"),
        ("disk_percent", "disk_used_percent"),
        ("gpu/disk_used_percent", "disk_used_percent"),
        ("wholly else", "select distinct metric from system"),
    ],
)
def test_a_name_that_there_is_not_is_said_with_those_that_come_near(name: str, meant: str):
    with pytest.raises(RuleError, match=f"there is no system metric {name}.*{meant}"):
        system(name)


@pytest.mark.parametrize("length", [0.5, 30, 60, 300, 5400, 7200, 86400, 100_000_000, 123456.75])
def test_a_time_that_is_written_is_read(length: float):
    assert seconds(duration(length), "it") == length


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("val/loss > 3", ("val/loss", "> 3")),
        (" a b<=-1e3 ", ("a b", "<=-1e3")),
        ("a->b >= 2", ("a->b", ">= 2")),
        ("x != inf", ("x", "!= inf")),
    ],
)
def test_an_expression_is_a_metric_and_a_condition(text: str, found: tuple[str, str]):
    assert split(text) == found


def test_the_rules_that_are_shipped_are_rules():
    files = sorted(shipped_rules().glob("*.yaml"))
    entries = [entry for file in files for entry in yaml.safe_load(file.read_text(encoding="utf-8"))["rules"]]
    names = [parse(entry, "it").name for entry in entries]
    assert len(files) >= 2
    assert len(names) == len(set(names)) >= 8


# --- alert_when()


def test_what_a_run_says_is_written_at_once_as_a_rule(sdk):
    run = pulsetrain.init(settings=QUIET)
    assert run.alert_when("val/loss > 3") == "val/loss > 3"
    name = run.alert_when(
        "system.gpu.*.temp > 85", for_=timedelta(minutes=5), over="mean", window="10m", severity="critical",
        cooldown=0, labels={"team": "v"},
    )  # fmt: skip
    assert name == "mean over 10m of system.gpu.*.temp > 85"
    assert run.alert_when("acc < 0.2", name="low", window=90.5) == "low"
    run.forget_rule("low")
    first, second, third, last = events(run._history.directory, "alert_rule")
    assert first == {
        "metric": "val/loss", "condition": "> 3", "over": "last", "severity": "warning", "name": "val/loss > 3",
    }  # fmt: skip
    assert second == {
        "system": "system.gpu.*.temp", "condition": "> 85", "over": "mean", "severity": "critical", "window": "10m",
        "for": "5m", "cooldown": "0s", "labels": {"team": "v"}, "name": name,
    }  # fmt: skip
    assert third["window"] == "90.5s"
    assert last == {"name": "low", "removed": True}
    for written in (first, second, third):
        parse(written, "it")


@pytest.mark.parametrize(
    ("condition", "more", "message"),
    [
        ("val/loss", {}, r"alert_when\('val/loss'\): a condition is a metric compared with a number"),
        (3, {}, "a condition is a metric compared with a number"),
        ("a = 3", {}, "a condition is a metric compared with a number"),
        ("a > 3", {"over": "mean"}, "mean is over a window"),
        ("a > 3", {"for_": "soon"}, "for is a time"),
        ("a > 3", {"for_": timedelta(seconds=-1)}, "for is a time"),
        ("a > 3", {"severity": "WARN"}, "severity is one of"),
        ("a > 3", {"labels": ["x"]}, "labels are names with values"),
        ("a > 3", {"name": ""}, "has no name"),
        ("system.gpu_temp > 3", {}, "is one of these meant: .*temperature_celsius"),
    ],
)
@pytest.mark.parametrize("kind", [ValueError, UsageError])
def test_a_rule_that_cannot_be_is_misuse(sdk, condition, more, message, kind):
    with pytest.raises(kind, match=message):
        pulsetrain.init(mode="disabled", settings=QUIET).alert_when(condition, **more)


def test_a_rule_after_the_end_raises_nothing(sdk):
    run = pulsetrain.init(settings=QUIET)
    run.finish(quiet=True)
    run.alert_when("a > 3")
    assert events(run._history.directory, "alert_rule") == []


def test_rules_are_kept_when_a_run_goes_on_and_by_a_fork(sdk):
    with pulsetrain.init(project="p", id="r1", settings=QUIET) as run:
        run.alert_when("a > 3")
        run.alert_when("b > 3", name="b")
        run.alert_when("c > 3", name="c")
        run.alert_when("b > 4", name="b")
        run.forget_rule("c")
        run.log({"a": 1})
    for attempt in (1, 2):
        with pulsetrain.init(project="p", id="r1", resume="must", settings=QUIET) as run:
            kept = events(run._history.directory, "alert_rule")
            assert (run.attempt, [rule["condition"] for rule in kept]) == (attempt, ["> 3", "> 4"])
    fork = pulsetrain.init(project="p", fork_from="r1?_step=0", settings=QUIET)
    assert [rule["name"] for rule in events(fork._history.directory, "alert_rule")] == ["a > 3", "b"]


def test_rules_are_in_the_checkpoint_that_stands_for_segments_that_are_gone(sdk):
    with pulsetrain.init(project="p", id="r1", settings=QUIET) as run:
        run.alert_when("a > 3", name="a")
        run.alert_when("b > 3", name="b")
        run.forget_rule("a")
        tail = Tail(run._history.directory)
        tail.read_all()
        tail.close()
        checkpoint = tail.checkpoint(Acknowledged(tail.position, tail.sequence, counters=tail.counters))
    assert checkpoint is not None
    kept = Checkpoint.decode(checkpoint.encode()).start["alert_rules"]
    assert {name: rule["condition"] for name, rule in kept.items()} == {"b": "> 3"}


def test_a_name_is_no_longer_than_a_rules_may_be():
    made = rule_event(
        f"{'x' * 500} > 3", for_=None, over="last", window=None, severity="info", cooldown=None, labels=None, name=None
    )
    assert parse(made, "it").metrics == ("x" * 500,)
