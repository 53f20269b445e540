"""A run that makes no step any more, and which rank it is that holds it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from pulsetrain_consumers.monitor.detectors.robust import median
from pulsetrain_consumers.monitor.findings import Finding, Severity


@dataclass(frozen=True, slots=True)
class Silence:
    """How long a rank has logged nothing, how long would be normal, where it stands, and how busy its GPU is.

    `busy` is the GPU's power as a share of what it draws in training (utilisation, where power is not known), None
    without a sample. `usual` is the usual time between two of its rows.
    """

    seconds: float
    patience: float
    step: int | None
    busy: float | None = None
    utilisation: float | None = None
    host: str = ""
    gpu: str = ""
    usual: float = 0.0


@dataclass(slots=True)
class Stall:
    """No rank logs for longer than is normal: one finding, which names the rank that the others wait for, if it shows.

    In a job that synchronises, one hung rank stops all. It is the one whose last step is behind the others' (C4 and
    Greyhound look for the rank that did not enter a collective); where they are equal, the one whose GPU does what
    no other does: those that wait in a collective keep their GPU at 100 % with little power, a rank that hangs in its
    data loader or a lock leaves it idle. A few ranks that are silent while the others go on are hung too. More
    suspects than a quarter of the ranks are no suspects. Over as soon as rows come again.
    """

    kind: str = field(init=False, default="")
    suspects: list[int] = field(init=False, default_factory=list)
    silent: list[int] = field(init=False, default_factory=list)
    subject: str = field(init=False, default="")

    def observe(self, now: float, ranks: Mapping[int, Silence]) -> list[Finding]:
        """Takes how it stands with every rank that has not finished."""
        if self.kind:
            if not self._moving(ranks):
                return []
            over = self._finding(now, False, f"{self.subject or 'the run'} logs again", ranks)
            self.kind, self.suspects, self.silent, self.subject = "", [], [], ""
            return [over]
        silent = [rank for rank, it in ranks.items() if it.seconds > it.patience]
        if not silent:
            return []
        # Ranks reach their limit one after another; who is on the way there stands still too.
        still = [rank for rank, it in ranks.items() if it.seconds > max(20.0, 0.5 * it.patience)]
        if len(still) == len(ranks):
            self.suspects = _odd_ones_out(ranks)
            self.kind = "hung_rank" if self.suspects else "stall"
        elif len(still) <= max(1, len(ranks) // 4):
            self.kind, self.suspects = "hung_rank", sorted(silent)
        elif all(ranks[rank].seconds > 1.5 * ranks[rank].patience for rank in silent):
            self.kind, self.suspects = "stall", []
        else:
            return []
        self.silent = sorted(still)
        self.subject = f"rank {self.suspects[0]}" if self.suspects else ""
        return [self._finding(now, True, self._message(ranks), ranks)]

    def _moving(self, ranks: Mapping[int, Silence]) -> bool:
        watched = [ranks[rank] for rank in self.suspects or self.silent if rank in ranks]
        return all(it.seconds < min(20.0, 0.5 * it.patience) for it in watched)

    def _message(self, ranks: Mapping[int, Silence]) -> str:
        shown = [ranks[rank] for rank in self.silent]
        seconds = median([it.seconds for it in shown])
        usual = median([it.usual for it in shown])
        text = f"no step for {seconds:.0f} s (usual: one row each {usual:.3g} s)"
        if not self.suspects:
            return f"{text}, {len(self.silent)} of {len(ranks)} ranks" if len(ranks) > 1 else text
        names = ", ".join(str(rank) for rank in self.suspects[:4])
        first = ranks[self.suspects[0]]
        where = f" on {first.host}" if first.host else ""
        return f"rank {names}{where} hangs at step {first.step}: {text}, {len(self.silent)} of {len(ranks)} ranks stand"

    def _finding(self, now: float, present: bool, message: str, ranks: Mapping[int, Silence]) -> Finding:
        rank = self.suspects[0] if self.suspects else None
        it = ranks.get(rank if rank is not None else min(ranks, default=0))
        return Finding(
            self.kind,
            self.subject,
            present,
            Severity.CRITICAL,
            message,
            now - it.seconds if present and it is not None else now,
            None if it is None else it.step,
            None if it is None else it.seconds,
            rank,
            it.host if it is not None and rank is not None else "",
            it.gpu if it is not None and rank is not None else "",
        )


def _odd_ones_out(ranks: Mapping[int, Silence]) -> list[int]:
    if len(ranks) < 2:
        return []
    most = max(1, len(ranks) // 4)
    steps = {rank: it.step for rank, it in ranks.items() if it.step is not None}
    if len(steps) == len(ranks):
        usual = median([float(step) for step in steps.values()])
        behind = [rank for rank, step in steps.items() if step < usual]
        if 0 < len(behind) <= most:
            lowest = min(steps[rank] for rank in behind)
            return sorted(rank for rank in behind if steps[rank] == lowest)
    utilisation = {rank: it.utilisation for rank, it in ranks.items() if it.utilisation is not None}
    if len(utilisation) == len(ranks) and len(ranks) > 2:
        waiting = median(list(utilisation.values()))
        odd = [rank for rank, share in utilisation.items() if abs(share - waiting) > 50.0]
        if 0 < len(odd) <= most:
            return sorted(odd)
    return []
