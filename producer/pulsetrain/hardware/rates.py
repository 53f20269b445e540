"""Amounts per second, from counters that the kernel or a driver keeps."""

from pulsetrain.hardware.sampler import Sample


class Rates:
    """Turns counters into amounts per second.

    The first value gives none. A counter that went back (it wrapped, its device went away, the driver was loaded
    anew) leaves its rate out once rather than show a nonsense.
    """

    def __init__(self) -> None:
        self._last: dict[str, tuple[float, float]] = {}

    def update(self, name: str, value: float, now: float, into: Sample) -> None:
        """Writes the rate since the last call for `name` into `into`, if there is one that makes sense."""
        last = self._last.get(name)
        self._last[name] = (now, value)
        if last is not None and now > last[0] and value >= last[1]:
            into[name] = (value - last[1]) / (now - last[0])
