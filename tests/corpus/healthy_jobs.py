"""Healthy runs: plain ones, and those whose pauses, hardware or ends look as if something were wrong."""

import numpy as np

from tests.corpus.job import START, Job, Pause
from tests.corpus.labels import Label, healthy
from tests.corpus.ordinary import MINUTE, evaluation, ordinary, simulated


@healthy
def _plain(rng: np.random.Generator) -> tuple[list[Job], Label | None]:
    return [simulated(ordinary(rng))], None


@healthy
def _plain_8(rng: np.random.Generator) -> tuple[list[Job], Label | None]:
    return [simulated(ordinary(rng, 8))], None


@healthy
def _plain_64(rng: np.random.Generator) -> tuple[list[Job], Label | None]:
    return [simulated(ordinary(rng, 64))], None


@healthy
def _pipeline_stages(rng: np.random.Generator) -> tuple[list[Job], Label | None]:
    job = ordinary(rng, 8)
    job.work *= np.array([1.08, 1, 1, 1, 1, 1, 1, rng.uniform(1.05, 1.17)])[:, None]
    return [simulated(job)], None


@healthy
def _longer_sequences(rng: np.random.Generator) -> tuple[list[Job], Label | None]:
    job = ordinary(rng)
    k = int(job.steps * rng.uniform(0.3, 0.6))
    factor = rng.uniform(1.5, 2.0)
    job.work[:, k:] *= factor
    rates = np.ones(job.steps)
    rates[k:] = factor
    job.rate = rates  # type: ignore[assignment]
    return [simulated(job)], None


@healthy
def _long_evaluations(rng: np.random.Generator) -> tuple[list[Job], Label | None]:
    job = ordinary(rng, minutes=50)
    job.pauses = job.pauses[-1:] if job.pauses[-1].step == 0 else [it for it in job.pauses if it.step == 0]
    job.every(int(job.steps / rng.uniform(3.5, 5.5)), float(rng.uniform(200, 700)), float(rng.uniform(50, 95)), True)
    job.evaluation = evaluation(job)
    return [simulated(job)], None


@healthy
def _slow_checkpoints(rng: np.random.Generator) -> tuple[list[Job], Label | None]:
    job = ordinary(rng, int(rng.choice([1, 8])), minutes=45)
    job.every(int(job.steps / rng.uniform(4, 9)), float(rng.uniform(40, 100)), 0.0)
    return [simulated(job)], None


@healthy
def _slow_start_of_epochs(rng: np.random.Generator) -> tuple[list[Job], Label | None]:
    job = ordinary(rng)
    epoch = max(40, int(rng.uniform(3, 8) * MINUTE / job.step))
    for first in range(0, job.steps, epoch):
        job.wait[:, first : first + 4] += job.step * rng.uniform(1, 12)
    return [simulated(job)], None


@healthy
def _resumed(rng: np.random.Generator) -> tuple[list[Job], Label | None]:
    first = ordinary(rng, minutes=20)
    first.ends, first.exit_code = "failed", 130
    simulated(first)
    back = int(first.steps * 0.8)
    second = ordinary(
        rng, minutes=20, step=first.step, attempt=1, start=first.end + rng.uniform(10, 300), first_step=back
    )
    second.trend = first.trend[back] * (1 + np.arange(second.steps) / (4.0 * first.steps)) ** -0.3
    second.loss = second.trend * (1 + 0.03 * second.ragged(second.steps))
    second.norm = 0.4 * np.exp(0.2 * second.ragged(second.steps))
    return [first, simulated(second)], None


@healthy
def _small_model(rng: np.random.Generator) -> tuple[list[Job], Label | None]:
    return [simulated(ordinary(rng, utilisation=float(rng.uniform(4, 15))))], None


@healthy
def _every_hundredth_step(rng: np.random.Generator) -> tuple[list[Job], Label | None]:
    job = ordinary(rng, step=0.3, log_every=100)
    return [simulated(job)], None


@healthy
def _once_an_hour(rng: np.random.Generator) -> tuple[list[Job], Label | None]:
    job = ordinary(rng, minutes=60 * 24, step=3600.0, job_view=False)
    job.pauses = [Pause(0, 60.0, 0.0)]
    job.work = 3600.0 * np.exp(rng.normal(0, 0.3, job.work.shape))
    job.sample_every, job.sample_flush = 60.0, 300.0
    return [simulated(job)], None


@healthy
def _without_gpu(rng: np.random.Generator) -> tuple[list[Job], Label | None]:
    return [simulated(ordinary(rng, gpu=False, job_view=False))], None


@healthy
def _without_telemetry(rng: np.random.Generator) -> tuple[list[Job], Label | None]:
    return [simulated(ordinary(rng, telemetry=False, job_view=False))], None


@healthy
def _network_hiccups(rng: np.random.Generator) -> tuple[list[Job], Label | None]:
    job = ordinary(rng, int(rng.choice([1, 8])))
    for _ in range(5):
        at = START + float(rng.uniform(0.1, 0.9)) * job.steps * job.step
        job.held.append((at, at + float(rng.uniform(15, 40))))
    return [simulated(job)], None


@healthy
def _full_gpu_memory(rng: np.random.Generator) -> tuple[list[Job], Label | None]:
    job = simulated(ordinary(rng))
    filled = rng.uniform(0.93, 0.985) * job.total
    # JAX takes it at once; the caching allocator of PyTorch in steps, in the first minutes.
    when = rng.uniform(5, 200)
    job.memory[0] = np.where(job.grid - job.grid[0] < when, 0.3 * filled, filled)
    return [job], None


@healthy
def _caching_data(rng: np.random.Generator) -> tuple[list[Job], Label | None]:
    job = simulated(ordinary(rng, minutes=55))
    grown = 0.3 * job.host_total * (1 - np.exp(-(job.grid - job.grid[0]) / rng.uniform(200, 900)))
    job.rss += grown
    job.host_used += grown
    return [job], None


@healthy
def _workers_that_restart(rng: np.random.Generator) -> tuple[list[Job], Label | None]:
    job = simulated(ordinary(rng, minutes=55))
    epoch = rng.uniform(240, 800)
    grown = 0.15 * job.host_total * ((job.grid - job.grid[0]) % epoch) / epoch
    job.rss += grown
    job.host_used += grown
    return [job], None


@healthy
def _interrupted(rng: np.random.Generator) -> tuple[list[Job], Label | None]:
    job = ordinary(rng, minutes=15)
    job.ends, job.exit_code = "failed", 130
    return [simulated(job)], None


@healthy
def _evaluations_on_the_cpu(rng: np.random.Generator) -> tuple[list[Job], Label | None]:
    job = ordinary(rng, int(rng.choice([1, 8])), minutes=45)
    job.every(int(job.steps / rng.uniform(3.5, 7)), float(rng.uniform(60, 230)), 0.0, True)
    job.evaluation = evaluation(job)
    return [simulated(job)], None


@healthy
def _hiccups_of_the_loader(rng: np.random.Generator) -> tuple[list[Job], Label | None]:
    job = ordinary(rng, int(rng.choice([1, 8])))
    for step in rng.integers(20, job.steps, int(rng.integers(3, 12))):
        job.wait[int(rng.integers(0, job.ranks)), step] += rng.uniform(4, 29)
    return [simulated(job)], None


@healthy
def _clocks_hours_apart(rng: np.random.Generator) -> tuple[list[Job], Label | None]:
    job = ordinary(rng, 16)
    job.offsets = rng.uniform(-3 * 3600, 3 * 3600, job.hosts)
    return [simulated(job)], None


@healthy
def _passing_stragglers(rng: np.random.Generator) -> tuple[list[Job], Label | None]:
    job = ordinary(rng, int(rng.choice([8, 64])))
    for step in rng.integers(0, job.steps, 6):
        job.work[int(rng.integers(0, job.ranks)), step : step + max(1, int(rng.uniform(4, 30) / job.step))] *= 1.6
    return [simulated(job)], None


@healthy
def _caching_data_slowly(rng: np.random.Generator) -> tuple[list[Job], Label | None]:
    job = simulated(ordinary(rng, minutes=float(rng.uniform(55, 240))))
    filled = 1 - np.exp(-(job.grid - job.grid[0]) / rng.uniform(900, 7200))
    grown = rng.uniform(0.1, 0.4) * job.host_total * filled
    job.rss += grown
    job.host_used += grown
    return [job], None
