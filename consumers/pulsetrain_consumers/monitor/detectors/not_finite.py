"""A loss or a gradient norm that is no number any more."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from pulsetrain_consumers.monitor.findings import Finding, Severity


@dataclass(slots=True)
class NotFinite:
    """NaN or an infinity in a training loss, or, for long, in a gradient norm.

    One bad value may be a step that was skipped, so a loss needs `confirm` of them in a row, or a single one where a
    value is rarer than `rare` seconds. Gradient norms overflow by design while a loss scaler looks for its scale
    (PyTorch's GradScaler starts at 2^16 and halves: up to 16 steps), hence `confirm` there is larger. Evaluation
    metrics are not watched: they are NaN by habit, where a class has no examples. Over after `calm` finite values in a
    row.
    """

    name: str = ""
    confirm: int = 2
    rare: float = 30.0
    calm: int = 20
    bad: int = field(init=False, default=0)
    good: int = field(init=False, default=0)
    last: float = field(init=False, default=0.0)
    present: bool = field(init=False, default=False)

    def observe(
        self, times: Sequence[float], steps: Sequence[int], finite: Sequence[bool], rank: int
    ) -> Finding | None:
        """Takes for each value whether it is finite."""
        for time, step, fine in zip(times, steps, finite, strict=True):
            gap, self.last = time - self.last, time
            if fine:
                self.bad, self.good = 0, self.good + 1
                if self.present and self.good >= self.calm:
                    self.present = False
                    return self._finding(time, step, rank, f"{self.name} is finite again for {self.good} values")
                continue
            self.bad, self.good = self.bad + 1, 0
            if not self.present and (self.bad >= self.confirm or (gap > self.rare and self.confirm <= 2)):
                self.present = True
                return self._finding(time, step, rank, f"{self.name} is NaN or infinite at step {step} (rank {rank})")
        return None

    def all_finite(self, times: Sequence[float], steps: Sequence[int], rank: int) -> Finding | None:
        """As `observe`, of values that are all finite."""
        if not self.present:
            self.bad, self.last = 0, times[-1]
            return None
        return self.observe(times, steps, [True] * len(times), rank)

    def _finding(self, time: float, step: int, rank: int, message: str) -> Finding:
        return Finding("nan", self.name, self.present, Severity.CRITICAL, message, time, step, None, rank)
