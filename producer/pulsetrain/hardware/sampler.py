"""The clock of the hardware samplers: once a period every source is asked, and what they said is given out together.

Sources are asked in lanes, a thread each, because a driver that has lost its device may never return from a call:
a lane that hangs is left out until it comes back, and the others go on. Ticks are counted from the start, so the
period does not drift, and a tick that was missed is skipped, not made up for.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Protocol

Sample = dict[str, float]

PATIENCE = 3.0
"""Seconds until a round that does not come back is said to hang: a machine may be busy, or a driver start."""

LONGEST_WAIT = 1.0
"""Seconds that a tick waits for its rounds at the most, however long the period is."""

logger = logging.getLogger(__name__)


class Source(Protocol):
    """Something that can be sampled. `name` tells it from the others in the log and among the samples."""

    @property
    def name(self) -> str: ...

    def sample(self, now: float) -> Sample:
        """The figures of this moment; `now` is a monotonic time in seconds, for rates."""
        ...


class Lane:
    """One thread that asks its sources one after another whenever it is told to.

    A source that raises is named in the log once and asked again at the next tick: what failed may come back. A round
    that comes back after its tick is given out at the next one.
    """

    def __init__(self, name: str, report: Callable[[str], None], patience: float = PATIENCE) -> None:
        self.name = name
        self.sources: tuple[Source, ...] = ()
        self.asking: str | None = None
        self._report = report
        self._patience = patience
        self._failed: set[str] = set()
        self._wanted = threading.Event()
        self._done = threading.Event()
        self._done.set()
        self._samples: dict[str, Sample] = {}
        self._now = 0.0
        self._leaving = False
        self._collected = True
        self._hangs = False
        self._thread = threading.Thread(target=self._run, name=f"sampler-{name}", daemon=True)
        self._thread.start()

    def ask(self, now: float) -> None:
        """Starts a round, unless the last one has not come back or came back too late to be given out yet."""
        if not self._done.is_set() or (not self._collected and now - self._now <= self._patience):
            return
        self._now = now
        self._samples = {}
        self._collected = False
        self._done.clear()
        self._wanted.set()

    def collect(self, now: float, timeout: float) -> Mapping[str, Sample]:
        """What the round gave; empty when it did not come back in time. Said once if that goes on."""
        if self._done.wait(timeout):
            if self._hangs:
                self._hangs = False
                self._report(f"the {self.name} sampler answers again")
            self._collected = True
            return self._samples
        asking = self.asking  # None where the machine is so busy that the thread had no turn yet
        if asking is not None and not self._hangs and now - self._now >= self._patience:
            self._hangs = True
            self._report(f"the {self.name} sampler hangs in {asking}: its metrics are missing until it returns")
        return {}

    def leave(self) -> None:
        """Tells the thread to end; one that hangs is a daemon and goes with the process."""
        self._leaving = True
        self._wanted.set()

    def _run(self) -> None:
        while True:
            self._wanted.wait()
            self._wanted.clear()
            if self._leaving:
                return
            for source in self.sources:
                self.asking = source.name
                try:
                    self._samples[source.name] = source.sample(self._now)
                except Exception as error:  # noqa: BLE001 - a broken sampler must not take the others with it
                    if source.name not in self._failed:
                        self._failed.add(source.name)
                        self._report(f"the {source.name} sampler failed: {type(error).__name__}: {error}")
                else:
                    self._failed.discard(source.name)
            self.asking = None
            self._done.set()


class Sampler:
    """Gives `deliver` the time and the samples by source name, once a period, on a thread of its own.

    Sources may be added and removed while it runs, by a source too, and the period may be changed.
    """

    def __init__(
        self,
        deliver: Callable[[float, Mapping[str, Sample]], None],
        *,
        period: float = 1.0,
        patience: float = PATIENCE,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        report: Callable[[str], None] = logger.warning,
    ) -> None:
        self._deliver = deliver
        self._period = period
        self._patience = patience
        self._clock = clock
        self._monotonic = monotonic
        self._report = report
        self._lanes: dict[str, Lane] = {}
        self._lock = threading.Lock()
        self._leaving = False
        self._woken = threading.Event()
        self._thread: threading.Thread | None = None
        self._delivery_failed = False

    def add(self, lane: str, source: Source) -> None:
        """Has `source` asked at every tick from now on, after the others of its lane."""
        with self._lock:
            if lane not in self._lanes:
                self._lanes[lane] = Lane(lane, self._report, self._patience)
            self._lanes[lane].sources += (source,)

    def remove(self, name: str) -> None:
        """Asks the source of that name no more; a lane without sources ends. An unknown name is ignored."""
        with self._lock:
            for lane in list(self._lanes.values()):
                kept = tuple(source for source in lane.sources if source.name != name)
                if kept != lane.sources and not kept:
                    del self._lanes[lane.name]
                    lane.leave()
                lane.sources = kept

    @property
    def period(self) -> float:
        """Seconds from tick to tick."""
        return self._period

    @period.setter
    def period(self, seconds: float) -> None:
        if seconds != self._period:
            self._period = seconds
            self._woken.set()

    def start(self) -> None:
        """Starts the ticking, the first tick at once."""
        self._thread = threading.Thread(target=self._run, name="sampler", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends the ticking and waits for the tick in progress."""
        self._leaving = True
        self._woken.set()
        if self._thread is not None:
            self._thread.join(2 * self._period)
        with self._lock:
            for lane in self._lanes.values():
                lane.leave()

    def tick(self) -> None:
        """Asks all lanes, waits for them at most half a period or a second together, and gives out what came."""
        with self._lock:
            lanes = [lane for lane in self._lanes.values() if lane.sources]
        now = self._monotonic()
        at = self._clock()
        for lane in lanes:
            lane.ask(now)
        samples: dict[str, Sample] = {}
        deadline = now + min(self._period / 2, LONGEST_WAIT)
        for lane in lanes:
            samples.update(lane.collect(now, max(deadline - self._monotonic(), 0.0)))
        self._deliver(at, samples)

    def _run(self) -> None:
        while not self._leaving:
            self._woken.clear()
            self._keep_time(self._period)

    def _keep_time(self, period: float) -> None:
        """Ticks until the period is another, or it is time to leave."""
        start = self._monotonic()
        ticks = 0
        while not self._leaving and self._period == period:
            try:
                self.tick()
                self._delivery_failed = False
            except Exception as error:  # noqa: BLE001 - a full disk today must not end the telemetry for good
                if not self._delivery_failed:
                    self._delivery_failed = True
                    self._report(f"hardware samples could not be written: {type(error).__name__}: {error}")
            ticks = max(ticks + 1, int((self._monotonic() - start) / period))
            if self._woken.wait(max(start + ticks * period - self._monotonic(), 0.0)):
                return
