"""What travels: one frozen class a message, with absolute values; delta coding, framing and checking happen in here.

`encode` makes the payload of a Kafka message, `decode` reads one back and holds it to what the schema's documentation
promises: arrays that belong together have one length, indexes point to something, sequences lie in the range that the
message accounts for. So whoever consumes an event need not check it again. Decoded arrays of values are read-only views
of the payload. Times are microseconds since the epoch.
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypedDict, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from pulsetrain_schemas import alert_rules, catalog
from pulsetrain_schemas.catalog import Schema
from pulsetrain_schemas.codec import RecordCodec
from pulsetrain_schemas.columnar import DecodeError, EncodeError, Float64Array, Int64Array
from pulsetrain_schemas.framing import SINGLE_OBJECT, Framing, Payload
from pulsetrain_schemas.resolution import Resolution

IntArray = NDArray[np.integer[Any]]

STDOUT, STDERR = 1, 2
RUN_EVENT_KINDS = ("start", "update", "heartbeat", "finish", "alert", "waiting")
ALERT_STATES = ("pending", "firing", "resolved")
SEVERITIES = alert_rules.SEVERITIES

_UINT32_MAX = 2**32 - 1
# ClickHouse keeps the start of an attempt as a DateTime, 32 bits of seconds.
LATEST_TIME = 2**32 * 1_000_000 - 1


@dataclass(frozen=True, slots=True)
class Origin:
    """Whose records these are, and which of the writer's sequences on this topic the message accounts for."""

    project: str
    run_id: str
    writer: str
    rank: int
    attempt: int
    attempt_started: int
    first_sequence: int
    last_sequence: int


@dataclass(frozen=True, slots=True, eq=False)
class MetricBatch:
    """Rows of history: row i has the keys of shape `row_shapes[i]`, in order, and as many entries of `values`.

    The shapes lie one after another in `shape_keys`, as indexes into `keys`; `shape_lengths` says where each ends. Text
    j is the JSON of what row `text_rows[j]` has for `keys[text_keys[j]]`. A row may have no numbers (an empty shape).
    """

    origin: Origin
    keys: Sequence[str]
    shape_lengths: IntArray
    shape_keys: IntArray
    row_sequences: IntArray
    row_steps: IntArray
    row_times: IntArray
    row_shapes: IntArray
    values: Float64Array
    text_rows: IntArray = field(default_factory=lambda: np.empty(0, np.int64))
    text_keys: IntArray = field(default_factory=lambda: np.empty(0, np.int64))
    text_values: Sequence[str] = ()

    @property
    def point_rows(self) -> Int64Array:
        """For each value the row that it belongs to. Computed at each call."""
        return _point_rows(self.shape_lengths, self.row_shapes)

    @property
    def point_keys(self) -> Int64Array:
        """For each value its index in `keys`. Computed at each call."""
        return _point_keys(self.shape_lengths, self.shape_keys, self.row_shapes)


@dataclass(frozen=True, slots=True, eq=False)
class SystemBatch:
    """Samples of a host's hardware, taken for a run; laid out as MetricBatch, with series in place of keys.

    Series i is `series_metrics[i]` of the GPU with the UUID `series_gpus[i]` and the index `series_gpu_indexes[i]`; of
    the host itself where these are "" and -1.
    """

    origin: Origin
    host: str
    series_metrics: Sequence[str]
    series_gpus: Sequence[str]
    series_gpu_indexes: IntArray
    shape_lengths: IntArray
    shape_keys: IntArray
    row_sequences: IntArray
    row_times: IntArray
    row_shapes: IntArray
    values: Float64Array

    @property
    def point_rows(self) -> Int64Array:
        """For each value the row that it belongs to. Computed at each call."""
        return _point_rows(self.shape_lengths, self.row_shapes)

    @property
    def point_keys(self) -> Int64Array:
        """For each value the index of its series. Computed at each call."""
        return _point_keys(self.shape_lengths, self.shape_keys, self.row_shapes)


@dataclass(frozen=True, slots=True, eq=False)
class LogBatch:
    """Lines that a process wrote to its console; `row_streams` holds STDOUT or STDERR for each."""

    origin: Origin
    row_sequences: IntArray
    row_times: IntArray
    row_streams: IntArray
    lines: Sequence[str]


class Inherited(TypedDict):
    """A part of what a fork has from other runs: the steps under `below` of one attempt."""

    run_id: str
    attempt: int
    below: int


class UserAlert(TypedDict):
    """What run.alert() said. `level` is INFO, WARN or ERROR; for `wait_seconds` one of this title is enough."""

    title: str
    text: str
    level: str
    wait_seconds: float


class Waiting(TypedDict):
    """How long a training loop has waited, after so many steps: for its data, where `waits_for` is data."""

    waits_for: str
    seconds: float
    steps: int
    is_over: bool


@dataclass(frozen=True, slots=True)
class RunEvent:
    """Something that happened to a run. None leaves a field as it was.

    `kind` is one of RUN_EVENT_KINDS, or "unknown" for one that a newer writer invented. `config`, `summary`,
    `definitions` and `rules` are JSON by key, where None removes the key; `rows`, `points` and `texts` count what the
    writer has logged so far. `first_step` is where the attempt begins; `inherited` what a fork has from `parent_run_id`
    up to `parent_step`, and from that one's own parents.
    """

    origin: Origin
    kind: str
    time: int
    is_primary: bool
    name: str | None = None
    notes: str | None = None
    tags: Sequence[str] | None = None
    run_group: str | None = None
    job_type: str | None = None
    state: str | None = None
    exit_code: int | None = None
    config: Mapping[str, str | None] = field(default_factory=dict)
    summary: Mapping[str, str | None] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    rows: int = 0
    points: int = 0
    texts: int = 0
    first_step: int | None = None
    parent_run_id: str | None = None
    parent_step: int | None = None
    inherited: Sequence[Inherited] = field(default_factory=list)
    definitions: Mapping[str, str | None] = field(default_factory=dict)
    alert: UserAlert | None = None
    rules: Mapping[str, str | None] = field(default_factory=dict)
    waiting: Waiting | None = None


@dataclass(frozen=True, slots=True)
class Alert:
    """A change of an alert's state. The changes of one alert share `alert_id` and count up in `sequence`.

    `state` is one of ALERT_STATES, or "unknown" for one that a newer monitor invented; `severity` one of SEVERITIES.
    `subject` is what of the run it is about: a metric, a rank, a GPU, a host, a rule; "" for the run itself.
    """

    project: str
    run_id: str
    alert_id: str
    sequence: int
    kind: str
    subject: str
    state: str
    severity: str
    title: str
    text: str
    time: int
    started: int
    source: str
    step: int | None = None
    value: float | None = None
    rank: int | None = None
    host: str = ""
    gpu: str = ""
    silenced: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Command:
    """A word to the processes of a run, which the forwarders of their machines pass on. `attempt`: None means any."""

    project: str
    run_id: str
    command_id: str
    action: str
    time: int
    actor: str
    attempt: int | None = None
    text: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class DeadLetter:
    """A message that could not be decoded or stored, whole, with where it came from and why it is here.

    `reason` is a short stable word: undecodable, unknown_schema, invalid, refused. Further letters that share all but
    offset, error, record_time, key and payload stand in the arrays, an entry each; a length of -1 stands for None. With
    an `action` (replayed, dropped) it is no letter, but says what `actor` did about the letters of these offsets.
    """

    reason: str
    error: str
    topic: str
    partition: int
    offset: int
    time: int
    consumer_group: str
    key: bytes | None = None
    payload: bytes | None = None
    topic_id: str | None = None
    record_time: int | None = None
    action: str | None = None
    actor: str | None = None
    more_offsets: IntArray = field(default_factory=lambda: np.empty(0, np.int64))
    more_record_times: IntArray = field(default_factory=lambda: np.empty(0, np.int64))
    more_errors: Sequence[str] = field(default_factory=list)
    more_error_indexes: IntArray = field(default_factory=lambda: np.empty(0, np.int64))
    more_key_lengths: IntArray = field(default_factory=lambda: np.empty(0, np.int64))
    more_keys: bytes | None = None
    more_payload_lengths: IntArray = field(default_factory=lambda: np.empty(0, np.int64))
    more_payloads: bytes | None = None


Event = MetricBatch | SystemBatch | LogBatch | RunEvent | Alert | Command | DeadLetter
E = TypeVar("E", MetricBatch, SystemBatch, LogBatch, RunEvent, Alert, Command, DeadLetter)
# What no writer of a run numbers: it has no origin.
_UNNUMBERED = (Alert, Command, DeadLetter)

_SCHEMA_NAMES: Mapping[type[Event], str] = {
    MetricBatch: "metrics",
    SystemBatch: "system",
    LogBatch: "logs",
    RunEvent: "runs",
    Alert: "alerts",
    Command: "control",
    DeadLetter: "dead_letters",
}
_CODECS = {name: RecordCodec(catalog.load(name)) for name in _SCHEMA_NAMES.values()}
_ORIGIN_FIELDS = tuple(Origin.__dataclass_fields__)
_FIELDS = {kind: tuple(name for name in kind.__dataclass_fields__ if name != "origin") for kind in _SCHEMA_NAMES}
# The arrays that are delta coded, and what the first entry is the difference to.
_DELTA_CODED: Mapping[str, str | None] = {
    "row_sequences": "first_sequence",
    "row_steps": None,
    "row_times": "attempt_started",
}


def schema_name(kind: type[Event]) -> str:
    """The name of the schema, and of the topic, that events of this class have."""
    return _SCHEMA_NAMES[kind]


def message_key(event: Event) -> bytes | None:
    """The key of the event's Kafka message: the run id; the host of system samples; what a dead letter had."""
    if isinstance(event, DeadLetter):
        return event.key
    if isinstance(event, Alert | Command):
        return event.run_id.encode("utf-8", "replace")
    return (event.host if isinstance(event, SystemBatch) else event.origin.run_id).encode("utf-8", "replace")


def encode(event: Event, framing: Framing = SINGLE_OBJECT) -> bytes:
    """The payload of the event's Kafka message. Raises EncodeError for an event that `decode` would not take."""
    kind = type(event)
    record: dict[str, Any] = {name: getattr(event, name) for name in _FIELDS[kind]}
    try:
        _check(event)
    except _Inconsistent as error:
        raise EncodeError(f"{_title(event)}: {error}") from None
    if not isinstance(event, _UNNUMBERED):
        record.update({name: getattr(event.origin, name) for name in _ORIGIN_FIELDS})
        for name, base in _DELTA_CODED.items():
            if name in record:
                record[name] = _deltas(record[name], 0 if base is None else record[base])
    name = _SCHEMA_NAMES[kind]
    return framing.frame(name, _CODECS[name].encode(record))


def decode(payload: Payload, expected: type[E], framing: Framing = SINGLE_OBJECT) -> E:
    """The event in the payload of a Kafka message.

    Raises DecodeError for a payload that is no such event, UnknownSchema where its schema is not known, and what the
    framing raises when it cannot reach its registry (which says nothing about the payload).
    """
    name = _SCHEMA_NAMES[expected]
    schema, body = framing.unframe(payload)
    codec = _CODECS[name]
    if schema.name != name:
        raise DecodeError(f"expected a {codec.name}, the message is a {schema.document['name']}")
    if schema.fingerprint == catalog.current(name).fingerprint:
        record = codec.decode(body)
    else:
        record = _resolution(name, schema).decode(body)
    values: dict[str, Any] = {name: record[name] for name in _FIELDS[expected]}
    if expected not in _UNNUMBERED:
        for array, base in _DELTA_CODED.items():
            if array in values:
                values[array] = _undelta(values[array], 0 if base is None else record[base])
        values["origin"] = Origin(*(record[name] for name in _ORIGIN_FIELDS))
    event: Any = expected(**values)
    try:
        _check(event)
    except _Inconsistent as error:
        raise DecodeError(f"{_title(event)}: {error}") from None
    return cast(E, event)


@functools.lru_cache(maxsize=64)
def _resolution(name: str, schema: Schema) -> Resolution:
    """How messages of another version of `name` are read."""
    return Resolution(catalog.current(name).document, schema.document)


class _Inconsistent(Exception):
    """Fields of an event contradict each other."""


def _title(event: Event) -> str:
    if isinstance(event, DeadLetter):
        return f"the DeadLetter of {event.topic!r}"
    if isinstance(event, Alert | Command):
        return f"the {type(event).__name__} of run {event.run_id!r}"
    return f"the {type(event).__name__} of run {event.origin.run_id!r}"


def _check_letter(letter: DeadLetter) -> None:
    more = len(letter.more_offsets)
    _require(letter.partition >= 0 and letter.offset >= 0, "its partition or its offset is negative")
    _require(_within(letter.more_offsets, 0, 2**63 - 1), "an offset is negative")
    if letter.action is not None:
        return
    _require(
        len(letter.more_error_indexes) == len(letter.more_record_times) == more
        and len(letter.more_key_lengths) == len(letter.more_payload_lengths) == more,
        "errors, times, keys or payloads have not an entry a letter",
    )
    _require(
        _within(letter.more_error_indexes, 0, len(letter.more_errors) - 1), "a letter's error is none of the errors"
    )
    for lengths, joined in (
        (letter.more_key_lengths, letter.more_keys),
        (letter.more_payload_lengths, letter.more_payloads),
    ):
        size = len(joined or b"")
        _require(
            _within(lengths, -1, size) and int(np.maximum(lengths, 0).sum()) == size,
            "lengths of keys or payloads do not add up to what is there",
        )


def _check_alert(alert: Alert) -> None:
    _require(alert.alert_id != "", "it has no alert_id")
    _require(alert.sequence >= 0, "its sequence is negative")
    _require(alert.severity in SEVERITIES, f"its severity is none of {', '.join(SEVERITIES)}")
    _require(alert.rank is None or alert.rank >= 0, "its rank is negative")
    _require(0 <= alert.started <= LATEST_TIME, "its start is no time of this age in microseconds")
    _require(0 <= alert.time <= LATEST_TIME, "its time is no time of this age in microseconds")


def _check(event: Event) -> None:
    if isinstance(event, DeadLetter):
        _check_letter(event)
        return
    if isinstance(event, Alert):
        _check_alert(event)
        return
    if isinstance(event, Command):
        _require(event.command_id != "" and event.action != "", "it has no command_id or no action")
        _require(event.attempt is None or event.attempt >= 0, "its attempt is negative")
        return
    origin = event.origin
    _require(1 <= origin.first_sequence <= origin.last_sequence < 2**63, "its sequences are not first <= last, from 1")
    _require(0 <= origin.rank <= _UINT32_MAX, "its rank is out of range")
    _require(0 <= origin.attempt <= _UINT32_MAX, "its attempt is out of range")
    _require(0 <= origin.attempt_started <= LATEST_TIME, "attempt_started is no time of this age in microseconds")
    if isinstance(event, RunEvent):
        _require(min(event.rows, event.points, event.texts) >= 0, "a counter is negative")
        _require(all(part["attempt"] >= 0 for part in event.inherited), "an attempt that it inherits from is negative")
        return
    rows = len(event.row_sequences)
    _require(len(event.row_times) == rows, "row_times has not an entry a row")
    _require(
        _within(event.row_sequences, origin.first_sequence, origin.last_sequence),
        "a row's sequence is outside of those that the message accounts for",
    )
    if isinstance(event, LogBatch):
        _require(len(event.row_streams) == len(event.lines) == rows, "streams or lines have not an entry a row")
        _require(_within(event.row_streams, STDOUT, STDERR), "a stream is neither stdout nor stderr")
        return
    if isinstance(event, SystemBatch):
        series = len(event.series_metrics)
        _require(
            len(event.series_gpus) == len(event.series_gpu_indexes) == series,
            "series_gpus or series_gpu_indexes have not an entry a series",
        )
    else:
        series = len(event.keys)
        _require(len(event.row_steps) == rows, "row_steps has not an entry a row")
        texts = len(event.text_values)
        _require(
            len(event.text_rows) == len(event.text_keys) == texts, "text_rows or text_keys have not an entry a text"
        )
        _require(_within(event.text_rows, 0, rows - 1), "a text's row is none of the rows")
        _require(_within(event.text_keys, 0, series - 1), "a text's key is none of the keys")
    lengths = np.asarray(event.shape_lengths)
    _require(len(event.row_shapes) == rows, "row_shapes has not an entry a row")
    _require(_within(lengths, 0, len(event.shape_keys)), "a shape's length is out of range")
    _require(int(lengths.sum()) == len(event.shape_keys), "shape_lengths do not add up to shape_keys")
    _require(_within(event.shape_keys, 0, series - 1), "a shape's key is none of the keys")
    _require(_within(event.row_shapes, 0, len(lengths) - 1), "a row's shape is none of the shapes")
    values = int(lengths[event.row_shapes].sum()) if rows else 0
    _require(
        values == len(event.values), f"the rows have {values} values by their shapes, and {len(event.values)} are there"
    )


def _require(condition: bool, otherwise: str) -> None:
    if not condition:
        raise _Inconsistent(otherwise)


def _within(array: IntArray, lowest: int, highest: int) -> bool:
    return len(array) == 0 or (int(np.min(array)) >= lowest and int(np.max(array)) <= highest)


def _deltas(array: IntArray, base: int) -> Int64Array:
    # Differences beyond 64 bits wrap around, and back again when they are added up.
    deltas = np.array(array, np.int64)
    deltas[1:] -= deltas[:-1].copy()
    deltas[:1] -= np.int64(base)
    return deltas


def _undelta(deltas: Int64Array, base: int) -> Int64Array:
    if not len(deltas):
        return deltas
    absolute = np.cumsum(deltas)
    absolute += np.int64(base)
    return absolute


def _point_rows(shape_lengths: IntArray, row_shapes: IntArray) -> Int64Array:
    rows = np.arange(len(row_shapes))
    return np.repeat(rows, np.asarray(shape_lengths, np.int64)[row_shapes]) if len(rows) else rows


def _point_keys(shape_lengths: IntArray, shape_keys: IntArray, row_shapes: IntArray) -> Int64Array:
    lengths, keys = np.asarray(shape_lengths, np.int64), np.asarray(shape_keys, np.int64)
    if not len(row_shapes):
        return np.empty(0, np.int64)
    if len(lengths) == 1:
        return np.tile(keys, len(row_shapes))
    counts = lengths[row_shapes]
    # Where a row's shape begins, less how many values came before the row: added to a running number, a key's place.
    first = (np.cumsum(lengths) - lengths)[row_shapes] - (np.cumsum(counts) - counts)
    points: Int64Array = keys[np.repeat(first, counts) + np.arange(counts.sum())]
    return points
