"""Detectors of losses and gradients: each with what it must see and what it must let pass."""

import math

import numpy as np
import pytest

from pulsetrain_consumers.monitor.detectors.blocks import Blocks
from pulsetrain_consumers.monitor.detectors.divergence import Divergence
from pulsetrain_consumers.monitor.detectors.gradient_explosion import GradientExplosion
from pulsetrain_consumers.monitor.detectors.loss_spike import LossSpike
from pulsetrain_consumers.monitor.detectors.names import Role, role
from pulsetrain_consumers.monitor.detectors.not_finite import NotFinite
from pulsetrain_consumers.monitor.detectors.plateau import Plateau
from pulsetrain_consumers.monitor.findings import Finding


def power_law(count: int, noise: float = 0.02, seed: int = 0) -> np.ndarray:
    k = np.arange(count)
    ragged = np.random.default_rng(seed).standard_t(4, count)
    return (1 + 5 * (1 + k / 5) ** -0.3) * (1 + noise * ragged)


def fed(detector, values, seconds: float = 1.0) -> list[Finding]:
    found = []
    for begin in range(0, len(values), 10):
        part = [float(it) for it in values[begin : begin + 10]]
        steps = list(range(begin, begin + len(part)))
        found.append(detector.observe([seconds * step for step in steps], steps, part, 0))
    return [it for it in found if it is not None]


def fed_in_blocks(detector, values, seconds: float = 1.0) -> list[Finding]:
    blocks, found = Blocks(), []
    for step, value in enumerate(values):
        block = blocks.add([seconds * step], [step], [float(value)])
        if block is not None:
            found.append(detector.observe(block))
    return [it for it in found if it is not None]


def presences(found: list[Finding]) -> list[bool]:
    return [it.present for it in found]


def finite(detector, flags: str, seconds: float = 1.0) -> list[bool]:
    """Feeds `.` for finite and `x` for not, one a message."""
    found = [detector.observe([i * seconds], [i], [c == "."], 3) for i, c in enumerate(flags)]
    return [it.present for it in found if it is not None]


def test_a_loss_that_is_nan_twice_is_a_finding_that_names_step_and_rank() -> None:
    detector = NotFinite("loss")
    found = detector.observe([1.0, 2.0, 3.0], [7, 8, 9], [True, False, False], 3)
    assert found is not None
    assert found.present
    assert (found.step, found.rank, found.subject) == (9, 3, "loss")


def test_one_nan_among_many_values_is_none_but_is_one_where_values_are_rare() -> None:
    assert finite(NotFinite("loss"), "....x......x....") == []
    assert finite(NotFinite("loss"), "....x", seconds=60.0) == [True]


def test_a_loss_that_is_finite_again_for_twenty_values_is_over() -> None:
    assert finite(NotFinite("loss"), "...xx" + "." * 19) == [True]
    assert finite(NotFinite("loss"), "...xx" + "." * 25 + "xx") == [True, False, True]


def test_the_overflows_of_a_loss_scaler_are_no_finding() -> None:
    assert finite(NotFinite("grad_norm", confirm=20), "x" * 16 + "." * 50 + "x....x") == []
    assert finite(NotFinite("grad_norm", confirm=20), "." * 9 + "x" * 20) == [True]


def test_a_loss_that_leaps_and_recovers_is_a_spike_that_ends() -> None:
    loss = power_law(600)
    loss[300:360] *= 1 + 1.5 * np.exp(-np.arange(60) / 15)
    assert presences(fed(LossSpike("loss"), loss)) == [True, False]


@pytest.mark.parametrize("seed", range(5))
def test_heavy_tails_single_odd_batches_and_drops_are_no_spikes(seed: int) -> None:
    loss = power_law(3000, 0.04, seed)
    loss[500::97] *= 4
    loss[1500:] *= 0.6
    assert fed(LossSpike("loss"), loss) == []


def test_a_level_that_stays_becomes_the_usual_one() -> None:
    loss = np.concatenate([power_law(300), 9 + 0.1 * np.random.default_rng(0).normal(size=900)])
    found = fed(LossSpike("loss"), loss)
    assert presences(found) == [True, False]
    assert "new level" in found[1].message


def test_a_constant_loss_and_a_negative_one_have_no_spikes() -> None:
    assert fed(LossSpike("loss"), np.zeros(500)) == []
    assert fed(LossSpike("nll"), -20 + np.random.default_rng(1).normal(size=2000)) == []


def test_a_gradient_norm_that_grows_a_hundredfold_explodes() -> None:
    rng = np.random.default_rng(2)
    norm = np.exp(0.3 * rng.normal(size=400))
    norm[300:] *= np.minimum(100, np.exp(np.arange(100) / 5))
    assert presences(fed(GradientExplosion("grad_norm"), norm)) == [True]


@pytest.mark.parametrize("seed", range(5))
def test_log_normal_norms_with_rare_outliers_do_not_explode(seed: int) -> None:
    rng = np.random.default_rng(seed)
    norm = np.exp(0.5 * rng.standard_t(5, 3000)) * (0.3 + 3 * np.exp(-np.arange(3000) / 80))
    norm[400::211] *= 100
    assert fed(GradientExplosion("grad_norm"), norm) == []


def test_a_loss_that_goes_on_rising_diverges_and_recovery_ends_it() -> None:
    loss = power_law(3000)
    loss[1500:] *= 1 + np.concatenate([np.arange(1000) / 600, np.zeros(500)])
    assert presences(fed_in_blocks(Divergence("loss"), loss)) == [True, False]


def test_a_loss_that_falls_back_to_its_beginning_and_stays_diverges() -> None:
    loss = power_law(3000)
    loss[1200:] = loss[0] * 0.95 + 0.05 * np.random.default_rng(3).normal(size=1800)
    assert presences(fed_in_blocks(Divergence("loss"), loss)) == [True]


@pytest.mark.parametrize("seed", range(3))
def test_cycles_a_new_data_mix_and_a_spike_are_no_divergence(seed: int) -> None:
    loss = power_law(4000, seed=seed)
    k = np.arange(4000)
    assert fed_in_blocks(Divergence("loss"), loss * (1 + 0.1 * np.sin(k / 200))) == []
    mixed = loss.copy()
    mixed[2000:] *= 1.18
    assert fed_in_blocks(Divergence("loss"), mixed) == []
    spiked = loss.copy()
    spiked[2000:2100] *= 1 + 2 * np.exp(-np.arange(100) / 30)
    assert fed_in_blocks(Divergence("loss"), spiked) == []


def test_a_loss_that_stopped_falling_early_is_on_a_plateau_until_it_falls_again() -> None:
    loss = power_law(6000)
    stuck = loss[400:440].mean()
    loss[400:5000] = stuck * (1 + 0.02 * np.random.default_rng(4).normal(size=4600))
    loss[5000:] *= 0.6
    assert presences(fed_in_blocks(Plateau("loss"), loss)) == [True, False]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("seconds", [1.0, 60.0])
def test_a_power_law_is_never_on_a_plateau(seed: int, seconds: float) -> None:
    assert fed_in_blocks(Plateau("loss"), power_law(8000, 0.03, seed), seconds) == []


def test_a_constant_is_on_no_plateau() -> None:
    assert fed_in_blocks(Plateau("loss"), np.full(5000, 0.25)) == []


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("loss", Role.LOSS),
        ("train/loss", Role.LOSS),
        ("train_loss", Role.LOSS),
        ("trainLoss", Role.LOSS),
        ("nll", Role.LOSS),
        ("lm/perplexity", Role.LOSS),
        ("train/cross_entropy", Role.LOSS),
        ("bpb", Role.LOSS),
        ("val/loss", Role.RARE_LOSS),
        ("eval_loss", Role.RARE_LOSS),
        ("policy_loss", Role.ADVERSARIAL_LOSS),
        ("loss_g", Role.ADVERSARIAL_LOSS),
        ("entropy_loss", Role.ADVERSARIAL_LOSS),
        ("grad_norm", Role.GRADIENT_NORM),
        ("optim/gradient_norm", Role.GRADIENT_NORM),
        ("train/gradNorm", Role.GRADIENT_NORM),
        ("pulsetrain/step_seconds", Role.STEP),
        ("lossless_ratio", Role.OTHER),
        ("glossary", Role.OTHER),
        ("accuracy", Role.OTHER),
        ("", Role.OTHER),
    ],
)
def test_a_metric_is_recognised_by_the_words_of_its_name(name: str, expected: Role) -> None:
    assert role(name) is expected


def test_messages_of_figures_have_no_nan_in_them() -> None:
    norm = np.concatenate([np.ones(100) + 0.1 * np.random.default_rng(5).normal(size=100), np.full(20, 1e300)])
    found = fed(GradientExplosion("grad_norm"), norm)
    assert found
    assert math.isfinite(found[0].value or math.nan)
