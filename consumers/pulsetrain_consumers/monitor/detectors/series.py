"""A loss or a gradient norm of a run, and the detectors that follow it."""

from dataclasses import dataclass, field

from pulsetrain_consumers.monitor.detectors.blocks import Blocks
from pulsetrain_consumers.monitor.detectors.divergence import Divergence
from pulsetrain_consumers.monitor.detectors.gradient_explosion import GradientExplosion
from pulsetrain_consumers.monitor.detectors.loss_spike import LossSpike
from pulsetrain_consumers.monitor.detectors.metric_columns import Column
from pulsetrain_consumers.monitor.detectors.names import Role
from pulsetrain_consumers.monitor.detectors.not_finite import NotFinite
from pulsetrain_consumers.monitor.detectors.plateau import Plateau
from pulsetrain_consumers.monitor.findings import Finding

# Which detectors look at what. Losses of games are neither expected to fall nor to be calm; evaluations are rare and
# noisy.
_SPIKES = {Role.LOSS}
NORM_CONFIRM = 20


@dataclass(slots=True)
class Series:
    """Follows one metric. Of several ranks that log it, the lowest one's values count; NaN counts on every rank."""

    name: str = field(init=False, default="")
    role: str = field(init=False, default=Role.OTHER.value)
    rank: int = field(init=False, default=-1)
    last_step: int | None = field(init=False, default=None)
    not_finite: NotFinite = field(init=False, default_factory=NotFinite)
    spike: LossSpike = field(init=False, default_factory=LossSpike)
    explosion: GradientExplosion = field(init=False, default_factory=GradientExplosion)
    divergence: Divergence = field(init=False, default_factory=Divergence)
    plateau: Plateau = field(init=False, default_factory=Plateau)
    blocks: Blocks = field(init=False, default_factory=Blocks)
    bad_rank: int = field(init=False, default=-1)

    def begin(self, name: str, role: Role, rank: int) -> None:
        """Says what it follows. Its detectors begin anew; what is known of a plateau stays."""
        self.name, self.role, self.rank, self.last_step = name, role.value, rank, None
        confirm = NORM_CONFIRM if role is Role.GRADIENT_NORM else 2
        self.not_finite, self.bad_rank = NotFinite(name, confirm=confirm), -1
        self.spike, self.explosion = LossSpike(name), GradientExplosion(name)
        self.divergence, self.blocks = Divergence(name), Blocks()
        self.plateau.name = name

    def restored(self) -> None:
        """Puts the parameters in that follow from the role, after a restore."""
        self.not_finite.name = self.spike.name = self.explosion.name = self.name
        self.divergence.name = self.plateau.name = self.name
        self.not_finite.confirm = NORM_CONFIRM if self.role == Role.GRADIENT_NORM else 2

    def observe(self, column: Column, rank: int) -> list[Finding]:
        """Takes the values of one message."""
        times, steps, values = column.times, column.steps, column.values
        found: list[Finding | None] = []
        if self.bad_rank in (-1, rank):
            if column.whole:
                found.append(self.not_finite.all_finite(times, steps, rank))
            else:
                finite = [value - value == 0.0 for value in values]
                found.append(self.not_finite.observe(times, steps, finite, rank))
            self.bad_rank = rank if self.not_finite.bad or self.not_finite.present else -1
        if rank == self.rank:
            if not column.whole:
                kept = [i for i, value in enumerate(values) if value - value == 0.0]
                times, steps = [times[i] for i in kept], [steps[i] for i in kept]
                values = [values[i] for i in kept]
            if values:
                found += self._values(times, steps, values, rank)
        return [it for it in found if it is not None]

    def _values(self, times: list[float], steps: list[int], values: list[float], rank: int) -> list[Finding | None]:
        if self.role == Role.GRADIENT_NORM:
            return [self.explosion.observe(times, steps, values, rank)]
        if self.role not in _SPIKES:
            return []
        found = [self.spike.observe(times, steps, values, rank)]
        block = self.blocks.add(times, steps, values)
        if block is not None:
            found += [self.divergence.observe(block), self.plateau.observe(block)]
        return found
