"""RunWatch: what a run's events come to; that a restart changes nothing; that one cause is one finding."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pulsetrain_consumers.monitor.detectors.precedence import Precedence
from pulsetrain_consumers.monitor.findings import Finding, Severity
from pulsetrain_consumers.monitor.watch import RunWatch
from pulsetrain_schemas.events import MetricBatch, Origin, RunEvent, decode, encode
from tests.corpus.evaluation import heard
from tests.corpus.generator import case

T0 = 1_700_000_000


def rows(
    first: int, values: dict[str, list[float]], rank: int = 0, attempt: int = 0, writer: str = "w", clock: float = 0.0
) -> MetricBatch:
    """Rows of steps from `first` on, a second each."""
    matrix = np.array(list(values.values()), float).T
    count = len(matrix)
    steps = np.arange(first, first + count)
    return MetricBatch(
        Origin(
            "p", "r", f"{writer}{rank}-{attempt}", rank, attempt, T0 * 1_000_000 + attempt, first + 1, first + count
        ),
        list(values),
        np.array([len(values)]),
        np.arange(len(values)),
        steps + 1,
        steps,
        ((T0 + clock + steps) * 1e6).astype(np.int64),
        np.zeros(count, np.int64),
        matrix.reshape(-1),
    )


def life(kind: str, time: float, rank: int = 0, attempt: int = 0, **more) -> RunEvent:
    origin = Origin("p", "r", f"w{rank}-{attempt}", rank, attempt, T0 * 1_000_000 + attempt, 1, 1)
    return RunEvent(origin, kind, round((T0 + time) * 1e6), rank == 0, **more)


def losses(count: int, seed: int = 0) -> np.ndarray:
    return 2 + 0.05 * np.random.default_rng(seed).standard_t(5, count)


def run(watch: RunWatch, first: int, values: dict[str, np.ndarray], **more) -> list[Finding]:
    """Rows ten a message, with a heartbeat and ticks."""
    found: list[Finding] = []
    count = len(next(iter(values.values())))
    for begin in range(0, count, 10):
        now = first + begin + 10
        part = {name: list(it[begin : begin + 10]) for name, it in values.items()}
        found += watch.metrics(rows(first + begin, part, **more))
        found += watch.event(life("heartbeat", now, more.get("rank", 0), more.get("attempt", 0)))
        for second in range(10):
            found += watch.tick(T0 + now + second)
    return found


def silence(watch: RunWatch, first: int, seconds: int, beats: bool = True) -> list[Finding]:
    found: list[Finding] = []
    for second in range(seconds):
        if beats and second % 10 == 0:
            found += watch.event(life("heartbeat", first + second))
        found += watch.tick(T0 + first + second)
    return found


def words(found: list[Finding]) -> list[str]:
    return [f"{'' if it.present else 'no '}{it.kind} {it.subject}".strip() for it in found]


def test_a_healthy_run_says_nothing_and_ends() -> None:
    watch = RunWatch("p", "r")
    assert run(watch, 0, {"loss": losses(600), "lr": np.ones(600)}) == []
    assert not watch.ended()
    assert watch.event(life("finish", 600, state="finished", exit_code=0)) == []
    assert watch.ended()
    assert silence(watch, 600, 600, beats=False) == []


def test_a_run_of_several_ranks_is_over_when_all_have_ended_though_one_speaks_for_it() -> None:
    watch, found = RunWatch("p", "r"), []
    for rank in range(2):
        watch.event(life("start", 0, rank, state="running"))
    for first in range(0, 200, 10):
        for rank in range(2):
            values = np.full(10, np.nan) if first >= 100 else losses(10)
            found += run(watch, first, {"loss": values} if rank == 0 else {"norm": losses(10)}, rank=rank)
    assert words(found) == ["nan loss"]
    assert watch.event(life("finish", 201, 0, state="finished", exit_code=0)) == []
    assert words(watch.event(life("finish", 202, 1, state="finished", exit_code=0))) == ["no nan loss"]
    assert silence(watch, 210, 3_000, beats=False) == []


def test_a_run_that_hangs_is_a_stall_and_one_that_goes_on_ends_it() -> None:
    watch = RunWatch("p", "r")
    assert run(watch, 0, {"loss": losses(100)}) == []
    assert words(silence(watch, 110, 400)) == ["stall"]
    assert words(run(watch, 510, {"loss": losses(20)})) == ["no stall"]


def test_a_run_of_which_nothing_is_heard_is_lost_and_not_stalled() -> None:
    watch = RunWatch("p", "r")
    run(watch, 0, {"loss": losses(100)})
    assert words(silence(watch, 110, 600, beats=False)) == ["lost_host rank 0"]


def test_an_absence_of_the_monitor_is_no_stall_of_the_run() -> None:
    watch = RunWatch("p", "r")
    run(watch, 0, {"loss": losses(100)})
    restored = RunWatch.restored("p", "r", json.loads(json.dumps(watch.state())))
    for it in (watch, restored):
        assert it.tick(T0 + 5_000) == []
        assert silence(it, 5_001, 50) == []


def test_nan_in_all_metrics_is_one_finding_and_has_no_consequences() -> None:
    watch = RunWatch("p", "r")
    loss = losses(600)
    run(watch, 0, {"loss": loss, "loss_ce": loss, "grad_norm": loss})
    bad = np.full(300, np.nan)
    found = run(watch, 600, {"loss": bad, "loss_ce": bad, "grad_norm": bad * 0})
    assert words(found) == ["nan loss"]


def test_losses_that_leap_together_are_one_finding() -> None:
    watch = RunWatch("p", "r")
    loss = losses(400)
    loss[300:330] *= 4
    assert words(run(watch, 0, {"loss": loss, "loss_ce": loss})) == ["loss_spike loss", "no loss_spike loss"]


def test_nan_on_another_rank_is_found_and_its_loss_is_otherwise_left_out() -> None:
    watch = RunWatch("p", "r")
    loss = losses(400)
    run(watch, 0, {"loss": loss})
    assert watch.metrics(rows(400, {"loss": list(loss * 9)}, rank=1)) == []
    found = watch.metrics(rows(400, {"loss": [np.nan] * 5}, rank=1))
    assert words(found) == ["nan loss"]
    assert found[0].rank == 1


def test_nan_in_evaluations_and_in_other_metrics_is_no_finding() -> None:
    watch = RunWatch("p", "r")
    bad = np.full(400, np.nan)
    assert run(watch, 0, {"loss": losses(400), "val/loss": bad, "auc": bad}) == []


def test_a_new_attempt_ends_what_was_and_what_comes_late_of_an_old_one_is_left_out() -> None:
    watch = RunWatch("p", "r")
    run(watch, 0, {"loss": losses(100)})
    assert words(watch.event(life("finish", 100, state="crashed", exit_code=1))) == ["crashed"]
    assert words(watch.event(life("start", 200, attempt=1, state="running"))) == ["no crashed"]
    assert watch.metrics(rows(100, {"loss": [np.nan] * 5})) == []
    assert run(watch, 50, {"loss": losses(200) * 0.9}, attempt=1) == []
    assert not watch.ended()


def test_hosts_whose_clocks_differ_by_minutes_are_compared_by_durations() -> None:
    watch = RunWatch("p", "r")
    steady = {"pulsetrain/step_seconds": [1.0] * 10}
    found = []
    for begin in range(0, 400, 10):
        for rank in range(8):
            slow = {"pulsetrain/step_seconds": [1.6] * 10} if rank == 5 else steady
            found += watch.metrics(rows(begin, slow, rank, clock=97.0 * rank - 300))
            found += watch.event(life("heartbeat", begin, rank))
        for second in range(10):
            found += watch.tick(T0 + begin + second)
    assert words(found) == ["straggler rank 5"]


def test_ranks_that_only_greet_are_not_missed() -> None:
    watch = RunWatch("p", "r")
    for rank in range(1, 8):
        watch.metrics(rows(0, {"rank": [1.0] * 3}, rank))
    found: list[Finding] = []
    for begin in range(0, 6_000, 10):
        for rank in range(1, 8):
            found += watch.event(life("heartbeat", begin, rank))
        found += run(watch, begin, {"loss": losses(10, begin) + 5 * (1 + begin / 100) ** -0.3})
    assert found == []


def test_batches_of_several_shapes_give_what_one_shape_gives() -> None:
    one = rows(0, {"loss": [1.0, 2.0, 3.0, 4.0], "lr": [5.0, 6.0, 7.0, 8.0]})
    two = replace(
        one,
        shape_lengths=np.array([2, 2]),
        shape_keys=np.array([0, 1, 1, 0]),
        row_shapes=np.array([0, 1, 0, 1]),
        values=np.array([1.0, 5.0, 6.0, 2.0, 3.0, 7.0, 8.0, 4.0]),
    )
    states = []
    for batch in (one, two):
        watch = RunWatch("p", "r")
        watch.metrics(decode(encode(batch), MetricBatch))
        states.append(watch.state())
    assert states[0] == states[1]


def test_many_series_and_many_rows_do_not_grow_the_state_without_end() -> None:
    watch = RunWatch("p", "r")
    rng = np.random.default_rng(0)
    for begin in range(0, 60_000, 2_000):
        names = {f"layer{i}/grad_norm": list(rng.normal(size=2_000)) for i in range(40)}
        watch.metrics(rows(begin, {"loss": list(losses(2_000)), **names}))
        watch.tick(T0 + begin)
    assert len(json.dumps(watch.state())) < 100_000


def finding(kind: str, present: bool = True, subject: str = "") -> Finding:
    return Finding(kind, subject, present, Severity.WARNING, kind, 0.0)


def test_what_a_cause_explains_is_held_back_ended_or_said_after_all() -> None:
    talk = Precedence(grace=100.0)
    assert words(talk.say(finding("straggler", subject="rank 1"), 0.0)) == ["straggler rank 1"]
    assert words(talk.say(finding("thermal_throttle", subject="g"), 1.0)) == [
        "no straggler rank 1",
        "thermal_throttle g",
    ]
    assert talk.say(finding("throughput_regression"), 2.0) == []
    assert words(talk.say(finding("thermal_throttle", False, "g"), 10.0)) == ["no thermal_throttle g"]
    assert talk.say(finding("straggler", False, "rank 1"), 20.0) == []
    assert talk.tick(50.0) == []
    assert words(talk.tick(120.0)) == ["throughput_regression"]


def test_what_was_held_back_and_is_found_again_is_said_once() -> None:
    talk = Precedence(grace=100.0)
    talk.say(finding("stall"), 0.0)
    talk.say(finding("stall", False), 1.0)
    assert talk.say(finding("straggler"), 50.0) == []
    assert words(talk.say(finding("straggler"), 101.0)) == ["straggler"]
    assert talk.tick(101.0) == []


KINDS = ["nan", "loss_spike", "stall", "crashed", "straggler", "thermal_throttle", "gpu_idle", "gradient_explosion"]


@given(st.lists(st.tuples(st.sampled_from(KINDS), st.sampled_from(["", "a"]), st.booleans(), st.integers(0, 300))))
def test_findings_of_a_subject_alternate_whatever_detectors_say(steps: list[tuple[str, str, bool, int]]) -> None:
    talk, clock, said = Precedence(), 0.0, []
    for kind, subject, present, passed in steps:
        clock += passed
        said += talk.say(finding(kind, present, subject), clock) + talk.tick(clock)
    said += talk.close(0.0, clock, "over")
    check_alternation(said)
    assert not talk


def check_alternation(said: list[Finding]) -> None:
    present: dict[tuple[str, str], bool] = {}
    for it in said:
        assert it.present is not present.get((it.kind, it.subject), False)
        present[it.kind, it.subject] = it.present


STREAMS = [
    *("nan_loss", "loss_spike", "divergence_stuck", "gradient_explosion", "stall", "crash", "hung_rank_of_8"),
    *("data_loader_bound", "throughput_drop", "straggler_of_8", "thermal_throttling", "gpu_lost", "memory_leak"),
    *("host_out_of_memory", "resumed", "reinforcement_learning", "oscillating", "network_hiccups"),
]


@settings(max_examples=8, deadline=None)
@given(st.sampled_from(STREAMS), st.integers(0, 4999), st.floats(0.05, 0.95))
@example("loss_spike", 0, 0.5)
def test_a_restart_in_the_middle_of_a_stream_changes_nothing_that_is_said(kind: str, seed: int, where: float) -> None:
    made = case(kind, seed)
    whole = heard(made)
    check_alternation([it for _, it in whole])

    cut = int(len(made.events) * where)
    first = replace(made, events=made.events[:cut], end=made.start)
    watch = RunWatch("corpus", "run")
    said = heard(first, watch=watch)
    restored = RunWatch.restored("corpus", "run", json.loads(json.dumps(watch.state(), allow_nan=False)))
    ticked = made.start + 5.0 * np.floor((made.events[cut - 1][0] - made.start) / 5.0) + 5.0
    said += heard(replace(made, events=made.events[cut:], start=float(ticked)), watch=restored)
    assert said == whole


@pytest.mark.parametrize("kind", ["stall", "loss_spike"])
def test_an_event_that_is_given_twice_does_not_repeat_what_was_said(kind: str) -> None:
    made = case(kind, 1)
    twice = replace(made, events=[it for it in made.events for _ in range(2)])
    check_alternation([it for _, it in heard(twice)])
