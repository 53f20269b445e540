"""Cases of the corpus: `case(kind, seed)` is one labelled stream, the same for the same arguments.

FAULTS are jobs in which something goes wrong at a known time; HEALTHY are jobs in which nothing does, many of which
look as if. What a case needs beyond the ordinary job of `_job` stands in its function.
"""

import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from tests.corpus.job import GIB, START, Arrival, Job, Pause

MINUTE = 60.0


@dataclass(frozen=True)
class Label:
    """What a monitor should say: one of `kinds`, of `subject` (None: any), after `onset`. `also` is no false alert."""

    kinds: tuple[str, ...]
    onset: float
    subject: str | None = None
    also: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Case:
    """A stream of events by time of arrival, and its label (None for a healthy one)."""

    kind: str
    seed: int
    label: Label | None
    start: float
    end: float
    events: list[Arrival] = field(repr=False)


Maker = Callable[[np.random.Generator], tuple[list[Job], Label | None]]
FAULTS: dict[str, Maker] = {}
HEALTHY: dict[str, Maker] = {}


def _fault(make: Maker) -> Maker:
    FAULTS[make.__name__.strip("_")] = make
    return make


def _healthy(make: Maker) -> Maker:
    HEALTHY[make.__name__.strip("_")] = make
    return make


def case(kind: str, seed: int) -> Case:
    """The case of this kind and seed."""
    rng = np.random.default_rng([seed, zlib.crc32(kind.encode())])
    jobs, label = (FAULTS.get(kind) or HEALTHY[kind])(rng)
    events: list[Arrival] = []
    for job in jobs:
        events += job.events()
    events.sort(key=lambda it: it[0])
    return Case(kind, seed, label, jobs[0].start, max(job.end for job in jobs), events)


def cases(count: int, first_seed: int) -> list[tuple[str, int]]:
    """Kinds and seeds of a corpus: healthy and faulty by turns, every kind about equally often."""
    faults, healthy = list(FAULTS), list(HEALTHY)
    return [
        (faults[i // 2 % len(faults)] if i % 2 else healthy[i // 2 % len(healthy)], first_seed + i)
        for i in range(count)
    ]


# Jobs


def _job(
    rng: np.random.Generator, ranks: int = 1, minutes: float | None = None, step: float | None = None, **more
) -> Job:  # type: ignore[no-untyped-def]
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
        job.evaluation = _evaluation(job)
    if rng.random() < 0.6:
        job.every(int(rng.uniform(5, 12) * MINUTE / step), float(rng.uniform(4, 40)), 0.0)
    if rng.random() < 0.3:
        at = float(rng.uniform(0.2, 0.9)) * steps * step + START
        job.held.append((at, at + float(rng.uniform(5, 25))))
    return job


def _evaluation(job: Job) -> dict[str, Callable[[int], float]]:
    return {
        "val/loss": lambda step: float(job.trend[step] * 1.05 + job.rng.normal(0, 0.05)),
        "val/accuracy": lambda step: float(min(1.0, 0.2 + 0.1 * math.log1p(step))),
    }


def _onset(job: Job, low: float = 0.45, high: float = 0.7) -> int:
    """A step in the middle, where the fault begins: never within a pause or just before its end."""
    step = int(job.steps * job.rng.uniform(low, high))
    taken = {pause.step for pause in job.pauses}
    while step in taken:
        step += 1
    return step


def _done(job: Job) -> Job:
    job.settle()
    job.measure()
    return job


def _seconds(job: Job, seconds: float) -> int:
    return max(1, int(seconds / job.step))


# Faults of the model


@_fault
def _nan_loss(rng: np.random.Generator) -> tuple[list[Job], Label | None]:
    job = _job(rng)
    k = _onset(job)
    job.loss[k:] = np.nan
    if rng.random() < 0.7:
        job.norm[k:] = np.nan
    _done(job)
    return [job], Label(("nan",), job.at(k), None)


@_fault
def _infinite_loss(rng: np.random.Generator) -> tuple[list[Job], Label | None]:
    job = _job(rng)
    k = _onset(job)
    job.loss[k : k + 40] *= np.exp(np.arange(len(job.loss[k : k + 40])) * 0.5)
    job.loss[k + 20 :] = np.inf
    job.norm[k : k + 20] *= np.exp(np.arange(20) * 0.4)
    _done(job)
    return [job], Label(("nan",), job.at(k), None, frozenset({"loss_spike", "gradient_explosion", "divergence"}))


@_fault
def _nan_gradients(rng: np.random.Generator) -> tuple[list[Job], Label | None]:
    job = _job(rng, step=float(rng.uniform(0.5, 2)))
    k = _onset(job)
    job.norm[k:] = np.nan if rng.random() < 0.5 else np.inf
    job.loss[k:] = job.loss[k] * (1 + 0.02 * job.ragged(job.steps - k))
    _done(job)
    return [job], Label(("nan",), job.at(k), None, frozenset({"plateau"}))


@_fault
def _loss_spike(rng: np.random.Generator) -> tuple[list[Job], Label | None]:
    job = _job(rng)
    k = _onset(job)
    n = job.steps - k
    height = float(rng.uniform(0.6, 3.0)) * job.trend[k]
    shape = height * np.exp(-np.arange(n) / rng.uniform(8, 60))
    job.loss[k:] += shape * np.clip(1 + 0.15 * rng.standard_normal(n), 0.4, 2)
    if rng.random() < 0.6:
        job.norm[k : k + 10] *= rng.uniform(2, 6)
    _done(job)
    return [job], Label(("loss_spike",), job.at(k), job.loss_name)


@_fault
def _divergence_slow(rng: np.random.Generator) -> tuple[list[Job], Label | None]:
    job = _job(rng, step=float(rng.uniform(0.5, 2.5)))
    k = _onset(job, 0.4, 0.55)
    rise = np.maximum(0, np.arange(job.steps) - k) / (job.steps - k)
    job.loss *= 1 + rng.uniform(0.8, 2.5) * rise ** rng.uniform(0.7, 1.5)
    job.norm *= 1 + 1.5 * rise
    _done(job)
    # A quick rise is a leap at first; the divergence then takes its place.
    return [job], Label(("divergence",), job.at(k), job.loss_name, frozenset({"loss_spike"}))


@_fault
def _divergence_stuck(rng: np.random.Generator) -> tuple[list[Job], Label | None]:
    job = _job(rng, step=float(rng.uniform(0.5, 2.5)))
    k = _onset(job, 0.35, 0.5)
    level = job.trend[k] + rng.uniform(0.65, 0.95) * (job.trend[0] - job.trend[k])
    mix = 1 - np.exp(-np.maximum(0, np.arange(job.steps) - k) / rng.uniform(3, 40))
    job.loss = job.loss * (1 - mix) + mix * level * (1 + 0.02 * job.ragged(job.steps))
    job.norm[k : k + 15] *= rng.uniform(1, 5)
    _done(job)
    also = frozenset({"loss_spike", "gradient_explosion"})
    return [job], Label(("divergence",), job.at(k), job.loss_name, also)


@_fault
def _plateau(rng: np.random.Generator) -> tuple[list[Job], Label | None]:
    job = _job(rng, minutes=float(rng.uniform(50, 70)), step=float(rng.uniform(0.5, 2)))
    k = _onset(job, 0.08, 0.2)
    level = job.trend[k]
    job.loss[k:] = level * (1 + job.noise * job.ragged(job.steps - k))
    _done(job)
    return [job], Label(("plateau",), job.at(k), job.loss_name)


@_fault
def _never_learns(rng: np.random.Generator) -> tuple[list[Job], Label | None]:
    job = _job(rng, minutes=float(rng.uniform(40, 60)), step=float(rng.uniform(0.5, 2)))
    job.loss = math.log(rng.integers(10, 50_000)) * (1 + 0.5 * job.noise * job.ragged(job.steps))
    _done(job)
    return [job], Label(("plateau",), job.start, job.loss_name)


@_fault
def _gradient_explosion(rng: np.random.Generator) -> tuple[list[Job], Label | None]:
    job = _job(rng)
    k = _onset(job)
    n = job.steps - k
    grown = np.minimum(np.exp(np.minimum(np.arange(n) / rng.uniform(2, 10), 20.0)), rng.uniform(30, 1e5))
    job.norm[k:] *= grown
    if rng.random() < 0.5:
        job.loss[k:] *= 1 + 0.1 * np.log(grown)
    _done(job)
    return [job], Label(("gradient_explosion",), job.at(k), job.norm_name, frozenset({"loss_spike", "divergence"}))


# Runs that stop


def _hang(job: Job, ranks: dict[int, int], spin: float) -> float:
    job.last_rows = ranks
    job.linger, job.ends = 20 * MINUTE, None
    return spin


@_fault
def _stall(rng: np.random.Generator) -> tuple[list[Job], Label | None]:
    job = _job(rng)
    k = _onset(job)
    job.last_rows = {0: k}
    job.linger, job.ends = 25 * MINUTE, None
    _done(job)
    if rng.random() < 0.3:
        stuck = job.grid > job.times[0, k - 1]
        job.util[0, stuck], job.power[0, stuck] = 100.0, 0.33 * job.cap
    return [job], Label(("stall",), job.at(k), "")


@_fault
def _stall_without_gpu(rng: np.random.Generator) -> tuple[list[Job], Label | None]:
    job = _job(rng, gpu=False, job_view=bool(rng.random() < 0.5))
    k = _onset(job)
    job.last_rows = {0: k}
    job.linger, job.ends = 25 * MINUTE, None
    _done(job)
    return [job], Label(("stall",), job.at(k), "")


def _hung(rng: np.random.Generator, ranks: int, behind: bool) -> tuple[list[Job], Label | None]:
    job = _job(rng, ranks)
    k, rank = _onset(job, 0.4, 0.6), int(rng.integers(0, ranks))
    job.last_rows = {other: k + (1 if behind and other != rank else 0) for other in range(ranks)}
    job.linger, job.ends = 10 * MINUTE, None
    _done(job)
    stuck = job.grid > job.times[0, k]
    job.util[:, stuck], job.power[:, stuck] = 100.0, rng.uniform(0.25, 0.35) * job.cap
    if not behind or rng.random() < 0.5:
        job.util[rank, stuck], job.power[rank, stuck] = 0.0, 0.12 * job.cap
    return [job], Label(("hung_rank",), job.at(k), f"rank {rank}")


@_fault
def _hung_rank_of_64(rng: np.random.Generator) -> tuple[list[Job], Label | None]:
    return _hung(rng, 64, bool(rng.random() < 0.6))


@_fault
def _hung_rank_of_8(rng: np.random.Generator) -> tuple[list[Job], Label | None]:
    return _hung(rng, 8, bool(rng.random() < 0.4))


@_fault
def _lost_host_of_8(rng: np.random.Generator) -> tuple[list[Job], Label | None]:
    job = _job(rng, 64)
    k, host = _onset(job, 0.4, 0.6), int(rng.integers(0, 8))
    job.last_rows = dict.fromkeys(range(64), k)
    job.linger, job.ends = 10 * MINUTE, None
    job.settle()
    job.lost = {host: job.at(k)}
    job.measure()
    stuck = job.grid > job.times[0, k]
    job.util[:, stuck], job.power[:, stuck] = 100.0, 0.3 * job.cap
    return [job], Label(("lost_host",), job.at(k), f"node{host:02d}")


@_fault
def _lost_machine(rng: np.random.Generator) -> tuple[list[Job], Label | None]:
    job = _job(rng)
    k = _onset(job)
    job.settle()
    job.lost = {0: job.at(k)}
    job.measure()
    return [job], Label(("lost_host",), job.at(k), None)


@_fault
def _crash(rng: np.random.Generator) -> tuple[list[Job], Label | None]:
    job = _job(rng)
    k = _onset(job)
    job.last_rows = {0: k}
    job.linger = 5 * MINUTE
    job.settle()
    state, code = [("crashed", 1), ("failed", 1), ("killed", None)][int(rng.integers(0, 3))]
    job.crashes = {0: (job.at(k) + 2, state, code)}
    job.measure()
    return [job], Label(("crashed",), job.at(k), "")


@_fault
def _crash_of_a_rank(rng: np.random.Generator) -> tuple[list[Job], Label | None]:
    ranks = int(rng.choice([8, 64]))
    job = _job(rng, ranks)
    k, rank = _onset(job, 0.4, 0.6), int(rng.integers(0, ranks))
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


# Slowness


@_fault
def _data_loader_bound(rng: np.random.Generator) -> tuple[list[Job], Label | None]:
    job = _job(rng, int(rng.choice([1, 1, 8])))
    k = _onset(job)
    share = rng.uniform(0.45, 0.8)
    job.wait[:, k:] += job.step * share / (1 - share) * rng.uniform(0.8, 1.2, job.wait[:, k:].shape)
    _done(job)
    late = job.grid > job.at(k)
    job.util[:, late] *= 1 - share
    return [job], Label(("data_loader_bound",), job.at(k), "")


@_fault
def _throughput_drop(rng: np.random.Generator) -> tuple[list[Job], Label | None]:
    job = _job(rng, job_view=bool(rng.random() < 0.7))
    k = _onset(job)
    job.work[:, k:] *= rng.uniform(1.45, 2.5)
    _done(job)
    return [job], Label(("throughput_regression",), job.at(k), "")


@_fault
def _throughput_creep(rng: np.random.Generator) -> tuple[list[Job], Label | None]:
    job = _job(rng, minutes=float(rng.uniform(45, 70)))
    k = int(0.3 * job.steps)
    n = job.steps - k
    job.work[:, k:] *= 1 + rng.uniform(0.7, 1.5) * np.arange(n) / n
    _done(job)
    return [job], Label(("throughput_regression",), job.at(k), "")


@_fault
def _straggler_of_64(rng: np.random.Generator) -> tuple[list[Job], Label | None]:
    job = _job(rng, 64)
    k, rank = _onset(job, 0.3, 0.5), int(rng.integers(0, 64))
    job.work[rank, k:] *= rng.uniform(1.3, 2.0)
    _done(job)
    return [job], Label(("straggler",), job.at(k), f"rank {rank}")


@_fault
def _straggler_of_8(rng: np.random.Generator) -> tuple[list[Job], Label | None]:
    job = _job(rng, 8, synchronous=False)
    job.communication = 0.0
    k, rank = _onset(job), int(rng.integers(0, 8))
    if rng.random() < 0.5:
        job.work[rank, k:] *= rng.uniform(1.35, 2.0)
    else:
        job.wait[rank, k:] += job.step * rng.uniform(0.4, 0.9)
    # Each goes at its own pace; they stop together.
    job.settle()
    end = job.times[:, -1].min()
    job.last_rows = {other: int(np.searchsorted(job.times[other], end)) for other in range(8)}
    _done(job)
    return [job], Label(("straggler",), job.at(k, rank), f"rank {rank}")


@_fault
def _straggler_host(rng: np.random.Generator) -> tuple[list[Job], Label | None]:
    job = _job(rng, 64)
    k, host = _onset(job, 0.3, 0.5), int(rng.integers(0, 8))
    job.work[8 * host : 8 * host + 8, k:] *= rng.uniform(1.3, 1.8)
    _done(job)
    return [job], Label(("straggler",), job.at(k), f"node{host:02d}")


# GPUs


def _gpu_fault(rng: np.random.Generator) -> tuple[Job, int, int, float]:
    """A job, the rank whose GPU is struck, the index in the grid from which on, and the time."""
    ranks = int(rng.choice([1, 8, 8, 64], p=[0.4, 0.25, 0.25, 0.1]))
    job = _job(rng, ranks)
    k = _onset(job, 0.35, 0.6)
    _done(job)
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


@_fault
def _thermal_throttling(rng: np.random.Generator) -> tuple[list[Job], Label | None]:
    job, rank, i, onset = _gpu_fault(rng)
    job.temperature[rank, i:] = np.minimum(91, job.temperature[rank, i:] + 25)
    job.sm[rank, i:] *= rng.uniform(0.55, 0.85)
    on = rng.random(len(job.grid) - i) < rng.uniform(0.75, 1.0)
    job.reasons[rank, i:] = np.where(on, float(rng.choice([0x20, 0x40, 0x48])), 0)
    _slowed(job, rank, i, rng.uniform(1.1, 1.5))
    return [job], Label(("thermal_throttle",), onset, job.uuid(rank))


@_fault
def _power_brake(rng: np.random.Generator) -> tuple[list[Job], Label | None]:
    job, rank, i, onset = _gpu_fault(rng)
    job.sm[rank, i:] *= rng.uniform(0.3, 0.7)
    job.power[rank, i:] *= 0.6
    job.reasons[rank, i:] = float(rng.choice([0x80, 0x88, 0x8]))
    _slowed(job, rank, i, rng.uniform(1.2, 2))
    return [job], Label(("power_throttle",), onset, job.uuid(rank))


@_fault
def _power_cap_too_low(rng: np.random.Generator) -> tuple[list[Job], Label | None]:
    job, rank, i, onset = _gpu_fault(rng)
    job.sm[rank, i:] *= rng.uniform(0.4, 0.62)
    job.power[rank, i:] *= 0.5
    job.reasons[rank, i:] = 4.0
    _slowed(job, rank, i, rng.uniform(1.2, 1.6))
    return [job], Label(("power_throttle",), onset, job.uuid(rank))


@_fault
def _hot_host(rng: np.random.Generator) -> tuple[list[Job], Label | None]:
    job = _job(rng, 64)
    k, host = _onset(job, 0.35, 0.6), int(rng.integers(0, 8))
    _done(job)
    i = int(np.searchsorted(job.grid, job.at(k)))
    for rank in range(8 * host, 8 * host + 8):
        begin = i + int(rng.integers(0, 2))
        job.temperature[rank, begin:] = 90
        job.sm[rank, begin:] *= 0.7
        job.reasons[rank, begin:] = 0x40
    return [job], Label(("thermal_throttle",), float(job.grid[i]), f"node{host:02d}")


@_fault
def _clock_mismatch(rng: np.random.Generator) -> tuple[list[Job], Label | None]:
    job = _job(rng, int(rng.choice([8, 8, 64])))
    k, rank = _onset(job, 0.35, 0.6), int(rng.integers(0, job.ranks))
    _done(job)
    i = int(np.searchsorted(job.grid, job.at(k)))
    job.sm[rank, i:] *= rng.uniform(0.5, 0.83)
    job.reasons[rank, i:] = 0.0
    _slowed(job, rank, i, rng.uniform(1.1, 1.5))
    return [job], Label(("clock_mismatch",), float(job.grid[i]), job.uuid(rank))


@_fault
def _xid(rng: np.random.Generator) -> tuple[list[Job], Label | None]:
    job, rank, i, onset = _gpu_fault(rng)
    job.xids[rank, i:] = 1
    job.last_xid[rank, i:] = float(rng.choice([13, 31, 48, 63, 74, 94, 119]))
    return [job], Label(("xid",), onset, job.uuid(rank))


@_fault
def _ecc(rng: np.random.Generator) -> tuple[list[Job], Label | None]:
    job, rank, i, onset = _gpu_fault(rng)
    job.ecc[rank, i:] += rng.integers(1, 5)
    return [job], Label(("ecc",), onset, job.uuid(rank))


@_fault
def _gpu_lost(rng: np.random.Generator) -> tuple[list[Job], Label | None]:
    job = _job(rng, 8)
    k, rank = _onset(job), int(rng.integers(0, 8))
    job.last_rows = dict.fromkeys(range(8), k)
    job.linger, job.ends = 10 * MINUTE, None
    _done(job)
    stuck = job.grid > job.times[0, k]
    job.util[:, stuck], job.power[:, stuck] = 100.0, 0.3 * job.cap
    job.gone_gpus = {rank: job.at(k)}
    return [job], Label(("gpu_lost",), job.at(k), job.uuid(rank))


@_fault
def _gpu_idle(rng: np.random.Generator) -> tuple[list[Job], Label | None]:
    job = _job(rng, int(rng.choice([1, 8])))
    k, rank = _onset(job, 0.3, 0.5), int(rng.integers(0, job.ranks))
    _done(job)
    i = int(np.searchsorted(job.grid, job.at(k)))
    job.util[rank, i:], job.power[rank, i:] = 0.0, 0.12 * job.cap
    return [job], Label(("gpu_idle",), job.at(k), job.uuid(rank))


@_fault
def _gpu_never_used(rng: np.random.Generator) -> tuple[list[Job], Label | None]:
    job = _job(rng, utilisation=0.0)
    for pause in list(job.pauses):
        job.pauses[job.pauses.index(pause)] = Pause(pause.step, pause.seconds, 0.0, pause.evaluates)
    _done(job)
    return [job], Label(("gpu_idle",), job.start, job.uuid(0))


# Memory and disks


@_fault
def _memory_leak(rng: np.random.Generator) -> tuple[list[Job], Label | None]:
    job = _job(rng, int(rng.choice([1, 1, 8])), minutes=float(rng.uniform(45, 70)))
    _done(job)
    grown = np.maximum(0, job.grid - job.grid[0] - 300) * rng.uniform(0.08, 0.4) * job.host_total / 3600
    job.rss += grown
    job.host_used += grown
    return [job], Label(("memory_leak",), job.start + 300, job.host_name(0), frozenset({"out_of_memory"}))


@_fault
def _gpu_memory_leak(rng: np.random.Generator) -> tuple[list[Job], Label | None]:
    job = _job(rng, 1, minutes=float(rng.uniform(45, 70)))
    _done(job)
    job.memory *= 0.5
    step = rng.uniform(0.05, 1.0) * GIB
    grown = np.maximum(0, job.grid - job.grid[0] - 300) * rng.uniform(0.08, 0.4) * job.total / 3600
    job.memory = np.minimum(job.memory + np.floor(grown / step) * step, 0.999 * job.total)
    return [job], Label(("gpu_memory_leak",), job.start + 300, job.uuid(0), frozenset({"gpu_out_of_memory"}))


@_fault
def _host_out_of_memory(rng: np.random.Generator) -> tuple[list[Job], Label | None]:
    job = _job(rng)
    k = _onset(job)
    _done(job)
    i = int(np.searchsorted(job.grid, job.at(k)))
    left = 0.995 * job.host_total - job.host_used[0, i]
    rate = left / rng.uniform(3 * MINUTE, 9 * MINUTE)
    job.host_used[0, i:] = np.minimum(
        job.host_used[0, i:] + rate * (job.grid[i:] - job.grid[i]), 0.995 * job.host_total
    )
    return [job], Label(("out_of_memory",), job.at(k), job.host_name(0), frozenset({"memory_leak"}))


@_fault
def _gpu_out_of_memory(rng: np.random.Generator) -> tuple[list[Job], Label | None]:
    job = _job(rng)
    k = _onset(job)
    _done(job)
    i = int(np.searchsorted(job.grid, job.at(k)))
    left = 0.999 * job.total - job.memory[0, i]
    rate = left / rng.uniform(4 * MINUTE, 11 * MINUTE)
    job.memory[0, i:] = np.minimum(job.memory[0, i:] + rate * (job.grid[i:] - job.grid[i]), 0.999 * job.total)
    return [job], Label(("gpu_out_of_memory",), job.at(k), job.uuid(0), frozenset({"gpu_memory_leak"}))


@_fault
def _disk_full(rng: np.random.Generator) -> tuple[list[Job], Label | None]:
    job = _job(rng)
    k = _onset(job)
    _done(job)
    i = int(np.searchsorted(job.grid, job.at(k)))
    job.disk[0, i:] = rng.uniform(98.3, 100)
    return [job], Label(("disk_full",), job.at(k), job.host_name(0))


# Nothing is wrong


@_healthy
def _plain(rng: np.random.Generator) -> tuple[list[Job], Label | None]:
    return [_done(_job(rng))], None


@_healthy
def _plain_8(rng: np.random.Generator) -> tuple[list[Job], Label | None]:
    return [_done(_job(rng, 8))], None


@_healthy
def _plain_64(rng: np.random.Generator) -> tuple[list[Job], Label | None]:
    return [_done(_job(rng, 64))], None


@_healthy
def _pipeline_stages(rng: np.random.Generator) -> tuple[list[Job], Label | None]:
    job = _job(rng, 8)
    job.work *= np.array([1.08, 1, 1, 1, 1, 1, 1, rng.uniform(1.05, 1.17)])[:, None]
    return [_done(job)], None


@_healthy
def _learning_rate_drops(rng: np.random.Generator) -> tuple[list[Job], Label | None]:
    job = _job(rng, step=float(rng.uniform(0.5, 2)))
    drops = np.arange(job.steps) // max(1, job.steps // 3)
    inside = (np.arange(job.steps) % (job.steps // 3)) / (job.steps / 3)
    base = rng.uniform(1.5, 3)
    job.trend = base * 0.55**drops * (1 + 0.8 * np.exp(-inside * rng.uniform(2.5, 4)) * (0.3 + 0.7 * (drops == 0)))
    job.loss = job.trend * (1 + rng.uniform(0.03, 0.08) * job.ragged(job.steps))
    return [_done(job)], None


@_healthy
def _warm_restarts(rng: np.random.Generator) -> tuple[list[Job], Label | None]:
    job = _job(rng, step=float(rng.uniform(0.5, 2)))
    cycle = (np.arange(job.steps) % (job.steps // 5)) / (job.steps / 5)
    job.loss *= 1 + rng.uniform(0.05, 0.2) * np.cos(np.pi * cycle / 2)
    return [_done(job)], None


@_healthy
def _triangular_learning_rate(rng: np.random.Generator) -> tuple[list[Job], Label | None]:
    job = _job(rng, step=float(rng.uniform(0.5, 2)))
    cycle = np.abs((np.arange(job.steps) / (job.steps / 6)) % 2 - 1)
    job.loss *= 1 + rng.uniform(0.05, 0.18) * cycle
    return [_done(job)], None


@_healthy
def _gan(rng: np.random.Generator) -> tuple[list[Job], Label | None]:
    job = _job(rng)
    k = np.arange(job.steps)
    swing = np.sin(k / rng.uniform(5, 60)) + 0.5 * np.sin(k / rng.uniform(3, 20))
    job.loss_name = "loss_g"
    job.loss = 1.5 + 2 * k / job.steps + swing + 0.4 * np.abs(job.ragged(job.steps))
    job.extra = {"loss_d": 0.7 - 0.2 * swing + 0.1 * np.abs(job.ragged(job.steps))}
    return [_done(job)], None


@_healthy
def _oscillating(rng: np.random.Generator) -> tuple[list[Job], Label | None]:
    job = _job(rng)
    k = np.arange(job.steps)
    job.loss_name = "loss"
    job.loss = job.trend * (1 + 0.4 * np.sin(k / rng.uniform(4, 30)) + 0.15 * job.ragged(job.steps))
    return [_done(job)], None


@_healthy
def _reinforcement_learning(rng: np.random.Generator) -> tuple[list[Job], Label | None]:
    job = _job(rng)
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
    return [_done(job)], None


@_healthy
def _fine_tuning(rng: np.random.Generator) -> tuple[list[Job], Label | None]:
    job = _job(rng)
    k = np.arange(job.steps)
    job.loss_name = "loss"
    base = rng.uniform(0.6, 1.6)
    job.trend = base * (0.7 + 0.3 * (1 + k / (0.1 * job.steps)) ** -0.5)
    job.loss = job.trend * (1 + rng.uniform(0.05, 0.2) * job.ragged(job.steps))
    job.loss = np.maximum(job.loss, 0.01)
    return [_done(job)], None


@_healthy
def _converged_near_its_end(rng: np.random.Generator) -> tuple[list[Job], Label | None]:
    job = _job(rng, step=float(rng.uniform(0.5, 2)))
    k = np.arange(job.steps)
    job.trend = job.floor * (1 + 2 * np.exp(-k / (rng.uniform(0.12, 0.18) * job.steps)))
    job.loss = job.trend * (1 + 0.02 * job.ragged(job.steps))
    return [_done(job)], None


@_healthy
def _new_data_mix(rng: np.random.Generator) -> tuple[list[Job], Label | None]:
    job = _job(rng)
    k = int(job.steps * rng.uniform(0.3, 0.7))
    after = np.arange(job.steps - k)
    job.loss[k:] *= 1 + rng.uniform(0.05, 0.18) * (0.4 + 0.6 * np.exp(-after / (0.1 * job.steps)))
    return [_done(job)], None


@_healthy
def _longer_sequences(rng: np.random.Generator) -> tuple[list[Job], Label | None]:
    job = _job(rng)
    k = int(job.steps * rng.uniform(0.3, 0.6))
    factor = rng.uniform(1.5, 2.0)
    job.work[:, k:] *= factor
    rates = np.ones(job.steps)
    rates[k:] = factor
    job.rate = rates  # type: ignore[assignment]
    return [_done(job)], None


@_healthy
def _long_evaluations(rng: np.random.Generator) -> tuple[list[Job], Label | None]:
    job = _job(rng, minutes=50)
    job.pauses = job.pauses[-1:] if job.pauses[-1].step == 0 else [it for it in job.pauses if it.step == 0]
    job.every(int(job.steps / rng.uniform(3.5, 5.5)), float(rng.uniform(200, 700)), float(rng.uniform(50, 95)), True)
    job.evaluation = _evaluation(job)
    return [_done(job)], None


@_healthy
def _slow_checkpoints(rng: np.random.Generator) -> tuple[list[Job], Label | None]:
    job = _job(rng, int(rng.choice([1, 8])), minutes=45)
    job.every(int(job.steps / rng.uniform(4, 9)), float(rng.uniform(40, 100)), 0.0)
    return [_done(job)], None


@_healthy
def _slow_start_of_epochs(rng: np.random.Generator) -> tuple[list[Job], Label | None]:
    job = _job(rng)
    epoch = max(40, int(rng.uniform(3, 8) * MINUTE / job.step))
    for first in range(0, job.steps, epoch):
        job.wait[:, first : first + 4] += job.step * rng.uniform(1, 12)
    return [_done(job)], None


@_healthy
def _resumed(rng: np.random.Generator) -> tuple[list[Job], Label | None]:
    first = _job(rng, minutes=20)
    first.ends, first.exit_code = "failed", 130
    _done(first)
    back = int(first.steps * 0.8)
    second = _job(rng, minutes=20, step=first.step, attempt=1, start=first.end + rng.uniform(10, 300), first_step=back)
    second.trend = first.trend[back] * (1 + np.arange(second.steps) / (4.0 * first.steps)) ** -0.3
    second.loss = second.trend * (1 + 0.03 * second.ragged(second.steps))
    second.norm = 0.4 * np.exp(0.2 * second.ragged(second.steps))
    return [first, _done(second)], None


@_healthy
def _small_model(rng: np.random.Generator) -> tuple[list[Job], Label | None]:
    return [_done(_job(rng, utilisation=float(rng.uniform(4, 15))))], None


@_healthy
def _every_hundredth_step(rng: np.random.Generator) -> tuple[list[Job], Label | None]:
    job = _job(rng, step=0.3, log_every=100)
    return [_done(job)], None


@_healthy
def _once_an_hour(rng: np.random.Generator) -> tuple[list[Job], Label | None]:
    job = _job(rng, minutes=60 * 24, step=3600.0, job_view=False)
    job.pauses = [Pause(0, 60.0, 0.0)]
    job.work = 3600.0 * np.exp(rng.normal(0, 0.3, job.work.shape))
    job.sample_every, job.sample_flush = 60.0, 300.0
    return [_done(job)], None


@_healthy
def _without_gpu(rng: np.random.Generator) -> tuple[list[Job], Label | None]:
    return [_done(_job(rng, gpu=False, job_view=False))], None


@_healthy
def _without_telemetry(rng: np.random.Generator) -> tuple[list[Job], Label | None]:
    return [_done(_job(rng, telemetry=False, job_view=False))], None


@_healthy
def _nan_in_evaluation(rng: np.random.Generator) -> tuple[list[Job], Label | None]:
    job = _job(rng)
    job.every(max(20, job.steps // 8), 20.0, 70.0, True)
    job.evaluation = {"val/loss": lambda step: float("nan"), "val/auc": lambda step: float("nan")}
    return [_done(job)], None


@_healthy
def _negative_loss(rng: np.random.Generator) -> tuple[list[Job], Label | None]:
    job = _job(rng)
    k = np.arange(job.steps)
    job.loss_name = "nll"
    job.trend = 3.0 - 1.2 * np.log1p(k / 10)
    job.loss = job.trend + 0.15 * job.ragged(job.steps)
    return [_done(job)], None


@_healthy
def _constant_metrics(rng: np.random.Generator) -> tuple[list[Job], Label | None]:
    job = _job(rng)
    job.extra = {"aux/loss": np.zeros(job.steps), "regularisation_loss": np.full(job.steps, 0.1)}
    return [_done(job)], None


@_healthy
def _loss_scaler(rng: np.random.Generator) -> tuple[list[Job], Label | None]:
    job = _job(rng)
    job.norm[: int(rng.integers(4, 16))] = np.inf
    job.norm[rng.random(job.steps) < 0.004] = np.inf
    return [_done(job)], None


@_healthy
def _odd_batches(rng: np.random.Generator) -> tuple[list[Job], Label | None]:
    job = _job(rng)
    odd = rng.random(job.steps) < 0.01
    job.loss[odd] *= rng.uniform(1.5, 6, odd.sum())
    job.norm[odd] *= rng.uniform(3, 60, odd.sum())
    return [_done(job)], None


@_healthy
def _tiny_loss(rng: np.random.Generator) -> tuple[list[Job], Label | None]:
    job = _job(rng)
    k = np.arange(job.steps)
    job.loss_name = "train_loss"
    job.trend = 0.5 * (1 + k / 5.0) ** -1.0
    job.loss = job.trend * np.exp(0.6 * job.ragged(job.steps))
    return [_done(job)], None


@_healthy
def _network_hiccups(rng: np.random.Generator) -> tuple[list[Job], Label | None]:
    job = _job(rng, int(rng.choice([1, 8])))
    for _ in range(5):
        at = START + float(rng.uniform(0.1, 0.9)) * job.steps * job.step
        job.held.append((at, at + float(rng.uniform(15, 40))))
    return [_done(job)], None


@_healthy
def _full_gpu_memory(rng: np.random.Generator) -> tuple[list[Job], Label | None]:
    job = _done(_job(rng))
    filled = rng.uniform(0.93, 0.985) * job.total
    # JAX takes it at once; the caching allocator of PyTorch in steps, in the first minutes.
    when = rng.uniform(5, 200)
    job.memory[0] = np.where(job.grid - job.grid[0] < when, 0.3 * filled, filled)
    return [job], None


@_healthy
def _caching_data(rng: np.random.Generator) -> tuple[list[Job], Label | None]:
    job = _done(_job(rng, minutes=55))
    grown = 0.3 * job.host_total * (1 - np.exp(-(job.grid - job.grid[0]) / rng.uniform(200, 900)))
    job.rss += grown
    job.host_used += grown
    return [job], None


@_healthy
def _workers_that_restart(rng: np.random.Generator) -> tuple[list[Job], Label | None]:
    job = _done(_job(rng, minutes=55))
    epoch = rng.uniform(240, 800)
    grown = 0.15 * job.host_total * ((job.grid - job.grid[0]) % epoch) / epoch
    job.rss += grown
    job.host_used += grown
    return [job], None


@_healthy
def _interrupted(rng: np.random.Generator) -> tuple[list[Job], Label | None]:
    job = _job(rng, minutes=15)
    job.ends, job.exit_code = "failed", 130
    return [_done(job)], None
