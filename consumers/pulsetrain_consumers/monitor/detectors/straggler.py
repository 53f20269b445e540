"""Ranks that do their part of each step more slowly than the others."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from pulsetrain_consumers.monitor.detectors.lasting import Lasting
from pulsetrain_consumers.monitor.detectors.robust import median, spread


@dataclass(slots=True)
class Straggler:
    """Compares the median time that each rank works in a step, the time in which it waits for others left out.

    Slow is a rank at 1.2 times the median of all, five robust sigma above it, and 1.15 times its own usual ratio:
    pipeline stages and the rank that logs differ for good, by less than a fifth. It must last for a minute, for
    checkpoints and evaluation on one rank are shorter or rarer than the median of 32 steps shows. More than a quarter
    of all ranks are no stragglers, unless they are whole hosts. Over below 1.1 times for a minute.

    Comparing across ranks and lasting outliers are Minder's way (NSDI'25; it finds a faulty machine in 3.6 s with a
    precision of 0.904); taking durations, not times of day, makes it independent of the hosts' clocks.
    """

    ratio: float = 1.2
    well: float = 1.1
    least: int = 4
    usual: dict[int, float] = field(init=False, default_factory=dict)
    lasting: dict[int, Lasting] = field(
        init=False, default_factory=dict, metadata={"of": lambda: Lasting(begin=60.0, end=60.0)}
    )

    def observe(self, now: float, work: Mapping[int, float], hosts: Mapping[int, str]) -> dict[int, tuple[bool, float]]:
        """Takes seconds of work a step by rank; gives for each rank whether it straggles, and its ratio."""
        if len(work) < self.least:
            return {}
        values = list(work.values())
        centre = median(values)
        if centre <= 0.0:
            return {}
        noise = 5 * spread(values, centre) / centre
        slow: dict[int, bool | None] = {}
        for rank, seconds in work.items():
            share, usual = seconds / centre, self.usual.get(rank, 1.0)
            if share > max(self.ratio, 1.0 + noise, 1.15 * usual):
                slow[rank] = True
            else:
                slow[rank] = False if share < self.well or share < 1.05 * usual else None
                self.usual[rank] = usual + 0.01 * (min(share, self.ratio) - usual)
        if not self._plausible([rank for rank, bad in slow.items() if bad], work, hosts):
            slow = dict.fromkeys(slow)
        found = {}
        for rank, bad in slow.items():
            lasting = self.lasting.get(rank)
            if lasting is None:
                if not bad:
                    continue
                lasting = self.lasting[rank] = Lasting(begin=60.0, end=60.0)
            found[rank] = lasting.observe(now, bad), work[rank] / centre
        return found

    def _plausible(self, slow: list[int], work: Mapping[int, float], hosts: Mapping[int, str]) -> bool:
        if len(slow) <= max(1, len(work) // 4):
            return True
        struck = {hosts.get(rank, "") for rank in slow}
        whole = all(rank in slow for rank in work if hosts.get(rank, "") in struck)
        return whole and "" not in struck and 2 * len(slow) < len(work)
