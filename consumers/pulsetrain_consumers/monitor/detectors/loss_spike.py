"""A loss that leaps far above what it was."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from pulsetrain_consumers.monitor.detectors.outburst import Outburst, Turn, turned
from pulsetrain_consumers.monitor.findings import Finding, Severity


@dataclass(slots=True)
class LossSpike:
    """A robust z-score against the last 128 values, by median and MAD.

    A spike must be large for the series' own noise (8 sigma, and 1.5 times its 98th percentile), large for a person
    (a quarter of the loss: a change of the data mix moves it less), and last: one batch of odd data is one value. The
    first 40 values only teach. A level that stays for 300 values is no spike any more.

    Sources: the spikes of PaLM (Chowdhery et al. 2022), which cost 200-300 batches each; SPAM and ZClip (2025), which
    score by an EMA's z instead, whose mean and variance a heavy tail moves.
    """

    name: str = ""
    outburst: Outburst = field(init=False, default_factory=Outburst)

    def observe(self, times: Sequence[float], steps: Sequence[int], values: list[float], rank: int) -> Finding | None:
        """Takes finite values, in order."""
        moment = turned(self.outburst, times, steps, values)
        if moment is None:
            return None
        value, step, centre = moment.value, moment.step, self.outburst.limit.centre
        message = {
            Turn.BEGAN: f"{self.name} leapt to {self.outburst.highest:.4g} at step {step}, from {centre:.4g}",
            Turn.BACK: f"{self.name} is back at {value:.4g} at step {step}",
            Turn.SETTLED: f"{self.name} has stayed near {value:.4g}: its new level",
        }[moment.turn]
        present = moment.turn is Turn.BEGAN
        return Finding("loss_spike", self.name, present, Severity.WARNING, message, moment.time, step, value, rank)
