"""Statistics that outliers do not move, on short lists, where plain Python is faster than numpy.

The spread is the median absolute deviation, scaled by 1.4826 to the standard deviation of a normal distribution
(Rousseeuw and Croux, "Alternatives to the median absolute deviation", 1993).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

MAD_TO_SIGMA = 1.4826


def median(values: Sequence[float]) -> float:
    """The middle value; the mean of the two middle ones of an even number. Needs one value at least."""
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def spread(values: Sequence[float], centre: float) -> float:
    """The robust standard deviation around `centre`."""
    return MAD_TO_SIGMA * median([abs(value - centre) for value in values])


def thinned(values: list[float], most: int) -> list[float]:
    """The values, or where they are more than `most`, the means of each two neighbours."""
    if len(values) <= most:
        return values
    merged = [(a + b) / 2 for a, b in zip(values[0::2], values[1::2], strict=False)]
    return merged if len(values) % 2 == 0 else [*merged, values[-1]]


def rising(values: Sequence[float]) -> float:
    """The share of pairs that rise less the share that falls, -1 to 1: Mann and Kendall's test of a trend."""
    up = down = 0
    for i, earlier in enumerate(values):
        for later in values[i + 1 :]:
            if later > earlier:
                up += 1
            elif later < earlier:
                down += 1
    pairs = len(values) * (len(values) - 1) // 2
    return (up - down) / pairs if pairs else 0.0


@dataclass(slots=True)
class UpperLimit:
    """How high the values of a noisy series go, learned from its latest ones.

    The limit is the median and the largest of: `z` robust standard deviations, `relative` of the median's size, and
    `tail` times the distance to the 98th percentile, by which a series with heavy tails sets its own measure. It is
    None until `warm_up` values were seen, or while the series is constant.
    """

    z: float = 8.0
    relative: float = 0.25
    tail: float = 1.5
    window: int = 128
    warm_up: int = 40
    refresh: int = 16
    values: list[float] = field(init=False, default_factory=list)
    seen: int = field(init=False, default=0)
    stale: int = field(init=False, default=0)
    centre: float = field(init=False, default=0.0)
    limit: float | None = field(init=False, default=None)

    def add(self, values: list[float]) -> None:
        """Learns from values that are no outliers."""
        self.values += values
        self.seen += len(values)
        self.stale += len(values)
        if self.stale >= (self.refresh if self.seen < self.window else 2 * self.refresh):
            del self.values[: -self.window]
            self.stale = 0
            self._learn()

    def reset(self, values: list[float]) -> None:
        """Forgets all but the values given."""
        self.values = values[-self.window :]
        self._learn()

    def _learn(self) -> None:
        if self.seen < self.warm_up or len(self.values) < 16:
            self.limit = None
            return
        ordered = sorted(self.values)
        count = len(ordered)
        self.centre = ordered[count // 2]
        sigma = spread(ordered, self.centre)
        high = ordered[min(count - 1, int(0.98 * count))] - self.centre
        if sigma <= 0.0 and high <= 0.0:
            self.limit = None
            return
        self.limit = self.centre + max(self.z * sigma, self.relative * abs(self.centre), self.tail * high)
