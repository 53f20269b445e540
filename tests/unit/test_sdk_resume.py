import subprocess
import sys

import pytest

import pulsetrain
from tests.unit.sdk_harness import PREAMBLE, events, python, sdk

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
