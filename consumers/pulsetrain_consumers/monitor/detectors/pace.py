"""How often a process logs, and how long a silence of it is normal."""

import bisect
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from pulsetrain_consumers.monitor.detectors.robust import median

SAMPLED = 16
# A gap that is shorter than this share of the long ones is one within a burst of rows.
BURST = 0.1


class Activity(Enum):
    """What the hardware of a silent run does."""

    GPU = "its GPUs work"
    CPU = "its GPUs are idle and its processes compute: an evaluation on the CPU, data being prepared"
    NONE = "its GPUs are idle, or wait, and its processes do nothing"
    UNKNOWN = "nothing is known of GPUs, nor of processes that compute"


# How many times as long a first row may take.
_LATE = {Activity.GPU: 8, Activity.CPU: 8, Activity.UNKNOWN: 4, Activity.NONE: 1}


@dataclass(slots=True)
class Pace:
    """The gaps between the rows of one writer, by its own clock: the usual gap, and the long ones that come again.

    Rows come in bursts: the loop's row, that of its step timer just after it, that of an evaluation. A gap
    that is shorter than a tenth of the long ones (those that an eighth of all exceeds) therefore does not count.

    `patience` is how long nothing may come before it is no longer normal: `times` usual gaps, but 150 seconds at least,
    and fewer gaps for who logs rarely (three, once a gap is longer than three minutes); one and a half of the longest
    gap seen, for evaluations and checkpoints recur. Before `warm_up` rows came, half an hour: compilation, loading of
    data. NVRx waits 1,800 s for a first heartbeat and 300 s for later ones; 5 to 30 minutes are the usual timeouts of
    hangs.
    """

    times: float = 20.0
    least: float = 150.0
    computing: float = 600.0
    first: float = 1800.0
    warm_up: int = 12
    gaps: list[float] = field(init=False, default_factory=list)
    long: list[float] = field(init=False, default_factory=list)
    usual: float = field(init=False, default=0.0)
    rows: int = field(init=False, default=0)
    stale: int = field(init=False, default=0)

    def observe(self, gaps: NDArray[np.float64]) -> None:
        """Takes gaps in seconds, in order; negative ones (another writer of the same rank, an odd clock) are left
        out.
        """
        count = len(gaps)
        if not count:
            return
        if count > SAMPLED:
            longest = float(gaps.max())
            # Of each sixteenth of them the middle one: each n-th would be all of one sort where two take turns.
            found = np.sort(gaps)[(2 * np.arange(SAMPLED) + 1) * count // (2 * SAMPLED)].tolist()
        else:
            found = gaps.tolist()
            longest = max(found)
        self.rows += count
        self.gaps += [gap for gap in found if gap >= 0]
        self.stale += len(found)
        if (self.stale >= SAMPLED or self.rows <= 64) and self.gaps:
            del self.gaps[:-64]
            self.usual, self.stale = _usual(self.gaps), 0
        if self.rows >= self.warm_up and longest > max(5.0, 5 * self.usual):
            self.long.append(longest)
            if len(self.long) > 16:
                self.long.remove(min(self.long))

    def patience(self, activity: Activity) -> float:
        """Seconds of silence that are normal while the hardware does that.

        A first evaluation cannot be known by its length, so who is at work has half an hour on GPUs, and ten minutes on
        the CPU, where a hang may spin too.
        """
        if self.rows < self.warm_up:
            # It may log once an hour. Where its hardware is busy, or cannot be seen, there is more time to find out.
            return max(self.first, 3 * self.usual) * _LATE[activity]
        patience = max(self.least, 3 * self.usual, min(self.times * self.usual, 600.0))
        if self.long:
            patience = max(patience, 1.5 * max(self.long) + 20.0)
        match activity:
            case Activity.GPU:
                return max(patience, self.first)
            case Activity.CPU:
                return max(patience, self.computing)
            case Activity.UNKNOWN:
                return max(patience, 300.0)
            case Activity.NONE:
                return patience


def _usual(gaps: Sequence[float]) -> float:
    """The median without the gaps within bursts of up to six rows."""
    ordered = sorted(gaps)
    long = ordered[-1 - len(ordered) // 8]
    return median(ordered[bisect.bisect_left(ordered, BURST * long) :])
