"""What goes out: batches in rounds, announced, stored and committed, and again after every failure.

The order that makes a batch count once is held here: its range is committed as pending before it is stored, its dead
letters are acknowledged and its rows are safe before its end is committed. The end of one round and the announcement of
the next are one commit, for all partitions.
"""

import logging
from collections.abc import Collection, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import Generic

from pulsetrain_consumers.runtime.backoff import Backoff
from pulsetrain_consumers.runtime.broker import (
    BrokerUnavailable,
    Clock,
    CommitRefused,
    Consumer,
    Partition,
    Position,
)
from pulsetrain_consumers.runtime.dead_letters import DeadLetters
from pulsetrain_consumers.runtime.health import Health
from pulsetrain_consumers.runtime.ownership import Ownership
from pulsetrain_consumers.runtime.sink import Batch, M, Sink, StoreUnavailable
from pulsetrain_consumers.runtime.telemetry import Telemetry

log = logging.getLogger(__name__)

IDLE_COMMIT_SECONDS = 1.0
PROBE_SECONDS = 5.0


@dataclass(slots=True, eq=False)
class _Round(Generic[M]):
    """Batches on their way into the store, one a partition; without batches, a look whether the store is there."""

    batches: list[Batch[M]]
    announced: bool = False
    future: Future[None] | None = None
    retry_at: float = 0.0
    started: float = 0.0


class Rounds(Generic[M]):
    """At most one round at a time. All but the storing itself is done on the thread that calls."""

    def __init__(
        self,
        consumer: Consumer,
        sink: Sink[M],
        dead_letters: DeadLetters,
        owned: Ownership[M],
        *,
        executor: Executor,
        clock: Clock,
        store_backoff: Backoff,
        broker_backoff: Backoff,
        telemetry: Telemetry,
        health: Health,
    ) -> None:
        self._consumer = consumer
        self._sink = sink
        self._dead_letters = dead_letters
        self._owned = owned
        self._executor = executor
        self._clock = clock
        self._store_backoff = store_backoff
        self._broker_backoff = broker_backoff
        self._telemetry = telemetry
        self._health = health
        self._round: _Round[M] | None = None
        self._store_seen: float | None = None

    @property
    def busy(self) -> bool:
        """Whether batches are on their way into the store."""
        return self._round is not None and bool(self._round.batches)

    @property
    def idle(self) -> bool:
        """Whether there is nothing to see to: no batches, and no look whether the store is there."""
        return self._round is None

    def begin(self, now: float, *, everything: bool = False) -> None:
        """Cuts a batch of every partition that has something, once any of them is due."""
        if self._round is not None:
            return
        if any(owned.due(now) or (everything and owned.cuttable()) for owned in self._owned):
            batches = [owned.cut(now) for owned in self._owned if owned.cuttable()]
            self._round = _Round(batches)
        elif not everything and (self._store_seen is None or now - self._store_seen > PROBE_SECONDS):
            self._round = _Round([], announced=True)
        self.advance(now)

    def advance(self, now: float) -> None:
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

    def abandon(self, partitions: Collection[Partition]) -> None:
        """Nothing of these partitions is committed any more; what of them is not yet being stored is not stored."""
        current = self._round
        if current is None:
            return
        for batch in current.batches:
            if batch.partition in partitions:
                batch.abandoned = True
        if current.future is None and current.batches and all(batch.abandoned for batch in current.batches):
            self._round = None

    def abandon_all(self) -> None:
        """As `abandon`, for every partition."""
        if self._round is not None:
            self.abandon({batch.partition for batch in self._round.batches})

    def _ends(self) -> dict[Partition, Position]:
        ends = ((owned.partition, owned.end_position()) for owned in self._owned)
        return {partition: position for partition, position in ends if position is not None}

    def commit_when_idle(self, now: float) -> None:
        """Commits the ends of what was stored a while ago, where no round came to take them along."""
        if self._round is not None and not self._round.announced:
            return
        oldest = min((owned.stored_at for owned in self._owned if owned.stored_end is not None), default=now)
        if now - oldest >= IDLE_COMMIT_SECONDS and now >= self._owned.locate_at and not self.busy:
            self._commit(self._ends(), now)

    def commit_ends(self) -> None:
        """Commits the ends of all that is stored."""
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
            self.abandon_all()
            self._owned.start_over()
            self._owned.locate_at = now + self._broker_backoff.delay()
            return False
        except BrokerUnavailable as error:
            self.broker_failed("commit", error)
            return False
        self._broker_backoff.reset()
        self._health.problem("group", None)
        self._telemetry.commit_seconds.observe(self._clock.monotonic() - began)
        for partition in positions:
            owned = self._owned.get(partition)
            if owned is not None:
                owned.stored_end = None
        return True

    def broker_failed(self, what: str, error: BrokerUnavailable) -> None:
        """Counts a failure and says it, where it is news."""
        self._telemetry.errors.labels("kafka").inc()
        if self._health.problem("group", str(error)):
            log.warning("waiting for Kafka (%s): %s", what, error)
