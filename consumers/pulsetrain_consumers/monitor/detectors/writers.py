"""Who writes a run: the processes and the samplers beside them, whether they live, and how they ended."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from pulsetrain_consumers.monitor.detectors.affected import Affected
from pulsetrain_consumers.monitor.findings import Finding, Severity

# How a program ends that a person interrupted: as a shell says it, and as the SDK does after a KeyboardInterrupt.
_INTERRUPTED = (("failed", 130), ("killed", 130), ("killed", 255))


@dataclass(slots=True)
class Writer:
    """One journal of the run: its rank, when it was last heard of (monitor's clock), and whether it has ended.

    One that `leads` is of the process that its rank is; a sampler does not, nor does a child that logs too. `logs` says
    that rows came of it.
    """

    rank: int = field(init=False, default=0)
    heard: float | None = field(init=False, default=None)
    beats: bool = field(init=False, default=False)
    done: bool = field(init=False, default=False)
    logs: bool = field(init=False, default=False)
    leads: bool = field(init=False, default=False)


def _hosts() -> Affected:
    return Affected("lost_host", "host", Severity.CRITICAL, gather=15.0)


@dataclass(slots=True)
class Writers:
    """All writers of an attempt. A host is lost when none of its writers was heard of for `silence` seconds.

    Each sends a heartbeat every ten seconds, whatever the job does, so six were missed.
    """

    silence: float = 60.0
    writers: dict[str, Writer] = field(init=False, default_factory=dict, metadata={"of": Writer})
    lost: Affected = field(init=False, default_factory=_hosts)
    crashed: bool = field(init=False, default=False)
    finished: bool = field(init=False, default=False)

    def heard(self, name: str, rank: int, clock: float | None, beat: bool = False) -> Writer:
        """Notes that something came of a writer."""
        writer = self.writers.get(name)
        if writer is None:
            writer = self.writers[name] = Writer()
        writer.rank, writer.heard = rank, clock
        writer.beats = writer.beats or beat
        return writer

    def start(self, writer: Writer, primary: bool) -> None:
        """Notes that a process begins to log. The first of its rank is what the rank is; one that speaks for the run is
        in any case.
        """
        writer.done = False
        writer.leads = primary or not self._is_led(writer.rank)

    def finish(
        self, writer: Writer, primary: bool, state: str, code: int | None, time: float, step: int | None
    ) -> Finding | None:
        """Notes the end of a writer, at the last step of its rank; says so where it is a crash, the first of the
        attempt. What is killed when the run has finished (a launcher clears up) is none.
        """
        writer.done = True
        writer.leads = writer.leads or primary or (writer.logs and not self._is_led(writer.rank))
        self.finished = self.finished or (primary and state == "finished")
        if not writer.leads or self.crashed or self.finished:
            return None
        if state not in ("failed", "crashed", "killed") or (state, code) in _INTERRUPTED:
            return None
        self.crashed = True
        how = {"killed": "was killed", "failed": "failed", "crashed": "crashed"}[state]
        end = "" if code is None else f" with exit code {code}"
        text = f"the process of rank {writer.rank} {how}{end}"
        return Finding("crashed", "", True, Severity.CRITICAL, text, time, step, code, writer.rank)

    def _is_led(self, rank: int) -> bool:
        return any(writer.leads for writer in self.writers.values() if writer.rank == rank)

    def all_done(self) -> bool:
        """Whether every writer that was heard of has ended."""
        return bool(self.writers) and all(writer.done for writer in self.writers.values())

    def ranks_heard(self) -> dict[int, float]:
        """When each rank was last heard of."""
        heard: dict[int, float] = {}
        for writer in self.writers.values():
            if writer.heard is not None and not writer.done:
                heard[writer.rank] = max(heard.get(writer.rank, writer.heard), writer.heard)
        return heard

    def look(self, clock: float, now: float, hosts: Mapping[int, str]) -> list[Finding]:
        """Takes where each rank runs; says which hosts are lost or back."""
        latest: dict[str, float] = {}
        first: dict[str, int] = {}
        for writer in self.writers.values():
            if writer.heard is None or writer.done or not writer.beats:
                continue
            host = hosts.get(writer.rank) or f"rank {writer.rank}"
            first.setdefault(host, writer.rank)
            latest[host] = max(latest.get(host, writer.heard), writer.heard)
        for host, heard in latest.items():
            silent = clock - heard
            text = f"nothing heard from {host} for {silent:.0f} s"
            self.lost.mark(host, silent > self.silence, now, text, silent, host, "", first[host])
        return self.lost.tick(clock)
