"""Healthy runs whose losses and norms look as if something were wrong."""

import numpy as np

from tests.corpus.job import Job
from tests.corpus.labels import Label, healthy
from tests.corpus.ordinary import ordinary, simulated


@healthy
def _learning_rate_drops(rng: np.random.Generator) -> tuple[list[Job], Label | None]:
    job = ordinary(rng, step=float(rng.uniform(0.5, 2)))
    drops = np.arange(job.steps) // max(1, job.steps // 3)
    inside = (np.arange(job.steps) % (job.steps // 3)) / (job.steps / 3)
    base = rng.uniform(1.5, 3)
    job.trend = base * 0.55**drops * (1 + 0.8 * np.exp(-inside * rng.uniform(2.5, 4)) * (0.3 + 0.7 * (drops == 0)))
    job.loss = job.trend * (1 + rng.uniform(0.03, 0.08) * job.ragged(job.steps))
    return [simulated(job)], None


@healthy
def _warm_restarts(rng: np.random.Generator) -> tuple[list[Job], Label | None]:
    job = ordinary(rng, step=float(rng.uniform(0.5, 2)))
    cycle = (np.arange(job.steps) % (job.steps // 5)) / (job.steps / 5)
    job.loss *= 1 + rng.uniform(0.05, 0.2) * np.cos(np.pi * cycle / 2)
    return [simulated(job)], None


@healthy
def _triangular_learning_rate(rng: np.random.Generator) -> tuple[list[Job], Label | None]:
    job = ordinary(rng, step=float(rng.uniform(0.5, 2)))
    cycle = np.abs((np.arange(job.steps) / (job.steps / 6)) % 2 - 1)
    job.loss *= 1 + rng.uniform(0.05, 0.18) * cycle
    return [simulated(job)], None


@healthy
def _gan(rng: np.random.Generator) -> tuple[list[Job], Label | None]:
    job = ordinary(rng)
    k = np.arange(job.steps)
    swing = np.sin(k / rng.uniform(5, 60)) + 0.5 * np.sin(k / rng.uniform(3, 20))
    job.loss_name = "loss_g"
    job.loss = 1.5 + 2 * k / job.steps + swing + 0.4 * np.abs(job.ragged(job.steps))
    job.extra = {"loss_d": 0.7 - 0.2 * swing + 0.1 * np.abs(job.ragged(job.steps))}
    return [simulated(job)], None


@healthy
def _oscillating(rng: np.random.Generator) -> tuple[list[Job], Label | None]:
    job = ordinary(rng)
    k = np.arange(job.steps)
    job.loss_name = "loss"
    job.loss = job.trend * (1 + 0.4 * np.sin(k / rng.uniform(4, 30)) + 0.15 * job.ragged(job.steps))
    return [simulated(job)], None


@healthy
def _reinforcement_learning(rng: np.random.Generator) -> tuple[list[Job], Label | None]:
    job = ordinary(rng)
    k = np.arange(job.steps)
    job.loss_name = "train/policy_loss"
    job.loss = -0.02 + 0.03 * job.ragged(job.steps)
    grown = (k / job.steps) ** 2 * 40
    job.extra = {
        "train/value_loss": (1 + grown) * np.exp(0.5 * job.ragged(job.steps)),
        "rollout/reward": grown * 5 + 10 * job.ragged(job.steps),
        "train/entropy_loss": -2 + k / job.steps + 0.05 * job.ragged(job.steps),
    }
    job.norm *= np.exp(0.5 * job.ragged(job.steps))
    return [simulated(job)], None


@healthy
def _fine_tuning(rng: np.random.Generator) -> tuple[list[Job], Label | None]:
    job = ordinary(rng)
    k = np.arange(job.steps)
    job.loss_name = "loss"
    base = rng.uniform(0.6, 1.6)
    job.trend = base * (0.7 + 0.3 * (1 + k / (0.1 * job.steps)) ** -0.5)
    job.loss = job.trend * (1 + rng.uniform(0.05, 0.2) * job.ragged(job.steps))
    job.loss = np.maximum(job.loss, 0.01)
    return [simulated(job)], None


@healthy
def _converged_near_its_end(rng: np.random.Generator) -> tuple[list[Job], Label | None]:
    job = ordinary(rng, step=float(rng.uniform(0.5, 2)))
    k = np.arange(job.steps)
    job.trend = job.floor * (1 + 2 * np.exp(-k / (rng.uniform(0.12, 0.18) * job.steps)))
    job.loss = job.trend * (1 + 0.02 * job.ragged(job.steps))
    return [simulated(job)], None


@healthy
def _new_data_mix(rng: np.random.Generator) -> tuple[list[Job], Label | None]:
    job = ordinary(rng)
    k = int(job.steps * rng.uniform(0.3, 0.7))
    after = np.arange(job.steps - k)
    job.loss[k:] *= 1 + rng.uniform(0.05, 0.18) * (0.4 + 0.6 * np.exp(-after / (0.1 * job.steps)))
    return [simulated(job)], None


@healthy
def _nan_in_evaluation(rng: np.random.Generator) -> tuple[list[Job], Label | None]:
    job = ordinary(rng)
    job.every(max(20, job.steps // 8), 20.0, 70.0, True)
    job.evaluation = {"val/loss": lambda step: float("nan"), "val/auc": lambda step: float("nan")}
    return [simulated(job)], None


@healthy
def _negative_loss(rng: np.random.Generator) -> tuple[list[Job], Label | None]:
    job = ordinary(rng)
    k = np.arange(job.steps)
    job.loss_name = "nll"
    job.trend = 3.0 - 1.2 * np.log1p(k / 10)
    job.loss = job.trend + 0.15 * job.ragged(job.steps)
    return [simulated(job)], None


@healthy
def _constant_metrics(rng: np.random.Generator) -> tuple[list[Job], Label | None]:
    job = ordinary(rng)
    job.extra = {"aux/loss": np.zeros(job.steps), "regularisation_loss": np.full(job.steps, 0.1)}
    return [simulated(job)], None


@healthy
def _loss_scaler(rng: np.random.Generator) -> tuple[list[Job], Label | None]:
    job = ordinary(rng)
    job.norm[: int(rng.integers(4, 16))] = np.inf
    job.norm[rng.random(job.steps) < 0.004] = np.inf
    return [simulated(job)], None


@healthy
def _odd_batches(rng: np.random.Generator) -> tuple[list[Job], Label | None]:
    job = ordinary(rng)
    odd = rng.random(job.steps) < 0.01
    job.loss[odd] *= rng.uniform(1.5, 6, odd.sum())
    job.norm[odd] *= rng.uniform(3, 60, odd.sum())
    return [simulated(job)], None


@healthy
def _tiny_loss(rng: np.random.Generator) -> tuple[list[Job], Label | None]:
    job = ordinary(rng)
    k = np.arange(job.steps)
    job.loss_name = "train_loss"
    job.trend = 0.5 * (1 + k / 5.0) ** -1.0
    job.loss = job.trend * np.exp(0.6 * job.ragged(job.steps))
    return [simulated(job)], None


@healthy
def _warm_up(rng: np.random.Generator) -> tuple[list[Job], Label | None]:
    job = ordinary(rng)
    # The loss stands or rises until the optimiser has found its feet, the gradient norm leaps.
    k = np.arange(job.steps) / job.steps
    hump = np.exp(-(((k - rng.uniform(0.02, 0.06)) / rng.uniform(0.01, 0.03)) ** 2))
    job.loss *= 1 + rng.uniform(0.1, 0.5) * hump
    job.norm *= 1 + rng.uniform(1, 6) * hump
    return [simulated(job)], None


@healthy
def _loss_that_jumps_with_the_learning_rate(rng: np.random.Generator) -> tuple[list[Job], Label | None]:
    job = ordinary(rng)
    # Cyclic training: with each new rate the loss jumps up, and comes down further than before.
    cycle = max(60, job.steps // int(rng.integers(3, 6)))
    since = np.arange(job.steps) % cycle
    since[:cycle] = cycle
    job.loss *= 1 + rng.uniform(0.05, 0.2) * np.exp(-since / (0.15 * cycle))
    return [simulated(job)], None
