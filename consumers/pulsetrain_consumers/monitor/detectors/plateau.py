"""A loss that has long stopped falling."""

import math
from dataclasses import dataclass, field

from pulsetrain_consumers.monitor.detectors.blocks import Block
from pulsetrain_consumers.monitor.detectors.robust import median, spread, thinned
from pulsetrain_consumers.monitor.findings import Finding, Severity

_CELLS = 64


@dataclass(slots=True)
class Plateau:
    """No progress over the last 60 % of everything seen, which is `points` values and `seconds` at least.

    The whole history is kept as at most 64 means of equal weight. A power law, which losses follow, gains measurably
    over any such share of its life, whatever its length; a run that converges near its end has not been flat for so
    long. No progress means that the latest fifth is not below the stretch before it, nor below the best of the
    beginning, by more than the noise leaves open; nor does it rise. A loss without noise (a constant), or with so much
    that progress could hide in it (3 % between means), is not judged. Over when the loss falls clearly below the level
    of the plateau.
    """

    name: str = ""
    points: int = 600
    seconds: float = 1200.0
    cells: list[float] = field(init=False, default_factory=list)
    width: int = field(init=False, default=1)
    pending: list[float] = field(init=False, default_factory=list)
    seen: int = field(init=False, default=0)
    began: float | None = field(init=False, default=None)
    level: float = field(init=False, default=0.0)
    noise: float = field(init=False, default=0.0)
    present: bool = field(init=False, default=False)

    def observe(self, block: Block) -> Finding | None:
        """Takes the next block of the loss."""
        self.seen += block.points
        if self.began is None:
            self.began = block.time
        self.pending.append(block.value)
        if len(self.pending) < self.width:
            return None
        self.cells.append(sum(self.pending) / len(self.pending))
        self.pending = []
        if len(self.cells) > _CELLS:
            self.cells = thinned(self.cells, _CELLS)
            self.width *= 2
        if self.present:
            return self._over(block)
        if self.seen < self.points or block.time - self.began < self.seconds or len(self.cells) < 24:
            return None
        return self._judged(block)

    def _judged(self, block: Block) -> Finding | None:
        count = len(self.cells)
        early, middle = self.cells[: int(0.4 * count)], self.cells[int(0.4 * count) : int(0.7 * count)]
        late = self.cells[int(0.8 * count) :]
        changes = [b - a for a, b in zip(self.cells[count // 3 :], self.cells[count // 3 + 1 :], strict=False)]
        noise = spread(changes, median(changes)) / math.sqrt(2)
        level = sum(late) / len(late)
        if noise <= 0.0 or noise > 0.03 * abs(level):
            return None
        error = noise * math.sqrt(1 / len(late) + 1 / len(middle))
        fell = sum(middle) / len(middle) - level
        # The best cell of the beginning is lower than its mean by about twice the noise.
        if not -2 * error < fell <= 0.5 * error or min(early) + noise - level > 1.5 * error:
            return None
        if self.cells[-1] > level + 3 * noise or block.value > level + 5 * noise:
            return None
        self.present, self.level, self.noise = True, level, noise
        hours = (block.time - (self.began or block.time)) / 3600
        message = f"{self.name} has not fallen for 60 % of the last {hours:.1f} h: {level:.4g} at step {block.step}"
        return self._finding(block, message)

    def _over(self, block: Block) -> Finding | None:
        last = self.cells[-3:]
        if sum(last) / len(last) > self.level - 3 * self.noise:
            return None
        self.present = False
        # From here on a new history, or the flat stretch would count again.
        self.cells, self.width, self.seen, self.began = [], 1, 0, block.time
        return self._finding(block, f"{self.name} falls again: {block.value:.4g} at step {block.step}")

    def _finding(self, block: Block, message: str) -> Finding:
        severity = Severity.INFO
        return Finding("plateau", self.name, self.present, severity, message, block.time, block.step, block.value)
