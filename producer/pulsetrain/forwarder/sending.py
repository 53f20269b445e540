"""Sends journals that no forwarder is sending: offline runs, and runs whose machine went down.

The same packing and delivery as the forwarder's, so it may be broken off and repeated: what is confirmed is in
`ack.json`. A journal may come from another machine, where its process may still be writing it.
"""

import socket
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, cast

from pulsetrain._run.summary import SummaryFold
from pulsetrain.forwarder.acknowledgement import Counters
from pulsetrain.forwarder.checkpoint import BASE_FILE
from pulsetrain.forwarder.delivery import MAX_IN_FLIGHT_BYTES, Delivery, Outcome
from pulsetrain.forwarder.liveness import ProcessWatch
from pulsetrain.forwarder.ownership import Ownership
from pulsetrain.forwarder.pump import Pace, Pump, Ticket, confirmed_of
from pulsetrain.forwarder.tail import Identity, Tail, read_identity
from pulsetrain.journal.format import Position
from pulsetrain_schemas.framing import SINGLE_OBJECT, Framing

State = Literal["sent", "sent so far", "already sent", "to send", "owned", "empty", "unreadable"]

POLL_SECONDS = 0.02
NOTHING = Counters()


@dataclass(frozen=True, slots=True)
class Report:
    """What became of one journal. `counters` are of what it holds; `detail` says why it was left alone."""

    journal: Path
    state: State
    identity: Identity | None = None
    counters: Counters = NOTHING
    detail: str = ""


class NotDelivered(Exception):
    """Kafka confirmed nothing for too long."""


def find_journals(paths: Iterable[Path]) -> Iterator[Path]:
    """The journals at or below these paths, in order, each once. What is being removed is none any more."""
    seen: set[Path] = set()
    for path in paths:
        segments = (found for pattern in ("*.journal", BASE_FILE) for found in path.rglob(pattern))
        for folder in sorted({segment.parent for segment in segments}):
            journal = folder.resolve()
            if journal not in seen and not folder.name.startswith("."):
                seen.add(journal)
                yield journal


def look(journal: Path) -> Report:
    """What is to be done with it, by a short look; `counters` are of what is confirmed."""
    try:
        identity = read_identity(journal)
    except ValueError as error:
        return Report(journal, "unreadable", detail=str(error))
    if identity is None:
        return Report(journal, "empty", detail="its process died before the run began")
    acknowledged = confirmed_of(journal)
    state: State = "already sent" if acknowledged.complete else "to send"
    return Report(journal, state, identity, acknowledged.counters)


def inspect(journal: Path) -> Report:
    """What sending it would do, without doing it; `counters` are of all that it holds."""
    report = look(journal)
    if report.state != "to send":
        return report
    ownership = Ownership.take(journal)
    if ownership is None:
        return _owned(report)
    ownership.release()
    tail = Tail(journal)
    tail.read_all()
    tail.close()
    return replace(report, counters=tail.counters)


class Sending:
    """One journal in this process's hands, until `close`. `advance` sends, `hear` takes in what became of it."""

    def __init__(
        self,
        journal: Path,
        identity: Identity,
        ownership: Ownership,
        delivery: Delivery,
        *,
        framing: Framing = SINGLE_OBJECT,
        host: str = "",
    ) -> None:
        """`host` is this machine's name, where it is not to be asked."""
        self.journal = journal
        self.identity = identity
        self._ownership = ownership
        self._delivery = delivery
        self._watch = ProcessWatch(identity.pid, identity.pid_created)
        self._is_foreign = identity.host != (host or socket.gethostname())
        fold = SummaryFold() if identity.role == "run" else None
        self._pump = Pump(journal, identity, delivery, fold=fold, framing=framing)
        self._alive = True
        # What there was, position and sequence, when reading first caught up with the journal.
        self._goal: tuple[Position, int] | None = None

    @classmethod
    def begin(cls, journal: Path, delivery: Delivery, *, framing: Framing = SINGLE_OBJECT) -> "Sending | Report":
        """Takes the journal; a report where there is nothing to send, or another process sends it."""
        report = look(journal)
        if report.state != "to send" or report.identity is None:
            return report
        ownership = Ownership.take(journal)
        if ownership is None:
            return _owned(report)
        return cls(journal, report.identity, ownership, delivery, framing=framing)

    @property
    def counters(self) -> Counters:
        """What Kafka has confirmed."""
        return self._pump.acknowledged.counters

    @property
    def report(self) -> Report | None:
        """How it came out; None as long as something is to be sent that was there when it was taken."""
        acknowledged = self._pump.acknowledged
        if acknowledged.complete:
            return Report(self.journal, "sent", self.identity, self.counters)
        if not self._alive or self._goal is None or acknowledged.position < self._goal[0]:
            return None
        if self.identity.role == "run" and acknowledged.covered.get("runs", 0) < self._goal[1]:
            return None
        where = f"it may still run on {self.identity.host}" if self._is_foreign else "it still runs"
        return Report(self.journal, "sent so far", self.identity, self.counters, where)

    def advance(self, now: float, monotonic: float) -> Pace:
        """Reads on and sends, where there is room for it; `now` is the time since the epoch, and `monotonic` that of a
        clock that nobody sets.
        """
        self._alive = self._may_live(now)
        if self._delivery.in_flight_bytes >= MAX_IN_FLIGHT_BYTES:
            return Pace.SOME
        pace = self._pump.step(monotonic, alive=self._alive)
        if self._alive:
            self._pump.progress(monotonic)
        if pace is not Pace.PLENTY and self._goal is None:
            self._goal = (self._pump.position, self._pump.sequence)
        return pace

    def hear(self, outcome: Outcome) -> bool:
        """Takes in what is this journal's; True where something was confirmed."""
        heard = False
        for ticket in outcome.confirmed:
            if cast(Ticket, ticket)[0] == self.identity.writer:
                self._pump.confirm(cast(Ticket, ticket))
                heard = True
        if outcome.interrupted:
            self._pump.rewind()
        return heard

    @property
    def is_idle(self) -> bool:
        """Whether nothing is on its way, and there was nothing more to read."""
        return self._pump.is_settled

    def rewind(self) -> None:
        """What was sent since the last confirmation is void: the next step begins there."""
        self._pump.rewind()

    def save(self) -> None:
        """Writes down what was confirmed. OSError where it cannot be."""
        self._pump.save()

    def close(self) -> None:
        """Writes down what was confirmed, and leaves the journal to others."""
        try:
            self._pump.save()
        finally:
            self._pump.close()
            self._watch.close()
            self._ownership.release()

    def _may_live(self, now: float) -> bool:
        if self._pump.finished:
            return False
        return self._watch.alive() or (self._is_foreign and self._pump.may_live_elsewhere(now))


def send(
    journal: Path,
    delivery: Delivery,
    *,
    framing: Framing = SINGLE_OBJECT,
    patience: float = 30.0,
    progress: Callable[[Counters], object] = bool,
    clock: Callable[[], float] = time.time,
    monotonic: Callable[[], float] = time.monotonic,
) -> Report:
    """Sends what the journal holds and returns when Kafka has confirmed it.

    Of a process that still runs, it sends what there is so far. NotDelivered after `patience` seconds without a
    confirmation; then nothing is lost, and sending again goes on from there.
    """
    begun = Sending.begin(journal, delivery, framing=framing)
    if isinstance(begun, Report):
        return begun
    try:
        heard_at = monotonic()
        while True:
            if begun.hear(delivery.poll()):
                heard_at = monotonic()
                progress(begun.counters)
            pace = begun.advance(clock(), monotonic())
            report = begun.report
            if report is not None:
                return report
            if monotonic() - heard_at > patience:
                raise NotDelivered(delivery.state.detail or f"nothing was confirmed for {patience:g} s")
            if pace is not Pace.PLENTY:
                time.sleep(POLL_SECONDS)
    finally:
        begun.close()


def _owned(report: Report) -> Report:
    return replace(report, state="owned", detail="a forwarder, or another sync, is sending it")
