"""Healthy runs of 24 hours, and the alerts that they give."""

import time

import numpy as np

from tests.corpus.evaluation import heard
from tests.corpus.job import Job
from tests.corpus.labels import Case
from tests.corpus.ordinary import evaluation

HOURS = 24


def day(seed: int) -> Case:
    """A single-GPU run of 24 hours: a row each one to three seconds, drops of the learning rate, evaluations (some
    with an idle GPU), checkpoints, odd batches, hiccups of the loader and of the network, noisy neighbours, caches
    that fill."""
    rng = np.random.default_rng([seed, 24])
    step = float(rng.uniform(1.0, 3.0))
    job = Job(rng, steps=int(HOURS * 3600 / step), step=step, flush=15.0, sample_every=5.0, sample_flush=30.0)
    job.every(int(rng.uniform(10, 60) * 60 / step), float(rng.uniform(20, 300)), float(rng.choice([0, 50, 90])), True)
    job.evaluation = evaluation(job)
    job.every(int(rng.uniform(20, 90) * 60 / step), float(rng.uniform(10, 90)), 0.0)
    odd = rng.random(job.steps) < 1e-3
    job.loss[odd] *= rng.uniform(1.2, 4, odd.sum())
    job.norm[odd] *= rng.uniform(2, 30, odd.sum())
    for drop in rng.integers(int(0.3 * job.steps), job.steps, int(rng.integers(0, 3))):
        job.loss[drop:] *= rng.uniform(0.75, 0.97)
    # The loader waits for a busy file system at times, and other jobs take some of the machine for a while.
    job.wait[0, rng.integers(0, job.steps, 40)] += rng.uniform(3, 29, 40)
    for begin in rng.integers(0, job.steps, 10):
        job.work[0, begin : begin + int(rng.uniform(20, 180) / step)] *= rng.uniform(1.05, 1.5)
    for _ in range(12):
        at = job.start + float(rng.uniform(0, HOURS * 3600))
        job.held.append((at, at + float(rng.uniform(5, 40))))
    job.settle()
    job.measure()
    cached = 0.3 * job.host_total * (1 - np.exp(-(job.grid - job.start) / rng.uniform(200, 900)))
    job.host_used += cached
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
