"""Sends journals that no forwarder is sending: offline runs, and runs whose machine went down.

The same packing and delivery as the forwarder's, so it may be broken off and repeated: what is confirmed is in
`ack.json`.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

from pulsetrain._run.summary import SummaryFold
from pulsetrain.forwarder.acknowledgement import Acknowledged, Counters
from pulsetrain.forwarder.delivery import MAX_IN_FLIGHT_BYTES, Delivery
from pulsetrain.forwarder.liveness import ProcessWatch
from pulsetrain.forwarder.ownership import Ownership
from pulsetrain.forwarder.pump import Pace, Pump, Ticket
from pulsetrain.forwarder.tail import Identity, Tail, read_identity
from pulsetrain_schemas.framing import SINGLE_OBJECT, Framing

State = Literal["sent", "sent so far", "already sent", "to send", "owned", "empty", "unreadable"]

POLL_SECONDS = 0.02
NOTHING = Counters()
FIRST_SEGMENT = "00000001.journal"


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
    """The journals at or below these paths, in order, each once."""
    seen: set[Path] = set()
    for path in paths:
        for segment in sorted(path.rglob(FIRST_SEGMENT)):
            journal = segment.parent.resolve()
            if journal not in seen:
                seen.add(journal)
                yield journal


def inspect(journal: Path) -> Report:
    """What sending it would do, without doing it."""
    try:
        identity = read_identity(journal)
    except ValueError as error:
        return Report(journal, "unreadable", detail=str(error))
    if identity is None:
        return Report(journal, "empty", detail="its process died before the run began")
    acknowledged = Acknowledged.load(journal)
    if acknowledged.complete:
        return Report(journal, "already sent", identity, acknowledged.counters)
    ownership = Ownership.take(journal)
    if ownership is None:
        return Report(journal, "owned", identity, acknowledged.counters, "a forwarder, or another sync, is sending it")
    ownership.release()
    tail = Tail(journal)
    while tail.read(1 << 20):
        pass
    tail.close()
    return Report(journal, "to send", identity, tail.counters)


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
    report = inspect(journal)
    if report.state != "to send" or report.identity is None:
        return report
    ownership = Ownership.take(journal)
    if ownership is None:
        return Report(journal, "owned", report.identity, report.counters, "a forwarder began to send it just now")
    watch = ProcessWatch(report.identity.pid, report.identity.pid_created)
    fold = SummaryFold() if report.identity.role == "run" else None
    pump = Pump(journal, report.identity, delivery, fold=fold, framing=framing)
    try:
        heard_at = monotonic()
        while not pump.done:
            outcome = delivery.poll()
            for ticket in outcome.confirmed:
                pump.confirm(cast(Ticket, ticket))
            if outcome.interrupted:
                pump.rewind()
            if outcome.confirmed:
                heard_at = monotonic()
                progress(pump.acknowledged.counters)
            pace = Pace.NOTHING
            alive = watch.alive()
            if delivery.in_flight_bytes < MAX_IN_FLIGHT_BYTES:
                pace = pump.step(clock(), alive=alive)
            if alive and pump.is_settled and not pump.finished:
                pump.progress(clock())
                if pump.is_settled:
                    return Report(journal, "sent so far", report.identity, pump.acknowledged.counters)
            if monotonic() - heard_at > patience:
                raise NotDelivered(delivery.state.detail or f"nothing was confirmed for {patience:g} s")
            if pace is not Pace.PLENTY:
                time.sleep(POLL_SECONDS)
        return Report(journal, "sent", report.identity, pump.acknowledged.counters)
    finally:
        pump.save()
        pump.close()
        watch.close()
        ownership.release()
