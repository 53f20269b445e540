"""What is kept for rules: of a series a window of time, as a few dozen bins; of a run's first seconds all."""

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pulsetrain_schemas.alert_rules import Rule
from pulsetrain_schemas.events import MetricBatch, SystemBatch

_BINS = 30
# Values may overtake the rule that was said before them, for they are in another topic: so long, and so many of the
# first ones are kept, for rules that come yet.
EARLY_SECONDS = 5.0
EARLY_POINTS = 100_000


@dataclass(slots=True)
class Bin:
    """What the values of one part of the window came to; NaN is counted, and in nothing else."""

    number: int
    count: int = 0
    numbers: int = 0
    total: float = 0.0
    low: float = math.inf
    high: float = -math.inf


@dataclass(slots=True)
class RuleSeries:
    """One series under one rule. `since` is when the condition became what it is, by the values' own time."""

    bins: deque[Bin] = field(default_factory=deque)
    last: float = math.nan
    step: int | None = None
    present: bool = False
    since: float = 0.0
    lasted: bool = False
    where: Mapping[str, Any] = field(default_factory=dict)

    def add(self, rule: Rule, time: float, value: float) -> None:
        """Takes a value into the window."""
        number = int(time / rule.window * _BINS)
        if not self.bins or number > self.bins[-1].number:
            self.bins.append(Bin(number))
        newest = self.bins[-1]  # what comes late counts as now
        newest.count += 1
        if not math.isnan(value):
            newest.numbers += 1
            newest.total += value
            newest.low, newest.high = min(newest.low, value), max(newest.high, value)

    def value(self, rule: Rule, now: float) -> float | None:
        """What the rule's condition is about; None where the window is empty, but for a count."""
        oldest = int(now / rule.window * _BINS) - _BINS
        while self.bins and self.bins[0].number < oldest:
            self.bins.popleft()
        count = sum(part.count for part in self.bins)
        if rule.over == "count":
            return float(count)
        if not count:
            return None
        if rule.over == "last":
            return self.last
        numbers = sum(part.numbers for part in self.bins)
        if not numbers:
            return math.nan
        if rule.over == "mean":
            return sum(part.total for part in self.bins) / numbers
        return min(part.low for part in self.bins) if rule.over == "min" else max(part.high for part in self.bins)


@dataclass(slots=True)
class Early:
    """The first batches of an attempt, and when they arrived; `since` is when the attempt was heard of."""

    since: float
    points: int = 0
    batches: list[tuple[MetricBatch | SystemBatch, float]] = field(default_factory=list)

    def keep(self, batch: MetricBatch | SystemBatch, arrived: float) -> bool:
        """Keeps it too; False where it is not early any more, or they are too many."""
        self.points += len(batch.values)
        if arrived - self.since > EARLY_SECONDS or self.points > EARLY_POINTS:
            return False
        self.batches.append((batch, arrived))
        return True
