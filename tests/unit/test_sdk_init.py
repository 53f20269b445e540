import argparse
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

import pulsetrain
from pulsetrain._run import environment, lifecycle, link
from pulsetrain._run.faults import Faults
from tests.unit.sdk_harness import PREAMBLE, events, journals, python, records, rows, sdk
from tests.waiting import wait_for

__all__ = ["sdk"]

QUIET = {"silent": True}


def start_of(run):
    return events(run._history.directory, "start")[0]


# What init() takes


def test_a_run_has_what_init_was_given(sdk):
    run = pulsetrain.init(
        project="digits", entity="team", id="abc", name="first", notes="n", tags=["a", "b", "a"], group="g",
        job_type="train", config={"lr": 0.1, "opt": {"name": "sgd"}},
    )  # fmt: skip
    assert (run.id, run.name, run.project, run.entity, run.path) == (
        "abc",
        "first",
        "digits",
        "team",
        "team/digits/abc",
    )
    assert (run.notes, run.tags, run.group, run.job_type) == ("n", ("a", "b"), "g", "train")
    assert (run.mode, run.offline, run.disabled, run.resumed, run.attempt, run.step) == (
        "offline",
        True,
        False,
        False,
        0,
        0,
    )
    assert run.url is run.get_url() is None
    assert abs(run.start_time - time.time()) < 60
    start = start_of(run)
    assert (start["role"], start["mode"], start["primary"], start["pid"]) == ("run", "offline", True, os.getpid())
    assert start["tags"] == ["a", "b"]
    assert start["attempt_started"] == round(run.start_time * 1e6)
    assert start["environment"]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert events(run._history.directory, "config") == [{"config": {"lr": 0.1, "opt": {"name": "sgd"}}}]
    assert run._history.directory.parent.name.startswith("offline-run-")
    assert run._history.directory.parent.name.endswith("-abc")


def test_ids_and_names_are_made_up_without_touching_the_seeded_generator(sdk):
    import random

    random.seed(1)
    expected = random.random()
    random.seed(1)
    run = pulsetrain.init()
    assert random.random() == expected
    assert len(run.id) == 8
    assert run.id.isalnum()
    adjective, noun, number = run.name.split("-")
    assert adjective.isalpha()
    assert noun.isalpha()
    assert number == "1"
    assert run.project == "uncategorized"


def test_the_environment_fills_in_what_init_leaves_open(sdk, monkeypatch):
    for name, value in {
        "WANDB_PROJECT": "theirs", "PULSETRAIN_PROJECT": "ours", "WANDB_NAME": "n", "WANDB_NOTES": "o",
        "WANDB_TAGS": "a, b", "WANDB_RUN_ID": "id1", "WANDB_RUN_GROUP": "g", "WANDB_JOB_TYPE": "j",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    run = pulsetrain.init(notes="given")
    assert (run.project, run.name, run.notes, run.tags, run.id) == ("ours", "n", "given", ("a", "b"), "id1")
    assert (run.group, run.job_type) == ("g", "j")


@pytest.mark.parametrize(
    "arguments",
    [
        {"project": "a/b"},
        {"project": "a#b"},
        {"project": "x" * 129},
        {"project": ""},
        {"id": "a/b"},
        {"id": "a?b"},
        {"id": " a"},
        {"id": ""},
        {"id": "a\nb"},
        {"tags": [""]},
        {"tags": ["x" * 65]},
        {"tags": [5]},
        {"mode": "sometimes"},
        {"resume": "perhaps"},
        {"resume": "must"},
        {"resume": "must", "id": "unknown"},
        {"resume": "allow", "resume_from": "a?_step=1"},
        {"resume_from": "a"},
        {"resume_from": "unknown?_step=1"},
        {"fork_from": "unknown?_step=1"},
        {"reinit": "maybe"},
        {"config": 5},
        {"config": "no-such-file.yaml"},
        {"config": {}, "config_include_keys": ["a"], "config_exclude_keys": ["b"]},
        {"settings": {"console": "loud"}},
        {"settings": {"finish_timeout": "long"}},
        {"rank": "first"},
    ],
    ids=str,
)
def test_wrong_arguments_are_refused_in_words(sdk, arguments):
    with pytest.raises(pulsetrain.UsageError) as caught:
        pulsetrain.init(**arguments)
    assert len(str(caught.value)) > 10
    assert pulsetrain.run is None


def test_arguments_that_only_wandb_knows_are_accepted(sdk):
    pulsetrain.init(
        project="p", magic=True, anonymous="allow", force=True, save_code=True, sync_tensorboard=True,
        monitor_gym=True, tensorboard=False, settings=pulsetrain.Settings(start_method="thread", _disable_stats=True),
    )  # fmt: skip


@pytest.mark.parametrize("tags", ["one", ("one",), ["one", "one"]])
def test_tags_may_be_one_or_several_and_be_added_to(sdk, tags):
    run = pulsetrain.init(tags=tags)
    run.tags += ("two",)
    run.name = "renamed"
    assert run.tags == ("one", "two")
    assert events(run._history.directory, "update") == [{"tags": ["one", "two"]}, {"name": "renamed"}]


def test_the_rank_comes_from_the_launcher_and_only_rank_0_speaks_for_a_shared_run(sdk, monkeypatch):
    monkeypatch.setenv("RANK", "3")
    run = pulsetrain.init(id="shared")
    assert (run.rank, start_of(run)["rank"], start_of(run)["primary"]) == (3, 3, False)
    run.finish()
    own = pulsetrain.init()
    assert start_of(own)["primary"]
    own.finish()
    assert start_of(pulsetrain.init(rank=5, settings={"x_primary": True}))["primary"]


def test_a_folder_that_cannot_be_written_is_replaced_and_named(sdk, tmp_path, capsys):
    file = tmp_path / "file"
    file.write_text("")
    run = pulsetrain.init(dir=file)
    run.log({"a": 1})
    assert "cannot be written" in capsys.readouterr().err
    assert rows(run._history.directory) == [(0, {"a": 1.0})]


def test_no_broker_is_said_in_one_line_and_silence_is_kept(sdk, capsys):
    pulsetrain.init(mode="online", settings={"finish_timeout": 0.01}).finish(quiet=True)
    said = capsys.readouterr().err
    assert said.count("no Kafka is known") == 1
    pulsetrain.init(mode="online", settings={"silent": True, "finish_timeout": 0.01}).finish()
    assert capsys.readouterr().err == ""


# Several runs


def test_init_again_returns_the_active_run_unless_told_otherwise(sdk):
    first = pulsetrain.init(project="p")
    assert pulsetrain.init(project="q") is first
    second = pulsetrain.init(project="q", reinit="finish_previous")
    assert second is not first
    assert pulsetrain.run is second
    third = pulsetrain.init(project="r", reinit="create_new")
    assert pulsetrain.run is second
    third.log({"a": 1})
    fourth = pulsetrain.init(project="p", reinit=True)
    assert pulsetrain.run is fourth
    for done in (first, second, third):
        with pytest.raises(pulsetrain.UsageError):
            done.log({"a": 1})


def test_in_a_notebook_init_again_finishes_the_previous_run(sdk, monkeypatch):
    monkeypatch.setattr(environment, "in_notebook", lambda: True)
    first = pulsetrain.init(project="p")
    second = pulsetrain.init(project="p")
    assert second is not first
    assert events(first._history.directory, "finish")


# Ends


@pytest.mark.parametrize(
    ("ending", "state", "exit_code"),
    [
        ("pass", "finished", 0),
        ("run.finish()", "finished", 0),
        ("run.finish(exit_code=3)", "failed", 3),
        ("raise ValueError('no')", "failed", 1),
        ("raise KeyboardInterrupt", "killed", 255),
        ("import sys; sys.exit(4)", "failed", 4),
        ("import sys; sys.exit()", "finished", 0),
        ("import sys; sys.exit('words')", "failed", 1),
        ("with run: raise ValueError", "failed", 1),
        ("with run: pass", "finished", 0),
        ("with run: raise SystemExit(5)", "failed", 5),
    ],
)
def test_the_end_of_the_program_is_the_end_of_the_run(sdk, ending, state, exit_code):
    python(f"run = pulsetrain.init(settings={QUIET})\nrun.log({{'a': 1}})\n{ending}")
    (journal,) = journals(sdk)
    last = records(journal)[-1]
    assert last.kind == "finish"
    assert (last.data["state"], last.data["exit_code"]) == (state, exit_code)
    assert rows(journal) == [(0, {"a": 1.0})]


def test_ctrl_c_is_noticed_where_it_strikes(sdk):
    code = (
        PREAMBLE + f"run = pulsetrain.init(settings={QUIET}); print('on', flush=True)\nwhile True: run.log({{'a': 1}})"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        assert child.stdout.readline() == b"on\n"
        child.send_signal(signal.SIGINT)
        child.wait(30)
    finally:
        child.kill()
        child.stdout.close()
        child.wait()
    (journal,) = journals(sdk)
    assert records(journal)[-1].data["state"] == "killed"


def test_finish_waits_for_the_forwarder_and_says_so_when_it_takes_long(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(link, "PROGRESS_AFTER_SECONDS", 0.0)
    monkeypatch.setenv("PULSETRAIN_KAFKA", "127.0.0.1:1")
    journal = tmp_path / "run" / "w"
    journal.mkdir(parents=True)
    here = link.Link(tmp_path, {"PULSETRAIN_KAFKA": "127.0.0.1:1"}, Faults())
    threading.Timer(0.2, lambda: (journal / "ack.json").write_text(json.dumps({"complete": True}))).start()
    assert here.wait_delivered(journal, 7, 30)
    assert "sending what was logged (0 of 7 records so far)" in capsys.readouterr().err


def test_finish_does_not_wait_where_no_broker_is_known(tmp_path, capsys):
    begun = time.monotonic()
    assert not link.Link(tmp_path, {"PULSETRAIN_HOME": str(tmp_path)}, Faults()).wait_delivered(tmp_path / "w", 7, 30)
    assert time.monotonic() - begun < link.AWAY_SECONDS
    assert "Nothing is lost" in capsys.readouterr().err


def test_a_forwarder_that_takes_its_time_to_start_is_not_started_again(tmp_path, monkeypatch):
    from pulsetrain.forwarder import spawn

    started, registered = [], []
    monkeypatch.setattr(spawn, "ensure_running", lambda home, env: started.append(home) or True)
    monkeypatch.setattr(spawn, "register", lambda *arguments: registered.append(arguments))
    monkeypatch.setattr(link, "WATCH_SECONDS", 0.001)
    here = link.Link(tmp_path, {}, Faults())
    here.announce("w1", tmp_path)
    here.announce("w2", tmp_path)
    here.watch()
    assert (len(started), len(registered)) == (1, 2)
    here._started_at = -1000.0  # as if that were long ago: then it has died
    wait_for(lambda: len(started) == 2, what="another forwarder")
    here.stop()


def test_trouble_with_the_forwarder_is_noted_and_training_goes_on(tmp_path, monkeypatch, capsys):
    from pulsetrain.forwarder import spawn

    def broken(*_):
        raise PermissionError("no")

    monkeypatch.setattr(spawn, "register", broken)
    faults = Faults()
    link.Link(tmp_path, {}, faults).announce("w", tmp_path)
    assert faults.counts["forwarder"] == 1
    assert "nothing is lost" in capsys.readouterr().err


def test_finish_gives_up_when_the_broker_is_away_and_says_that_nothing_is_lost(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(link, "AWAY_SECONDS", 0.1)
    env = {"PULSETRAIN_KAFKA": "127.0.0.1:1"}
    from pulsetrain.forwarder.places import Place, destination

    place = Place.of(tmp_path, destination(env))
    place.create()
    place.status.write_text(json.dumps({"pid": 1, "broker": "away", "detail": "", "updated": time.time()}))
    begun = time.monotonic()
    assert not link.Link(tmp_path, env, Faults()).wait_delivered(tmp_path / "run" / "w", 7, 30)
    assert time.monotonic() - begun < 10
    said = capsys.readouterr().err
    assert "Nothing is lost" in said
    assert "pulsetrain sync" in said


# Resuming


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


# Config, summary, environment


def test_config_is_changed_only_when_that_is_allowed(sdk):
    run = pulsetrain.init(config=argparse.Namespace(lr=0.1, layers=[1, 2]), settings=QUIET)
    run.config.lr = 0.1
    run.config["new"] = {"a": {"b": 1}}
    with pytest.raises(pulsetrain.ConfigError, match="allow_val_change"):
        run.config.lr = 0.2
    with pytest.raises(pulsetrain.ConfigError):
        run.config.update({"other": 1, "lr": 0.2})
    assert "other" not in run.config
    run.config.update({"lr": 0.2}, allow_val_change=True)
    run.config.setdefaults({"lr": 0.3, "late": 1})
    del run.config["late"]
    assert run.config.as_dict() == {"lr": 0.2, "layers": [1, 2], "new": {"a": {"b": 1}}}
    assert run.config.get("none", 5) == 5
    with pytest.raises(AttributeError):
        _ = run.config.missing
    assert events(run._history.directory, "config") == [
        {"config": {"lr": 0.1, "layers": [1, 2]}},
        {"config": {"new": {"a": {"b": 1}}}},
        {"config": {"lr": 0.2}},
        {"config": {"late": 1}},
        {"removed": ["late"]},
    ]


def test_config_keys_may_be_chosen_and_come_from_a_file(sdk, tmp_path):
    file = tmp_path / "config.json"
    file.write_text('{"a": {"desc": null, "value": 1}, "b": 2}')
    assert pulsetrain.init(config=str(file), settings=QUIET).config.as_dict() == {"a": 1, "b": 2}
    given = {"a": 1, "b": 2}
    assert pulsetrain.init(config=given, config_exclude_keys=["a"], reinit=True, settings=QUIET).config.as_dict() == {
        "b": 2
    }
    assert pulsetrain.init(config=given, config_include_keys=["a"], reinit=True, settings=QUIET).config.as_dict() == {
        "a": 1
    }


def test_summary_operations(sdk):
    run = pulsetrain.init(settings=QUIET)
    run.define_metric("loss", summary="min,mean,first,last")
    run.define_metric("val/*", summary="best", goal="maximize")
    run.define_metric("hidden", summary="none")
    for value in (3.0, float("nan"), 1.0, 2.0):
        run.log({"loss": value, "val/acc": value, "hidden": value, "plain": value})
    run.log({"text": "t", "hidden": "h"})
    assert dict(run.summary) == {
        "loss.min": 1.0, "loss.mean": 2.0, "loss.first": 3.0, "loss.last": 2.0,
        "val/acc.best": 3.0, "plain": 2.0, "text": "t",
    }  # fmt: skip
    assert run.summary["loss"] == {"min": 1.0, "mean": 2.0, "first": 3.0, "last": 2.0}
    run.summary["loss"] = 9
    run.summary.update({"plain": float("inf")}, extra=[1])
    del run.summary["text"]
    assert dict(run.summary) == {"loss": 9, "val/acc.best": 3.0, "plain": "Infinity", "extra": [1]}
    run.log({"loss": 0.5})
    assert run.summary["loss"] == run.summary.loss == 0.5
    run.finish()
    assert run.summary["extra"] == [1]


@pytest.mark.parametrize("arguments", [("",), ("a*b",), ("a", 5), ("a", None, None, None, "median"), (5,)])
def test_define_metric_refuses_what_it_does_not_know(sdk, arguments):
    run = pulsetrain.init(settings=QUIET)
    with pytest.raises(pulsetrain.UsageError):
        run.define_metric(*arguments)
    with pytest.raises(pulsetrain.UsageError):
        run.define_metric("a", goal="upwards")


def test_definitions_add_up_unless_overwritten(sdk):
    run = pulsetrain.init(settings=QUIET)
    run.define_metric("a", summary="min", step_metric="s")
    assert run.define_metric("a", hidden=True).summary == ("min",)
    assert run.define_metric("a", hidden=True, overwrite=True).summary is None
    assert len(events(run._history.directory, "define_metric")) == 3


def test_git_is_found_without_credentials(tmp_path):
    for command in (
        ["init", "-q", "-b", "trunk"],
        ["-c", "user.name=n", "-c", "user.email=e@x", "commit", "-q", "--allow-empty", "-m", "m"],
        ["remote", "add", "origin", "https://me:token@example.org/repo.git"],
    ):
        subprocess.run(["git", "-C", tmp_path, *command], check=True)
    found = environment.git(tmp_path)
    assert (found["git_branch"], found["git_dirty"]) == ("trunk", False)
    assert found["git_remote"] == "https://example.org/repo.git"
    assert len(found["git_commit"]) == 40
    assert environment.git(tmp_path.parent / "nowhere") == {}


def test_git_arrives_as_an_update(sdk):
    run = pulsetrain.init(settings=QUIET)
    (active,) = lifecycle._runs
    active._git.join(30)
    run.finish()
    updates = events(run._history.directory, "update")
    assert all("git_commit" in update["environment"] for update in updates)


def test_secrets_on_the_command_line_are_not_kept():
    given = ["--lr=1", "--api-key=abc", "--token", "abc", "--password", "--x", "file"]
    assert environment.without_secrets(given) == [
        "--lr=1",
        "--api-key=***",
        "--token",
        "***",
        "--password",
        "--x",
        "file",
    ]


# Console


def console(run):
    return [(event["stream"], event["line"]) for event in events(run._history.directory, "console")]


@pytest.fixture
def streams(sdk, monkeypatch):
    """Call it in the test: pytest puts its own streams in place after the fixtures."""

    def replace():
        out, err = io.StringIO(), io.StringIO()
        monkeypatch.setattr(sys, "stdout", out)
        monkeypatch.setattr(sys, "stderr", err)
        return out, err

    return replace


def test_what_is_printed_is_kept_line_by_line_and_still_printed(streams):
    out, _ = streams()
    write = out.write
    run = pulsetrain.init(settings={"console": "wrap", "quiet": True})
    print("one")
    print("two", "words", end="")
    print(" together\n\nafter")
    print("problem", file=sys.stderr)
    print("\x1b[31mred\x1b[0m")
    print("no end", end="")
    run.finish()
    print("afterwards")
    assert out.getvalue().startswith("one\ntwo words together\n\nafter\n")
    lines = [line for stream, line in console(run) if stream == "stdout"]
    assert lines == ["one", "two words together", "", "after", "red", "no end"]
    assert ("stderr", "problem") in console(run)
    assert out.write == write


def test_progress_bars_do_not_flood(streams):
    _, err = streams()
    run = pulsetrain.init(settings={"console": "wrap", "quiet": True})
    for percent in range(1000):
        err.write(f"\r{percent / 10}%|####")
    err.write("\r100%|####\n")
    for _ in range(1000):  # nested bars move the cursor
        err.write("\n\rinner\x1b[A")
    run.finish()
    lines = [line for stream, line in console(run) if stream == "stderr"]
    assert lines[0] == "100%|####"
    assert len(lines) < 10


def test_a_handler_of_logging_that_holds_the_stream_is_heard_and_nothing_recurs(streams, monkeypatch):
    import logging

    out, err = streams()
    handler = logging.StreamHandler(err)
    run = pulsetrain.init(settings={"console": "auto", "quiet": True})
    logger = logging.getLogger("test of the console")
    logger.addHandler(handler)
    event = run._history.event
    monkeypatch.setattr(run._history, "event", lambda *a, **k: (print("from within"), event(*a, **k))[1])
    logger.warning("heard")
    monkeypatch.setattr(run._history, "event", event)
    run.finish()
    assert ("stderr", "heard") in console(run)
    assert "from within" in out.getvalue()


def test_what_pulsetrain_says_itself_is_not_captured(streams):
    _, err = streams()
    run = pulsetrain.init(settings={"console": "wrap"})
    run.finish()
    assert "pulsetrain: run" in err.getvalue()
    assert console(run) == []


def test_a_stream_that_cannot_be_wrapped_is_left_alone(sdk, monkeypatch):
    class Bare:
        __slots__ = ()

        def write(self, text):
            return len(text)

        def flush(self):
            pass

    monkeypatch.setattr(sys, "stdout", Bare())
    monkeypatch.setattr(sys, "stderr", None)
    run = pulsetrain.init(settings={"console": "wrap"})
    print("x")
    run.finish()
    assert console(run) == []
