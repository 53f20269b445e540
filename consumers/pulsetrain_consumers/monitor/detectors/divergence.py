"""A loss that rises and does not come back."""

from dataclasses import dataclass, field

from pulsetrain_consumers.monitor.detectors.blocks import Block
from pulsetrain_consumers.monitor.detectors.robust import median
from pulsetrain_consumers.monitor.findings import Finding, Severity


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


@dataclass(slots=True)
class Divergence:
    """Compares the latest blocks of a loss with the best level that it had.

    The rise must exceed 8 times the noise between blocks, a quarter of the best level, a tenth of the progress made
    since the beginning, and 1.5 times the largest rise that the loss recovered from before: cycles of the learning rate
    and GANs set their own measure. It counts as divergence when it goes on rising for `rising` blocks, or when half of
    all progress is lost and not regained for `stuck` blocks. A new data mix makes a loss leap too, but then it falls,
    or the leap is smaller. Over when half of the rise is gone.
    """

    name: str = ""
    rising: int = 4
    stuck: int = 20
    recent: list[float] = field(init=False, default_factory=list)
    changes: list[float] = field(init=False, default_factory=list)
    blocks: int = field(init=False, default=0)
    first: float = field(init=False, default=0.0)
    best: float | None = field(init=False, default=None)
    swing: float = field(init=False, default=0.0)
    excursion: float = field(init=False, default=0.0)
    high: int = field(init=False, default=0)
    climbs: int = field(init=False, default=0)
    present: bool = field(init=False, default=False)

    def observe(self, block: Block) -> Finding | None:
        """Takes the next block of the loss."""
        if self.recent:
            self.changes.append(abs(block.value - self.recent[-1]))
            del self.changes[:-32]
        self.recent.append(block.value)
        del self.recent[:-12]
        self.blocks += 1
        if self.blocks < 8:
            self.first = block.value if self.blocks == 1 else self.first
            if self.blocks >= 2:
                self._better(_mean(self.recent[-2:]))
            return None
        level = _mean(self.recent[-2:])
        best = self.best if self.best is not None else level
        noise = 1.05 * median(self.changes)
        progress = max(0.0, self.first - best)
        limit = max(8 * noise, 0.25 * abs(best), 0.1 * progress, 1.5 * self.swing)
        rise = level - best
        if self.present:
            return self._over(block, rise, limit)
        self._better(level)
        self.swing *= 0.998
        if rise < 0.3 * limit:
            self.swing, self.excursion = max(self.swing, self.excursion), 0.0
        else:
            self.excursion = max(self.excursion, rise)
        climbed = _mean(self.recent[-3:]) - _mean(self.recent[-6:-3])
        falls = block.value < self.recent[-2] - 2 * noise
        self.climbs = self.climbs + 1 if climbed > 0.5 * noise and not falls else 0
        falling = len(self.recent) >= 12 and _mean(self.recent[-6:]) < _mean(self.recent[-12:-6]) - noise
        lost = rise > limit and rise > 0.5 * progress
        self.high = self.high + 1 if lost and not falling else 0
        if rise <= limit or not (self.climbs >= self.rising or self.high >= self.stuck):
            return None
        how = "and goes on rising" if self.climbs >= self.rising else "and does not come back"
        self.present, self.climbs, self.high, self.excursion = True, 0, 0, rise
        return self._finding(block, f"{self.name} rose from {best:.4g} to {level:.4g} at step {block.step} {how}")

    def _better(self, level: float) -> None:
        self.best = level if self.best is None else min(self.best, level)

    def _over(self, block: Block, rise: float, limit: float) -> Finding | None:
        self.excursion = max(self.excursion, rise)
        self.high = self.high + 1 if rise < 0.5 * limit else 0
        if self.high < 3:
            return None
        self.present, self.high = False, 0
        self.swing, self.excursion = max(self.swing, self.excursion), 0.0
        return self._finding(block, f"{self.name} has come back to {block.value:.4g} at step {block.step}")

    def _finding(self, block: Block, message: str) -> Finding:
        severity = Severity.CRITICAL
        return Finding("divergence", self.name, self.present, severity, message, block.time, block.step, block.value)
