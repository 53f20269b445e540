"""Steps that wait for data."""

from dataclasses import dataclass, field

from pulsetrain_consumers.monitor.detectors.lasting import Lasting


@dataclass(slots=True)
class DataLoaderBound:
    """The share of a step that passes in waiting for data: over 35 % for 90 s, until it is under 20 % for a minute.

    The share is the median over the last steps, so that the slow beginning of an epoch, when workers start, does not
    count.
    """

    share: float = 0.35
    well: float = 0.20
    lasting: Lasting = field(init=False, default_factory=lambda: Lasting(begin=90.0, end=60.0))

    def observe(self, now: float, share: float) -> bool:
        """Takes the median share of waiting in the latest steps."""
        return self.lasting.observe(now, True if share > self.share else False if share < self.well else None)
