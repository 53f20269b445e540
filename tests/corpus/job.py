"""A simulated training job: its steps, losses, GPUs and hosts, as the stream of events that a monitor receives.

A job is made in two stages. First what happens step by step (work of each rank, pauses, loss, gradient norm), which
faults may change; from that follow the times. Then the telemetry on a grid of times, which faults may change too.
`events` packs both into messages with their times of arrival. All randomness comes from the job's generator.
"""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from pulsetrain_schemas.events import MetricBatch, Origin, RunEvent, SystemBatch

Array = NDArray[np.float64]
Event = MetricBatch | SystemBatch | RunEvent
Arrival = tuple[float, Event]

START = 1_700_000_000.0
GIB = 2.0**30


@dataclass(frozen=True)
class Pause:
    """Before a step: an evaluation, a checkpoint, a compilation … and how busy GPU and CPU are meanwhile (per cent of a
    GPU, of a core)."""

    step: int
    seconds: float
    busy: float
    evaluates: bool = False
    processor: float = 100.0


@dataclass(frozen=True)
class Rows:
    """Rows of the same metrics: one of `values` for each step."""

    names: list[str]
    steps: NDArray[np.int64]
    times: Array
    values: Array


@dataclass
class Job:
    """One attempt of a run."""

    rng: np.random.Generator
    ranks: int = 1
    steps: int = 1200
    step: float = 1.5
    log_every: int = 1
    flush: float = 5.0
    sample_every: float = 5.0
    sample_flush: float = 10.0
    beat: float = 10.0
    gpu: bool = True
    synchronous: bool = True
    job_view: bool = True
    telemetry: bool = True
    attempt: int = 0
    start: float = START
    first_step: int = 0
    run_id: str = "run"
    utilisation: float = 95.0
    loss_name: str = "train/loss"
    norm_name: str = "train/grad_norm"
    ends: str | None = "finished"
    exit_code: int | None = 0
    # Simulated seconds after the last row until the recording ends, in which heartbeats and samples go on.
    linger: float = 0.0
    pauses: list[Pause] = field(default_factory=list)
    extra: dict[str, Array] = field(default_factory=dict)
    # At the end of an evaluation, a row with these (a function of the step).
    evaluation: dict[str, Callable[[int], float]] = field(default_factory=dict)
    # Messages that would come in these stretches of time come at their end.
    held: list[tuple[float, float]] = field(default_factory=list)
    # From this time on nothing comes of these hosts.
    lost: dict[int, float] = field(default_factory=dict)
    # The step at which a rank's rows end, and how its process does.
    last_rows: dict[int, int] = field(default_factory=dict)
    crashes: dict[int, tuple[float, str, int | None]] = field(default_factory=dict)
    gone_gpus: dict[int, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        rng, n = self.rng, self.steps
        self.aside = rng.spawn(1)[0]
        jitter = rng.uniform(0.01, 0.05)
        self.hosts = max(1, -(-self.ranks // 8))
        imbalance = rng.normal(1.0, 0.01, self.ranks)
        noise = rng.standard_t(4, (self.ranks, n)) * jitter
        self.work: Array = self.step * 0.85 * imbalance[:, None] * np.clip(1 + noise, 0.8, 1.6)
        self.wait: Array = self.step * 0.02 * rng.exponential(1.0, (self.ranks, n))
        self.communication = self.step * 0.1
        self.work[:, 0] += 0.0
        k = np.arange(n) + self.first_step
        self.k = k
        alpha, high = rng.uniform(0.15, 0.4), rng.uniform(3.0, 9.0)
        self.floor = rng.uniform(0.3, 2.0)
        self.trend: Array = self.floor + high * (1 + k / 5.0) ** -alpha
        self.noise = rng.uniform(0.01, 0.05)
        self.loss: Array = self.trend + self.noise * self.trend * self.ragged(n)
        self.norm: Array = (0.4 + 3 * np.exp(-k / 80)) * np.exp(rng.uniform(0.1, 0.3) * self.ragged(n))
        self.rate = 1.0
        self.offsets = rng.uniform(-200, 200, self.hosts) if self.hosts > 1 else np.zeros(1)
        self.pauses.append(Pause(0, rng.uniform(5, 60), 5.0))

    def ragged(self, n: int) -> Array:
        """Noise of unit size: correlated a little, with heavy tails."""
        white = self.rng.standard_t(5, n) * 0.75
        noise = white.copy()
        noise[1:] += 0.3 * white[:-1]
        return noise

    def every(self, steps: int, seconds: float, busy: float, evaluates: bool = False) -> None:
        """A pause each so many steps, of varying length."""
        for step in range(max(2, steps), self.steps, max(2, steps)):
            processor = float(self.aside.uniform(80, 800) if evaluates else self.aside.uniform(5, 120))
            self.pauses.append(Pause(step, float(seconds * self.rng.uniform(0.8, 1.25)), busy, evaluates, processor))

    # Times

    def settle(self) -> None:
        """Computes the times of the steps from their work and the pauses."""
        whole = self.work + self.wait
        if self.synchronous:
            self.durations: Array = np.broadcast_to(whole.max(axis=0) + self.communication, whole.shape)
        else:
            self.durations = whole + self.communication
        self.before = np.zeros(self.steps)
        self.busy_before = np.zeros(self.steps)
        self.processor_before = np.zeros(self.steps)
        for pause in self.pauses:
            self.before[pause.step] += pause.seconds
            self.busy_before[pause.step] = pause.busy
            self.processor_before[pause.step] = pause.processor
        self.times: Array = self.start + np.cumsum(self.durations + self.before, axis=1)
        last = max(self.times[rank, self.last_rows.get(rank, self.steps) - 1] for rank in range(self.ranks))
        self.end = float(last) + 5.0 + self.linger
        self.grid = np.arange(self.start, self.end, self.sample_every)

    def at(self, step: int, rank: int = 0) -> float:
        """When a step begins."""
        return float(self.times[rank, step] - self.durations[rank, step])

    # Telemetry

    def measure(self) -> None:
        """Computes what the samplers see."""
        rng, m = self.rng, len(self.grid)
        self.g: dict[str, Array] = {}
        shape = (self.ranks, m)
        util = np.empty(shape)
        for rank in range(self.ranks):
            last = self.last_rows.get(rank, self.steps)
            index = np.searchsorted(self.times[rank, :last], self.grid)
            inside = np.minimum(index, last - 1)
            paused = self.grid < self.times[rank, inside] - self.durations[rank, inside]
            util[rank] = np.where(paused, self.busy_before[inside], self.utilisation)
            util[rank][index >= last] = 0.0
        self.util = np.clip(util + rng.normal(0, 3, shape) * (util > 2), 0, 100)
        self.cap = 700.0 if self.ranks > 1 else 350.0
        draw = rng.uniform(0.6, 0.95)
        self.power = 0.12 * self.cap + draw * self.cap * 0.85 * (self.util / 100) * rng.normal(1, 0.02, shape)
        self.limit = np.ones(self.ranks)
        warm = np.empty(shape)
        heat = np.full(self.ranks, 0.3 * self.cap)
        share = min(1.0, self.sample_every / 60)
        for i in range(m):
            heat += share * (self.power[:, i] - heat)
            warm[:, i] = heat
        self.temperature = 30 + 45 * warm / self.cap + rng.normal(0, 0.5, shape) + rng.normal(0, 2, (self.ranks, 1))
        self.sm = np.where(self.util > 3, 1900 - 12 * rng.integers(0, 4, shape), 1200.0)
        self.reasons = np.where((self.util > 90) & (rng.random(shape) < rng.choice([0, 0.3, 0.9])), 4.0, 0.0)
        self.total = 80 * GIB
        used = rng.uniform(0.4, 0.85) * self.total
        grown = 1 - np.exp(-(self.grid - self.start) / rng.uniform(20, 90))
        self.memory = used * grown * np.ones(shape) + rng.normal(0, 0.002 * self.total, shape)
        self.xids = np.zeros(shape)
        self.last_xid = np.zeros(shape)
        self.ecc = np.full(shape, float(rng.choice([0, 0, 3])))
        self.host_total = 512 * GIB
        hosts = (self.hosts, m)
        base = rng.uniform(0.15, 0.5) * self.host_total
        wobble = np.cumsum(rng.normal(0, 1, hosts), axis=1)
        wobble -= np.linspace(0, 1, m) * wobble[:, -1:]
        self.host_used = base * (1 + 0.003 * wobble / max(1.0, m**0.5)) + rng.normal(0, 0.002 * base, hosts)
        self.rss = 0.3 * base * (0.6 + 0.4 * grown) * np.ones(hosts) + rng.normal(0, 0.002 * base, hosts)
        self.host_used += self.rss - self.rss.mean()
        self.disk = np.full(hosts, rng.uniform(20, 90))
        self.processor = self._processor()

    def _processor(self) -> Array:
        """Per cent of a core that the processes of each host take: idle while they wait, in pauses what these say."""
        found = np.empty((self.hosts, len(self.grid)))
        own = self.aside
        for host in range(self.hosts):
            rank = next(rank for rank in range(self.ranks) if self.host_of(rank) == host)
            last = self.last_rows.get(rank, self.steps)
            index = np.searchsorted(self.times[rank, :last], self.grid)
            inside = np.minimum(index, last - 1)
            paused = self.grid < self.times[rank, inside] - self.durations[rank, inside]
            found[host] = np.where(paused, self.processor_before[inside], own.uniform(80, 400))
            found[host][index >= last] = 0.0
        return found * own.uniform(0.9, 1.1, found.shape) + own.uniform(0, 3, found.shape)

    # Messages

    def events(self) -> list[Arrival]:
        """All messages, in the order of their arrival."""
        found: list[Arrival] = []
        for rank in range(self.ranks):
            found += self._rows(rank)
            found += self._life(rank)
        if self.telemetry:
            for host in range(self.hosts):
                found += self._samples(host)
        found.sort(key=lambda it: it[0])
        return found

    def host_of(self, rank: int) -> int:
        """The number of the host of a rank."""
        return rank // 8 if self.hosts > 1 else 0

    def host_name(self, rank: int) -> str:
        """The name of the host of a rank."""
        return f"node{self.host_of(rank):02d}"

    def uuid(self, rank: int) -> str:
        """The GPU of a rank."""
        return f"GPU-{rank:04d}"

    def origin(self, writer: str, rank: int, first: int = 1, last: int = 1) -> Origin:
        """The origin of a message."""
        started = round((START + 86_400 * 0) * 1e6) + self.attempt
        return Origin(
            "corpus", self.run_id, f"{writer}-{rank}-{self.attempt}", rank, self.attempt, started, first, last
        )

    def _arrives(self, time: float, host: int) -> float | None:
        arrival = time + float(self.rng.exponential(0.3))
        for begin, end in self.held:
            if begin <= arrival < end:
                arrival = end + float(self.rng.uniform(0, 1))
        lost = self.lost.get(host)
        return None if lost is not None and time >= lost else arrival

    def _rows(self, rank: int) -> Iterator[Arrival]:
        sorts = self._sorts_of_rows(rank)
        names = [name for it in sorts for name in it.names]
        rows = [row for it in sorts for row in it.values]
        steps = np.concatenate([it.steps for it in sorts])
        times = np.concatenate([it.times for it in sorts])
        shapes = np.repeat(np.arange(len(sorts)), [len(it.steps) for it in sorts])
        order = np.argsort(times, kind="stable")
        steps, times, shapes = steps[order], times[order], shapes[order]
        offset = float(self.offsets[self.host_of(rank)])
        bucket = np.floor((times - self.start) / self.flush)
        cuts = np.flatnonzero(np.diff(bucket)) + 1
        for begin, end in itertools.pairwise([0, *cuts.tolist(), len(times)]):
            full = self.start + (bucket[begin] + 1) * self.flush
            arrival = self._arrives(max(float(times[end - 1]), full), self.host_of(rank))
            if arrival is None:
                continue
            yield (
                arrival,
                MetricBatch(
                    self.origin("run", rank, begin + 1, end),
                    names,
                    np.array([len(it.names) for it in sorts]),
                    np.arange(len(names)),
                    np.arange(begin + 1, end + 1),
                    steps[begin:end] + self.first_step,
                    ((times[begin:end] + offset) * 1e6).astype(np.int64),
                    shapes[begin:end],
                    np.concatenate([rows[i] for i in order[begin:end]]),
                ),
            )

    def _sorts_of_rows(self, rank: int) -> list["Rows"]:
        """Rows of the loop, those of its step timer just after each of them, and those of evaluations."""
        last = self.last_rows.get(rank, self.steps)
        steps = np.arange(0, last, self.log_every)
        times = self.times[rank, steps]
        own = {self.loss_name: self.loss, self.norm_name: self.norm, "lr": np.full(self.steps, 3e-4), **self.extra}
        view: dict[str, Array] = {}
        if self.job_view:
            durations, wait = self.durations[rank], self.wait[rank]
            view = {
                "pulsetrain/step_seconds": durations,
                "pulsetrain/data_wait_seconds": wait,
                "pulsetrain/communication_seconds": durations - self.work[rank] - wait,
                "pulsetrain/tokens_per_second": 8192.0 * self.rate / durations,
            }
        if rank:
            own = {} if view else {"rank_loss": self.loss}
        sorts = [Rows(list(it), steps, times, np.stack(list(it.values()), axis=1)[steps]) for it in (own, view) if it]
        if len(sorts) > 1:
            sorts[1] = replace(sorts[1], times=times + 0.002)
        done = np.array([it.step for it in self.pauses if it.evaluates and it.step < last], int)
        if self.evaluation and len(done) and rank == 0:
            values = np.array([[f(step) for f in self.evaluation.values()] for step in done])
            ends = np.array([self.at(step) - 0.01 for step in done])
            sorts.append(Rows(list(self.evaluation), done, ends, values))
        return sorts

    def _life(self, rank: int) -> Iterator[Arrival]:
        host = self.host_of(rank)

        def event(writer: str, kind: str, time: float, **more: object) -> Arrival | None:
            arrival = self._arrives(time, host)
            stamp = round((time + float(self.offsets[host])) * 1e6)
            made = RunEvent(self.origin(writer, rank), kind, stamp, writer == "run" and rank == 0, **more)  # type: ignore[arg-type]
            return None if arrival is None else (arrival, made)

        began = event("run", "start", self.start, state="running", environment={"host": f'"{self.host_name(rank)}"'})
        if began is not None:
            yield began
        crash = self.crashes.get(rank)
        end = crash[0] if crash is not None else self.end
        writers = ["run", "system"] if rank % 8 == 0 else ["run"]
        for writer in writers:
            until = self.end if crash is not None and writer == "system" and self.ranks > 1 else end
            first = self.start + float(self.rng.uniform(0, self.beat))
            for time in np.arange(first, until, self.beat):
                beat = event(writer, "heartbeat", float(time))
                if beat is not None:
                    yield beat
        if crash is not None:
            finish = event("run", "finish", crash[0], state=crash[1], exit_code=crash[2])
        elif self.ends is not None:
            finish = event(
                "run", "finish", self.end + float(self.rng.uniform(0, 3)), state=self.ends, exit_code=self.exit_code
            )
        else:
            finish = None
        if finish is not None:
            yield finish
            if rank % 8 == 0 and (self.ranks == 1 or crash is None):
                yield (
                    finish[0] + 1.0,
                    RunEvent(
                        self.origin("system", rank), "finish", round((finish[0] + 1) * 1e6), False, state="finished"
                    ),
                )

    def _samples(self, host: int) -> Iterator[Arrival]:
        ranks = [rank for rank in range(self.ranks) if self.host_of(rank) == host]
        if self.hosts == 1 and self.ranks > 8:
            ranks = ranks[:8]
        per_gpu = {
            "utilization_percent": self.util,
            "memory_used_bytes": self.memory,
            "memory_total_bytes": np.broadcast_to(self.total, self.util.shape),
            "temperature_celsius": self.temperature,
            "power_watts": self.power,
            "sm_clock_mhz": self.sm,
            "throttle_reasons": self.reasons,
            "xid_errors": self.xids,
            "xid_last": self.last_xid,
            "ecc_uncorrected_errors": self.ecc,
        }
        own = {
            "memory_percent": 100 * self.host_used / self.host_total,
            "memory_used_bytes": self.host_used,
            "process_memory_rss_bytes": self.rss,
            "disk_used_percent": self.disk,
            "process_cpu_percent": self.processor,
        }
        metrics, gpus, indexes = list(own), [""] * len(own), [-1] * len(own)
        columns = [values[host] for values in own.values()]
        gone: dict[str, float] = {}
        if self.gpu:
            for place, rank in enumerate(ranks):
                if rank in self.gone_gpus:
                    gone[self.uuid(rank)] = self.gone_gpus[rank]
                for name, values in per_gpu.items():
                    metrics.append(name)
                    gpus.append(self.uuid(rank))
                    indexes.append(place)
                    columns.append(values[rank])
        matrix = np.stack(columns, axis=1)
        size = max(1, round(self.sample_flush / self.sample_every))
        offset = float(self.offsets[host])
        end = self.crashes[ranks[0]][0] if self.ranks == 1 and ranks[0] in self.crashes else self.end
        for begin in range(0, len(self.grid), size):
            times = self.grid[begin : begin + size]
            if times[-1] > end:
                break
            arrival = self._arrives(float(times[-1]), host)
            if arrival is None:
                continue
            # Errors are told only where one occurred.
            told = matrix[begin : begin + size].any(axis=0).tolist()
            here = [
                i
                for i, gpu in enumerate(gpus)
                if (gpu not in gone or gone[gpu] > times[0]) and (told[i] or not metrics[i].startswith("xid"))
            ]
            kept = here if len(here) < len(gpus) else slice(None)
            count = len(times)
            yield (
                arrival,
                SystemBatch(
                    self.origin("system", ranks[0], begin + 1, begin + count),
                    self.host_name(ranks[0]),
                    [metrics[i] for i in here],
                    [gpus[i] for i in here],
                    np.array([indexes[i] for i in here]),
                    np.array([len(here)]),
                    np.arange(len(here)),
                    np.arange(begin + 1, begin + count + 1),
                    ((times + offset) * 1e6).astype(np.int64),
                    np.zeros(count, np.int64),
                    matrix[begin : begin + count][:, kept].reshape(-1),
                ),
            )
