"""Everything that is watched of one run: events go in, findings come out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pulsetrain_consumers.monitor.detectors.hardware import Hardware
from pulsetrain_consumers.monitor.detectors.job import Job
from pulsetrain_consumers.monitor.detectors.metric_columns import columns
from pulsetrain_consumers.monitor.detectors.names import JOB_VIEW, Role, role
from pulsetrain_consumers.monitor.detectors.precedence import Precedence
from pulsetrain_consumers.monitor.detectors.ranks import SHOWN, Rank
from pulsetrain_consumers.monitor.detectors.remembering import dump, load
from pulsetrain_consumers.monitor.detectors.series import Series
from pulsetrain_consumers.monitor.detectors.system_samples import summary
from pulsetrain_consumers.monitor.detectors.writers import Writers
from pulsetrain_consumers.monitor.findings import Finding
from pulsetrain_schemas.events import MetricBatch, Origin, RunEvent, SystemBatch

# How often everything is looked at, in seconds. A tick in between costs a comparison.
LOOK = 5.0
# A longer time between two ticks was an absence of the monitor, not a silence of the run.
ABSENCE = 30.0
# Series that are followed at most: a run may log a norm for each layer.
MOST_SERIES = 12
_FOLLOWED = frozenset({Role.LOSS, Role.GRADIENT_NORM, Role.ADVERSARIAL_LOSS})


@dataclass(slots=True)
class RunWatch:
    """Everything that is watched of one run.

    Findings of one kind and subject alternate: present, over, present … What a cause explains is not said beside it.
    What came of an earlier attempt than the latest is left out; a new attempt ends what was present. Times of silence
    are measured by `tick`, and absences of the monitor (half a minute between two ticks) do not count, so a watch that
    is restored after a pause does not take the pause for a stall.
    """

    project: str
    run_id: str
    attempt: int | None = field(init=False, default=None)
    now: float | None = field(init=False, default=None)
    away: float = field(init=False, default=0.0)
    looked: float | None = field(init=False, default=None)
    over: bool = field(init=False, default=False)
    writers: Writers = field(init=False, default_factory=Writers)
    ranks: dict[int, Rank] = field(init=False, default_factory=dict, metadata={"of": Rank})
    series: dict[str, Series] = field(init=False, default_factory=dict, metadata={"of": Series})
    job: Job = field(init=False, default_factory=Job)
    hardware: Hardware = field(init=False, default_factory=Hardware)
    precedence: Precedence = field(init=False, default_factory=Precedence)
    _plans: dict[tuple[str, ...], list[tuple[int, str, Role]]] = field(
        init=False, default_factory=dict, metadata={"passing": True}
    )

    def metrics(self, batch: MetricBatch) -> list[Finding]:
        """Takes rows of history."""
        origin = batch.origin
        found: list[Finding] = []
        if not self._current(origin, found):
            return found
        clock = self._clock()
        self.writers.heard(origin.writer, origin.rank, clock).logs = True
        if not len(batch.row_times):
            return found
        rank = self._rank(origin.rank)
        rank.rows(batch.row_times, batch.row_steps, clock)
        followed = self._plan(batch.keys)
        if followed:
            said = self._follow(batch, followed, rank)
            if said:
                self._say(said, found)
        return found

    def system(self, batch: SystemBatch) -> list[Finding]:
        """Takes samples of the hardware."""
        origin = batch.origin
        found: list[Finding] = []
        if not self._current(origin, found):
            return found
        clock = self._clock()
        self.writers.heard(origin.writer, origin.rank, clock)
        rank = self._rank(origin.rank)
        rank.host = batch.host
        told = summary(batch)
        if told is not None and not self.over:
            self.hardware.observe(batch.host, origin.rank, rank, told, self._busy(clock), clock or 0.0)
            if not rank.gpu:
                self._place(batch.host, {index: uuid for uuid, (index, _) in told.gpus.items()})
        return found

    def event(self, event: RunEvent) -> list[Finding]:
        """Takes what happened to the run or one of its writers."""
        origin = event.origin
        found: list[Finding] = []
        if not self._current(origin, found):
            return found
        clock = self._clock()
        writer = self.writers.heard(origin.writer, origin.rank, clock, event.kind == "heartbeat")
        host = event.environment.get("host")
        if host:
            self._rank(origin.rank).host = host.strip('"')
        if event.kind == "start":
            self.writers.start(writer, event.is_primary)
            if writer.leads:
                self._rank(origin.rank).done = False
            self.over = False
        elif event.kind == "finish":
            self._finish(event, found)
        elif event.waiting is not None:
            rank = self._rank(origin.rank)
            time = event.time / 1e6
            said = rank.loader.observe(event.waiting, time, origin.rank, rank.step, rank.host)
            if said is not None:
                self._say([said], found)
        return found

    def tick(self, now: float) -> list[Finding]:
        """Says what the passing of time shows; to be called about once a second, with seconds since the epoch."""
        if self.now is None:
            self._begin(now)
        elif now < self.now or now - self.now > ABSENCE:
            self.away += now - self.now - (1.0 if now > self.now else 0.0)
        self.now = now
        clock = now - self.away
        if self.looked is not None and clock - self.looked < LOOK:
            return []
        self.looked = clock
        found: list[Finding] = []
        if not self.over:
            hosts = {number: rank.host for number, rank in self.ranks.items()}
            said = self.writers.look(clock, now, hosts)
            said += self.hardware.look(clock)
            going = {number: rank for number, rank in self.ranks.items() if not rank.done}
            said += self.job.look(clock, now, going, self.hardware, self.writers.ranks_heard())
            self._say(said, found)
        if self.precedence.waiting:
            found += self.precedence.tick(clock)
        return found

    def state(self) -> dict[str, Any]:
        """All that it remembers, for JSON."""
        return dump(self)

    @classmethod
    def restored(cls, project: str, run_id: str, state: Mapping[str, Any]) -> "RunWatch":
        """A watch that goes on where the one was whose `state` this is."""
        watch = cls(project, run_id)
        load(watch, state)
        for series in watch.series.values():
            series.restored()
        return watch

    def ended(self) -> bool:
        """Whether all writers have finished: nothing more is expected."""
        return self.writers.all_done()

    def _clock(self) -> float | None:
        return None if self.now is None else self.now - self.away

    def _begin(self, now: float) -> None:
        # What came before the first tick came just now.
        for writer in self.writers.writers.values():
            writer.heard = now
        for rank in self.ranks.values():
            rank.heard = now if rank.pace.rows else None
        for gpu in self.hardware.gpus.values():
            gpu.heard = now
        for host in self.hardware.hosts.values():
            host.heard = now

    def _rank(self, number: int) -> Rank:
        rank = self.ranks.get(number)
        if rank is None:
            rank = self.ranks[number] = Rank()
        return rank

    def _place(self, host: str, gpus: Mapping[int, str]) -> None:
        # A process with one GPU has that one; else, where a host has as many ranks as GPUs, they go in the same order.
        here = sorted(number for number, rank in self.ranks.items() if rank.host == host)
        if len(here) != len(gpus):
            return
        for number, index in zip(here, sorted(gpus), strict=True):
            self.ranks[number].gpu = gpus[index]
            self.hardware.gpus[gpus[index]].rank = number

    def _say(self, said: Sequence[Finding], into: list[Finding]) -> None:
        clock = self._clock()
        for finding in said:
            into += self.precedence.say(finding, finding.time if clock is None else clock)

    def _current(self, origin: Origin, found: list[Finding]) -> bool:
        """Whether an event is of the latest attempt, which it may begin."""
        if origin.attempt == self.attempt:
            return True
        if self.attempt is not None and origin.attempt < self.attempt:
            return False
        if self.attempt is not None:
            time = origin.attempt_started / 1e6
            why = f"attempt {origin.attempt} has begun"
            found += self.precedence.close(time, self._clock() or time, why)
            self.writers, self.ranks, self.job = Writers(), {}, Job()
            self.hardware, self.over = Hardware(), False
            for series in self.series.values():
                series.begin(series.name, Role(series.role), series.rank)
        self.attempt = origin.attempt
        return True

    def _busy(self, clock: float | None) -> bool:
        """Whether the run makes steps: rows came within three usual gaps, or a minute."""
        return clock is not None and any(
            rank.heard is not None and clock - rank.heard < max(60.0, 3 * rank.pace.usual)
            for rank in self.ranks.values()
            if rank.pace.rows >= rank.pace.warm_up
        )

    def _plan(self, keys: Sequence[str]) -> list[tuple[int, str, Role]]:
        names = tuple(keys)
        plan = self._plans.get(names)
        if plan is None:
            if len(self._plans) >= 16:
                self._plans.clear()
            roles = [(index, name, role(name)) for index, name in enumerate(names)]
            plan = [it for it in roles if it[2] in _FOLLOWED or it[1] in JOB_VIEW]
            self._plans[names] = plan
        return plan

    def _follow(self, batch: MetricBatch, followed: list[tuple[int, str, Role]], rank: Rank) -> list[Finding]:
        number = batch.origin.rank
        said: list[Finding] = []
        view: dict[Role, list[float]] = {}
        for (_, name, kind), column in zip(followed, columns(batch, [it[0] for it in followed]), strict=True):
            if not column.values:
                continue
            if kind not in _FOLLOWED:
                view[kind] = column.values[-SHOWN:]
                continue
            series = self.series.get(name)
            if series is None:
                if len(self.series) >= MOST_SERIES:
                    continue
                series = self.series[name] = Series()
                series.begin(name, kind, number)
            elif number < series.rank:
                series.begin(name, kind, number)
            if number == series.rank or not column.whole or series.bad_rank == number:
                said += series.observe(column, number)
        if view:
            rank.job_view(view)
        return said

    def _finish(self, event: RunEvent, found: list[Finding]) -> None:
        origin, time = event.origin, event.time / 1e6
        writer = self.writers.writers[origin.writer]
        step = self._rank(origin.rank).step
        said = self.writers.finish(writer, event.is_primary, event.state or "finished", event.exit_code, time, step)
        if said is not None:
            self._say([said], found)
        if writer.leads:
            self._rank(origin.rank).done = True
        if all(rank.done for rank in self.ranks.values()):
            self.over = True
            clock = self._clock()
            why = "the run has ended"
            found += self.precedence.close(time, time if clock is None else clock, why, frozenset({"crashed"}))
