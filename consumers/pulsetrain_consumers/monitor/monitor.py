"""The monitor: every event goes to the watch of its run, what that finds to the run's book of alerts, and what changes
there to the topic of alerts.

It keeps its own place. Every few seconds it saves what it knows together with the offsets that it had read, all at once
or not at all. One that comes up goes on from there; the alerts that were told since are in their topic, and the books
hear of them first. So what is read twice is told once.

Time is the broker's: a message counts from when it arrived, and the time of a tick goes on from the latest arrival.
While a partition is behind, time stands, and nobody seems silent whose words wait. Nor does time pass while no monitor
is up, or no broker.
"""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from random import Random
from typing import Any

from pulsetrain_consumers.monitor.alerts import AlertBook, Policy
from pulsetrain_consumers.monitor.findings import Finding
from pulsetrain_consumers.monitor.policies import policy_of
from pulsetrain_consumers.monitor.rules import RULE, RuleWatch
from pulsetrain_consumers.monitor.silences import Silences
from pulsetrain_consumers.monitor.state import StateStore
from pulsetrain_consumers.monitor.telemetry import MonitorTelemetry
from pulsetrain_consumers.monitor.telling import Teller
from pulsetrain_consumers.monitor.watch import RunWatch
from pulsetrain_consumers.monitor.watched import PLACE, RunKey, Watched, part, place, place_text, restored, unread
from pulsetrain_consumers.runtime.backoff import Backoff
from pulsetrain_consumers.runtime.broker import BrokerUnavailable, Clock, Partition, Publisher, Record
from pulsetrain_consumers.runtime.follower import Follower
from pulsetrain_consumers.runtime.health import Health
from pulsetrain_consumers.runtime.sink import StoreUnavailable
from pulsetrain_schemas import events, registry
from pulsetrain_schemas.alert_rules import Rule
from pulsetrain_schemas.columnar import DecodeError
from pulsetrain_schemas.events import Alert, MetricBatch, RunEvent, SystemBatch
from pulsetrain_schemas.framing import Framing, UnknownSchema
from pulsetrain_schemas.topics import TOPICS

log = logging.getLogger(__name__)

_EVENTS: Mapping[str, type[Any]] = {
    TOPICS["runs"].kafka_name: RunEvent,
    TOPICS["metrics"].kafka_name: MetricBatch,
    TOPICS["system"].kafka_name: SystemBatch,
}
MONITOR_TOPICS = tuple(_EVENTS)

TICK_SECONDS = 1.0
SAVE_SECONDS = 5.0
# How far behind the latest message others may be for time to go on. Detectors take the leap after it for an absence.
NEAR_SECONDS = 30.0
# What saving takes at most of a monitor's time: with very many runs it is done less often.
SAVE_SHARE = 0.1
# How far back a monitor begins that knows nothing: enough for medians, and little to read.
LOOK_BACK_SECONDS = 900.0
# How long a run is remembered that has ended, or of which nothing is heard: longer where alerts of it go on.
FORGET_SECONDS = 3_600.0
FORGET_FIRING_SECONDS = 86_400.0


class Monitor:
    """Call `tick` until it is to stop. One works at a time in a group: see `service`."""

    def __init__(
        self,
        follower: Follower,
        alerts: Follower,
        publisher: Publisher,
        store: StateStore,
        framing: Framing,
        *,
        source: str,
        clock: Clock,
        random: Random,
        telemetry: MonitorTelemetry,
        health: Health,
        silences: Silences,
        rules: Sequence[Rule] = (),
        policy: Callable[[str, str], Policy] = policy_of,
    ) -> None:
        """`follower` reads what is watched, `alerts` the topic of alerts; `source` is said to be who tells.

        `rules` are those of the configuration, `policy` is for what the detectors find.
        """
        self._follower = follower
        self._alerts = alerts
        self._teller = Teller(publisher, framing, telemetry)
        self._store = store
        self._framing = framing
        self._source = source
        self._clock = clock
        self._telemetry = telemetry
        self._health = health
        self._silences = silences
        self._rules = rules
        self._policy = policy
        self._backoff = Backoff(random)
        self._runs: dict[RunKey, Watched] = {}
        self._forgotten: set[RunKey] = set()
        self._untold: list[Alert] = []
        self._has_begun = False
        # Where the past ends that is lived once more; None when that is over.
        self._past: Mapping[Partition, int] | None = None
        self._retry_at = 0.0
        self._arrived: dict[Partition, float] = {}
        self._latest = 0.0
        self._latest_at = 0.0
        self._now = 0.0
        self._ticked_at = 0.0
        self._saves_at = 0.0
        health.problem("start", None)
        health.problem("state", "not read yet")

    @property
    def watched(self) -> int:
        """How many runs are known."""
        return len(self._runs)

    def tick(self, timeout: float) -> None:
        """Does a bounded piece of work; waits for records up to `timeout` seconds."""
        self._health.tick()
        now = self._clock.monotonic()
        if not self._has_begun:
            self._begin(now)
            return
        if self._tell(now):
            self._read_silences(now)
            self._read(timeout)
            if self._clock.monotonic() - self._ticked_at >= TICK_SECONDS:
                self._tick_runs()
            if self._tell(now) and now >= self._saves_at:
                self._save()
        self._say("kafka", self._follower.problem())

    def finish(self) -> None:
        """Tells and saves what there is."""
        now = self._clock.monotonic()
        if self._has_begun and self._tell(now):
            self._save()

    def _begin(self, now: float) -> None:
        """Goes on from what was saved, and takes in the alerts told since. To be called again where it cannot."""
        if now < self._retry_at:
            return
        self._retry_at = now + self._backoff.delay()
        try:
            parts = self._store.load()
            self._silences.read(self._clock.now())
        except StoreUnavailable as error:
            self._say("state", str(error))
            return
        self._runs = {}
        positions, self._now = place(parts.pop(PLACE, ""))
        for name, text in parts.items():
            self._restore(name, text)
        since = self._clock.now() - LOOK_BACK_SECONDS
        if not (self._alerts.begin(positions, since) and self._follower.begin(positions, since) and self._hear_all()):
            self._say("kafka", self._alerts.problem() or self._follower.problem())
            return
        self._past = self._follower.ends()
        if self._past is None:
            self._say("kafka", self._follower.problem())
            return
        self._has_begun = True
        # Where it was saved before a look at the time, what was heard of the runs tells it: nothing more may come.
        self._latest = max([self._now, *(watched.heard_at for watched in self._runs.values())])
        self._latest_at = self._clock.monotonic()
        self._ticked_at = self._latest_at
        self._backoff.reset()
        self._say("kafka", None)
        self._say("state", None)
        log.info("watching; %d runs are known already", len(self._runs))

    def _restore(self, name: str, text: str) -> None:
        try:
            key, watched = restored(text, self._new)
        except Exception:  # what another release saved, or damage
            log.exception("what was known of %s cannot be read: it is watched anew", name)
        else:
            self._runs[key] = watched

    def _hear_all(self) -> bool:
        """Reads the alerts up to their end; False where the broker does not answer."""
        ends = self._alerts.ends()
        if ends is None:
            return False
        while any(at < ends.get(partition, 0) for partition, at in self._alerts.positions().items()):
            self._hear(0.1)
            self._health.tick()
            if self._alerts.problem() is not None:
                return False
        return True

    def _hear(self, timeout: float) -> None:
        """Hears what was told: by this one, by the one before, or by one that has lost its place unknowingly."""
        news: dict[RunKey, Watched] = {}
        for record in self._alerts.poll(timeout):
            alert = self._decoded(record, Alert)
            if alert is None or alert.source != self._source:
                continue
            watched = self._watched(alert.project, alert.run_id, record.time / 1e6)
            if watched.book.heard(alert):
                watched.is_changed = True
                news[alert.project, alert.run_id] = watched
        if self._has_begun and self._past is None:
            for watched in news.values():  # not before all is heard: what fired may have been resolved
                self._change(watched.book.lived(self._now))

    def _read_silences(self, now: float) -> None:
        """Those that are known count while they cannot be read."""
        try:
            if self._silences.look(now, self._clock.now()):
                self._say("silences", None)
        except StoreUnavailable as error:
            self._telemetry.errors.labels("silences").inc()
            self._say("silences", str(error))

    def _read(self, timeout: float) -> None:
        self._hear(0)
        for record in self._follower.poll(timeout):
            self._take(record)

    def _take(self, record: Record) -> None:
        arrived = record.time / 1e6
        self._arrived[record.partition] = arrived
        if arrived > self._latest:
            self._latest, self._latest_at = arrived, self._clock.monotonic()
        topic = record.partition.topic
        self._telemetry.messages.labels(topic).inc()
        event = self._decoded(record, _EVENTS[topic])
        if event is None:
            return
        origin = event.origin
        watched = self._watched(origin.project, origin.run_id, arrived)
        lane = f"{topic}/{origin.writer}"
        read = watched.read.get(lane, 0)
        if origin.last_sequence <= read:
            return  # a forwarder that was killed sends again what it is not sure of
        watched.read[lane] = origin.last_sequence
        # Where the broker's clock has gone back, what comes now is not of yesterday.
        watched.heard_at = max(watched.heard_at, arrived, self._now)
        watched.is_changed = True
        if isinstance(event, MetricBatch):
            self._telemetry.points.inc(len(event.values))
        for look in (_detect, _apply_rules):  # a fault of the ones keeps the others from nothing
            try:
                for finding in look(watched, unread(event, read), arrived):
                    self._change(watched.book.note(finding, arrived))
            except Exception:
                self._telemetry.errors.labels("detectors").inc()
                log.exception("what came of run %s of %s could not be judged", origin.run_id, origin.project)
        if isinstance(event, RunEvent) and event.alert is not None:
            told = watched.book.told_by_user(event.alert, origin.writer, origin.last_sequence, event.time / 1e6)
            self._change(told)

    def _decoded(self, record: Record, kind: type[Any]) -> Any:
        """The event; None for what cannot be read: the writer puts that aside."""
        try:
            return events.decode(record.value or b"", kind, self._framing)
        except (DecodeError, UnknownSchema, registry.RegistryError):
            self._telemetry.errors.labels("unreadable").inc()
        except Exception:
            self._telemetry.errors.labels("unreadable").inc()
            log.exception("%s, offset %d cannot be read", record.partition, record.offset)
        return None

    def _watched(self, project: str, run_id: str, arrived: float) -> Watched:
        key = (project, run_id)
        found = self._runs.get(key)
        if found is None:
            found = self._runs[key] = self._new(project, run_id, arrived)
            self._forgotten.discard(key)
        return found

    def _new(self, project: str, run_id: str, arrived: float) -> Watched:
        rules = RuleWatch(project, self._rules)

        def policy(kind: str, subject: str) -> Policy:
            return rules.policy(subject) if kind == RULE else self._policy(kind, subject)

        book = AlertBook(project, run_id, self._source, policy, self._silences.of_run(project, run_id))
        return Watched(RunWatch(project, run_id), rules, book, arrived)

    def _tick_runs(self) -> None:
        since, self._ticked_at = self._ticked_at, self._clock.monotonic()
        monotonic = self._ticked_at
        ends, positions = self._follower.ends(), self._follower.positions()
        if ends is None:  # while the broker is away time stands: who cannot be heard is not silent
            self._latest_at += monotonic - since
            return
        now = self._time(monotonic, [name for name, at in positions.items() if at < ends.get(name, 0)])
        if now is None:
            return
        is_past_over = self._past is not None and all(positions.get(name, at) >= at for name, at in self._past.items())
        if is_past_over:
            self._past = None
        for key, watched in list(self._runs.items()):
            findings = self._ticked(key, watched, now)
            changes = [change for finding in findings for change in watched.book.note(finding, now)]
            if is_past_over:
                changes += watched.book.lived(now)
                if not watched.watch.ended():  # how long it was silent while no monitor was up is not known
                    watched.heard_at = max(watched.heard_at, now)
            changes += watched.book.tick(now)
            watched.is_changed = watched.is_changed or is_past_over or bool(findings) or bool(changes)
            self._change(changes)
            self._forget(key, watched, now)
        self._telemetry.runs.set(len(self._runs))

    def _ticked(self, key: RunKey, watched: Watched, now: float) -> Sequence[Finding]:
        try:
            return [*watched.watch.tick(now), *watched.rules.tick(now, is_over=watched.watch.over)]
        except Exception:
            self._telemetry.errors.labels("detectors").inc()
            log.exception("run %s of %s could not be judged", key[1], key[0])
            return ()

    def _forget(self, key: RunKey, watched: Watched, now: float) -> None:
        silent = now - watched.heard_at
        if silent < (FORGET_FIRING_SECONDS if watched.book.is_open else FORGET_SECONDS):
            return
        self._change(watched.book.end_all(now, "nothing was heard of the run for a day: it is watched no more"))
        del self._runs[key]
        self._forgotten.add(key)

    def _time(self, monotonic: float, behind: Sequence[Partition]) -> float | None:
        """The broker's time up to which everything that arrived has been read; None before anything has.

        `behind` are the partitions that hold more than was read.
        """
        if not self._latest:
            return None
        # Of a partition of which nothing has come yet it is not known how far behind it is.
        on_time = self._latest + monotonic - self._latest_at
        now = min((self._arrived.get(name, self._now) for name in behind), default=on_time)
        # What is far behind is read partition by partition: who was read ahead would seem silent until others come up.
        if now >= self._latest - NEAR_SECONDS:
            self._now = max(self._now, now)
        return self._now or None

    def _change(self, alerts: Iterable[Alert]) -> None:
        for alert in alerts:
            self._untold.append(alert)
            self._telemetry.alerts.labels(alert.kind, alert.state).inc()
            log.info("%s: %s of run %s (%s): %s", alert.state, alert.kind, alert.run_id, alert.project, alert.text)

    def _tell(self, now: float) -> bool:
        """Publishes what changed; whether all is told. Nothing more is read before it is."""
        if not self._untold:
            return True
        if now < self._retry_at:
            return False
        try:
            self._teller.tell(self._untold)
        except (BrokerUnavailable, registry.RegistryError) as error:
            self._telemetry.errors.labels("kafka").inc()
            self._say("alerts", str(error))
            self._retry_at = now + self._backoff.delay()
            return False
        self._untold = []
        self._backoff.reset()
        self._say("alerts", None)
        return True

    def _save(self) -> None:
        """Saves what changed, with the offsets. Where that fails, it is tried again with the next."""
        began = self._clock.monotonic()
        changed = {key: watched for key, watched in self._runs.items() if watched.is_changed}
        positions = {**self._follower.positions(), **self._alerts.positions()}
        parts = {part(key): "" for key in self._forgotten}
        for key, watched in changed.items():
            try:
                parts[part(key)] = watched.text(key)
            except Exception:
                self._telemetry.errors.labels("state").inc()
                log.exception("what is known of run %s of %s cannot be saved", key[1], key[0])
        parts[PLACE] = place_text(positions, self._now)
        try:
            self._store.save(parts)
        except StoreUnavailable as error:
            self._telemetry.errors.labels("state").inc()
            self._say("state", str(error))
        else:
            self._say("state", None)
            self._forgotten.clear()
            for watched in changed.values():
                watched.is_changed = False
        ended = self._clock.monotonic()
        self._saves_at = ended + max(SAVE_SECONDS, (ended - began) / SAVE_SHARE)

    def _say(self, part: str, problem: str | None) -> None:
        if self._health.problem(part, problem):
            if problem is None:
                log.info("%s: works", part)
            else:
                log.warning("waiting: %s", problem)


def _detect(watched: Watched, event: Any, arrived: float) -> Sequence[Finding]:
    del arrived
    if isinstance(event, MetricBatch):
        return watched.watch.metrics(event)
    if isinstance(event, SystemBatch):
        return watched.watch.system(event)
    return watched.watch.event(event)


def _apply_rules(watched: Watched, event: Any, arrived: float) -> Sequence[Finding]:
    if isinstance(event, MetricBatch):
        return watched.rules.metrics(event, arrived)
    if isinstance(event, SystemBatch):
        return watched.rules.system(event, arrived)
    return watched.rules.event(event, arrived)
