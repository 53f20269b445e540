"""Tells that a training loop waits for its data, while it does: a loader that has stalled logs nothing by itself.

The thread that reads the inbox looks at the step timers four times a second. That costs the training nothing: a timer
knows its phase, and a step that has not ended.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from pulsetrain._run.history import History, NoHistory

# The first word of a wait, and how much longer it must be for each further one.
FIRST_SECONDS = 5.0
NEXT_SECONDS = 5.0
LATER = 1.25


class Timed(Protocol):
    """What is looked at of a step timer."""

    @property
    def steps(self) -> int:
        """How many steps have ended."""

    @property
    def waits(self) -> bool:
        """Whether the loop waits for data at this moment."""


@dataclass(slots=True)
class _Wait:
    steps: int
    since: float
    tells_at: float = FIRST_SECONDS


class WaitWatch:
    """Call `look` again and again. A wait is what is seen of one step at two looks or more."""

    def __init__(
        self,
        timers: Sequence[Timed],
        history: "History | NoHistory",
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`timers` may grow meanwhile."""
        self._timers = timers
        self._history = history
        self._monotonic = monotonic
        self._waits: dict[int, _Wait] = {}

    def look(self) -> None:
        """Writes down each wait of five seconds and more, again while it lasts, and its end."""
        now = self._monotonic()
        for number, timer in enumerate(self._timers):
            wait, steps, waits = self._waits.get(number), timer.steps, timer.waits
            if wait is not None and (not waits or steps != wait.steps):
                del self._waits[number]
                if wait.tells_at > FIRST_SECONDS:
                    self._tell(now - wait.since, wait.steps, is_over=True)
                wait = None
            if not waits:
                continue
            if wait is None:
                self._waits[number] = _Wait(steps, now)
            elif now - wait.since >= wait.tells_at:
                self._tell(now - wait.since, steps, is_over=False)
                wait.tells_at = max(wait.tells_at + NEXT_SECONDS, (now - wait.since) * LATER)

    def _tell(self, seconds: float, steps: int, *, is_over: bool) -> None:
        self._history.event("waiting", {"for": "data", "seconds": seconds, "steps": steps, "is_over": is_over})
