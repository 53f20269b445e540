"""Runs that go on: resumed, rewound, forked, by one process and by several."""

import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

import pulsetrain
from pulsetrain._run import environment, lifecycle
from tests.unit.sdk_harness import PREAMBLE, events, journals, python, rows, sdk

__all__ = ["sdk"]

QUIET = {"silent": True}


def start_of(run):
    return events(run._history.directory, "start")[0]


def earlier_run(**more):
    run = pulsetrain.init(project="p", id="r1", name="first", config={"lr": 1}, tags=["t"], settings=QUIET, **more)
    run.define_metric("acc", summary="max")
    for step in range(5):
        run.log({"loss": step, "acc": step / 10})
    run.summary["note"] = "kept"
    return run


@pytest.mark.parametrize("resume", ["must", "allow", "auto", True])
def test_a_resumed_run_goes_on_where_it_was(sdk, resume):
    earlier_run().finish()
    run = pulsetrain.init(project="p", id="r1", resume=resume, config={"more": 2}, settings=QUIET)
    assert (run.resumed, run.attempt, run.step, run.name, run.tags) == (True, 1, 5, "first", ("t",))
    assert run.config.as_dict() == {"lr": 1, "more": 2}
    assert (run.summary["loss"], run.summary["note"], run.summary["acc.max"]) == (4.0, "kept", 0.4)
    run.define_metric("acc", summary="max")
    run.log({"acc": 0.2})
    assert run.summary["acc.max"] == 0.4
    run.finish()
    again = pulsetrain.init(project="p", id="r1", resume=resume, settings=QUIET)
    assert (again.attempt, again.step) == (2, 6)


def test_processes_that_share_a_run_share_its_attempt(sdk):
    earlier_run().finish()
    code = f"""
run = pulsetrain.init(project="p", id="r1", resume="allow", settings={QUIET})
run.log({{"loss": 9}})
print("on", flush=True)
input()
"""
    child = subprocess.Popen(
        [sys.executable, "-c", PREAMBLE + code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert child.stdout.readline() == "on\n"
        run = pulsetrain.init(project="p", id="r1", resume="allow", rank=1, settings=QUIET)
        assert (run.resumed, run.attempt, run.step) == (True, 1, 5)
        assert not start_of(run)["primary"]
    finally:
        child.communicate("\n", timeout=30)


def test_resume_allow_starts_what_is_not_there_and_never_refuses_what_is(sdk):
    run = pulsetrain.init(project="p", id="r1", resume="allow", settings=QUIET)
    assert (run.resumed, run.attempt, run.step) == (False, 0, 0)
    run.finish()
    with pytest.raises(pulsetrain.UsageError, match="never"):
        pulsetrain.init(project="p", id="r1", resume="never")
    assert not pulsetrain.init(project="other", id="r1", resume="never", settings=QUIET).resumed


def test_resume_auto_goes_on_with_the_run_that_broke_off(sdk):
    python(f"pulsetrain.init(project='p', id='broken', settings={QUIET}).log({{'a': 1}}, step=7); raise ValueError")
    run = pulsetrain.init(project="p", resume="auto", settings=QUIET)
    assert (run.id, run.resumed, run.step) == ("broken", True, 8)
    run.finish()
    assert pulsetrain.init(project="p", resume="auto", settings=QUIET).id != "broken"


def test_the_same_id_without_resume_is_a_new_attempt_from_the_start(sdk):
    earlier_run().finish()
    run = pulsetrain.init(project="p", id="r1", settings=QUIET)
    assert (run.resumed, run.attempt, run.step, dict(run.summary)) == (False, 1, 0, {})


def test_resume_from_goes_back_and_fork_from_begins_another(sdk):
    earlier_run().finish()
    run = pulsetrain.init(project="p", resume_from="r1?_step=2", settings=QUIET)
    assert (run.id, run.resumed, run.attempt, run.step) == ("r1", True, 1, 3)
    run.finish()
    fork = pulsetrain.init(project="p", fork_from="r1?_step=1", settings=QUIET)
    assert (fork.id != "r1", fork.step, fork.config.lr, fork.resumed) == (True, 2, 1, False)


def killed(code, *, rank=0, **env):
    """A process of run r1 that is killed -9 after the code; returns what it printed."""
    opening = f"run = pulsetrain.init(project='p', id='r1', resume='allow', rank={rank}, settings={QUIET})\n"
    ending = "\nimport os, signal; print(run.attempt, run.step, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    done = python(opening + code + ending, env={**os.environ, **env})
    assert done.returncode == -signal.SIGKILL, done.stderr
    return done.stdout.split()


@contextmanager
def lasting(code, *, rank=0):
    """A process of run r1 that has run the code and lives on until the block ends."""
    opening = f"run = pulsetrain.init(project='p', id='r1', resume='allow', rank={rank}, settings={QUIET})\n"
    child = subprocess.Popen(
        [sys.executable, "-c", PREAMBLE + opening + code + "\nprint(run.attempt, flush=True); input()"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        yield int(child.stdout.readline())
    finally:
        child.communicate("\n", timeout=30)


def resumed(**more):
    return pulsetrain.init(project="p", id="r1", **{"resume": "allow", "settings": QUIET, **more})


def test_a_run_that_is_killed_again_and_again_goes_on_each_time(sdk):
    for attempt in range(3):
        code = "run.define_metric('x', summary='mean,min,max,first,last')\nfor i in range(4): run.log({'x': run.step})"
        assert killed(code) == [str(attempt), str(4 * attempt + 4)]
    run = resumed()
    assert (run.attempt, run.step, run.starting_step) == (3, 12, 12)
    expected = {"x.mean": 5.5, "x.min": 0, "x.max": 11, "x.first": 0, "x.last": 11}
    assert {key: run.summary[key] for key in expected} == expected
    run.log({"x": 12})
    assert (run.summary["x.mean"], run.summary["x.first"], run.step, run.starting_step) == (6, 0, 13, 12)


def test_rows_of_text_alone_count_for_the_last_step(sdk):
    run = resumed()
    run.log({"a": 1})
    run.log({"note": "x"}, step=9)
    run.finish()
    assert resumed().step == 10


def test_a_rank_that_starts_again_begins_an_attempt_though_another_process_of_the_last_still_runs(sdk):
    with lasting("run.log({'a': 1})", rank=1):
        killed("for i in range(5): run.log({'a': i})")
        run = resumed()
        assert (run.attempt, run.step) == (1, 5)
        late = resumed(rank=1, reinit="create_new")
        assert (late.attempt, late.step) == (1, 5)


def test_a_rank_that_comes_first_begins_the_attempt_though_its_former_process_still_runs(sdk):
    with lasting("for i in range(3): run.log({'a': 1})", rank=1):
        assert resumed(rank=1).attempt == 1
        assert resumed(rank=0, reinit="create_new").attempt == 1


def test_ranks_of_one_launch_share_an_attempt_whoever_still_runs(sdk, monkeypatch):
    assert killed("run.log({'a': 1})", rank=0, PULSETRAIN_LAUNCH="first")[0] == "0"
    monkeypatch.setenv("PULSETRAIN_LAUNCH", "first")
    run = resumed(rank=1)
    assert (run.attempt, run.resumed) == (0, False)
    run.finish()
    monkeypatch.setenv("PULSETRAIN_LAUNCH", "second")
    assert resumed(rank=2).attempt == 1


def test_a_process_that_shares_the_run_of_its_parent_joins_it(sdk):
    run = resumed()
    run.log({"a": 1})
    for settings in (QUIET, {**QUIET, "x_primary": False}):
        code = f"print(pulsetrain.init(project='p', id='r1', resume='must', settings={settings}).attempt)"
        assert python(code).stdout == "0\n"


def test_a_second_rank_without_resume_has_the_attempt_of_the_first(sdk):
    earlier_run().finish()
    with lasting("run.log({'a': 1})") as attempt:
        assert attempt == 1
        run = pulsetrain.init(project="p", id="r1", rank=1, settings=QUIET)
        assert (run.attempt, start_of(run)["first_step"]) == (1, 5)


def test_resume_never_lets_the_ranks_of_a_run_begin_together(sdk):
    with lasting("run.log({'a': 1})"):
        assert resumed(rank=1, resume="never").attempt == 0


def test_a_rewind_takes_back_what_lies_beyond_it(sdk):
    run = earlier_run()
    run.define_metric("cost", summary="mean,min,last")
    for step in range(10, 20):
        run.log({"cost": step, "late": 1.0}, step=step)
    run.summary["after"] = True
    run.name = "second"
    run.finish()
    run = pulsetrain.init(project="p", resume_from="r1?_step=12", settings=QUIET)
    assert (run.step, run.starting_step, run.attempt, run.name) == (13, 13, 1, "second")
    assert dict(run.summary) == {
        "loss": 4.0, "acc.max": 0.4, "note": "kept", "late": 1.0, "cost.mean": 11, "cost.min": 10, "cost.last": 12
    }  # fmt: skip
    run.finish()
    run = pulsetrain.init(project="p", resume_from="r1?_step=2", settings=QUIET)
    assert dict(run.summary) == {"loss": 2.0, "acc.max": 0.2}
    assert (run.step, run.attempt) == (3, 2)
    assert pulsetrain.init(project="p", id="r1", resume="must", reinit="create_new", settings=QUIET).step == 3


def test_an_attempt_whose_first_row_goes_back_begins_there(sdk):
    earlier_run().finish()
    run = resumed()
    for step in (2, 1, 3):
        run.log({"acc": 0.01 * step}, step=step)
    journal = run._history.directory
    run.finish()
    assert [data["first_step"] for data in events(journal, "update") if "first_step" in data] == [2]
    assert events(journal, "summary")[-1]["operations"] == {"acc": {"max": 0.1}}
    run = resumed()
    assert (run.summary["acc.max"], run.step, run.attempt) == (0.1, 4, 2)
    # What the second attempt began at holds for the third that follows it, too.
    assert start_of(run)["first_step"] == 4


def test_a_script_that_starts_over_replaces_all(sdk):
    earlier_run().finish()
    run = resumed()
    run.log({"acc": 0.0}, step=0)
    run.finish()
    assert dict(resumed().summary) == {"acc.max": 0.0}


def test_a_fork_has_the_steps_of_its_parent_as_they_were_then(sdk):
    earlier_run().finish()
    pulsetrain.init(project="p", resume_from="r1?_step=2", settings=QUIET).finish()
    fork = pulsetrain.init(project="p", fork_from="r1?_step=3", id="child", settings=QUIET)
    start = start_of(fork)
    assert (start["parent_run_id"], start["parent_step"], start["first_step"], fork.attempt) == ("r1", 3, 4, 0)
    inherited = [{"run_id": "r1", "attempt": 0, "below": 3}, {"run_id": "r1", "attempt": 1, "below": 4}]
    assert start["inherited"] == inherited
    assert (fork.summary["acc.max"], fork.config.lr, fork.name == "first", fork.step) == (0.2, 1, False, 4)
    fork.log({"acc": 0.3})
    assert fork.summary["acc.max"] == 0.3
    fork.finish()
    grandchild = pulsetrain.init(project="p", fork_from="child?_step=2", settings=QUIET)
    assert start_of(grandchild)["inherited"] == [
        {"run_id": "r1", "attempt": 0, "below": 3}, {"run_id": "r1", "attempt": 1, "below": 3},
        {"run_id": "child", "attempt": 0, "below": 3},
    ]  # fmt: skip
    grandchild.finish()
    again = pulsetrain.init(project="p", fork_from="r1?_step=3", id="child", settings=QUIET)
    assert (again.attempt, again.step, again.resumed) == (1, 4, False)


def test_a_fork_that_goes_back_into_its_parents_steps_keeps_config_and_definitions_and_no_summary_it_cannot_know(sdk):
    earlier_run().finish()
    pulsetrain.init(project="p", fork_from="r1?_step=3", id="child", name="forked", settings=QUIET).finish()
    run = pulsetrain.init(project="p", resume_from="child?_step=1", settings=QUIET)
    assert (run.name, run.config.lr, dict(run.summary), run.step) == ("forked", 1, {}, 2)
    run.log({"acc": 0.05})
    assert dict(run.summary) == {"acc.max": 0.05}
    run.finish()
    fork = pulsetrain.init(project="p", fork_from="child?_step=3", settings=QUIET)
    assert start_of(fork)["inherited"] == [
        {"run_id": "r1", "attempt": 0, "below": 2}, {"run_id": "child", "attempt": 0, "below": 2},
        {"run_id": "child", "attempt": 1, "below": 4},
    ]  # fmt: skip


def test_a_run_is_no_fork_of_itself_and_has_a_parent_that_is_known(sdk):
    with pytest.raises(pulsetrain.UsageError, match="itself"):
        pulsetrain.init(project="p", id="r1", fork_from="r1?_step=3")
    with pytest.raises(pulsetrain.UsageError, match="no run 'r2'"):
        pulsetrain.init(project="p", fork_from="r2?_step=3")
    with pytest.raises(pulsetrain.UsageError, match=r"no run 'r2'.*no address"):
        pulsetrain.init(project="p", id="r2", resume="must")


def test_the_variables_of_wandb_say_what_to_resume(sdk, monkeypatch):
    earlier_run().finish()
    monkeypatch.setenv("WANDB_RUN_ID", "r1")
    monkeypatch.setenv("WANDB_RESUME", "must")
    assert pulsetrain.init(project="p", settings=QUIET).attempt == 1


def test_definitions_are_carried_over_with_the_last_value_of_a_step_metric(sdk):
    run = resumed()
    run.define_metric("epoch")
    run.define_metric("val/*", step_metric="epoch")
    run.log({"epoch": 3, "val/acc": 0.5})
    run.finish()
    run = resumed()
    run.log({"val/acc": 0.6})
    assert rows(run._history.directory) == [(1, {"val/acc": 0.6, "epoch": 3.0})]


def test_an_attempt_of_another_machine_in_a_shared_directory_is_told_by_the_age_of_its_journal(sdk, monkeypatch):
    killed("run.log({'a': 1})")
    monkeypatch.setattr(environment, "host", lambda: "another")
    assert resumed(rank=1).attempt == 0
    lifecycle.current.finish()
    for journal in journals(sdk):
        for segment in journal.glob("*.journal"):
            os.utime(segment, (0, 0))
    assert resumed(rank=2).attempt == 1


@pytest.mark.parametrize("key", ["\udc80", "a\ud800b"])
def test_keys_that_utf8_cannot_hold_are_alike_everywhere(sdk, key):
    run = resumed(config={key: key})
    run.summary[key] = key
    run.config.update({key: key})
    run.log({f"log{key}": 1.0, "text": key})
    clean = key.encode("utf-8", "backslashreplace").decode()
    assert (run.config[key], run.summary[key], run.summary[f"log{key}"]) == (clean, clean, 1.0)
    assert (dict(run.config), set(run.summary)) == ({clean: clean}, {clean, f"log{clean}", "text"})
    del run.config[key], run.summary[key]
    assert (clean in run.config, clean in run.summary) == (False, False)
    run.finish()
    assert dict(resumed().config) == {}


class FakeApi:
    """What the read side answers."""

    attempts_of, state, asked = None, None, ()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    def attempts(self, project, run_id):
        assert (project, run_id) == ("p", "r1")
        if isinstance(self.attempts_of, Exception):
            raise self.attempts_of
        return self.attempts_of

    def state_of(self, project, run_id, *, rank, below):
        type(self).asked = (rank, below)
        return self.state


@pytest.fixture
def read_side(monkeypatch):
    """A read side that answers as the test says."""

    class Fake(FakeApi):
        pass

    Fake.attempts_of = {
        "first_steps": {0: 0, 1: 40}, "inherited": {}, "is_heard": False, "next_step": 60,
        "members": [{"rank": 0, "launch": None}],
    }  # fmt: skip
    Fake.state = {
        "config": {"lr": 2}, "definitions": [{"name": "acc", "summary": ["mean"]}], "explicit": [],
        "summary": {"loss": 7.0}, "operations": {"acc": {"total": 3.0, "count": 2}}, "start": {"name": "there"},
    }  # fmt: skip
    point = SimpleNamespace(load=lambda: Fake)
    monkeypatch.setattr("importlib.metadata.entry_points", lambda **_: [point])
    monkeypatch.setenv("PULSETRAIN_CLICKHOUSE", "clickhouse://localhost:1/x")
    return Fake


def test_a_machine_without_journals_goes_on_with_what_the_read_side_tells(sdk, read_side):
    run = resumed(resume="must")
    assert (run.attempt, run.step, run.name, run.config.lr) == (2, 60, "there", 2)
    assert (dict(run.summary), read_side.asked) == ({"loss": 7.0, "acc.mean": 1.5}, (0, None))
    run.log({"acc": 0})
    assert run.summary["acc.mean"] == 1.0
    run.finish()
    # Its own journal is the later attempt now, and knows more than the read side yet does.
    run = pulsetrain.init(project="p", resume_from="r1?_step=50", settings=QUIET)
    assert (run.attempt, run.step, read_side.asked) == (3, 51, (0, 51))


def test_an_attempt_that_the_read_side_alone_knows_comes_after_those_of_the_journals(sdk, read_side):
    earlier_run().finish()
    run = resumed()
    assert (run.attempt, run.step, run.config.as_dict()) == (2, 60, {"lr": 2})


def test_a_rank_joins_the_attempt_that_another_machine_has_just_begun(sdk, read_side):
    read_side.attempts_of["is_heard"] = True
    run = resumed(rank=1)
    assert (run.attempt, run.step, run.resumed) == (1, 40, True)
    assert (read_side.asked, events(run._history.directory, "summary")[0].get("summary")) == ((1, 40), None)


def test_a_read_side_that_cannot_be_asked_costs_a_line_and_no_run(sdk, read_side, capsys):
    read_side.attempts_of = RuntimeError("it is away")
    with pytest.raises(pulsetrain.UsageError, match="it is away"):
        resumed(resume="must")
    run = resumed(settings={"quiet": True})
    assert (run.attempt, run.step) == (0, 0)
    assert "it is away" in capsys.readouterr().err
