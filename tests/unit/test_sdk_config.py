import argparse
import subprocess

import pytest

import pulsetrain
from pulsetrain._run import environment, lifecycle
from tests.unit.sdk_harness import events, sdk

__all__ = ["sdk"]

QUIET = {"silent": True}


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
