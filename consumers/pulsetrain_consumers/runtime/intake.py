"""What comes in: partitions that come and go, where to read on in them, and messages, decoded and waiting.

After a rebalance, everything about a partition that went away is dropped, not flushed: whoever has it now reads the
pending range and stores the same rows under the same token, so it does not matter who was first, or whether both were.
"""

import logging
from collections import Counter
from collections.abc import Sequence
from typing import Generic

from pulsetrain_consumers.runtime.backoff import Backoff
from pulsetrain_consumers.runtime.batching import Limits
from pulsetrain_consumers.runtime.broker import (
    Assigned,
    BrokerUnavailable,
    Consumer,
    Partition,
    Record,
    Revoked,
)
from pulsetrain_consumers.runtime.health import Health
from pulsetrain_consumers.runtime.ownership import Owned, Ownership
from pulsetrain_consumers.runtime.rounds import Rounds
from pulsetrain_consumers.runtime.sink import M, Rejected, Sink, StoreUnavailable, Unprocessable
from pulsetrain_consumers.runtime.telemetry import Telemetry

log = logging.getLogger(__name__)


class Intake(Generic[M]):
    """Fills the buffers of the partitions that are owned, and pauses those that hold enough."""

    def __init__(
        self,
        consumer: Consumer,
        sink: Sink[M],
        owned: Ownership[M],
        rounds: Rounds[M],
        *,
        backoff: Backoff,
        telemetry: Telemetry,
        health: Health,
        limits: Limits,
    ) -> None:
        self._consumer = consumer
        self._sink = sink
        self._owned = owned
        self._rounds = rounds
        self._backoff = backoff
        self._telemetry = telemetry
        self._health = health
        self._limits = limits

    def rebalanced(self, rebalance: Assigned | Revoked) -> None:
        """Takes partitions on, or lets them go."""
        self._telemetry.rebalances.inc()
        names = ", ".join(map(str, sorted(rebalance.partitions))) or "no partitions"
        if isinstance(rebalance, Revoked):
            log.info("revoked: %s", names)
            self._rounds.abandon(rebalance.partitions)
            for partition in rebalance.partitions:
                self._owned.revoke(partition)
                self._telemetry.lag.remove(partition.topic, str(partition.number))
        else:
            log.info("assigned: %s", names)
            self._rounds.abandon(rebalance.partitions)
            for partition in rebalance.partitions:
                self._owned.assign(partition)
            self._owned.locate_at = 0.0

    def forget_recreated(self) -> None:
        """Drops all of the partitions whose topic is another one than it was; `locate` begins with the new one."""
        for partition in self._owned.recreated():
            log.warning("%s: the topic was deleted and created again", partition)
            self._rounds.abandon({partition})
            self._owned.assign(partition)

    def locate(self, now: float) -> None:
        """Finds where to read on in partitions that are new here. What was polled before is not from there."""
        if not self._owned.unlocated or now < self._owned.locate_at:
            return
        for partition in sorted(self._owned.unlocated):
            try:
                found = self._owned.locate(partition)
            except BrokerUnavailable as error:
                self._rounds.broker_failed("locate", error)
                self._owned.locate_at = now + self._backoff.delay()
                return
            self._health.problem("group", None)
            if found is None:
                continue  # the client has not heard of the topic yet
            if found.replay is not None:
                self._telemetry.replays.inc()
                log.info("%s: offsets %d to %d are stored again", partition, found.replay.first, found.replay.last)
            if found.expired:
                self._telemetry.expired.labels(partition.topic).inc(found.expired)
            if found.note:
                log.warning("%s: reading on at offset %d: %s", partition, found.offset, found.note)

    def accept(self, records: Sequence[Record], now: float) -> None:
        """Decodes what was polled into the buffers."""
        put_back: set[Partition] = set()
        taken: Counter[str] = Counter()
        waits = False
        for record in records:
            partition, offset = record.partition, record.offset
            owned = self._owned.get(partition)
            if owned is None or partition in put_back:
                continue
            if offset != owned.next_offset:
                if offset < owned.next_offset:
                    self._went_back(owned, offset)
                    put_back.add(partition)
                    continue
                self._telemetry.expired.labels(partition.topic).inc(offset - owned.next_offset)
                log.warning("%s: offsets %d to %d are gone", partition, owned.next_offset, offset - 1)
            try:
                owned.buffer.add(record, self._sink.decode(record), None, now)
            except Unprocessable as error:
                owned.buffer.add(record, None, Rejected(record, error.reason, error.error), now)
            except StoreUnavailable as error:
                self._decoding_failed(record, error)
                put_back.add(partition)
                waits = True
                continue
            owned.next_offset = offset + 1
            taken[partition.topic] += 1
        for topic, count in taken.items():
            self._telemetry.messages.labels(topic).inc(count)
        if taken and not waits:
            self._health.problem("decoding", None)

    def _went_back(self, owned: Owned[M], offset: int) -> None:
        """The partition is read again from an offset that lies before what was read, beginning with the next poll."""
        log.warning(
            "%s: the log went back from offset %d to %d; it was cut, or the topic was created again",
            owned.partition,
            owned.next_offset,
            offset,
        )
        self._rounds.abandon({owned.partition})
        self._owned.relocate(owned.partition, offset)

    def _decoding_failed(self, record: Record, error: StoreUnavailable) -> None:
        """What is needed to read the record (a schema registry) is away: the record is read again at the next poll."""
        self._telemetry.errors.labels("decoding").inc()
        if self._health.problem("decoding", str(error)):
            log.warning("%s: offset %d waits: %s", record.partition, record.offset, error)
        self._consumer.seek(record.partition, record.offset)

    def regulate(self) -> None:
        """Pauses what has enough, and all when the whole has; resumes the rest. A replay is never held up."""
        rows = sum(owned.buffer.rows for owned in self._owned)
        size = sum(owned.buffer.payload_bytes for owned in self._owned)
        too_much = rows >= self._limits.total_rows or size >= self._limits.total_bytes
        for owned in self._owned:
            pause = (too_much or owned.buffer.full) and not owned.replaying
            if pause and not owned.paused:
                self._consumer.pause([owned.partition])
            elif owned.paused and not pause:
                self._consumer.resume([owned.partition])
            owned.paused = pause
        self._telemetry.buffered_rows.set(rows)
        self._telemetry.paused.set(sum(owned.paused for owned in self._owned))

    def measure_lag(self) -> None:
        """Updates the lag of every partition, from what the last fetches told."""
        for owned in self._owned:
            end = self._consumer.known_end(owned.partition)
            if end is not None:
                waiting = len(owned.buffer) + max(0, end - owned.next_offset)
                self._telemetry.lag.labels(owned.partition.topic, str(owned.partition.number)).set(waiting)
