"""A noisy series as the medians of blocks: what slow detectors look at."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from pulsetrain_consumers.monitor.detectors.robust import median


@dataclass(frozen=True, slots=True)
class Block:
    """The median of `points` values, and when and at which step they ended."""

    time: float
    step: int
    value: float
    points: int


@dataclass(slots=True)
class Blocks:
    """Cuts a series into blocks of `points` values and `seconds` at least."""

    points: int = 16
    seconds: float = 10.0
    values: list[float] = field(init=False, default_factory=list)
    began: float | None = field(init=False, default=None)

    def add(self, times: Sequence[float], steps: Sequence[int], values: list[float]) -> Block | None:
        """Adds finite values of one message; gives the block that they complete, if any."""
        if self.began is None:
            self.began = times[0]
        if len(self.values) < 16 * self.points:
            self.values += values
        if len(self.values) < self.points or abs(times[-1] - self.began) < self.seconds:
            return None
        block = Block(times[-1], steps[-1], median(self.values), len(self.values))
        self.values, self.began = [], None
        return block
