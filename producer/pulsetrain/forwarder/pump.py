"""One journal's way to Kafka: read a step, pack it, send it, and remember what was confirmed.

The pump begins at the journal's checkpoint when it takes it over, or else at its beginning, so that it knows what was
counted and what the summary was; what is covered already is not sent again. As it goes from segment to segment it
leaves a new checkpoint. After an interruption it goes back to what was confirmed.
"""

import json
import logging
from collections.abc import Iterable, Iterator
from dataclasses import replace
from enum import IntEnum
from itertools import count
from pathlib import Path

from pulsetrain.forwarder import packing, run_events
from pulsetrain.forwarder.acknowledgement import Acknowledged, Ledger
from pulsetrain.forwarder.checkpoint import Checkpoint
from pulsetrain.forwarder.delivery import Delivery, Message
from pulsetrain.forwarder.places import read_json, write_atomically
from pulsetrain.forwarder.tail import Fold, Identity, Tail, after, times_of
from pulsetrain.journal.format import Position
from pulsetrain.journal.reader import Event, Item, JournalReader, RowBlock, TextRow
from pulsetrain_schemas import events
from pulsetrain_schemas.columnar import EncodeError
from pulsetrain_schemas.framing import SINGLE_OBJECT, Framing
from pulsetrain_schemas.topics import TOPICS

logger = logging.getLogger(__name__)

STEP_BYTES = 512 << 10
PROGRESS_SECONDS = 2.0
SUMMARY_KEYS_A_SECOND = 500  # a summary of very many keys is published less often
DAMAGE_RETRY_SECONDS = 5.0
# Room in a message for Kafka's own framing of it.
ENVELOPE_BYTES = 4 << 10

# A process of another machine that has written a record so short a time ago may still run.
MAY_LIVE_SECONDS = 600.0

PLENTY_BYTES = STEP_BYTES // 2

END_FILE = "end.json"

Batch = events.MetricBatch | events.SystemBatch | events.LogBatch | events.RunEvent
Ticket = tuple[str, int]
"""The writer that a message is of, and its number."""


class Pace(IntEnum):
    """What a step found: PLENTY means that the next should follow at once."""

    NOTHING = 0
    SOME = 1
    PLENTY = 2


class Pump:
    """One journal. `step` and `progress` send; `confirm` and `rewind` hear of it; `done` says when all is confirmed.

    It does not keep to a bound of bytes in flight: whoever drives it asks for a step when there is room.
    """

    def __init__(
        self,
        journal: Path,
        identity: Identity,
        delivery: Delivery,
        *,
        fold: Fold | None = None,
        framing: Framing = SINGLE_OBJECT,
    ) -> None:
        self.journal = journal
        self.identity = identity
        self.undeliverable = 0
        """Rows, lines and events that fit no message. It is a matter of many megabytes in one record."""
        self._delivery = delivery
        self._framing = framing
        self._tickets = count(1)
        self._tail = Tail(journal, fold)
        self._fold = fold
        self._ledger = Ledger(confirmed_of(journal))
        self._sent = dict(self._ledger.acknowledged.covered)
        self._saved = self._ledger.acknowledged
        self._published: dict[str, str | None] = {}
        self._told_before: int | None = None
        """The last sequence of which an earlier forwarder, or this one before it went back, may have told; None while
        reading has not come to where the journal ended then.
        """
        self._progress_at = float("-inf")
        self._caught_up = False
        self._damage_at: float | None = None
        self._ended = self._ledger.acknowledged.complete
        self._checkpoint: Checkpoint | None = None
        # A checkpoint is worth its while when reading has come to another segment since.
        self._checkpoint_segment = self._tail.position.segment

    @property
    def done(self) -> bool:
        """Whether everything is confirmed, the end of the run included."""
        return self._ledger.acknowledged.complete

    @property
    def finished(self) -> bool:
        """Whether the record of the run's end was read."""
        return self._tail.finished

    @property
    def position(self) -> Position:
        """What was read up to now."""
        return self._tail.position

    @property
    def sequence(self) -> int:
        """The last record that was read."""
        return self._tail.sequence

    @property
    def last_time(self) -> float:
        """When that was written, in seconds since the epoch."""
        return self._tail.last_time

    def may_live_elsewhere(self, now: float) -> bool:
        """Whether the process, if it is one of another machine, may still run; `now` is the time since the epoch.

        Such a process cannot be asked. What it has written lately tells, and nothing before that was read.
        """
        return not self.finished and now - self._tail.last_time < MAY_LIVE_SECONDS

    @property
    def is_settled(self) -> bool:
        """Whether the last look found nothing more, and everything that was sent is confirmed."""
        return self._caught_up and self._ledger.settled

    @property
    def acknowledged(self) -> Acknowledged:
        return self._ledger.acknowledged

    def step(self, now: float, *, alive: bool) -> Pace:
        """Reads on and sends what was read; `now` is in seconds of a monotonic clock.

        `alive` is whether the process still ran before this call: only what is read after its end is all that there is.
        """
        if self._ended or (self._damage_at is not None and alive and now - self._damage_at < DAMAGE_RETRY_SECONDS):
            return Pace.NOTHING
        before, since = self._tail.position, self._tail.latest_time
        items = self._tail.read(STEP_BYTES)
        self._caught_up = not items
        self._look_at_damage(now)
        if not items and self._told_before is None:
            self._told_before = self._tail.sequence
        if items:
            self._send(self._pack(items, since))
            after = self._tail.position
            much = after.segment != before.segment or after.offset - before.offset >= PLENTY_BYTES
            return Pace.PLENTY if much or self._tail.finished else Pace.SOME
        if self._tail.finished:
            self._end(())
        elif not alive:
            self._end(self._killed())
        return Pace.PLENTY if self._ended else Pace.NOTHING

    def progress(self, now: float) -> None:
        """Publishes the counters and the changes of the summary, when it is time and there is something new.

        `now` is in seconds of a monotonic clock.
        """
        first = self._sent.get("runs", 0) + 1
        if self.identity.role == "system" or self._ended or now < self._progress_at or self._tail.sequence < first:
            return
        if self._tail.finished or self._tail.position < self._ledger.acknowledged.position:
            return  # the end says it too, or it is on the way to where an earlier forwarder was
        if self._tail.reads_again:
            return  # the counters and the summary are ahead of what was read
        last, time = self._tail.sequence, self._tail.latest_time
        summary = self._summary_changes(last)
        self._progress_at = now + max(PROGRESS_SECONDS, len(summary) / SUMMARY_KEYS_A_SECOND)
        self._send([run_events.progress(self.identity, first, last, time, self._tail.counters, summary)])

    def confirm(self, ticket: Ticket) -> None:
        """A message of this pump is in Kafka."""
        self._ledger.confirm(ticket)

    def rewind(self) -> None:
        """What was in flight is void: reading goes on from what was confirmed."""
        acknowledged = self._ledger.forget()
        self._sent = dict(acknowledged.covered)
        self._published = {}
        self._told_before = None
        self._ended = acknowledged.complete
        if self._checkpoint is not None and self._checkpoint.position > acknowledged.position:
            self._checkpoint = None
        if self._tail.position > acknowledged.position:  # else it is on the way there, and must miss nothing of it
            self._tail.seek(acknowledged)

    def save(self) -> None:
        """Writes `ack.json` if something was confirmed since the last time, and `checkpoint.json` when it is due."""
        acknowledged = self._ledger.acknowledged
        if acknowledged is not self._saved:
            acknowledged.save(self.journal)
            self._saved = acknowledged
        checkpoint = None if acknowledged.complete else self._checkpoint
        if checkpoint is not None and acknowledged.position >= checkpoint.position:
            checkpoint.save(self.journal)
            self._checkpoint, self._checkpoint_segment = None, checkpoint.position.segment

    def close(self) -> None:
        self._tail.close()

    def _pack(self, items: list[Item], since: float) -> Iterator[Batch]:
        """The batches for what was read; `since` is the time up to which records were read before.

        Run events are told in order of time, whatever the clock does meanwhile: the latest counts downstream.
        """
        rows: list[RowBlock | TextRow] = []
        lines: list[Event] = []
        records: list[Event] = []
        topic = "system" if self.identity.role == "system" else "metrics"
        covered = {name: self._sent.get(name, 0) for name in (topic, "logs", "runs")}
        for item in items:
            since = max(since, *times_of(item))
            if isinstance(item, RowBlock):
                if item.sequences[-1] > covered[topic]:
                    rows.append(after(item, covered[topic]))
            elif isinstance(item, TextRow):
                if item.sequence > covered[topic]:
                    rows.append(item)
            elif item.kind == "console":
                if item.sequence > covered["logs"]:
                    lines.append(item)
            elif item.kind in run_events.KINDS and item.sequence > covered["runs"] and self._speaks_of(item):
                records.append(replace(item, time=since))
        batches = packing.system_batches if topic == "system" else packing.metric_batches
        ending = next((record.sequence for record in records if record.kind == "finish"), None)
        yield from batches(self.identity, covered[topic] + 1, rows)
        yield from packing.log_batches(self.identity, covered["logs"] + 1, lines)
        yield from run_events.run_events(
            self.identity,
            covered["runs"] + 1,
            records,
            self._tail.counters,
            {} if ending is None else self._summary_changes(ending),
        )

    def _speaks_of(self, record: Event) -> bool:
        """A journal of samples tells of the run that it is alive, and of itself what it counted."""
        return self.identity.role == "run" or record.kind in ("heartbeat", "finish")

    def _killed(self) -> Iterator[Batch]:
        """The end of a run whose process is gone. It is the same event however often it is sent."""
        last = self._tail.sequence + 1
        first = self._sent.get("runs", 0) + 1
        if first <= last:
            time = max(note_death(self.journal, self._tail.last_time), self._tail.latest_time)
            yield run_events.killed(self.identity, first, last, time, self._tail.counters, self._summary_changes(last))

    def _end(self, batches: Iterable[Batch]) -> None:
        self._ended = True
        self._send(batches, complete=True)

    def _send(self, batches: Iterable[Batch], *, complete: bool = False) -> None:
        tickets: set[Ticket] = set()
        for event in batches:
            topic = events.schema_name(type(event))
            self._sent[topic] = event.origin.last_sequence
            message = self._message(topic, event)
            if message is not None:
                ticket = (self.identity.writer, next(self._tickets))
                tickets.add(ticket)
                self._delivery.send(message, ticket)
        position = self._tail.position
        confirmed = self._ledger.acknowledged
        if position < confirmed.position or (position == confirmed.position and not tickets and not complete):
            return  # on the way to where an earlier forwarder was
        reached = Acknowledged(position, self._tail.sequence, dict(self._sent), self._tail.counters, complete)
        self._ledger.sent(tickets, reached)
        if self._checkpoint is None and position.segment > self._checkpoint_segment and not complete:
            self._checkpoint = self._tail.checkpoint(reached)

    def _message(self, topic: str, event: Batch) -> Message | None:
        try:
            payload = events.encode(event, self._framing)
        except EncodeError as error:
            self._give_up(topic, str(error))
            return None
        if len(payload) > TOPICS[topic].max_message_bytes - ENVELOPE_BYTES:
            if isinstance(event, events.RunEvent) and (event.config or event.summary or event.environment):
                self._give_up(topic, f"its values have {len(payload)} bytes; it goes without them")
                return self._message(topic, replace(event, config={}, summary={}, environment={}))
            self._give_up(topic, f"{len(payload)} bytes are more than a message may have")
            return None
        return Message(topic, events.message_key(event) or b"", payload)

    def _give_up(self, topic: str, why: str) -> None:
        self.undeliverable += 1
        logger.error("run %s: a message for %s cannot be sent as it is: %s", self.identity.run_id, topic, why)

    def _summary_changes(self, last: int) -> dict[str, str | None]:
        """What the event up to the record `last` says of the summary: what it has that was not published yet, and,
        as None, the keys that it has no more.

        An event of what was told before is dropped downstream, and the summary in it with it. So only what is told
        beyond that counts as published; until then each event says all.
        """
        if self._fold is None:
            return {}
        current: dict[str, str | None] = dict.fromkeys((*self._published, *self._fold.removed()))
        current.update((key, run_events.to_json(value)) for key, value in self._fold.values().items())
        published = self._published.items()
        changes = {key: value for key, value in current.items() if (key, value) not in published}
        if self._told_before is not None and last > self._told_before:
            self._published = current
        return changes

    def _look_at_damage(self, now: float) -> None:
        damage = self._tail.damage
        if damage is None or damage.torn:
            self._damage_at = None
            return
        if self._damage_at is None:
            logger.error(
                "journal %s is damaged at offset %d of segment %d: %s; %d bytes from there on cannot be read",
                self.journal,
                damage.offset,
                damage.segment,
                damage.reason,
                damage.bytes_left,
            )
        self._damage_at = now


def confirmed_of(journal: Path) -> Acknowledged:
    """What Kafka has confirmed of the journal, by `ack.json`, or by the checkpoint should that say more.

    Neither file is synced: after a loss of power, the one may be older than the other. Where the run was taken for
    killed, and its process has written on since, the end that was told is void.
    """
    acknowledged, checkpoint = Acknowledged.load(journal), Checkpoint.load(journal)
    if checkpoint is not None and checkpoint.position > acknowledged.position:
        return checkpoint.acknowledged
    if acknowledged.complete and has_records(journal, acknowledged.position):
        covered = {topic: min(last, acknowledged.sequence) for topic, last in acknowledged.covered.items()}
        return replace(acknowledged, complete=False, covered=covered)
    return acknowledged


def has_records(journal: Path, position: Position) -> bool:
    """Whether the journal holds a record from this position on."""
    with JournalReader(journal, position) as reader:
        return bool(reader.read(1))


def note_death(journal: Path, time: float) -> float:
    """Leaves in the journal's folder when its process was found gone. The first note counts; returns its time.

    A note that cannot be written (a full disk) is a time that may differ when the end is sent again.
    """
    noted = read_json(journal / END_FILE)
    if noted is not None and isinstance(noted.get("time"), int | float):
        return float(noted["time"])
    try:
        write_atomically(journal / END_FILE, json.dumps({"time": time}).encode())
    except OSError as error:
        logger.warning("the time of the end of %s could not be noted: %s", journal, error)
    return time
