"""The loop of every consumer service: read, batch by partition, announce, store, commit; again after every failure.

One thread polls, decodes and commits; another stores. While a round of batches is stored, the next one is read, and
when enough waits, partitions are paused and the polling goes on, so that the group never takes a slow store for a dead
consumer. The order that makes a batch count once is held here: its range is committed as pending before it is stored,
its dead letters are acknowledged and its rows are safe before its end is committed. The end of one round and the
announcement of the next are one commit, for all partitions.

After a rebalance, everything about a partition that went away is dropped, not flushed: whoever has it now reads the
pending range and stores the same rows under the same token, so it does not matter who was first, or whether both were.
"""

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from random import Random
from typing import Generic

from pulsetrain_consumers.runtime.backoff import Backoff
from pulsetrain_consumers.runtime.batching import Limits
from pulsetrain_consumers.runtime.broker import (
    Assigned,
    BrokerUnavailable,
    Clock,
    CommitRefused,
    Consumer,
    Partition,
    Position,
    Record,
    Revoked,
)
from pulsetrain_consumers.runtime.dead_letters import DeadLetters
from pulsetrain_consumers.runtime.health import Health
from pulsetrain_consumers.runtime.ownership import Owned, Ownership
from pulsetrain_consumers.runtime.sink import Batch, M, Rejected, Sink, StoreUnavailable, Unprocessable
from pulsetrain_consumers.runtime.telemetry import Telemetry

log = logging.getLogger(__name__)

IDLE_COMMIT_SECONDS = 1.0
PROBE_SECONDS = 5.0
_IDLE_POLL_SECONDS = 0.05
_BUSY_POLL_SECONDS = 0.005


@dataclass(slots=True, eq=False)
class _Round(Generic[M]):
    """Batches on their way into the store, one a partition; without batches, a look whether the store is there."""

    batches: list[Batch[M]]
    announced: bool = False
    future: Future[None] | None = None
    retry_at: float = 0.0
    started: float = 0.0


class Loop(Generic[M]):
    """Moves messages from a consumer into a sink. `tick` does a bounded piece of work; call it until it is to stop."""

    def __init__(
        self,
        consumer: Consumer,
        sink: Sink[M],
        dead_letters: DeadLetters,
        *,
        executor: Executor,
        clock: Clock,
        random: Random,
        telemetry: Telemetry,
        health: Health,
        limits: Limits,
    ) -> None:
        self._consumer = consumer
        self._sink = sink
        self._dead_letters = dead_letters
        self._executor = executor
        self._clock = clock
        self._telemetry = telemetry
        self._health = health
        self._limits = limits
        self._owned: Ownership[M] = Ownership(consumer, limits, lambda: f"{random.getrandbits(32):08x}")
        self._round: _Round[M] | None = None
        self._store_backoff = Backoff(random)
        self._broker_backoff = Backoff(random)
        self._locate_at = 0.0
        self._store_seen: float | None = None
        health.problem("store", "not reached yet")
        health.problem("start", None)

    def run(self, stopping: Callable[[], bool], grace: float) -> None:
        """Works until `stopping`, then stores and commits what was read, and leaves within `grace` seconds."""
        while not stopping():
            self.tick()
        self.finish(grace)

    def tick(self, timeout: float | None = None) -> None:
        """Polls once, for at most `timeout` seconds, and does what there is to do."""
        polled = self._consumer.poll(self._patience() if timeout is None else timeout)
        for rebalance in polled.rebalances:
            self._rebalanced(rebalance)
        now = self._clock.monotonic()
        self._locate(now)
        self._accept(polled.records, now)
        self._advance(now)
        self._begin(now)
        self._commit_when_idle(now)
        self._regulate()
        self._broker_problem(self._consumer.problem())
        self._health.tick()

    def finish(self, grace: float) -> None:
        """Stores what was read and commits it, as far as that is possible in `grace` seconds, and leaves the group."""
        deadline = self._clock.monotonic() + grace
        while self._clock.monotonic() < deadline:
            for owned in self._owned:
                self._consumer.pause([owned.partition])
            for rebalance in self._consumer.poll(_BUSY_POLL_SECONDS).rebalances:
                self._rebalanced(rebalance)
            now = self._clock.monotonic()
            self._advance(now)
            self._begin(now, everything=True)
            if not self._in_round() and not any(owned.cuttable() for owned in self._owned):
                break
        if self._round is not None:
            self._abandon(lambda _: True)
        self._commit_ends()
        self._consumer.close()

    # -- reading

    def _rebalanced(self, rebalance: Assigned | Revoked) -> None:
        self._telemetry.rebalances.inc()
        names = ", ".join(map(str, sorted(rebalance.partitions))) or "no partitions"
        if isinstance(rebalance, Revoked):
            log.info("revoked: %s", names)
            self._abandon(lambda batch: batch.partition in rebalance.partitions)
            for partition in rebalance.partitions:
                self._owned.revoke(partition)
                self._telemetry.lag.remove(partition.topic, str(partition.number))
        else:
            log.info("assigned: %s", names)
            self._abandon(lambda batch: batch.partition in rebalance.partitions)
            for partition in rebalance.partitions:
                self._owned.assign(partition)
            self._locate_at = 0.0

    def _locate(self, now: float) -> None:
        for partition in self._owned.recreated():
            log.warning("%s: the topic was deleted and created again", partition)
            self._abandon_partition(partition)
            self._owned.assign(partition)
        if not self._owned.unlocated or now < self._locate_at:
            return
        for partition in sorted(self._owned.unlocated):
            try:
                found = self._owned.locate(partition)
            except BrokerUnavailable as error:
                self._broker_failed("locate", error)
                self._locate_at = now + self._broker_backoff.delay()
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

    def _accept(self, records: Sequence[Record], now: float) -> None:
        put_back: set[Partition] = set()
        for record in records:
            owned = self._owned.get(record.partition)
            if owned is None or record.partition in put_back:
                continue
            if record.offset < owned.next_offset:
                self._went_back(owned, record.offset)
                put_back.add(record.partition)
                continue
            if record.offset > owned.next_offset:
                self._telemetry.expired.labels(record.partition.topic).inc(record.offset - owned.next_offset)
                log.warning("%s: offsets %d to %d are gone", record.partition, owned.next_offset, record.offset - 1)
            try:
                owned.buffer.add(record, self._sink.decode(record), None, now)
            except Unprocessable as error:
                owned.buffer.add(record, None, Rejected(record, error.reason, error.error), now)
            except StoreUnavailable as error:
                self._decoding_failed(record, error)
                put_back.add(record.partition)
                continue
            owned.next_offset = record.offset + 1
            self._telemetry.messages.labels(record.partition.topic).inc()
            self._health.problem("decoding", None)

    def _went_back(self, owned: Owned[M], offset: int) -> None:
        """The partition is read again from an offset that lies before what was read, beginning with the next poll."""
        log.warning(
            "%s: the log went back from offset %d to %d; it was cut, or the topic was created again",
            owned.partition,
            owned.next_offset,
            offset,
        )
        self._abandon_partition(owned.partition)
        self._owned.relocate(owned.partition, offset)

    def _decoding_failed(self, record: Record, error: StoreUnavailable) -> None:
        """What is needed to read the record (a schema registry) is away: the record is read again at the next poll."""
        self._telemetry.errors.labels("decoding").inc()
        if self._health.problem("decoding", str(error)):
            log.warning("%s: offset %d waits: %s", record.partition, record.offset, error)
        self._consumer.seek(record.partition, record.offset)

    # -- storing

    def _begin(self, now: float, *, everything: bool = False) -> None:
        """Cuts a batch of every partition that has something, once any of them is due."""
        if self._round is not None:
            return
        if any(owned.due(now) or (everything and owned.cuttable()) for owned in self._owned):
            batches = [owned.cut(now) for owned in self._owned if owned.cuttable()]
            self._round = _Round(batches)
        elif not everything and (self._store_seen is None or now - self._store_seen > PROBE_SECONDS):
            self._round = _Round([], announced=True)
        self._advance(now)

    def _advance(self, now: float) -> None:
        """Takes the round as far as it goes without waiting."""
        current = self._round
        if current is None or now < current.retry_at:
            return
        if not current.announced and not self._announce(current, now):
            return
        if current.future is None:
            current.started = now
            current.future = self._executor.submit(self._store, current.batches)
        if not current.future.done():
            return
        future, current.future = current.future, None
        try:
            future.result()
        except (StoreUnavailable, BrokerUnavailable) as error:
            self._store_failed(current, error, now)
        else:
            self._stored(current, now)

    def _announce(self, current: _Round[M], now: float) -> bool:
        """Commits the ranges as pending, and the ends of what was stored before; whether storing may begin."""
        positions = self._ends()
        for batch in current.batches:
            owned = self._owned.of(batch)
            if owned is not None and not batch.abandoned:
                positions[batch.partition] = owned.progress.pending_position(batch.range)
        if not positions:
            self._round = None
            return False
        if not self._commit(positions, now):
            if self._round is current:
                current.retry_at = now + self._broker_backoff.delay()
            return False
        current.announced = True
        return True

    def _store(self, batches: Sequence[Batch[M]]) -> None:
        """On the storing thread: everything that must be true before the end of a batch may be committed."""
        if not batches:
            self._sink.check()
            return
        live = [batch for batch in batches if not batch.abandoned]
        refused = self._sink.store(live)
        self._dead_letters.publish([entry for batch in live for entry in batch.rejected] + list(refused))

    def _stored(self, current: _Round[M], now: float) -> None:
        self._store_backoff.reset()
        self._store_seen = now
        self._health.problem("dead letters", None)
        if self._health.problem("store", None):
            log.info("the store takes rows")
        for batch in current.batches:
            owned = self._owned.of(batch)
            if owned is None or batch.abandoned:
                continue
            owned.stored_end = batch.range.last + 1
            owned.stored_at = now
            self._telemetry.batch_rows.labels(batch.partition.topic).observe(batch.rows)
        if current.batches:
            self._telemetry.store_seconds.observe(now - current.started)
        self._round = None

    def _store_failed(self, current: _Round[M], error: Exception, now: float) -> None:
        part = "store" if isinstance(error, StoreUnavailable) else "dead letters"
        self._telemetry.errors.labels(part).inc()
        if self._health.problem(part, str(error)):
            log.warning("waiting: %s", error)
        if current.batches and all(batch.abandoned for batch in current.batches):
            self._round = None
            return
        current.retry_at = now + self._store_backoff.delay()

    def _abandon_partition(self, partition: Partition) -> None:
        self._abandon(lambda batch: batch.partition == partition)

    def _abandon(self, which: Callable[[Batch[M]], bool]) -> None:
        current = self._round
        if current is None:
            return
        for batch in current.batches:
            if which(batch):
                batch.abandoned = True
        if current.future is None and current.batches and all(batch.abandoned for batch in current.batches):
            self._round = None

    # -- committing

    def _ends(self) -> dict[Partition, Position]:
        ends = ((owned.partition, owned.end_position()) for owned in self._owned)
        return {partition: position for partition, position in ends if position is not None}

    def _commit_when_idle(self, now: float) -> None:
        if self._round is not None and not self._round.announced:
            return
        oldest = min((owned.stored_at for owned in self._owned if owned.stored_end is not None), default=now)
        if now - oldest >= IDLE_COMMIT_SECONDS and now >= self._locate_at and not self._in_round():
            self._commit(self._ends(), now)

    def _in_round(self) -> bool:
        return self._round is not None and bool(self._round.batches)

    def _commit_ends(self) -> None:
        ends = self._ends()
        if ends:
            self._commit(ends, self._clock.monotonic())

    def _commit(self, positions: dict[Partition, Position], now: float) -> bool:
        """Commits; whether it is certain that the commit stands and that the partitions are still this consumer's."""
        began = self._clock.monotonic()
        try:
            self._consumer.commit(positions)
        except CommitRefused as error:
            # Someone else may have these partitions by now. Nothing of ours may be stored on the strength of an
            # announcement that was not heard, so all is read again from what is committed.
            log.info("the group did not take a commit: %s", error)
            self._telemetry.errors.labels("commit_refused").inc()
            self._abandon(lambda _: True)
            self._owned.start_over()
            self._locate_at = now + self._broker_backoff.delay()
            return False
        except BrokerUnavailable as error:
            self._broker_failed("commit", error)
            return False
        self._broker_backoff.reset()
        self._health.problem("group", None)
        self._telemetry.commit_seconds.observe(self._clock.monotonic() - began)
        for partition in positions:
            owned = self._owned.get(partition)
            if owned is not None:
                owned.stored_end = None
        return True

    # -- pace

    def _regulate(self) -> None:
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

    def _patience(self) -> float:
        """How long the next poll may wait for records."""
        if self._round is not None:
            return _BUSY_POLL_SECONDS
        now = self._clock.monotonic()
        waits = [
            owned.buffer.since + self._limits.max_age - now for owned in self._owned if owned.buffer.since is not None
        ]
        return max(0.0, min([_IDLE_POLL_SECONDS, *waits]))

    def _broker_failed(self, what: str, error: BrokerUnavailable) -> None:
        self._telemetry.errors.labels("kafka").inc()
        if self._health.problem("group", str(error)):
            log.warning("waiting for Kafka (%s): %s", what, error)

    def _broker_problem(self, problem: str | None) -> None:
        if self._health.problem("kafka", problem):
            if problem is None:
                log.info("Kafka answers")
            else:
                log.warning("waiting: %s", problem)
