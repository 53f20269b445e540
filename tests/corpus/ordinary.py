"""The ordinary job of the corpus, which each case changes in its own way."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from tests.corpus.job import START, Job

MINUTE = 60.0


def ordinary(
    rng: np.random.Generator, ranks: int = 1, minutes: float | None = None, step: float | None = None, **more: Any
) -> Job:
    """An ordinary job: evaluations and checkpoints now and then, messages every few seconds."""
    big = ranks > 8
    step = step or float(rng.uniform(2.0, 4.0) if big else np.exp(rng.uniform(np.log(0.5), np.log(4.0))))
    minutes = minutes or float(
        rng.uniform(11, 14) if big else rng.uniform(20, 30) if ranks > 1 else rng.uniform(25, 50)
    )
    steps = int(minutes * MINUTE / step)
    job = Job(
        rng,
        ranks,
        steps,
        step,
        flush=float(rng.uniform(12, 20) if big else rng.uniform(4, 10) if ranks > 1 else rng.uniform(2, 10)),
        sample_every=5.0,
        sample_flush=float(rng.choice([10.0, 15.0])),
        beat=20.0 if big else 10.0,
        **more,
    )
    if rng.random() < 0.6:
        job.every(int(rng.uniform(4, 9) * MINUTE / step), float(rng.uniform(8, 60)), float(rng.uniform(55, 90)), True)
        job.evaluation = evaluation(job)
    if rng.random() < 0.6:
        job.every(int(rng.uniform(5, 12) * MINUTE / step), float(rng.uniform(4, 40)), 0.0)
    if rng.random() < 0.3:
        at = float(rng.uniform(0.2, 0.9)) * steps * step + START
        job.held.append((at, at + float(rng.uniform(5, 25))))
    return job


def evaluation(job: Job) -> dict[str, Callable[[int], float]]:
    """What an evaluation of a job logs."""
    return {
        "val/loss": lambda step: float(job.trend[step] * 1.05 + job.rng.normal(0, 0.05)),
        "val/accuracy": lambda step: float(min(1.0, 0.2 + 0.1 * math.log1p(step))),
    }


def middle(job: Job, low: float = 0.45, high: float = 0.7) -> int:
    """A step in the middle, where the fault begins: never within a pause or just before its end."""
    step = int(job.steps * job.rng.uniform(low, high))
    taken = {pause.step for pause in job.pauses}
    while step in taken:
        step += 1
    return step


def simulated(job: Job) -> Job:
    """The job, with its times and its telemetry."""
    job.settle()
    job.measure()
    return job
