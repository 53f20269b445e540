"""A gradient norm that is many times what it was."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from pulsetrain_consumers.monitor.detectors.outburst import Outburst, Turn, turned
from pulsetrain_consumers.monitor.detectors.robust import UpperLimit
from pulsetrain_consumers.monitor.findings import Finding, Severity

_TINY = 1e-12


def _of_logarithms() -> Outburst:
    return Outburst(least=math.log(8.0), limit=UpperLimit(z=6.0, relative=0.0, tail=1.5))


@dataclass(slots=True)
class GradientExplosion:
    """The method of LossSpike on the norm's logarithm: 8 times the median, 6 robust sigma, three values of it.

    Norms are log-normal with rare outliers, which clipping takes care of. ZClip (Kumar et al. 2025) clips at z = 2.5 of
    an EMA (alpha 0.97): right for clipping, but hundreds of alerts a day.
    """

    name: str = ""
    outburst: Outburst = field(init=False, default_factory=_of_logarithms)

    def observe(self, times: Sequence[float], steps: Sequence[int], values: list[float], rank: int) -> Finding | None:
        """Takes finite values, in order."""
        logarithms = [math.log(max(value, _TINY)) for value in values]
        moment = turned(self.outburst, times, steps, logarithms)
        if moment is None:
            return None
        usual, norm = math.exp(self.outburst.limit.centre), math.exp(moment.value)
        message = {
            Turn.BEGAN: f"{self.name} is {norm / usual:.3g} times its usual {usual:.3g} at step {moment.step}",
            Turn.BACK: f"{self.name} is back at {norm:.3g}",
            Turn.SETTLED: f"{self.name} has stayed near {norm:.3g}: its new level",
        }[moment.turn]
        present = moment.turn is Turn.BEGAN
        severity = Severity.CRITICAL
        return Finding(
            "gradient_explosion", self.name, present, severity, message, moment.time, moment.step, norm, rank
        )
