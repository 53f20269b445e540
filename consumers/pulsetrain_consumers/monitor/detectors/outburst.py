"""The core of what detects a series that leaps far above its usual values, and comes back or stays there."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from pulsetrain_consumers.monitor.detectors.robust import UpperLimit


class Turn(StrEnum):
    """What happened to a series."""

    BEGAN = "began"
    BACK = "back"
    SETTLED = "settled"


@dataclass(slots=True)
class Outburst:
    """Counts values above a learned limit: `confirm` of them begin an outburst, `calm` far below end it.

    The score goes up for each value above and down for each below, so a single odd value is none. Values above do not
    teach the limit; after `accept` of them the new level is taken for the usual one. `least` is added to the median for
    the limit's lower bound.
    """

    confirm: int = 3
    calm: int = 8
    accept: int = 300
    least: float = 0.0
    limit: UpperLimit = field(default_factory=UpperLimit)
    held: list[float] = field(init=False, default_factory=list)
    score: int = field(init=False, default=0)
    below: int = field(init=False, default=0)
    present: bool = field(init=False, default=False)
    highest: float = field(init=False, default=0.0)

    def observe(self, values: list[float]) -> tuple[int, Turn] | None:
        """Takes values in order; says at which of them something turned, the last such one."""
        bound = self._bound()
        if bound is None or (not self.score and not self.present and max(values) <= bound):
            self.limit.add(values)
            return None
        found = None
        for index, value in enumerate(values):
            turn = self._one(value)
            if turn is not None:
                found = index, turn
        return found

    def _bound(self) -> float | None:
        limit = self.limit.limit
        return None if limit is None else max(limit, self.limit.centre + self.least)

    def _one(self, value: float) -> Turn | None:
        bound = self._bound()
        if bound is None:
            self.limit.add([value])
        elif value > bound:
            return self._above(value)
        elif self.present:
            return self._calming(value, bound)
        else:
            self.score = max(0, self.score - 1)
            if not self.score:
                self.held = []
            self.limit.add([value])
        return None

    def _above(self, value: float) -> Turn | None:
        self.score, self.below = self.score + 1, 0
        self.held.append(value)
        if len(self.held) >= self.accept:
            self.limit.reset(self.held)
            return self._end(Turn.SETTLED) if self.present else self._end(None)
        if self.present or self.score < self.confirm:
            return None
        self.present, self.highest = True, max(self.held)
        return Turn.BEGAN

    def _calming(self, value: float, bound: float) -> Turn | None:
        if value > (bound + self.limit.centre) / 2:
            return None
        self.below += 1
        self.limit.add([value])
        return self._end(Turn.BACK) if self.below >= self.calm else None

    def _end(self, turn: Turn | None) -> Turn | None:
        self.present, self.score, self.below, self.held = False, 0, 0, []
        return turn


def turned(outburst: Outburst, times: Sequence[float], steps: Sequence[int], values: list[float]) -> "Moment | None":
    """What `observe` says, with the time and the step of it."""
    found = outburst.observe(values)
    if found is None:
        return None
    index, turn = found
    return Moment(turn, times[index], steps[index], values[index])


@dataclass(frozen=True, slots=True)
class Moment:
    """When a series turned, and the value then."""

    turn: Turn
    time: float
    step: int
    value: float
