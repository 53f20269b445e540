"""How long to wait before the next attempt: doubling, bounded, and spread so that consumers do not return as one."""

from random import Random


class Backoff:
    """Delays of one activity. `delay()` after each failure, `reset()` after a success."""

    def __init__(self, random: Random, first: float = 0.2, limit: float = 3.0) -> None:
        self._random = random
        self._first = first
        self._limit = limit
        self._next = first

    def delay(self) -> float:
        """Seconds to wait now: between half and all of a bound that doubles with each call."""
        bound = self._next
        self._next = min(bound * 2, self._limit)
        return bound * self._random.uniform(0.5, 1.0)

    def reset(self) -> None:
        self._next = self._first
