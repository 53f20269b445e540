"""From events to columns of ClickHouse's tables, without a Python object per row.

Messages of one batch are laid one after another: their keys are numbered anew through one dictionary, their shapes and
rows are shifted to follow each other, and then all points are expanded at once.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from pulsetrain_consumers.clickhouse import Dictionary
from pulsetrain_consumers.runtime.dead_letters import separate
from pulsetrain_consumers.writer.store import Columns
from pulsetrain_schemas.columnar import Int64Array
from pulsetrain_schemas.events import Alert, DeadLetter, IntArray, LogBatch, MetricBatch, Origin, RunEvent, SystemBatch

# Whatever a letter's payload is, its beginning tells what it was; the whole is in the topic.
LETTER_START_BYTES = 1_024
# Which rows of an event are to be stored; None for all of them.
Keep = NDArray[np.bool_] | None
_MICROSECONDS = 1_000_000
# The sections of `run_values`, and what of an event they hold.
_VALUES = {
    "config": "config",
    "summary": "summary",
    "environment": "environment",
    "definition": "definitions",
    "rule": "rules",
}


@dataclass(frozen=True, slots=True, eq=False)
class PlacedLetter:
    """A message of the dead letters, and where in its topic it is: that is what tells its rows from others."""

    letter: DeadLetter
    partition: int
    offset: int


T = TypeVar("T", MetricBatch, SystemBatch, LogBatch, RunEvent, Alert, PlacedLetter)


@dataclass(frozen=True, slots=True, eq=False)
class Kept(Generic[T]):
    """An event, and which of its rows have not been stored before."""

    event: T
    keep: Keep = None


class _Numbering:
    """Gives every distinct string a number, in the order in which they come."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def number(self, text: str) -> int:
        return self._numbers.setdefault(text, len(self._numbers))

    def numbers(self, texts: Sequence[str]) -> IntArray:
        return np.fromiter((self.number(text) for text in texts), np.uint32, len(texts))

    def column(self, codes: IntArray) -> Dictionary:
        return Dictionary(codes, tuple(self._numbers))


def dictionary(texts: Sequence[str]) -> Dictionary:
    """A column of strings that repeat."""
    numbering = _Numbering()
    return numbering.column(numbering.numbers(texts))


@dataclass(frozen=True, slots=True, eq=False)
class _Points:
    """The points of several events: for each its row and its series, numbered through; and how many each event has."""

    rows: Int64Array
    series: Int64Array
    values: NDArray[np.float64]
    per_event: Int64Array


def metric_rows(event: MetricBatch) -> int:
    return len(event.values) + len(event.text_values)


def system_rows(event: SystemBatch) -> int:
    return len(event.values)


def log_rows(event: LogBatch) -> int:
    return len(event.lines)


def run_rows(event: RunEvent) -> int:
    return 1 + sum(len(getattr(event, name)) for name in _VALUES.values())


def alert_rows(event: Alert) -> int:
    del event
    return 1


def letter_rows(event: PlacedLetter) -> int:
    return 1 + len(event.letter.more_offsets)


def kept_rows(kept: Kept[Any], rows: Callable[[Any], int]) -> int:
    """How many rows of the tables the kept part of an event becomes."""
    event, keep = kept.event, kept.keep
    if keep is None:
        return rows(event)
    if isinstance(event, LogBatch):
        return int(keep.sum())
    if isinstance(event, RunEvent):
        return rows(event) if keep.all() else 0
    points = int(np.asarray(event.shape_lengths)[event.row_shapes[keep]].sum())
    return points + (int(keep[event.text_rows].sum()) if isinstance(event, MetricBatch) else 0)


def metric_tables(batch: Sequence[Kept[MetricBatch]]) -> Mapping[str, Columns]:
    """`metrics` and `texts`."""
    keys = _Numbering()
    names = [keys.numbers(kept.event.keys) for kept in batch]
    points = _points(batch, names)
    sequences, steps, times = (
        np.concatenate([getattr(kept.event, name) for kept in batch])
        for name in ("row_sequences", "row_steps", "row_times")
    )
    origins = [kept.event.origin for kept in batch]
    metrics = {
        **_origin(origins, points.per_event),
        "metric": keys.column(points.series),
        "step": steps[points.rows],
        "ts": times[points.rows],
        "value": points.values,
        "sequence": sequences[points.rows],
    }
    return {"metrics": metrics, "texts": _texts(batch, names, keys, sequences, steps, times)}


def _texts(
    batch: Sequence[Kept[MetricBatch]],
    names: Sequence[IntArray],
    keys: _Numbering,
    sequences: Int64Array,
    steps: Int64Array,
    times: Int64Array,
) -> Columns:
    rows: list[IntArray] = []
    codes: list[IntArray] = []
    values: list[str] = []
    first = 0
    for kept, numbers in zip(batch, names, strict=True):
        event = kept.event
        chosen = np.arange(len(event.text_values)) if kept.keep is None else np.flatnonzero(kept.keep[event.text_rows])
        rows.append(event.text_rows[chosen] + first)
        codes.append(numbers[event.text_keys[chosen]])
        values.extend(event.text_values[index] for index in chosen.tolist())
        first += len(event.row_sequences)
    per_event = np.array([len(chosen) for chosen in rows])
    at = np.concatenate(rows).astype(np.int64)
    return {
        **_origin([kept.event.origin for kept in batch], per_event),
        "key": keys.column(np.concatenate(codes)),
        "step": steps[at],
        "ts": times[at],
        "value": values,
        "sequence": sequences[at],
    }


def system_tables(batch: Sequence[Kept[SystemBatch]]) -> Mapping[str, Columns]:
    """`system`."""
    metrics, gpus, hosts = _Numbering(), _Numbering(), _Numbering()
    # Series of all events, one after another; a point carries the number of its series in this list.
    first = np.cumsum([0, *(len(kept.event.series_metrics) for kept in batch)])
    numbers = [np.arange(first[index], first[index + 1]) for index in range(len(batch))]
    points = _points(batch, numbers)
    series_metrics = np.concatenate([metrics.numbers(kept.event.series_metrics) for kept in batch])
    series_gpus = np.concatenate([gpus.numbers(kept.event.series_gpus) for kept in batch])
    series_indexes = np.concatenate([np.asarray(kept.event.series_gpu_indexes) for kept in batch])
    sequences = np.concatenate([kept.event.row_sequences for kept in batch])
    times = np.concatenate([kept.event.row_times for kept in batch])
    columns = _origin([kept.event.origin for kept in batch], points.per_event)
    del columns["attempt"]
    return {
        "system": {
            **columns,
            "host": hosts.column(np.repeat(hosts.numbers([kept.event.host for kept in batch]), points.per_event)),
            "gpu": gpus.column(series_gpus[points.series]),
            "gpu_index": series_indexes[points.series],
            "metric": metrics.column(series_metrics[points.series]),
            "ts": times[points.rows],
            "value": points.values,
            "sequence": sequences[points.rows],
        }
    }


def log_tables(batch: Sequence[Kept[LogBatch]]) -> Mapping[str, Columns]:
    """`logs`."""
    chosen = [slice(None) if kept.keep is None else np.flatnonzero(kept.keep) for kept in batch]
    times = [kept.event.row_times[rows] for kept, rows in zip(batch, chosen, strict=True)]
    lines: list[str] = []
    for kept, rows in zip(batch, chosen, strict=True):
        lines.extend(kept.event.lines if isinstance(rows, slice) else [kept.event.lines[row] for row in rows.tolist()])
    streams = np.concatenate([kept.event.row_streams[rows] for kept, rows in zip(batch, chosen, strict=True)])
    sequences = [kept.event.row_sequences[rows] for kept, rows in zip(batch, chosen, strict=True)]
    return {
        "logs": {
            **_origin([kept.event.origin for kept in batch], np.array([len(found) for found in times])),
            "ts": np.concatenate(times),
            "stream": Dictionary(streams - 1, ("stdout", "stderr")),
            "line": lines,
            "sequence": np.concatenate(sequences),
        }
    }


def run_tables(batch: Sequence[Kept[RunEvent]]) -> Mapping[str, Columns]:
    """`run_events` and `run_values`."""
    events = [kept.event for kept in batch if kept.keep is None or kept.keep.all()]
    origins = [event.origin for event in events]
    kinds = _Numbering()
    rows = {
        **_origin(origins, np.ones(len(events), np.int64), exact_start=True),
        "sequence": np.array([origin.last_sequence for origin in origins], np.int64),
        "kind": kinds.column(kinds.numbers([event.kind for event in events])),
        "ts": np.array([event.time for event in events], np.int64),
        "is_primary": np.array([event.is_primary for event in events], np.uint8),
        "tags": [list(event.tags or ()) for event in events],
        "tags_set": np.array([event.tags is not None for event in events], np.uint8),
    }
    rows["inherited_runs"] = [[part["run_id"] for part in event.inherited] for event in events]
    rows["inherited_attempts"] = [[part["attempt"] for part in event.inherited] for event in events]
    rows["inherited_below"] = [[part["below"] for part in event.inherited] for event in events]
    for name in (
        "name", "notes", "run_group", "job_type", "state", "exit_code", "first_step", "parent_run_id", "parent_step"
    ):  # fmt: skip
        rows[name] = [getattr(event, name) for event in events]
    for name in ("rows", "points", "texts"):
        rows[name] = np.array([getattr(event, name) for event in events], np.int64)
    return {"run_events": rows, "run_values": _run_values(events)}


def alert_tables(batch: Sequence[Kept[Alert]]) -> Mapping[str, Columns]:
    """`alert_events`."""
    alerts = [kept.event for kept in batch]
    columns: dict[str, Any] = {
        name: dictionary([getattr(alert, name) for alert in alerts])
        for name in ("project", "run_id", "kind", "state", "severity", "source", "host", "gpu")
    }
    for name in ("alert_id", "sequence", "subject", "title", "text", "started", "step", "value", "rank", "silenced"):
        columns[name] = [getattr(alert, name) for alert in alerts]
    columns["ts"] = [alert.time for alert in alerts]
    columns["label_names"] = [list(alert.labels) for alert in alerts]
    columns["label_values"] = [list(alert.labels.values()) for alert in alerts]
    return {"alert_events": columns}


def letter_tables(batch: Sequence[Kept[PlacedLetter]]) -> Mapping[str, Columns]:
    """`dead_letter_events`."""
    placed = [kept.event for kept in batch]
    letters = [event.letter for event in placed]
    counts = np.array([letter_rows(event) for event in placed])

    def text(values: list[str]) -> Dictionary:
        numbering = _Numbering()
        return numbering.column(np.repeat(numbering.numbers(values), counts))

    def whole(values: list[int]) -> IntArray:
        return np.repeat(np.array(values, np.int64), counts)

    def each(value: Callable[[DeadLetter], Iterable[Any]], of_action: Any) -> list[Any]:
        found: list[Any] = []
        for letter, count in zip(letters, counts.tolist(), strict=True):
            found.extend([of_action] * count if letter.action is not None else value(letter))
        return found

    payloads = each(lambda one: (one.payload, *separate(one.more_payload_lengths, one.more_payloads)), None)
    return {
        "dead_letter_events": {
            "topic": text([letter.topic for letter in letters]),
            "topic_id": text([letter.topic_id or "" for letter in letters]),
            "kafka_partition": whole([letter.partition for letter in letters]),
            "kafka_offset": np.concatenate([[letter.offset, *letter.more_offsets] for letter in letters]),
            "action": text([letter.action or "" for letter in letters]),
            "actor": text([letter.actor or "" for letter in letters]),
            "ts": whole([letter.time for letter in letters]),
            "reason": text([letter.reason for letter in letters]),
            "error": each(
                lambda one: (one.error, *(one.more_errors[at] for at in one.more_error_indexes.tolist())), ""
            ),
            "consumer_group": text([letter.consumer_group for letter in letters]),
            "record_ts": each(lambda one: (one.record_time, *one.more_record_times.tolist()), None),
            "key": each(lambda one: (one.key, *separate(one.more_key_lengths, one.more_keys)), None),
            "payload_bytes": [None if payload is None else len(payload) for payload in payloads],
            "payload_start": [b"" if payload is None else payload[:LETTER_START_BYTES] for payload in payloads],
            "letter_partition": whole([event.partition for event in placed]),
            "letter_offset": whole([event.offset for event in placed]),
            "letter_index": np.concatenate([np.arange(count) for count in counts.tolist()]),
        }
    }


def _run_values(events: Sequence[RunEvent]) -> Columns:
    found = [
        (place, section, key, value)
        for place, event in enumerate(events)
        for section, name in enumerate(_VALUES.values())
        for key, value in getattr(event, name).items()
    ]
    places = np.array([place for place, *_ in found], np.int64)
    columns = _origin([event.origin for event in events], np.bincount(places, minlength=len(events)), exact_start=True)
    return {
        **columns,
        "section": Dictionary(np.array([section for _, section, _, _ in found], np.uint8), tuple(_VALUES)),
        "key": [key for *_, key, _ in found],
        "value": [value for *_, value in found],
        "number": [_number(value) for *_, value in found],
        "ts": np.array([event.time for event in events], np.int64)[places],
        "sequence": np.array([event.origin.last_sequence for event in events], np.int64)[places],
    }


def _number(value: str | None) -> float | None:
    """The number that a JSON text is, if it is one."""
    if value is None or value[:1] not in "-0123456789NI":
        return None
    try:
        number = json.loads(value)
        return float(number) if isinstance(number, int | float) else None
    except (ValueError, OverflowError):
        return None


def _points(batch: Sequence[Kept[Any]], series_numbers: Sequence[IntArray]) -> _Points:
    """All points of the events, with the series of each event renumbered as told."""
    lengths: list[IntArray] = []
    series: list[IntArray] = []
    shapes: list[IntArray] = []
    per_event: list[int] = []
    shape_count = 0
    for kept, numbers in zip(batch, series_numbers, strict=True):
        event = kept.event
        event_lengths = np.asarray(event.shape_lengths)
        lengths.append(event_lengths)
        series.append(numbers[event.shape_keys])
        shapes.append(event.row_shapes + shape_count)
        shape_count += len(event_lengths)
        per_event.append(len(event.values))
    # MetricBatch knows how rows and shapes make points; what this one has besides is not looked at.
    layout = MetricBatch(
        origin=batch[0].event.origin,
        keys=(),
        shape_lengths=np.concatenate(lengths),
        shape_keys=np.concatenate(series),
        row_sequences=_NOTHING,
        row_steps=_NOTHING,
        row_times=_NOTHING,
        row_shapes=np.concatenate(shapes).astype(np.int64, copy=False),
        values=np.empty(0),
    )
    rows, keys = layout.point_rows, layout.point_keys
    values = np.concatenate([kept.event.values for kept in batch])
    counts = np.array(per_event, np.int64)
    if any(kept.keep is not None for kept in batch):
        keep_rows = np.concatenate(
            [np.ones(len(kept.event.row_shapes), np.bool_) if kept.keep is None else kept.keep for kept in batch]
        )
        keep = keep_rows[rows]
        event_of_point = np.repeat(np.arange(len(batch)), counts)
        counts = np.bincount(event_of_point[keep], minlength=len(batch))
        rows, keys, values = rows[keep], keys[keep], values[keep]
    return _Points(rows, keys, values, counts)


_NOTHING = np.empty(0, np.int64)


def _origin(origins: Sequence[Origin], rows: IntArray, *, exact_start: bool = False) -> dict[str, Any]:
    """The columns that are the same for all rows of an event; `rows` says how many each event has."""

    def repeated(values: list[int], dtype: type[np.generic]) -> IntArray:
        return np.repeat(np.array(values, dtype), rows)

    def text(name: str) -> Dictionary:
        numbering = _Numbering()
        codes = numbering.numbers([getattr(origin, name) for origin in origins])
        return numbering.column(np.repeat(codes.astype(np.uint8) if len(origins) <= 256 else codes, rows))

    started = [origin.attempt_started // (1 if exact_start else _MICROSECONDS) for origin in origins]
    return {
        "project": text("project"),
        "run_id": text("run_id"),
        "writer": text("writer"),
        "rank": repeated([origin.rank for origin in origins], np.uint32),
        "attempt": repeated([origin.attempt for origin in origins], np.uint32),
        "attempt_started": repeated(started, np.int64 if exact_start else np.uint32),
    }
