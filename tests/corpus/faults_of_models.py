"""Losses and gradient norms that go wrong."""

import math

import numpy as np

from tests.corpus.job import Job
from tests.corpus.labels import Label, fault
from tests.corpus.ordinary import middle, ordinary, simulated


@fault
def _nan_loss(rng: np.random.Generator) -> tuple[list[Job], Label | None]:
    job = ordinary(rng)
    k = middle(job)
    job.loss[k:] = np.nan
    if rng.random() < 0.7:
        job.norm[k:] = np.nan
    simulated(job)
    return [job], Label(("nan",), job.at(k), None)


@fault
def _infinite_loss(rng: np.random.Generator) -> tuple[list[Job], Label | None]:
    job = ordinary(rng)
    k = middle(job)
    job.loss[k : k + 40] *= np.exp(np.arange(len(job.loss[k : k + 40])) * 0.5)
    job.loss[k + 20 :] = np.inf
    job.norm[k : k + 20] *= np.exp(np.arange(20) * 0.4)
    simulated(job)
    return [job], Label(("nan",), job.at(k), None, frozenset({"loss_spike", "gradient_explosion", "divergence"}))


@fault
def _nan_gradients(rng: np.random.Generator) -> tuple[list[Job], Label | None]:
    job = ordinary(rng, step=float(rng.uniform(0.5, 2)))
    k = middle(job)
    job.norm[k:] = np.nan if rng.random() < 0.5 else np.inf
    job.loss[k:] = job.loss[k] * (1 + 0.02 * job.ragged(job.steps - k))
    simulated(job)
    return [job], Label(("nan",), job.at(k), None, frozenset({"plateau"}))


@fault
def _loss_spike(rng: np.random.Generator) -> tuple[list[Job], Label | None]:
    job = ordinary(rng)
    k = middle(job)
    n = job.steps - k
    height = float(rng.uniform(0.6, 3.0)) * job.trend[k]
    shape = height * np.exp(-np.arange(n) / rng.uniform(8, 60))
    job.loss[k:] += shape * np.clip(1 + 0.15 * rng.standard_normal(n), 0.4, 2)
    if rng.random() < 0.6:
        job.norm[k : k + 10] *= rng.uniform(2, 6)
    simulated(job)
    return [job], Label(("loss_spike",), job.at(k), job.loss_name)


@fault
def _divergence_slow(rng: np.random.Generator) -> tuple[list[Job], Label | None]:
    job = ordinary(rng, step=float(rng.uniform(0.5, 2.5)))
    k = middle(job, 0.4, 0.55)
    rise = np.maximum(0, np.arange(job.steps) - k) / (job.steps - k)
    job.loss *= 1 + rng.uniform(0.8, 2.5) * rise ** rng.uniform(0.7, 1.5)
    job.norm *= 1 + 1.5 * rise
    simulated(job)
    # A quick rise is a leap at first; the divergence then takes its place.
    return [job], Label(("divergence",), job.at(k), job.loss_name, frozenset({"loss_spike"}))


@fault
def _divergence_stuck(rng: np.random.Generator) -> tuple[list[Job], Label | None]:
    job = ordinary(rng, step=float(rng.uniform(0.5, 2.5)))
    k = middle(job, 0.35, 0.5)
    level = job.trend[k] + rng.uniform(0.65, 0.95) * (job.trend[0] - job.trend[k])
    mix = 1 - np.exp(-np.maximum(0, np.arange(job.steps) - k) / rng.uniform(3, 40))
    job.loss = job.loss * (1 - mix) + mix * level * (1 + 0.02 * job.ragged(job.steps))
    job.norm[k : k + 15] *= rng.uniform(1, 5)
    simulated(job)
    also = frozenset({"loss_spike", "gradient_explosion"})
    return [job], Label(("divergence",), job.at(k), job.loss_name, also)


@fault
def _plateau(rng: np.random.Generator) -> tuple[list[Job], Label | None]:
    job = ordinary(rng, minutes=float(rng.uniform(50, 70)), step=float(rng.uniform(0.5, 2)))
    k = middle(job, 0.08, 0.2)
    level = job.trend[k]
    job.loss[k:] = level * (1 + job.noise * job.ragged(job.steps - k))
    simulated(job)
    return [job], Label(("plateau",), job.at(k), job.loss_name)


@fault
def _never_learns(rng: np.random.Generator) -> tuple[list[Job], Label | None]:
    job = ordinary(rng, minutes=float(rng.uniform(40, 60)), step=float(rng.uniform(0.5, 2)))
    job.loss = math.log(rng.integers(10, 50_000)) * (1 + 0.5 * job.noise * job.ragged(job.steps))
    simulated(job)
    return [job], Label(("plateau",), job.start, job.loss_name)


@fault
def _gradient_explosion(rng: np.random.Generator) -> tuple[list[Job], Label | None]:
    job = ordinary(rng)
    k = middle(job)
    n = job.steps - k
    grown = np.minimum(np.exp(np.minimum(np.arange(n) / rng.uniform(2, 10), 20.0)), rng.uniform(30, 1e5))
    job.norm[k:] *= grown
    if rng.random() < 0.5:
        job.loss[k:] *= 1 + 0.1 * np.log(grown)
    simulated(job)
    return [job], Label(("gradient_explosion",), job.at(k), job.norm_name, frozenset({"loss_spike", "divergence"}))
