"""GPUs that are struck, memory and disks that fill."""

from dataclasses import replace

import numpy as np

from tests.corpus.job import GIB, Job
from tests.corpus.labels import Label, fault
from tests.corpus.ordinary import MINUTE, middle, ordinary, simulated

# GPUs


def _gpu_fault(rng: np.random.Generator) -> tuple[Job, int, int, float]:
    """A job, the rank whose GPU is struck, the index in the grid from which on, and the time."""
    ranks = int(rng.choice([1, 8, 8, 64], p=[0.4, 0.25, 0.25, 0.1]))
    job = ordinary(rng, ranks)
    k = middle(job, 0.35, 0.6)
    simulated(job)
    begin = int(np.searchsorted(job.grid, job.at(k)))
    return job, int(rng.integers(0, ranks)), begin, float(job.grid[begin])


def _slowed(job: Job, rank: int, begin: int, factor: float) -> None:
    """A slow GPU makes its rank slow, and so the job; the telemetry is kept."""
    k = int(np.searchsorted(job.times[0], job.grid[begin]))
    job.work[rank, k:] *= factor
    grid = job.grid
    job.settle()
    # The job now takes longer than its telemetry was made for; what is beyond is left out.
    job.grid = grid


@fault
def _thermal_throttling(rng: np.random.Generator) -> tuple[list[Job], Label | None]:
    job, rank, i, onset = _gpu_fault(rng)
    job.temperature[rank, i:] = np.minimum(91, job.temperature[rank, i:] + 25)
    job.sm[rank, i:] *= rng.uniform(0.55, 0.85)
    on = rng.random(len(job.grid) - i) < rng.uniform(0.75, 1.0)
    job.reasons[rank, i:] = np.where(on, float(rng.choice([0x20, 0x40, 0x48])), 0)
    _slowed(job, rank, i, rng.uniform(1.1, 1.5))
    return [job], Label(("thermal_throttle",), onset, job.uuid(rank))


@fault
def _power_brake(rng: np.random.Generator) -> tuple[list[Job], Label | None]:
    job, rank, i, onset = _gpu_fault(rng)
    job.sm[rank, i:] *= rng.uniform(0.3, 0.7)
    job.power[rank, i:] *= 0.6
    job.reasons[rank, i:] = float(rng.choice([0x80, 0x88, 0x8]))
    _slowed(job, rank, i, rng.uniform(1.2, 2))
    return [job], Label(("power_throttle",), onset, job.uuid(rank))


@fault
def _power_cap_too_low(rng: np.random.Generator) -> tuple[list[Job], Label | None]:
    job, rank, i, onset = _gpu_fault(rng)
    job.sm[rank, i:] *= rng.uniform(0.4, 0.62)
    job.power[rank, i:] *= 0.5
    job.reasons[rank, i:] = 4.0
    _slowed(job, rank, i, rng.uniform(1.2, 1.6))
    return [job], Label(("power_throttle",), onset, job.uuid(rank))


@fault
def _hot_host(rng: np.random.Generator) -> tuple[list[Job], Label | None]:
    job = ordinary(rng, 64)
    k, host = middle(job, 0.35, 0.6), int(rng.integers(0, 8))
    simulated(job)
    i = int(np.searchsorted(job.grid, job.at(k)))
    for rank in range(8 * host, 8 * host + 8):
        begin = i + int(rng.integers(0, 2))
        job.temperature[rank, begin:] = 90
        job.sm[rank, begin:] *= 0.7
        job.reasons[rank, begin:] = 0x40
    return [job], Label(("thermal_throttle",), float(job.grid[i]), f"node{host:02d}")


@fault
def _clock_mismatch(rng: np.random.Generator) -> tuple[list[Job], Label | None]:
    job = ordinary(rng, int(rng.choice([8, 8, 64])))
    k, rank = middle(job, 0.35, 0.6), int(rng.integers(0, job.ranks))
    simulated(job)
    i = int(np.searchsorted(job.grid, job.at(k)))
    job.sm[rank, i:] *= rng.uniform(0.5, 0.83)
    job.reasons[rank, i:] = 0.0
    _slowed(job, rank, i, rng.uniform(1.1, 1.5))
    return [job], Label(("clock_mismatch",), float(job.grid[i]), job.uuid(rank))


@fault
def _xid(rng: np.random.Generator) -> tuple[list[Job], Label | None]:
    job, rank, i, onset = _gpu_fault(rng)
    job.xids[rank, i:] = 1
    job.last_xid[rank, i:] = float(rng.choice([13, 31, 48, 63, 74, 94, 119]))
    return [job], Label(("xid",), onset, job.uuid(rank))


@fault
def _ecc(rng: np.random.Generator) -> tuple[list[Job], Label | None]:
    job, rank, i, onset = _gpu_fault(rng)
    job.ecc[rank, i:] += rng.integers(1, 5)
    return [job], Label(("ecc",), onset, job.uuid(rank))


@fault
def _gpu_lost(rng: np.random.Generator) -> tuple[list[Job], Label | None]:
    job = ordinary(rng, 8)
    k, rank = middle(job), int(rng.integers(0, 8))
    job.last_rows = dict.fromkeys(range(8), k)
    job.linger, job.ends = 10 * MINUTE, None
    simulated(job)
    stuck = job.grid > job.times[0, k]
    job.util[:, stuck], job.power[:, stuck] = 100.0, 0.3 * job.cap
    job.gone_gpus = {rank: job.at(k)}
    return [job], Label(("gpu_lost",), job.at(k), job.uuid(rank))


@fault
def _gpu_idle(rng: np.random.Generator) -> tuple[list[Job], Label | None]:
    job = ordinary(rng, int(rng.choice([1, 8])))
    k, rank = middle(job, 0.3, 0.5), int(rng.integers(0, job.ranks))
    simulated(job)
    i = int(np.searchsorted(job.grid, job.at(k)))
    job.util[rank, i:], job.power[rank, i:] = 0.0, 0.12 * job.cap
    return [job], Label(("gpu_idle",), job.at(k), job.uuid(rank))


@fault
def _gpu_never_used(rng: np.random.Generator) -> tuple[list[Job], Label | None]:
    job = ordinary(rng, utilisation=0.0)
    job.pauses = [replace(pause, busy=0.0) for pause in job.pauses]
    simulated(job)
    return [job], Label(("gpu_idle",), job.start, job.uuid(0))


# Memory and disks


def _long_enough(rate: float) -> float:
    """Minutes in which a leak takes two fifths of the memory, at that share of it an hour."""
    return 10.0 + 60.0 * 0.4 / rate


@fault
def _memory_leak(rng: np.random.Generator) -> tuple[list[Job], Label | None]:
    rate = rng.uniform(0.08, 0.4)
    job = ordinary(rng, int(rng.choice([1, 1, 8])), minutes=_long_enough(rate))
    simulated(job)
    grown = np.maximum(0, job.grid - job.grid[0] - 300) * rate * job.host_total / 3600
    job.rss += grown
    job.host_used += grown
    return [job], Label(("memory_leak",), job.start + 300, job.host_name(0), frozenset({"out_of_memory"}))


@fault
def _gpu_memory_leak(rng: np.random.Generator) -> tuple[list[Job], Label | None]:
    rate = rng.uniform(0.08, 0.4)
    job = ordinary(rng, 1, minutes=_long_enough(rate))
    simulated(job)
    job.memory *= 0.5
    step = rng.uniform(0.05, 1.0) * GIB
    grown = np.maximum(0, job.grid - job.grid[0] - 300) * rate * job.total / 3600
    job.memory = np.minimum(job.memory + np.floor(grown / step) * step, 0.999 * job.total)
    return [job], Label(("gpu_memory_leak",), job.start + 300, job.uuid(0), frozenset({"gpu_out_of_memory"}))


@fault
def _host_out_of_memory(rng: np.random.Generator) -> tuple[list[Job], Label | None]:
    job = ordinary(rng)
    k = middle(job)
    simulated(job)
    i = int(np.searchsorted(job.grid, job.at(k)))
    left = 0.995 * job.host_total - job.host_used[0, i]
    rate = left / rng.uniform(3 * MINUTE, 9 * MINUTE)
    job.host_used[0, i:] = np.minimum(
        job.host_used[0, i:] + rate * (job.grid[i:] - job.grid[i]), 0.995 * job.host_total
    )
    return [job], Label(("out_of_memory",), job.at(k), job.host_name(0), frozenset({"memory_leak"}))


@fault
def _gpu_out_of_memory(rng: np.random.Generator) -> tuple[list[Job], Label | None]:
    job = ordinary(rng)
    k = middle(job)
    simulated(job)
    i = int(np.searchsorted(job.grid, job.at(k)))
    left = 0.999 * job.total - job.memory[0, i]
    rate = left / rng.uniform(4 * MINUTE, 11 * MINUTE)
    job.memory[0, i:] = np.minimum(job.memory[0, i:] + rate * (job.grid[i:] - job.grid[i]), 0.999 * job.total)
    return [job], Label(("gpu_out_of_memory",), job.at(k), job.uuid(0), frozenset({"gpu_memory_leak"}))


@fault
def _disk_full(rng: np.random.Generator) -> tuple[list[Job], Label | None]:
    job = ordinary(rng)
    k = middle(job)
    simulated(job)
    i = int(np.searchsorted(job.grid, job.at(k)))
    job.disk[0, i:] = rng.uniform(98.3, 100)
    return [job], Label(("disk_full",), job.at(k), job.host_name(0))
