"""How often the hardware is sampled: from init() to the forwarder."""

import pytest

import pulsetrain
from pulsetrain._settings import resolve
from pulsetrain.forwarder.tail import read_identity
from tests.unit.sdk_harness import sdk

__all__ = ["sdk"]


@pytest.mark.parametrize(
    ("settings", "env", "expected"),
    [
        (None, {}, None),
        ({"x_stats_sampling_interval": 0.1}, {}, 0.1),
        (pulsetrain.Settings(x_stats_sampling_interval=15), {}, 15.0),
        (None, {"PULSETRAIN_SAMPLING_SECONDS": "0.5"}, 0.5),
        (None, {"WANDB_X_STATS_SAMPLING_INTERVAL": "5"}, 5.0),
        ({"x_stats_sampling_interval": 2}, {"PULSETRAIN_SAMPLING_SECONDS": "0.5"}, 2.0),
        ({"x_stats_sampling_interval": 3600}, {}, 60.0),
    ],
)
def test_the_sampling_period_is_a_setting_of_wandbs_or_a_variable(settings, env, expected):
    assert resolve({}, settings, env).sampling_seconds == expected


@pytest.mark.parametrize("given", [0, 0.05, -1, "often", float("nan")])
def test_a_period_that_cannot_be_is_refused(given):
    with pytest.raises(pulsetrain.UsageError, match=r"sampl"):
        resolve({}, {"x_stats_sampling_interval": given}, {})


def test_the_period_reaches_the_forwarder_in_the_start_record(sdk):
    run = pulsetrain.init(settings={"x_stats_sampling_interval": 0.2})
    assert read_identity(run._history.directory).sampling_seconds == 0.2
    run.finish()
    assert read_identity(pulsetrain.init()._history.directory).sampling_seconds is None
