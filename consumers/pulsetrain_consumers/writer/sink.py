"""The writer's sink: decodes events, leaves out what is stored already, fills the tables, and writes the ledger last.

Equal batches become equal inserts: what is left out depends on the ledger alone, and the ledger learns of a batch only
after all of its rows are safe. So a batch that is stored again after a crash either finds itself in the ledger, and
nothing is left to store, or it is cut to the very rows of the first time, and its token counts.

Alerts and dead letters have no writer with sequences, and so no ledger: the token makes them count once, and an alert's
own number, or a letter's place in its topic, tells the rows apart.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from pulsetrain_consumers.clickhouse import ClickHouseError, ClickHouseRefused
from pulsetrain_consumers.runtime.broker import Clock, Partition, Record
from pulsetrain_consumers.runtime.sink import Batch, Message, Rejected, StoreUnavailable, Unprocessable
from pulsetrain_consumers.runtime.telemetry import Telemetry
from pulsetrain_consumers.writer import tables
from pulsetrain_consumers.writer.coverage import Coverage, Intervals, Writer
from pulsetrain_consumers.writer.store import Columns, Store
from pulsetrain_consumers.writer.tables import Kept, PlacedLetter
from pulsetrain_schemas import events, registry
from pulsetrain_schemas.columnar import DecodeError
from pulsetrain_schemas.events import Alert, DeadLetter, LogBatch, MetricBatch, Origin, RunEvent, SystemBatch
from pulsetrain_schemas.framing import Framing, UnknownSchema, schema_id
from pulsetrain_schemas.topics import TOPICS

log = logging.getLogger(__name__)

WriterEvent = MetricBatch | SystemBatch | LogBatch | RunEvent | Alert | PlacedLetter


@dataclass(frozen=True, slots=True)
class _Route:
    """What becomes of one topic. `in_ledger`: its messages say which sequences of their writer they hold."""

    event: type[Any]
    rows: Callable[[Any], int]
    tables: Callable[[Sequence[Kept[Any]]], Mapping[str, Columns]]
    in_ledger: bool = True


_ROUTES: Mapping[str, _Route] = {
    TOPICS["runs"].kafka_name: _Route(RunEvent, tables.run_rows, tables.run_tables),
    TOPICS["metrics"].kafka_name: _Route(MetricBatch, tables.metric_rows, tables.metric_tables),
    TOPICS["system"].kafka_name: _Route(SystemBatch, tables.system_rows, tables.system_tables),
    TOPICS["logs"].kafka_name: _Route(LogBatch, tables.log_rows, tables.log_tables),
    TOPICS["alerts"].kafka_name: _Route(Alert, tables.alert_rows, tables.alert_tables, in_ledger=False),
    TOPICS["dead_letters"].kafka_name: _Route(DeadLetter, tables.letter_rows, tables.letter_tables, in_ledger=False),
}
WRITER_TOPICS = tuple(_ROUTES)
LEDGER = "stored_batches"


@dataclass(frozen=True, slots=True, eq=False)
class _Item:
    """A message of a batch, with what is kept of it: nothing where its run `is_deleted`."""

    record: Record
    kept: Kept[Any]
    is_deleted: bool = False

    @property
    def origin(self) -> Origin:
        return _origin(self.kept.event)


@dataclass(slots=True, eq=False)
class _Stored:
    """What storing a batch came to; it is remembered once the ledger is written."""

    batch: Batch[WriterEvent]
    items: list[_Item]
    intervals: dict[Writer, Intervals]
    rejected: dict[int, Rejected] = field(default_factory=dict)
    duplicates: int = 0


class WriterSink:
    """Fills the tables. `decode` is called on one thread and `store` on another."""

    def __init__(self, store: Store, framing: Framing, clock: Clock, telemetry: Telemetry) -> None:
        self._store = store
        self._framing = framing
        self._clock = clock
        self._telemetry = telemetry
        self._coverage = Coverage()

    def decode(self, record: Record) -> Message[WriterEvent]:
        route = _ROUTES[record.partition.topic]
        if record.value is None:
            raise Unprocessable("undecodable", "the message has no value")
        try:
            event = events.decode(record.value, route.event, self._framing)
        except UnknownSchema as error:
            raise Unprocessable("unknown_schema", str(error)) from error
        except DecodeError as error:
            raise Unprocessable("undecodable", str(error)) from error
        except registry.RegistryError as error:
            raise StoreUnavailable(str(error)) from error
        except Exception as error:  # a fault of ours must not stop the partition: what is put aside can be replayed
            log.exception("a message cannot be read for a reason that nobody thought of")
            raise Unprocessable("undecodable", repr(error)) from error
        if isinstance(event, DeadLetter):
            event = PlacedLetter(event, record.partition.number, record.offset)
        return Message(record, event, route.rows(event))

    def store(self, batches: Sequence[Batch[WriterEvent]]) -> Sequence[Rejected]:
        try:
            # First of all: what the ledger says before the tables are exchanged does not hold after it.
            look = self._store.look()
            if look.held is not None:
                raise StoreUnavailable(look.held)
            self._learn(batches)
            done = [self._store_batch(batch, look.deleted) for batch in batches if not batch.abandoned]
            self._write_ledger(done)
        except ClickHouseError as error:
            raise StoreUnavailable(str(error)) from error
        for stored in done:
            self._remember(stored)
        return [rejected for stored in done for rejected in stored.rejected.values()]

    def check(self) -> None:
        try:
            self._store.check()
        except ClickHouseError as error:
            raise StoreUnavailable(str(error)) from error

    def _learn(self, batches: Sequence[Batch[WriterEvent]]) -> None:
        """Asks the ledger about the writers that are new here, all of a topic at once."""
        unknown: dict[str, dict[Writer, set[tuple[Partition, int]]]] = {}
        for batch in batches:
            if not _ROUTES[batch.partition.topic].in_ledger:
                continue
            known = self._coverage.of(batch.partition, batch.assignment)
            for message in batch.messages:
                writer = _writer(_origin(message.body))
                if writer not in known:
                    asked = unknown.setdefault(batch.partition.topic, {})
                    asked.setdefault(writer, set()).add((batch.partition, batch.assignment))
        for topic, writers in unknown.items():
            found = self._store.stored_sequences(topic, list(writers))
            for writer, places in writers.items():
                for partition, assignment in places:
                    self._coverage.update(partition, assignment, [(writer, found.get(writer, Intervals()))])

    def _store_batch(self, batch: Batch[WriterEvent], deleted: Mapping[tuple[str, str], int]) -> _Stored:
        route = _ROUTES[batch.partition.topic]
        if route.in_ledger:
            stored = self._without_duplicates(batch)
        else:
            stored = _Stored(batch, [_Item(message.record, Kept(message.body)) for message in batch.messages], {})
        if deleted:
            stored.items = [replace(item, is_deleted=_is_deleted(item.kept.event, deleted)) for item in stored.items]
        live = [item.kept for item in stored.items if not item.is_deleted]
        names = list(route.tables(live)) if live else []
        for name in names:
            items = [item for item in stored.items if item.record.offset not in stored.rejected]
            for schema, group in _by_schema(items).items():
                self._insert(name, route, f"{batch.token}/{schema}", group, stored)
        return stored

    def _without_duplicates(self, batch: Batch[WriterEvent]) -> _Stored:
        known = self._coverage.of(batch.partition, batch.assignment)
        stored = _Stored(batch, [], {})
        rows = _ROUTES[batch.partition.topic].rows
        for message in batch.messages:
            origin = _origin(message.body)
            writer = _writer(origin)
            covered = stored.intervals.get(writer) or known[writer]
            stored.intervals[writer] = covered.add(origin.first_sequence, origin.last_sequence)
            if covered.covers(origin.first_sequence, origin.last_sequence):
                stored.duplicates += message.rows
                continue
            kept: Kept[Any] = Kept(message.body)
            if covered.touches(origin.first_sequence, origin.last_sequence):
                kept = Kept(message.body, covered.without(_sequences(message.body)))
                stored.duplicates += message.rows - tables.kept_rows(kept, rows)
            stored.items.append(_Item(message.record, kept))
        return stored

    def _insert(self, table: str, route: _Route, token: str, items: Sequence[_Item], stored: _Stored) -> None:
        """Inserts into one table; where ClickHouse refuses the data, halves the messages until it is known which."""
        live = [item.kept for item in items if not item.is_deleted]
        if not live:
            return
        try:
            inserted = self._store.insert(table, route.tables(live)[table], token)
        except ClickHouseRefused as error:
            if not error.is_data_error:
                raise
            if len(items) == 1:
                record = items[0].record
                stored.rejected[record.offset] = Rejected(record, "refused", str(error))
                return
            middle = len(items) // 2
            for half in (items[:middle], items[middle:]):
                part = f"{token}/{half[0].record.offset}-{half[-1].record.offset}"
                self._insert(table, route, part, half, stored)
        else:
            self._telemetry.rows_stored.labels(table).inc(inserted)

    def _write_ledger(self, done: Sequence[_Stored]) -> None:
        entries = [
            (stored.batch.partition, item)
            for stored in done
            if _ROUTES[stored.batch.partition.topic].in_ledger
            for item in stored.items
            if item.record.offset not in stored.rejected and not item.is_deleted
        ]
        if entries:
            now = int(self._clock.now() * 1e6)
            self._store.insert(LEDGER, _ledger(entries, now), None)

    def _remember(self, stored: _Stored) -> None:
        batch, now = stored.batch, self._clock.now()
        topic = batch.partition.topic
        if not _ROUTES[topic].in_ledger:
            return
        known = self._coverage.of(batch.partition, batch.assignment)
        if stored.rejected:
            # Refused messages are not stored: what was reckoned with them is reckoned again without.
            stored.intervals = {}
            for item in stored.items:
                if item.record.offset not in stored.rejected:
                    writer = _writer(item.origin)
                    covered = stored.intervals.get(writer) or known[writer]
                    stored.intervals[writer] = covered.add(item.origin.first_sequence, item.origin.last_sequence)
        self._coverage.update(batch.partition, batch.assignment, stored.intervals.items())
        self._coverage.trim(batch.partition, batch.assignment)
        self._telemetry.duplicates.labels(topic).inc(stored.duplicates)
        latency = self._telemetry.latency.labels(topic)
        for item in stored.items:
            if item.is_deleted:
                self._telemetry.of_deleted_runs.labels(topic).inc()
                continue
            latency.observe(max(0.0, now - _times(item.kept.event)[0] / 1e6))


def _is_deleted(event: Any, deleted: Mapping[tuple[str, str], int]) -> bool:
    """Whether it belongs to an attempt, or is about an alert, from before its run was deleted."""
    match event:
        case PlacedLetter():
            return False
        case Alert():
            return event.started <= deleted.get((event.project, event.run_id), -1)
        case _:
            origin = _origin(event)
            return origin.attempt_started <= deleted.get((origin.project, origin.run_id), -1)


def _by_schema(items: Sequence[_Item]) -> Mapping[str, list[_Item]]:
    """The items by the schema that their messages name: an insert of its own for each.

    What cannot be read today may be readable when the batch is stored again, its schema published meanwhile or a newer
    release at work. One insert under one token would then have other rows than the first time, and be dropped.
    """
    groups: dict[str, list[_Item]] = {}
    for item in items:
        groups.setdefault(schema_id(item.record.value or b"").hex(), []).append(item)
    return groups


def _ledger(entries: Sequence[tuple[Partition, _Item]], now: int) -> Columns:
    origins = [item.origin for _, item in entries]
    times = [_times(item.kept.event) for _, item in entries]
    rows = [tables.kept_rows(item.kept, _ROUTES[partition.topic].rows) for partition, item in entries]

    def whole(values: list[int]) -> Any:
        return np.array(values, np.int64)

    return {
        "topic": tables.dictionary([partition.topic for partition, _ in entries]),
        "project": tables.dictionary([origin.project for origin in origins]),
        "run_id": tables.dictionary([origin.run_id for origin in origins]),
        "writer": tables.dictionary([origin.writer for origin in origins]),
        "first_sequence": whole([origin.first_sequence for origin in origins]),
        "last_sequence": whole([origin.last_sequence for origin in origins]),
        "kafka_partition": whole([partition.number for partition, _ in entries]),
        "kafka_offset": whole([item.record.offset for _, item in entries]),
        "rows": whole(rows),
        "first_ts": whole([first for first, _ in times]),
        "last_ts": whole([last for _, last in times]),
        "stored_at": np.full(len(entries), now, np.int64),
    }


def _writer(origin: Origin) -> Writer:
    return Writer(origin.project, origin.run_id, origin.writer)


def _origin(event: Any) -> Origin:
    origin: Origin = event.origin
    return origin


def _sequences(event: Any) -> Any:
    if isinstance(event, RunEvent):
        return np.array([event.origin.last_sequence])
    return event.row_sequences


def _times(event: Any) -> tuple[int, int]:
    """When the oldest and the newest row of the event were logged, in microseconds."""
    if isinstance(event, RunEvent):
        return event.time, event.time
    if not len(event.row_times):
        return event.origin.attempt_started, event.origin.attempt_started
    return int(np.min(event.row_times)), int(np.max(event.row_times))
