"""run.alert(): what is written of it, and what is misuse."""

import enum
import math
from datetime import timedelta

import pytest

import pulsetrain
from pulsetrain._run.alert import alert_event
from pulsetrain._run.errors import UsageError
from tests.unit.sdk_harness import events, sdk

__all__ = ["sdk"]

QUIET = {"silent": True}


class WandbLevel(enum.Enum):
    """As W&B's AlertLevel is, which is no text."""

    WARN = "WARN"


def test_an_alert_is_written_at_once_as_it_was_said(sdk):
    run = pulsetrain.init(settings=QUIET)
    run.alert("Odd", "it is 17")
    pulsetrain.alert(
        title="Odd", text="it is 18", level=pulsetrain.AlertLevel.ERROR, wait_duration=timedelta(minutes=2)
    )
    assert events(run._history.directory, "alert") == [
        {"title": "Odd", "text": "it is 17", "level": "INFO", "wait_seconds": 0.0},
        {"title": "Odd", "text": "it is 18", "level": "ERROR", "wait_seconds": 120.0},
    ]


@pytest.mark.parametrize(
    ("level", "written"),
    [
        (None, "INFO"),
        ("INFO", "INFO"),
        ("warn", "WARN"),
        ("Error", "ERROR"),
        (pulsetrain.AlertLevel.WARN, "WARN"),
        (WandbLevel.WARN, "WARN"),
    ],
)
def test_levels_are_w_and_bs_in_any_case(level, written):
    assert alert_event("t", "x", level)["level"] == written


@pytest.mark.parametrize("level", ["", "WARNING", "critical", 30, object()])
def test_a_level_that_there_is_not_is_misuse(level):
    with pytest.raises(UsageError, match="level is INFO, WARN or ERROR, not"):
        alert_event("t", "x", level)


@pytest.mark.parametrize(
    ("wait", "seconds"), [(None, 0.0), (0, 0.0), (1, 1.0), (0.5, 0.5), (timedelta(hours=1), 3600.0), ("60", 60.0)]
)
def test_a_duration_is_seconds_or_a_timedelta(wait, seconds):
    assert alert_event("t", "x", None, wait)["wait_seconds"] == seconds


@pytest.mark.parametrize("wait", [-1, math.nan, math.inf, "soon", [60], timedelta(seconds=-1), object()])
def test_a_duration_that_is_none_is_misuse(wait):
    with pytest.raises(UsageError, match="wait_duration is a number of seconds or a timedelta, not"):
        alert_event("t", "x", None, wait)


def test_whatever_is_said_becomes_text_that_can_be_sent(sdk):
    run = pulsetrain.init(settings=QUIET)
    run.alert(17, ValueError("no \ud800 such \U0001f600"))
    (said,) = events(run._history.directory, "alert")
    assert said["title"] == "17"
    assert said["text"].encode().decode().endswith("such \U0001f600")


def test_before_init_it_is_misuse():
    with pytest.raises(pulsetrain.Error, match=r"call pulsetrain.init\(\) before pulsetrain.alert\(\)"):
        pulsetrain.alert("t", "x")


def test_after_the_end_and_in_a_disabled_run_nothing_is_raised(sdk):
    run = pulsetrain.init(settings=QUIET)
    run.finish(quiet=True)
    run.alert("t", "x")
    disabled = pulsetrain.init(mode="disabled", settings=QUIET)
    disabled.alert("t", "x", level="ERROR")
    with pytest.raises(UsageError):
        disabled.alert("t", "x", level="BAD")
    disabled.finish(quiet=True)
    assert events(run._history.directory, "alert") == []


def test_the_levels_are_text():
    assert [str(level) for level in pulsetrain.AlertLevel] == ["INFO", "WARN", "ERROR"]
