"""What is watched of the ranks of a run together: steps that stop, ranks that are slow, speed, waiting for data."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from pulsetrain_consumers.monitor.detectors.affected import Affected
from pulsetrain_consumers.monitor.detectors.data_loader_bound import DataLoaderBound
from pulsetrain_consumers.monitor.detectors.gpu import Gpu
from pulsetrain_consumers.monitor.detectors.hardware import RECENT, Hardware
from pulsetrain_consumers.monitor.detectors.ranks import Rank
from pulsetrain_consumers.monitor.detectors.robust import median
from pulsetrain_consumers.monitor.detectors.stall import Silence, Stall
from pulsetrain_consumers.monitor.detectors.straggler import Straggler
from pulsetrain_consumers.monitor.detectors.throughput import ThroughputRegression
from pulsetrain_consumers.monitor.findings import Finding, Severity


def _stragglers() -> Affected:
    return Affected("straggler", "rank", gather=20.0)


@dataclass(slots=True)
class Job:
    """Looks at all ranks every few seconds. It takes times of the monitor's clock only, and durations of the ranks'."""

    stall: Stall = field(init=False, default_factory=Stall)
    straggler: Straggler = field(init=False, default_factory=Straggler)
    stragglers: Affected = field(init=False, default_factory=_stragglers)
    throughput: ThroughputRegression = field(init=False, default_factory=ThroughputRegression)
    loader: DataLoaderBound = field(init=False, default_factory=DataLoaderBound)

    def look(
        self, clock: float, now: float, ranks: Mapping[int, Rank], hardware: Hardware, heard: Mapping[int, float]
    ) -> list[Finding]:
        """Takes the ranks that have not finished, and when each was last heard of at all."""
        found = self._stalled(clock, now, ranks, hardware, heard)
        if self.stall.kind:
            return found
        fresh = {number: rank for number, rank in ranks.items() if rank.fresh}
        for rank in fresh.values():
            rank.fresh = False
        if fresh:
            self._slow(clock, now, ranks, fresh, hardware.gpus)
            found += self._speed(clock, now, fresh)
        return [*found, *self.stragglers.tick(clock)]

    def _stalled(
        self, clock: float, now: float, ranks: Mapping[int, Rank], hardware: Hardware, heard: Mapping[int, float]
    ) -> list[Finding]:
        waits = {
            number: clock - rank.heard for number, rank in ranks.items() if rank.heard is not None and rank.pace.rows
        }
        # Of ranks that logged a few rows and no more (a greeting) nothing follows while others go on.
        going = {number: it for number, it in waits.items() if ranks[number].pace.rows >= ranks[number].pace.warm_up}
        waits = going or waits
        if not waits or (max(waits.values()) < 60.0 and not self.stall.kind):
            return []
        # Whoever is not heard of at all may be at work behind a broken network.
        if any(clock - heard.get(number, clock) > RECENT for number in waits):
            return []
        recent, activity = hardware.recent(clock), hardware.activity(clock)
        silences = {}
        for number, seconds in waits.items():
            rank = ranks[number]
            gpu = recent.get(rank.gpu)
            silences[number] = Silence(
                seconds,
                rank.pace.patience(activity),
                rank.step,
                None if gpu is None else gpu.busy(),
                None if gpu is None else gpu.utilisation,
                rank.host,
                rank.gpu,
                rank.pace.usual,
            )
        return self.stall.observe(now, silences)

    def _slow(
        self,
        clock: float,
        now: float,
        ranks: Mapping[int, Rank],
        fresh: Mapping[int, Rank],
        gpus: Mapping[str, Gpu],
    ) -> None:
        if len(ranks) < self.straggler.least or 2 * len(fresh) < len(ranks):
            return
        work = {number: seconds for number, rank in ranks.items() if (seconds := rank.working()) is not None}
        hosts = {number: rank.host for number, rank in ranks.items()}
        for number, (bad, share) in self.straggler.observe(clock, work, hosts).items():
            rank = ranks[number]
            detail = ""
            if bad:
                waits = median(rank.waits) if rank.waits else 0.0
                why = f", {waits:.0%} of it waiting for data" if waits > 0.2 else _hardware(gpus.get(rank.gpu))
                where = f" on {rank.host}" if rank.host else ""
                detail = f"rank {number}{where} takes {work[number]:.3g} s a step, {share:.2f} times the median{why}"
            self.stragglers.mark(f"rank {number}", bad, now, detail, share, rank.host, rank.gpu, number)

    def _speed(self, clock: float, now: float, fresh: Mapping[int, Rank]) -> list[Finding]:
        found = []
        costs = [median(rank.costs[-16:]) for rank in fresh.values() if len(rank.costs) >= 8]
        unit = "unit of work"
        if not costs:
            costs = [median(rank.steps[-16:]) for rank in fresh.values() if len(rank.steps) >= 8]
            unit = "step"
        if costs:
            was = self.throughput.lasting.present
            slow, times = self.throughput.observe(clock, median(costs))
            if slow != was:
                text = f"a {unit} takes {times:.2f} times as long as it used to"
                found.append(_of_run("throughput_regression", slow, text, now, times))
        shares = [median(rank.waits) for rank in fresh.values() if len(rank.waits) >= 12]
        if shares:
            was, share = self.loader.lasting.present, median(shares)
            bound = self.loader.observe(clock, share)
            if bound != was:
                text = f"{share:.0%} of a step passes in waiting for data"
                found.append(_of_run("data_loader_bound", bound, text, now, share))
        return found


def _of_run(kind: str, present: bool, text: str, now: float, value: float) -> Finding:
    return Finding(kind, "", present, Severity.WARNING, text, now, None, value)


def _hardware(gpu: Gpu | None) -> str:
    if gpu is None:
        return ""
    parts = []
    if gpu.clock is not None:
        parts.append(f"{gpu.clock:.0f} MHz")
    if gpu.temperature is not None:
        parts.append(f"{gpu.temperature:.0f} °C")
    if gpu.power is not None:
        parts.append(f"{gpu.power:.0f} W")
    return f" (its GPU: {', '.join(parts)})" if parts else ""
