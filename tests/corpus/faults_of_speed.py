"""Runs that are slow, or whose ranks are."""

import numpy as np

from tests.corpus.job import Job
from tests.corpus.labels import Label, fault
from tests.corpus.ordinary import middle, ordinary, simulated


@fault
def _data_loader_bound(rng: np.random.Generator) -> tuple[list[Job], Label | None]:
    job = ordinary(rng, int(rng.choice([1, 1, 8])))
    k = middle(job)
    share = rng.uniform(0.45, 0.8)
    job.wait[:, k:] += job.step * share / (1 - share) * rng.uniform(0.8, 1.2, job.wait[:, k:].shape)
    simulated(job)
    late = job.grid > job.at(k)
    job.util[:, late] *= 1 - share
    return [job], Label(("data_loader_bound",), job.at(k), "")


@fault
def _throughput_drop(rng: np.random.Generator) -> tuple[list[Job], Label | None]:
    job = ordinary(rng, job_view=bool(rng.random() < 0.7))
    k = middle(job)
    job.work[:, k:] *= rng.uniform(1.45, 2.5)
    simulated(job)
    return [job], Label(("throughput_regression",), job.at(k), "")


@fault
def _throughput_creep(rng: np.random.Generator) -> tuple[list[Job], Label | None]:
    job = ordinary(rng, minutes=float(rng.uniform(45, 70)))
    k = int(0.3 * job.steps)
    n = job.steps - k
    job.work[:, k:] *= 1 + rng.uniform(0.7, 1.5) * np.arange(n) / n
    simulated(job)
    return [job], Label(("throughput_regression",), job.at(k), "")


@fault
def _straggler_of_64(rng: np.random.Generator) -> tuple[list[Job], Label | None]:
    job = ordinary(rng, 64)
    k, rank = middle(job, 0.3, 0.5), int(rng.integers(0, 64))
    job.work[rank, k:] *= rng.uniform(1.3, 2.0)
    simulated(job)
    return [job], Label(("straggler",), job.at(k), f"rank {rank}")


@fault
def _straggler_of_8(rng: np.random.Generator) -> tuple[list[Job], Label | None]:
    job = ordinary(rng, 8, synchronous=False)
    job.communication = 0.0
    k, rank = middle(job), int(rng.integers(0, 8))
    if rng.random() < 0.5:
        job.work[rank, k:] *= rng.uniform(1.35, 2.0)
    else:
        job.wait[rank, k:] += job.step * rng.uniform(0.4, 0.9)
    # Each goes at its own pace; they stop together.
    job.settle()
    end = job.times[:, -1].min()
    job.last_rows = {other: int(np.searchsorted(job.times[other], end)) for other in range(8)}
    simulated(job)
    return [job], Label(("straggler",), job.at(k, rank), f"rank {rank}")


@fault
def _straggler_host(rng: np.random.Generator) -> tuple[list[Job], Label | None]:
    job = ordinary(rng, 64)
    k, host = middle(job, 0.3, 0.5), int(rng.integers(0, 8))
    job.work[8 * host : 8 * host + 8, k:] *= rng.uniform(1.3, 1.8)
    simulated(job)
    return [job], Label(("straggler",), job.at(k), f"node{host:02d}")
