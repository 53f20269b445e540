import os
import sys
import time

import pytest

import pulsetrain
from pulsetrain._run import environment
from tests.unit.sdk_harness import events, rows, sdk

__all__ = ["sdk"]


def start_of(run):
    return events(run._history.directory, "start")[0]


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


def test_a_home_that_is_no_folder_costs_a_line_and_not_the_training(sdk, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").touch()
    monkeypatch.setenv("PULSETRAIN_HOME", str(tmp_path / "file" / "home"))
    monkeypatch.setenv("PULSETRAIN_KAFKA", "127.0.0.1:9")
    run = pulsetrain.init(mode="online", project="p")
    run.log({"loss": 1})
    run.finish()
    assert "the forwarder cannot be asked" in capsys.readouterr().err


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
