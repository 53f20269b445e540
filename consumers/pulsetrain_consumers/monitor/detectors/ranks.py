"""What is known of one rank: where it stands, how fast it goes, and on what its time is spent."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pulsetrain_consumers.monitor.detectors.loader_stall import LoaderStall
from pulsetrain_consumers.monitor.detectors.memory_growth import MemoryLeak
from pulsetrain_consumers.monitor.detectors.names import Role
from pulsetrain_consumers.monitor.detectors.pace import Pace
from pulsetrain_consumers.monitor.detectors.robust import median

KEPT = 32
# Of what one message says of steps, so many are taken, the latest.
SHOWN = 8


def _keep(values: list[float], new: list[float]) -> None:
    # NaN would make a median of nothing.
    values += [it for it in new if it == it]
    del values[:-KEPT]


@dataclass(slots=True)
class Rank:
    """Times of rows are by its host's clock, `heard` by the monitor's. The lists hold the latest 32 values."""

    host: str = field(init=False, default="")
    gpu: str = field(init=False, default="")
    done: bool = field(init=False, default=False)
    heard: float | None = field(init=False, default=None)
    fresh: bool = field(init=False, default=False)
    time: float | None = field(init=False, default=None)
    step: int | None = field(init=False, default=None)
    told: bool = field(init=False, default=False)
    pace: Pace = field(init=False, default_factory=Pace)
    loader: LoaderStall = field(init=False, default_factory=LoaderStall)
    rss: MemoryLeak = field(init=False, default_factory=MemoryLeak)
    steps: list[float] = field(init=False, default_factory=list)
    work: list[float] = field(init=False, default_factory=list)
    forward: list[float] = field(init=False, default_factory=list)
    waits: list[float] = field(init=False, default_factory=list)
    costs: list[float] = field(init=False, default_factory=list)

    def rows(self, row_times: NDArray[Any], row_steps: NDArray[Any], clock: float | None) -> None:
        """Takes the rows of a message: microseconds, steps, and when it came."""
        times, steps = np.asarray(row_times), np.asarray(row_steps)
        last, step = float(times[-1]) / 1e6, int(steps[-1])
        count = len(times)
        gaps = np.empty(count)
        np.subtract(times[1:], times[:-1], out=gaps[1:], casting="unsafe")
        gaps[0] = times[0] - self.time * 1e6 if self.time is not None else -1.0
        gaps /= 1e6
        self.pace.observe(gaps)
        if not self.told and self.step is not None and self.time is not None:
            made = step - self.step
            if made > 0 and last > self.time:
                self._step_times(gaps, steps, self.step)
        self.time = last if self.time is None or last > self.time else self.time
        self.step = step if self.step is None or step > self.step else self.step
        self.heard, self.fresh = clock, True

    def _step_times(self, gaps: NDArray[np.float64], steps: NDArray[Any], before: int) -> None:
        # Where the job does not say how long its steps take, the time between rows of different steps stands in.
        made = np.diff(steps, prepend=before)
        usable = (made > 0) & (gaps > 0)
        if usable.any():
            _keep(self.steps, (gaps[usable] / made[usable])[-SHOWN:].tolist())

    def job_view(self, view: Mapping[Role, list[float]]) -> None:
        """Takes what the job says of its steps in one message: seconds, or rates a second."""
        step = view.get(Role.STEP)
        if step and step[-1] > 0:
            if not self.told:
                self.told, self.steps = True, []
            _keep(self.steps, step)
            communication, wait = view.get(Role.COMMUNICATION), view.get(Role.WAIT)
            if communication and len(communication) == len(step):
                _keep(self.work, [whole - waited for whole, waited in zip(step, communication, strict=True)])
            if wait and len(wait) == len(step):
                _keep(self.waits, [part / whole for part, whole in zip(wait, step, strict=True) if whole > 0])
        forward, rate = view.get(Role.FORWARD), view.get(Role.RATE)
        if forward:
            _keep(self.forward, forward)
        if rate:
            _keep(self.costs, [1 / it for it in rate if it > 0])

    def working(self) -> float | None:
        """Median seconds of own work a step: without communication; else of the forward pass; else of the step."""
        for values in (self.work, self.forward, self.steps):
            if len(values) >= 8:
                return median(values[-16:])
        return None
