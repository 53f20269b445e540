"""A run that has become slower than it was."""

from dataclasses import dataclass, field

from pulsetrain_consumers.monitor.detectors.lasting import Lasting
from pulsetrain_consumers.monitor.detectors.robust import thinned


@dataclass(slots=True)
class ThroughputRegression:
    """The cost of a unit of work (seconds a token, an example or a step) against the lower quartile of its history.

    Slower is 1.25 times that for four minutes, until it is below 1.12 times for two. The cost given is a median over
    many steps, so pauses do not count. The history is the whole run, thinned to 64 means, so a creeping loss shows like
    a sudden one. Nothing is said before 24 values, and the first four are left out: the first steps compile and warm
    caches.
    """

    ratio: float = 1.25
    well: float = 1.12
    warm_up: int = 24
    cells: list[float] = field(init=False, default_factory=list)
    pending: list[float] = field(init=False, default_factory=list)
    width: int = field(init=False, default=1)
    seen: int = field(init=False, default=0)
    usual: float = field(init=False, default=0.0)
    lasting: Lasting = field(init=False, default_factory=lambda: Lasting(begin=240.0, end=120.0))

    def observe(self, now: float, cost: float) -> tuple[bool, float]:
        """Takes the present cost; says whether it is a regression, and how many times the usual cost it is."""
        self.seen += 1
        if self.seen > 4:
            self._remember(cost)
        if self.seen < self.warm_up or self.usual <= 0.0:
            return False, 1.0
        times = cost / self.usual
        slow = True if times > self.ratio else False if times < self.well else None
        return self.lasting.observe(now, slow), times

    def _remember(self, cost: float) -> None:
        self.pending.append(cost)
        if len(self.pending) < self.width:
            return
        self.cells.append(sum(self.pending) / len(self.pending))
        self.pending = []
        if len(self.cells) > 64:
            self.cells = thinned(self.cells, 64)
            self.width *= 2
        self.usual = sorted(self.cells)[len(self.cells) // 4]
