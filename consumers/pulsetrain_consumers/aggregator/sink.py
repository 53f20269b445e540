"""The aggregator's sink: notes what changes, waits until the writers have stored it, and has it computed anew.

No state lives here. A batch that is given again, after a crash or to another process, marks the same buckets, and these
come out as the tables say; so exactly-once needs no token and no ledger, only that nothing is committed before it is
computed.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Any

from pulsetrain_consumers.aggregator.changes import Changes, changes_of, merged
from pulsetrain_consumers.aggregator.store import AggregateStore
from pulsetrain_consumers.aggregator.stored import Stored, stored_up_to
from pulsetrain_consumers.aggregator.telemetry import AggregatorTelemetry
from pulsetrain_consumers.clickhouse import ClickHouseError
from pulsetrain_consumers.runtime.batching import Limits
from pulsetrain_consumers.runtime.broker import BrokerUnavailable, Clock, Record
from pulsetrain_consumers.runtime.sink import Batch, Message, Rejected, StoreUnavailable
from pulsetrain_schemas import events, registry
from pulsetrain_schemas.columnar import DecodeError
from pulsetrain_schemas.events import MetricBatch, RunEvent, SystemBatch
from pulsetrain_schemas.framing import Framing, UnknownSchema
from pulsetrain_schemas.topics import TOPICS

log = logging.getLogger(__name__)

_EVENTS: dict[str, type[Any]] = {
    TOPICS["runs"].kafka_name: RunEvent,
    TOPICS["metrics"].kafka_name: MetricBatch,
    TOPICS["system"].kafka_name: SystemBatch,
}
AGGREGATOR_TOPICS = tuple(_EVENTS)
LIMITS = Limits(
    rows=200_000,
    payload_bytes=128 << 20,
    messages=20_000,
    max_age=20.0,
    total_rows=1_000_000,
    total_bytes=512 << 20,
)
"""A row, here, is a bucket that is marked. Payloads are not kept: so many bytes measure how much is read at once, and
not memory."""

_LOOK_SECONDS = 0.2
_WAIT_SECONDS = 5.0
_HURRY_SECONDS = 5.0


class AggregatorSink:
    """Computes aggregates. `decode` is called on one thread and `store` on another.

    `pause` waits for so many seconds, on the storing thread.
    """

    def __init__(
        self,
        store: AggregateStore,
        stored: Stored,
        framing: Framing,
        clock: Clock,
        telemetry: AggregatorTelemetry,
        pause: Callable[[float], None],
        limits: Limits = LIMITS,
    ) -> None:
        self._store = store
        self._stored = stored
        self._framing = framing
        self._clock = clock
        self._telemetry = telemetry
        self._pause = pause
        self._limits = limits
        self._hurried: float | None = None

    def decode(self, record: Record) -> Message[Changes]:
        """What the record changes. One that cannot be read changes nothing: the writers put it aside, once."""
        # The payload has told what it has to tell, and a batch waits long: it is let go.
        bare = record._replace(value=None, key=None)
        if record.value is None:
            return Message(bare, Changes(), 0)
        try:
            event = events.decode(record.value, _EVENTS[record.partition.topic], self._framing)
            changes = changes_of(event)
        except (UnknownSchema, DecodeError):
            self._telemetry.errors.labels("unreadable").inc()
            return Message(bare, Changes(), 0)
        except registry.RegistryError as error:
            raise StoreUnavailable(str(error)) from error
        except Exception:  # a fault of ours must not stop the partition
            log.exception(
                "%s, offset %d: cannot be read for a reason that nobody thought of", bare.partition, bare.offset
            )
            self._telemetry.errors.labels("unreadable").inc()
            return Message(bare, Changes(), 0)
        rows = changes.size
        if isinstance(event, RunEvent) and event.kind == "finish" and self._may_hurry():
            # A batch that is full is cut at once: the end of a run shall not wait for others to be stored with it.
            rows = self._limits.rows
        return Message(bare, changes, rows)

    def store(self, batches: Sequence[Batch[Changes]]) -> Sequence[Rejected]:
        changes = merged(message.body for batch in batches for message in batch.messages)
        if not changes:
            return ()
        try:
            self._wait_for_writers([batch for batch in batches if any(message.body for message in batch.messages)])
            if all(batch.abandoned for batch in batches):
                return ()
            began = self._clock.monotonic()
            buckets = self._store.recompute(changes)
        except (ClickHouseError, BrokerUnavailable) as error:
            raise StoreUnavailable(str(error)) from error
        self._telemetry.buckets.inc(buckets)
        self._telemetry.recompute_seconds.observe(self._clock.monotonic() - began)
        return ()

    def check(self) -> None:
        try:
            self._store.check()
        except ClickHouseError as error:
            raise StoreUnavailable(str(error)) from error

    def _may_hurry(self) -> bool:
        """Whether no run's end was hurried for lately: where many end, each round shall still be worth its while."""
        now = self._clock.monotonic()
        if self._hurried is not None and now - self._hurried < _HURRY_SECONDS:
            return False
        self._hurried = now
        return True

    def _wait_for_writers(self, batches: Sequence[Batch[Changes]]) -> None:
        """Returns when the batches are in the tables. Raises StoreUnavailable after a while, and BrokerUnavailable."""
        deadline = self._clock.monotonic() + _WAIT_SECONDS
        while True:
            waiting = [batch for batch in batches if not batch.abandoned]
            if not waiting:
                return
            found = self._stored.committed([batch.partition for batch in waiting])
            behind = [
                batch
                for batch in waiting
                if stored_up_to(found.get(batch.partition), _topic_id(batch)) <= batch.range.last
            ]
            if not behind:
                return
            if self._clock.monotonic() >= deadline:
                first = behind[0]
                at = found.get(first.partition)
                raise StoreUnavailable(
                    f"the writers have stored {first.partition} up to offset {at.offset if at else 'none'}, and "
                    f"{first.range.last} is to be aggregated: are they running?"
                )
            self._pause(_LOOK_SECONDS)


def _topic_id(batch: Batch[Changes]) -> str:
    """The id of the batch's topic, with which its token begins (`Progress.token`)."""
    return batch.token.partition(":")[0]
