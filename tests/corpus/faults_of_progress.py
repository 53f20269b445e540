"""Runs that stop: ranks that hang, hosts that are lost, processes that crash."""

import numpy as np

from tests.corpus.job import Job
from tests.corpus.labels import Label, fault
from tests.corpus.ordinary import MINUTE, middle, ordinary, simulated


def _spins(job: Job, rng: np.random.Generator, k: int) -> None:
    """Some that hang wait in a loop: a core is busy."""
    if rng.random() < 0.4:
        job.processor[:, job.grid > job.times[0, k - 1]] = 100.0


@fault
def _stall(rng: np.random.Generator) -> tuple[list[Job], Label | None]:
    job = ordinary(rng)
    k = middle(job)
    job.last_rows = {0: k}
    job.linger, job.ends = 25 * MINUTE, None
    simulated(job)
    if rng.random() < 0.3:
        stuck = job.grid > job.times[0, k - 1]
        job.util[0, stuck], job.power[0, stuck] = 100.0, 0.33 * job.cap
    _spins(job, rng, k)
    return [job], Label(("stall",), job.at(k), "")


@fault
def _stall_without_gpu(rng: np.random.Generator) -> tuple[list[Job], Label | None]:
    job = ordinary(rng, gpu=False, job_view=bool(rng.random() < 0.5))
    k = middle(job)
    job.last_rows = {0: k}
    job.linger, job.ends = 25 * MINUTE, None
    simulated(job)
    _spins(job, rng, k)
    return [job], Label(("stall",), job.at(k), "")


@fault
def _stall_of_who_logs_rarely(rng: np.random.Generator) -> tuple[list[Job], Label | None]:
    job = ordinary(rng, step=0.3, log_every=int(rng.integers(50, 150)))
    k = middle(job)
    job.last_rows = {0: k}
    job.linger, job.ends = 25 * MINUTE, None
    simulated(job)
    _spins(job, rng, k)
    return [job], Label(("stall",), job.at(k), "")


def _hung(rng: np.random.Generator, ranks: int, behind: bool) -> tuple[list[Job], Label | None]:
    job = ordinary(rng, ranks)
    k, rank = middle(job, 0.4, 0.6), int(rng.integers(0, ranks))
    job.last_rows = {other: k + (1 if behind and other != rank else 0) for other in range(ranks)}
    job.linger, job.ends = 10 * MINUTE, None
    simulated(job)
    stuck = job.grid > job.times[0, k]
    job.util[:, stuck], job.power[:, stuck] = 100.0, rng.uniform(0.25, 0.35) * job.cap
    job.processor[:, job.grid > job.times[0, k]] = 100.0  # those that wait for the others spin
    if not behind or rng.random() < 0.5:
        job.util[rank, stuck], job.power[rank, stuck] = 0.0, 0.12 * job.cap
    return [job], Label(("hung_rank",), job.at(k), f"rank {rank}")


@fault
def _hung_rank_of_64(rng: np.random.Generator) -> tuple[list[Job], Label | None]:
    return _hung(rng, 64, bool(rng.random() < 0.6))


@fault
def _hung_rank_of_8(rng: np.random.Generator) -> tuple[list[Job], Label | None]:
    return _hung(rng, 8, bool(rng.random() < 0.4))


@fault
def _lost_host_of_8(rng: np.random.Generator) -> tuple[list[Job], Label | None]:
    job = ordinary(rng, 64)
    k, host = middle(job, 0.4, 0.6), int(rng.integers(0, 8))
    job.last_rows = dict.fromkeys(range(64), k)
    job.linger, job.ends = 10 * MINUTE, None
    job.settle()
    job.lost = {host: job.at(k)}
    job.measure()
    stuck = job.grid > job.times[0, k]
    job.util[:, stuck], job.power[:, stuck] = 100.0, 0.3 * job.cap
    return [job], Label(("lost_host",), job.at(k), f"node{host:02d}")


@fault
def _lost_machine(rng: np.random.Generator) -> tuple[list[Job], Label | None]:
    job = ordinary(rng)
    k = middle(job)
    job.settle()
    job.lost = {0: job.at(k)}
    job.measure()
    return [job], Label(("lost_host",), job.at(k), None)


@fault
def _crash(rng: np.random.Generator) -> tuple[list[Job], Label | None]:
    job = ordinary(rng)
    k = middle(job)
    job.last_rows = {0: k}
    job.linger = 5 * MINUTE
    job.settle()
    state, code = [("crashed", 1), ("failed", 1), ("killed", None)][int(rng.integers(0, 3))]
    job.crashes = {0: (job.at(k) + 2, state, code)}
    job.measure()
    return [job], Label(("crashed",), job.at(k), "")


@fault
def _crash_of_a_rank(rng: np.random.Generator) -> tuple[list[Job], Label | None]:
    ranks = int(rng.choice([8, 64]))
    job = ordinary(rng, ranks)
    k, rank = middle(job, 0.4, 0.6), int(rng.integers(0, ranks))
    job.last_rows = dict.fromkeys(range(ranks), k)
    job.linger, job.ends = 12 * MINUTE, None
    job.settle()
    job.crashes = {rank: (job.at(k) + 3, "killed", None)}
    if rng.random() < 0.5:  # the launcher ends the others
        for other in range(ranks):
            job.crashes.setdefault(other, (job.at(k) + 30 + float(rng.uniform(0, 10)), "killed", None))
    job.measure()
    stuck = job.grid > job.times[0, k]
    job.util[:, stuck], job.power[:, stuck] = 100.0, 0.3 * job.cap
    return [job], Label(("crashed",), job.at(k), "")
