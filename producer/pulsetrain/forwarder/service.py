"""The forwarder's loop: take journals over, watch their processes, pump them in turn, and leave when nothing is left.

One thread reads, packs and keeps the books; sending, sampling and syncing have threads of their own, so nothing that
blocks holds the loop up. What is in flight is bounded: when that much is unconfirmed, journals are simply not read on.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from pulsetrain.forwarder.control import Deliverer, Listener
from pulsetrain.forwarder.delivery import MAX_IN_FLIGHT_BYTES, BrokerState, Delivery
from pulsetrain.forwarder.durability import Fsync
from pulsetrain.forwarder.liveness import ProcessWatch
from pulsetrain.forwarder.ownership import Ownership
from pulsetrain.forwarder.places import Place, Registration
from pulsetrain.forwarder.pump import Pace, Pump, Ticket, note_death
from pulsetrain.forwarder.retention import Retention
from pulsetrain.forwarder.status import Status, StatusFile
from pulsetrain.forwarder.tail import Fold, Identity, read_identity
from pulsetrain.forwarder.telemetry import Telemetry
from pulsetrain_schemas.events import LogBatch, MetricBatch, RunEvent, SystemBatch, schema_name
from pulsetrain_schemas.framing import SINGLE_OBJECT, Framing
from pulsetrain_schemas.registry import RegistryError

logger = logging.getLogger(__name__)

ACTIVE_PERIOD = 0.05
IDLE_PERIOD = 0.2
IDLE_AFTER = 2.0
SCAN_SECONDS = 1.0
SAVE_SECONDS = 0.5
FAREWELL_SECONDS = 3.0
REGISTRY_RETRY_SECONDS = 5.0


@dataclass(slots=True)
class _Writer:
    """A journal that was taken over: online ones have a pump, offline ones are only watched."""

    name: str
    journal: Path
    identity: Identity
    watch: ProcessWatch
    pump: Pump | None
    ownership: Ownership | None
    lived: bool
    """Whether its process was seen alive: then the time of its death is known."""
    deliverer: Deliverer | None = None
    """What is said to its process; None where that is another machine's, or logs no run."""
    ended: bool = False
    """Whether it is done with as a live run: its telemetry is detached."""


class Forwarder:
    """Drives everything. `tick` does what there is to do now; `run` ticks until idle for long or told to stop."""

    def __init__(
        self,
        place: Place,
        delivery: Delivery,
        telemetry: Telemetry | None,
        *,
        host: str,
        own: tuple[int, float],
        make_fold: Callable[[], Fold],
        framing: Framing = SINGLE_OBJECT,
        retention: Retention | None = None,
        listener: Listener | None = None,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        idle_exit: float,
    ) -> None:
        self._place = place
        self._delivery = delivery
        self._telemetry = telemetry
        self._host = host
        self._own = own
        self._make_fold = make_fold
        self._framing = framing
        self._clock = clock
        self._monotonic = monotonic
        self._idle_exit = idle_exit
        self._pulse: Callable[[], object] = bool
        self._writers: dict[str, _Writer] = {}
        self._refused: set[str] = set()
        self._undeliverable = 0
        self._fsync = Fsync()
        self._retention = retention
        self._listener = listener
        self._status = StatusFile(place.status, clock)
        self._scanned_at = float("-inf")
        self._scanned_change = -1
        self._saved_at = 0.0
        self._moved_at = monotonic()
        self._busy_at = monotonic()
        self._wake = threading.Event()
        self._stopping = False
        self._full = False
        self._save_failed = False
        self._framing_ready = False
        self._framing_error = ""
        self._framing_retry_at = 0.0

    def stop(self) -> None:
        """Has `run` leave soon, with what can be sent within seconds sent. Safe in a signal handler."""
        self._stopping = True
        self._wake.set()

    def delivered(self) -> None:
        """Called by the delivery when something was confirmed: it matters only while the loop waits for room."""
        if self._full:
            self._wake.set()

    def called(self) -> None:
        """Called by the listener when something was said to a process."""
        self._wake.set()

    def run(self, *, once: bool = False, pulse: Callable[[], object] = bool) -> None:
        """Returns when it was told to stop, or when for long no process lived and nothing was left to send.

        `once`: when all that is there now is confirmed, though processes may live that will log more. `pulse`
        is called with every tick: a loop that hangs can be told by its silence.
        """
        self._pulse = pulse
        self._fsync.start()
        if self._retention is not None:
            self._retention.start()
        while not self._stopping:
            plenty = self.tick()
            now = self._monotonic()
            if self._writers:
                self._busy_at = now
            elif now - self._busy_at > self._idle_exit:
                break
            if once and not plenty and self._is_settled():
                break
            if not plenty or self._full:
                idle = now - self._moved_at > IDLE_AFTER
                self._wake.wait(IDLE_PERIOD if idle else ACTIVE_PERIOD)
            self._wake.clear()
        self._leave()

    def _is_settled(self) -> bool:
        pumps = [writer.pump for writer in self._writers.values() if writer.pump is not None]
        return self._delivery.state.broker == "connected" and all(pump.is_settled for pump in pumps)

    @property
    def has_news(self) -> bool:
        """Whether a journal is registered that was not looked at: asked once more after the lock was let go."""
        return any(name not in self._refused for name, _ in self._place.registrations())

    def tick(self) -> bool:
        """One round over everything. True if a journal had much to give, so that the next round should follow at
        once.
        """
        now = self._monotonic()
        self._pulse()
        self._hear()
        self._scan()
        self._pass_on()
        plenty = False
        for writer in list(self._writers.values()):
            try:
                pace = self._attend(writer, now)
            except Exception:
                logger.exception("the journal %s is left alone from here on", writer.journal)
                self._refuse(writer)
                continue
            plenty |= pace is Pace.PLENTY
            if pace is not Pace.NOTHING and writer.identity.role == "run":
                self._moved_at = self._monotonic()
        self._save()
        self._report()
        return plenty

    def _hear(self) -> None:
        outcome = self._delivery.poll()
        for ticket in outcome.confirmed:
            writer = self._writers.get(cast(Ticket, ticket)[0])
            if writer is not None and writer.pump is not None:
                writer.pump.confirm(cast(Ticket, ticket))
        if outcome.interrupted:
            for writer in self._writers.values():
                if writer.pump is not None:
                    writer.pump.rewind()

    def _pass_on(self) -> None:
        """What was said to runs, to their processes here."""
        words = [] if self._listener is None else self._listener.heard()
        for writer in self._writers.values():
            if writer.deliverer is None or writer.ended:
                continue
            writer.deliverer.tick()
            for word in words:
                try:
                    writer.deliverer.deliver(word)
                except OSError as error:
                    logger.warning("run %s was not told: %s", writer.identity.run_id, error)

    def _scan(self) -> None:
        """Takes over what was registered since the last look; a look is one stat unless something changed."""
        try:
            change = self._place.writers.stat().st_mtime_ns
        except FileNotFoundError:
            logger.error("%s is gone: there is nobody left to serve", self._place.writers)
            self._stopping = True
            return
        if change == self._scanned_change and self._monotonic() - self._scanned_at < SCAN_SECONDS:
            return
        self._scanned_change, self._scanned_at = change, self._monotonic()
        for name, registration in self._place.registrations():
            if name not in self._writers and name not in self._refused:
                try:
                    self._take_over(name, registration)
                except (ValueError, OSError) as error:
                    self._refused.add(name)
                    logger.error("the journal %s is left alone: %s", registration.journal, error)

    def _take_over(self, name: str, registration: Registration) -> None:
        journal = Path(registration.journal)
        watch = ProcessWatch(registration.pid, registration.pid_created)
        lived = watch.alive()
        identity = read_identity(journal)
        if identity is None:
            watch.close()
            if not lived:  # it died before it had a run to speak of
                self._place.unregister(name)
            return
        pump = ownership = None
        if not identity.offline:
            ownership = Ownership.take(journal)
            if ownership is None:  # `pulsetrain sync` sends it just now: the next look comes after that
                watch.close()
                return
            fold = self._make_fold() if identity.role == "run" else None
            pump = Pump(journal, identity, self._delivery, fold=fold, framing=self._framing)
        self._look_after(journal.parent.parent, registration.limits)
        writer = self._writers[name] = _Writer(name, journal, identity, watch, pump, ownership, lived)
        if lived and identity.role == "run" and not (pump is not None and pump.done):
            self._fsync.add(journal)
            self._attach(writer)
            if identity.host == self._host and not identity.offline:
                writer.deliverer = Deliverer(journal, identity, send=watch.send)
        elif lived:
            self._fsync.add(journal)

    def _look_after(self, directory: Path, limits: Mapping[str, str]) -> None:
        if self._retention is None:
            return
        try:
            self._retention.watch(directory, limits)
        except OSError as error:
            logger.warning("the next forwarder will not look after the journals in %s: %s", directory, error)

    def _attach(self, writer: _Writer) -> None:
        if self._telemetry is None or not writer.identity.telemetry:
            return
        try:
            self._telemetry.attach(writer.identity, writer.journal.parent, writer.watch.pid, self._host, self._own)
        except OSError as error:
            logger.warning("run %s has no hardware samples: %s", writer.identity.run_id, error)

    def _attend(self, writer: _Writer, now: float) -> Pace:
        pump = writer.pump
        # Machines that share a home on the network share its forwarder too.
        foreign = writer.identity.host != self._host
        alive = writer.watch.alive() or (foreign and pump is not None and pump.may_live_elsewhere(self._clock()))
        if not writer.ended and (not alive or (pump is not None and pump.finished)):
            self._detach(writer, self._clock())
        if pump is None:
            if not alive:
                self._drop(writer)
            return Pace.NOTHING
        if not self._can_frame():
            return Pace.NOTHING
        pace = Pace.NOTHING
        self._full = self._delivery.in_flight_bytes >= MAX_IN_FLIGHT_BYTES
        if not self._full:
            pace = pump.step(now, alive=alive)
            pump.progress(now)
        if pump.done and self._saved(pump):
            self._drop(writer)
        return pace

    def _can_frame(self) -> bool:
        """Whether messages can be framed: with a schema registry the schemas must be registered there first."""
        if self._framing_ready or self._monotonic() < self._framing_retry_at:
            return self._framing_ready
        try:
            for kind in (MetricBatch, SystemBatch, LogBatch, RunEvent):
                self._framing.frame(schema_name(kind), b"")
            self._framing_ready = True
            self._framing_error = ""
        except RegistryError as error:
            if not self._framing_error:
                logger.warning("nothing can be sent: %s", error)
            self._framing_error = str(error)
            self._framing_retry_at = self._monotonic() + REGISTRY_RETRY_SECONDS
        return self._framing_ready

    def _detach(self, writer: _Writer, now: float) -> None:
        """The run has ended as far as this process is concerned; of one that vanished the time is kept."""
        writer.ended = True
        if writer.lived and not writer.watch.alive() and not (writer.pump is not None and writer.pump.finished):
            note_death(writer.journal, now)
        if self._telemetry is not None and writer.identity.role == "run":
            self._telemetry.detach(writer.identity)

    def _drop(self, writer: _Writer) -> None:
        self._forget(writer)
        self._place.unregister(writer.name)

    def _refuse(self, writer: _Writer) -> None:
        """What fails in one journal must not hold up the others. Its registration stays, for the next forwarder."""
        self._refused.add(writer.name)
        if not writer.ended:
            self._detach(writer, self._clock())
        self._forget(writer)

    def _forget(self, writer: _Writer) -> None:
        if writer.pump is not None:
            self._undeliverable += writer.pump.undeliverable
            writer.pump.close()
        if writer.ownership is not None:
            writer.ownership.release()
        self._fsync.drop(writer.journal)
        writer.watch.close()
        del self._writers[writer.name]

    def _save(self) -> None:
        now = self._monotonic()
        if now - self._saved_at < SAVE_SECONDS:
            return
        self._saved_at = now
        for writer in list(self._writers.values()):
            if writer.pump is not None and not self._saved(writer.pump) and not writer.journal.exists():
                logger.error("the journal %s was deleted before all of it was sent", writer.journal)
                self._refuse(writer)

    def _saved(self, pump: Pump) -> bool:
        """Writes down what was confirmed; a disk that has no room is tried again, and said once."""
        try:
            pump.save()
        except OSError as error:
            if not self._save_failed:
                self._save_failed = True
                logger.warning("what Kafka confirmed could not be written down; it is tried again: %s", error)
            return False
        self._save_failed = False
        return True

    def _report(self) -> None:
        state = BrokerState("away", self._framing_error) if self._framing_error else self._delivery.state
        pumps = [writer.pump for writer in self._writers.values() if writer.pump is not None]
        usage = None if self._retention is None else self._retention.fullest
        status = Status(
            pid=self._own[0],
            broker=state.broker,
            detail=state.detail,
            journals=len(pumps),
            live=sum(not w.ended and w.identity.role == "run" for w in self._writers.values()),
            in_flight_bytes=self._delivery.in_flight_bytes,
            undeliverable=self._undeliverable + sum(pump.undeliverable for pump in pumps),
            journal_bytes=0 if usage is None else usage.taken,
            journal_limit=0 if usage is None else usage.limit,
            notice="" if usage is None else usage.notice,
        )
        with contextlib.suppress(OSError):  # no room, or no home any more: the log says so where it matters
            self._status.write(status)

    def _leave(self) -> None:
        """Ends the telemetry, sends what can be sent within seconds, and writes down what was confirmed."""
        if self._telemetry is not None:
            self._telemetry.stop()
        deadline = self._monotonic() + FAREWELL_SECONDS
        while self._writers and self._monotonic() < deadline:
            if not self.tick():
                if not self._delivery.in_flight_bytes:
                    break
                self._wake.wait(0.02)
        self._delivery.close(max(deadline - self._monotonic(), 0.5))
        self._hear()
        for writer in list(self._writers.values()):
            if writer.pump is not None:
                self._saved(writer.pump)
            self._forget(writer)
        self._fsync.stop()
        if self._retention is not None:
            self._retention.stop()
        if self._listener is not None:
            self._listener.close()
