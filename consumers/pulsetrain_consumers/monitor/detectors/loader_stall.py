"""A training loop that waits for its data and gets none."""

from dataclasses import dataclass, field

from pulsetrain_consumers.monitor.findings import Finding, Severity
from pulsetrain_schemas.events import Waiting


@dataclass(slots=True)
class LoaderStall:
    """A wait for data, as a step timer tells it while it lasts, that is longer than is normal.

    Unlike a silence it can be nothing else: evaluations and checkpoints are outside of the wait. Normal are `least`
    seconds, and one and a half of the longest wait that ended by itself: workers begin anew with each epoch. Until
    `warm_up` steps were made it is `first`, for caches are filled and files listed then.
    """

    least: float = 30.0
    first: float = 300.0
    warm_up: int = 10
    longest: float = field(init=False, default=0.0)
    present: bool = field(init=False, default=False)

    def observe(self, wait: Waiting, time: float, rank: int, step: int | None, host: str) -> Finding | None:
        """Takes how long a rank has waited."""
        seconds = wait["seconds"]
        if wait["is_over"]:
            self.longest = max(self.longest, seconds)
            if not self.present:
                return None
            self.present = False
            return self._finding(f"the data came after {seconds:.0f} s", time, seconds, rank, step, host)
        patience = max(self.least if wait["steps"] >= self.warm_up else self.first, 1.5 * self.longest + 5.0)
        if self.present or seconds < patience:
            return None
        self.present = True
        text = f"rank {rank} has waited for data for {seconds:.0f} s"
        return self._finding(text, time - seconds, seconds, rank, step, host)

    def _finding(self, text: str, time: float, seconds: float, rank: int, step: int | None, host: str) -> Finding:
        return Finding(
            "loader_stall", f"rank {rank}", self.present, Severity.CRITICAL, text, time, step, seconds, rank, host
        )
