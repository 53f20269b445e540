import contextlib
import decimal
import json
import math
import os
import signal
import threading

import numpy as np
import pytest

import pulsetrain
from pulsetrain._run import history as histories
from tests.unit.sdk_harness import events, journals, python, records, rows, sdk
from tests.waiting import wait_for

__all__ = ["sdk"]


@pytest.fixture
def run(sdk):
    return pulsetrain.init(project="p")


def logged(run):
    return rows(run._history.directory)


def test_each_call_is_a_row_and_the_step_goes_on(run):
    run.log({"a": 1})
    run.log({"a": 2, "b": True})
    assert logged(run) == [(0, {"a": 1.0}), (1, {"a": 2.0, "b": 1.0})]
    assert run.step == 2


def test_commit_false_stays_at_the_step(run):
    run.log({"a": 1}, commit=False)
    run.log({"b": 2})
    run.log({"a": 3})
    assert [step for step, _ in logged(run)] == [0, 0, 1]


def test_a_given_step_is_taken_and_the_step_goes_on_with_commit_only(run):
    run.log({"a": 1}, step=10)
    assert run.step == 10
    run.log({"a": 2}, step=10, commit=True)
    assert run.step == 11
    run.log({"a": 3})
    assert [step for step, _ in logged(run)] == [10, 10, 11]


def test_a_step_that_goes_back_is_kept(run):
    run.log({"a": 1}, step=10)
    run.log({"a": 2}, step=3)
    assert logged(run) == [(10, {"a": 1.0}), (3, {"a": 2.0})]
    assert run.step == 10


@pytest.mark.parametrize(
    ("step", "taken"), [(np.int64(7), 7), (np.array(7), 7), (7.0, 7), (True, 1), ("x", 0), (1 << 70, 0), (2.5, 0)]
)
def test_odd_steps_are_understood_or_the_current_one_is_taken(run, step, taken, capsys):
    run.log({"a": 1}, step=step)
    assert logged(run) == [(taken, {"a": 1.0})]
    assert ("no whole number" in capsys.readouterr().err) == (step in ("x", 1 << 70, 2.5))


class Scalar:
    """As a tensor of one element of some library."""

    shape = ()
    dtype = "float32"

    def item(self):
        return 0.25


class Convertible:
    def __float__(self):
        return 0.5


class Hostile:
    def __float__(self):
        raise RuntimeError("no")

    def __repr__(self):
        raise RuntimeError("no")


class Strange(Exception):
    pass


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (3, 3.0),
        (True, 1.0),
        (-0.0, -0.0),
        (math.inf, math.inf),
        (np.float32(0.5), 0.5),
        (np.int8(-3), -3.0),
        (np.bool_(True), 1.0),
        (np.array(2.5), 2.5),
        (np.array([2.5]), 2.5),
        (np.array([[2]]), 2.0),
        (decimal.Decimal("0.1"), 0.1),
        (Scalar(), 0.25),
        (Convertible(), 0.5),
        (2**1000, float(2**1000)),
    ],
)
def test_every_kind_of_number_becomes_a_float64(run, value, expected):
    run.log({"x": value})
    assert logged(run) == [(0, {"x": expected})]


def test_nan_is_a_value_like_any_other(run):
    run.log({"x": math.nan, "y": -math.inf})
    assert repr(logged(run)) == "[(0, {'x': nan, 'y': -inf})]"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("text", "text"),
        ("", ""),
        (np.str_("7"), "7"),
        ("half \ud800 pair", "half \\ud800 pair"),
        (None, None),
        (10**400, 10**400),
        (10**5000, hex(10**5000)),
        ([1, 2.5, math.nan, "x", None], [1, 2.5, "NaN", "x", None]),
        ((), []),
        ({}, {}),
        (np.arange(3), [0, 1, 2]),
        (np.zeros((2, 2), np.float32), [[0.0, 0.0], [0.0, 0.0]]),
        (np.zeros(20_000), {"_type": "array", "shape": [20000], "dtype": "float64"}),
        (1 + 2j, "(1+2j)"),
        (b"bytes", "b'bytes'"),
        (Hostile(), "<Hostile>"),
        ([{"deep": (1, np.int64(2))}], [{"deep": [1, 2]}]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_no_number_is_kept_as_json(run, value, expected):
    run.log({"x": value, "n": 1})
    ((step, row),) = logged(run)
    assert (step, row["n"]) == (0, 1.0)
    assert json.loads(row["x"]) == expected


def test_nested_dictionaries_are_joined_with_dots_and_odd_keys_are_kept(run):
    run.log({"a": {"b": 1, 2: {"c": 3}}, "train/loss": 4, "": 5, "é ": 6, "half \ud800": {"x": 7}})
    expected = {"a.b": 1.0, "a.2.c": 3.0, "train/loss": 4.0, "": 5.0, "é ": 6.0, "half \\ud800.x": 7.0}
    assert logged(run) == [(0, expected)]
    run.log({"half \ud800": 8})
    assert logged(run)[1] == (1, {"half \\ud800": 8.0})


def test_what_contains_itself_ends_somewhere(run):
    loop = {"x": 1}
    loop["self"] = loop
    ring = [1]
    ring.append(ring)
    run.log({"loop": loop, "ring": ring})
    assert logged(run)[0][1]["loop.self.self.x"] == 1.0


def test_a_huge_text_is_cut_and_that_is_said(run):
    run.log({"x": "y" * 1_000_000})
    cut = json.loads(logged(run)[0][1]["x"])
    assert cut["_type"] == "truncated"
    assert run._history.faults.counts["truncated"] == 1
    assert cut["characters"] == 1_000_002


def test_ten_thousand_keys_in_one_call(run):
    run.log({f"k{i}": i for i in range(10_000)})
    run.log({f"k{i}": {"x": i} for i in range(10_000)})
    first, second = logged(run)
    assert first[1]["k9999"] == second[1]["k9999.x"] == 9999.0
    assert len(first[1]) == len(second[1]) == 10_000


def test_an_empty_dictionary_is_an_empty_row(run):
    run.log({})
    run.log({"a": 1})
    assert logged(run) == [(0, {}), (1, {"a": 1.0})]


@pytest.mark.parametrize("bad", [5, "text", [("a", 1)], None, {1: 2}, {"a": 1, None: 2}, {(): 1}])
def test_misuse_raises_as_in_wandb(run, bad):
    for kind in (pulsetrain.UsageError, ValueError, TypeError):
        with pytest.raises(kind):
            run.log(bad)
    assert logged(run) == []
    assert run.step == 0


def test_log_before_init_and_after_finish_raises(sdk):
    for call in (lambda: pulsetrain.log({"a": 1}), lambda: pulsetrain.define_metric("a")):
        with pytest.raises(pulsetrain.Error, match="init"):
            call()
    assert pulsetrain.run is None
    run = pulsetrain.init(project="p")
    run.finish()
    with pytest.raises(pulsetrain.UsageError, match="has finished"):
        run.log({"a": 1})


def test_the_module_speaks_of_the_current_run(sdk):
    early = pulsetrain.config
    with pytest.raises(pulsetrain.Error, match="init"):
        _ = early.lr
    run = pulsetrain.init(project="p", config={"lr": 1})
    assert pulsetrain.run is run
    assert early.lr == pulsetrain.config["lr"] == 1
    pulsetrain.log({"a": 1}, step=5)
    pulsetrain.summary["best"] = 2
    pulsetrain.define_metric("a", summary="max")
    pulsetrain.finish()
    assert pulsetrain.run is None
    pulsetrain.finish()
    assert rows(run._history.directory) == [(5, {"a": 1.0})]


def test_a_step_metric_is_added_to_rows_that_lack_it(run):
    run.define_metric("*", step_metric="global_step", step_sync=True)
    run.log({"loss": 1})
    run.log({"loss": 2, "global_step": 10})
    run.log({"loss": 3})
    run.log({"note": "x"})
    run.log({"loss": 4, "global_step": 20, "note": "y"})
    run.log({"loss": 5})
    run.log({"loss": 6}, step=9)
    run.define_metric("loss", step_metric="global_step", step_sync=False)
    run.log({"loss": 7})
    assert [row.get("global_step") for _, row in logged(run)] == [None, 10.0, 10.0, 10.0, 20.0, 20.0, 20.0, None]
    assert [row["loss"] for _, row in logged(run) if "loss" in row] == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]
    assert run.step == 10
    with pytest.raises(pulsetrain.InvalidData):
        run.log({1: 2})


def test_a_full_disk_is_said_once_and_logging_resumes(sdk, monkeypatch, capsys):
    run = pulsetrain.init(project="p")
    full = [True]
    row = histories.JournalWriter.row

    def limited(self, *arguments):
        if full[0]:
            raise histories.JournalFull(28, "no room")
        row(self, *arguments)

    monkeypatch.setattr(histories.JournalWriter, "row", limited)
    for _ in range(5):
        run.log({"a": 1})
    full[0] = False
    run.log({"a": 2})
    assert logged(run) == [(5, {"a": 2.0})]
    assert run._history.dropped == 5
    run.finish()
    said = capsys.readouterr().err
    assert said.count("there is no room for the journal: no room. What is logged is lost until there is") == 1
    assert "5 rows" in said
    assert events(run._history.directory, "finish")[0]["dropped"] == 5


def test_a_fault_of_ours_never_reaches_the_training_loop(run, monkeypatch, capsys):
    def broken(*_):
        raise Strange

    monkeypatch.setattr(histories.values, "split", broken)
    run.log({"a": "text"})
    run.log({"a": "text"})
    assert run._history.faults.counts["row"] == 2
    assert capsys.readouterr().err.count("could not be logged") == 1


def test_threads_log_to_one_run(run):
    def work(name):
        for i in range(500):
            run.log({name: i} if i % 10 else {name: i, "text": "x"})

    threads = [threading.Thread(target=work, args=(f"t{i}",)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = logged(run)
    assert [step for step, _ in found] == list(range(2000))
    assert [row["t1"] for _, row in found if "t1" in row] == list(range(500))


def test_a_signal_handler_may_log(run):
    before = signal.signal(signal.SIGUSR1, lambda *_: run.log({"signal": "text"}))
    try:
        for i in range(200):
            run.log({"a": i})
            os.kill(os.getpid(), signal.SIGUSR1)
        wait_for(lambda: sum("signal" in row for _, row in logged(run)) >= 100, what="the handler's rows")
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert [row["a"] for _, row in logged(run) if "a" in row] == list(range(200))


def test_a_forked_child_logs_to_a_journal_of_its_own(sdk):
    done = python(
        """
import os
run = pulsetrain.init(project="p", config={"lr": 1}, settings={"silent": True})
run.log({"a": 1})
quiet_child = os.fork()
if not quiet_child:
    print("child")
    os._exit(0)
loud_child = os.fork()
if not loud_child:
    run.log({"a": 2})
    run.summary["b"] = 3
    assert run.summary["a"] == 2, run.summary
    raise SystemExit(0)
assert os.waitpid(quiet_child, 0)[1] == os.waitpid(loud_child, 0)[1] == 0
run.log({"a": 4})
"""
    )
    assert done.returncode == 0, done.stderr
    parent, child = journals(sdk)
    assert rows(parent) == [(0, {"a": 1.0}), (1, {"a": 4.0})]
    assert rows(child) == [(1, {"a": 2.0})]
    (start,) = events(child, "start")
    assert not start["primary"]
    assert events(parent, "start")[0]["primary"]
    assert start["run_id"] == events(parent, "start")[0]["run_id"]
    assert start["pid"] != events(parent, "start")[0]["pid"]
    assert len(events(child, "finish")) == len(events(parent, "finish")) == 1


def test_sigkill_loses_nothing_that_was_logged(sdk):
    done = python(
        """
import os, signal
run = pulsetrain.init(project="p", settings={"silent": True})
for i in range(1234):
    run.log({"a": i, "b": 1})
os.kill(os.getpid(), signal.SIGKILL)
"""
    )
    assert done.returncode == -signal.SIGKILL
    (journal,) = journals(sdk)
    assert len(rows(journal)) == 1234
    assert not events(journal, "finish")


def test_disabled_everything_works_and_nothing_is_written(sdk):
    run = pulsetrain.init(project="p", mode="disabled", config={"lr": 1})
    run.log({"a": "b"})
    run.log(5)
    run.config.update({"lr": 2}, allow_val_change=True)
    run.summary["x"] = 1
    run.define_metric("a", summary="min")
    run.tags += ("new",)
    assert (run.config.lr, run.summary["x"], run.step, run.disabled) == (2, 1, 2, True)
    run.finish()
    assert not sdk.exists()


def test_finishing_from_within_a_thread_while_others_log_is_clean(run):
    stop = threading.Event()

    def work():
        with contextlib.suppress(pulsetrain.UsageError):
            while not stop.is_set():
                run.log({"a": 1})

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    run.finish()
    stop.set()
    for thread in threads:
        thread.join()
    assert records(run._history.directory)[-1].kind == "finish"
