"""Healthy runs of 24 hours, and the alerts that they give."""

import time

import numpy as np

from tests.corpus.evaluation import heard
from tests.corpus.generator import Case, _evaluation
from tests.corpus.job import Job

HOURS = 24


def day(seed: int) -> Case:
    """A single-GPU run of 24 hours: a row each one to three seconds, evaluations, checkpoints, hiccups of the
    network."""
    rng = np.random.default_rng([seed, 24])
    step = float(rng.uniform(1.0, 3.0))
    job = Job(rng, steps=int(HOURS * 3600 / step), step=step, flush=15.0, sample_every=5.0, sample_flush=30.0)
    job.every(int(rng.uniform(10, 60) * 60 / step), float(rng.uniform(20, 300)), float(rng.uniform(50, 90)), True)
    job.evaluation = _evaluation(job)
    job.every(int(rng.uniform(20, 90) * 60 / step), float(rng.uniform(10, 90)), 0.0)
    odd = rng.random(job.steps) < 1e-3
    job.loss[odd] *= rng.uniform(1.2, 4, odd.sum())
    job.norm[odd] *= rng.uniform(2, 30, odd.sum())
    for _ in range(12):
        at = job.start + float(rng.uniform(0, HOURS * 3600))
        job.held.append((at, at + float(rng.uniform(5, 40))))
    job.settle()
    job.measure()
    return Case("day", seed, None, job.start, job.end, job.events())


def days(count: int, first_seed: int) -> int:
    """Prints the alerts of so many runs."""
    alerts = 0
    started = time.process_time()
    for seed in range(first_seed, first_seed + count):
        found = [it for _, it in heard(day(seed)) if it.present]
        alerts += len(found)
        for it in found:
            print(f"seed {seed}: {it.kind} {it.subject!r}: {it.message}")
    spent = time.process_time() - started
    print(f"{count} healthy runs of {HOURS} h: {alerts} alerts, {alerts / count:.2f} a run ({spent:.0f} s)")
    return 0
