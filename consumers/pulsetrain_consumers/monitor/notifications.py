"""Alerts sent on: each change that is told in the topic goes to every sink that wants it, at least once.

The topic is the queue. What was sent to all sinks is committed, so a monitor that comes up goes on with what was not.
Each sink has a thread of its own, and one that is away holds up no other.
"""

import logging
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from random import Random

from pulsetrain_consumers.monitor.alerts import FIRING, RESOLVED, USER
from pulsetrain_consumers.monitor.sinks.sink import Sink, SinkRefused, SinkUnavailable
from pulsetrain_consumers.monitor.telemetry import MonitorTelemetry
from pulsetrain_consumers.runtime.backoff import Backoff
from pulsetrain_consumers.runtime.broker import Clock, Partition, Record
from pulsetrain_schemas.events import SEVERITIES, Alert

log = logging.getLogger(__name__)

# For how long a sink is tried for an alert, from when it came. An older one is news no more.
TRY_SECONDS = 600.0
_LONGEST_WAIT = 30.0


@dataclass(frozen=True, slots=True)
class Route:
    """A sink, and which alerts it gets: of `severity` or worse, of projects and kinds that match, and their ends."""

    sink: Sink
    severity: str = "info"
    projects: Sequence[str] = ("*",)
    kinds: Sequence[str] = ("*",)
    ends: bool = True

    def wants(self, alert: Alert) -> bool:
        """Whether this change of an alert is sent."""
        if alert.silenced or alert.state not in (FIRING, RESOLVED):
            return False
        if alert.state == RESOLVED and (not self.ends or alert.kind == USER):
            return False
        return (
            SEVERITIES.index(alert.severity) >= SEVERITIES.index(self.severity)
            and any(fnmatchcase(alert.project, pattern) for pattern in self.projects)
            and any(fnmatchcase(alert.kind, pattern) for pattern in self.kinds)
        )


class Notifications:
    """Takes records of alerts in the order of their topic; says which offset is done with. Belongs to one thread."""

    def __init__(self, routes: Sequence[Route], *, clock: Clock, random: Random, telemetry: MonitorTelemetry) -> None:
        self._routes = routes
        self._clock = clock
        self._lanes = [_Lane(route.sink, clock, random, telemetry) for route in routes]
        self._waiting: dict[Partition, deque[tuple[int, list[_Delivery]]]] = {}

    def take(self, record: Record, alert: Alert | None) -> None:
        """Sends an alert on; None is a record that could not be read."""
        deliveries = []
        for route, lane in zip(self._routes, self._lanes, strict=True):
            if alert is not None and route.wants(alert):
                delivery = _Delivery(alert, self._clock.monotonic() + TRY_SECONDS)
                lane.put(delivery)
                deliveries.append(delivery)
        self._waiting.setdefault(record.partition, deque()).append((record.offset, deliveries))

    def done(self) -> dict[Partition, int]:
        """By partition the offset before which everything is sent, or given up; what has not moved is left out."""
        moved = {}
        for partition, waiting in self._waiting.items():
            while waiting and all(delivery.done.is_set() for delivery in waiting[0][1]):
                moved[partition] = waiting.popleft()[0] + 1
        return moved

    def forget(self) -> None:
        """Another has the topic now: what was not sent is sent by that one."""
        self._waiting.clear()
        for lane in self._lanes:
            lane.clear()

    def close(self) -> None:
        """Ends the threads. What was not sent comes again."""
        for lane in self._lanes:
            lane.close()


class _Delivery:
    """One alert for one sink, which is tried once at least."""

    __slots__ = ("alert", "done", "until")

    def __init__(self, alert: Alert, until: float) -> None:
        self.alert = alert
        self.until = until
        self.done = threading.Event()


class _Lane:
    """One sink, and what waits for it."""

    def __init__(self, sink: Sink, clock: Clock, random: Random, telemetry: MonitorTelemetry) -> None:
        self._sink = sink
        self._clock = clock
        self._backoff = Backoff(random, 0.5, _LONGEST_WAIT)
        self._telemetry = telemetry
        self._queue: deque[_Delivery] = deque()
        self._woken = threading.Event()
        self._closed = threading.Event()
        threading.Thread(target=self._run, name=f"sink {sink.name}", daemon=True).start()

    def put(self, delivery: _Delivery) -> None:
        self._queue.append(delivery)
        self._woken.set()

    def clear(self) -> None:
        self._queue.clear()

    def close(self) -> None:
        self._closed.set()
        self._woken.set()

    def _run(self) -> None:
        while not self._closed.is_set():
            try:
                delivery = self._queue.popleft()
            except IndexError:
                self._woken.wait()
                self._woken.clear()
                continue
            outcome = self._deliver(delivery.alert, delivery.until)
            if outcome is not None:
                self._telemetry.notifications.labels(self._sink.name, outcome).inc()
                delivery.done.set()

    def _deliver(self, alert: Alert, until: float) -> str | None:
        """What became of it: sent, refused, or given up; None where the monitor ends first."""
        while not self._closed.is_set():
            try:
                self._sink.send(alert)
            except SinkUnavailable as error:
                if self._clock.monotonic() >= until:
                    log.warning("an alert was not sent: %s", error)
                    return "given up"
                self._closed.wait(self._backoff.delay())
            except SinkRefused as error:
                log.warning("an alert was not sent: %s", error)
                return "refused"
            except Exception:
                log.exception("an alert could not be sent to %s", self._sink.name)
                return "refused"
            else:
                self._backoff.reset()
                return "sent"
        return None
