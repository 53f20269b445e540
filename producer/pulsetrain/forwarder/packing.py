"""Rows to columnar messages, by numpy; console lines to log batches.

A message is cut at about TARGET_BYTES. Its range begins where the one before it on the same topic ended, so ranges are
adjacent whatever other records lie between the rows.
"""

import json
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from pulsetrain.forwarder.tail import Identity, after
from pulsetrain.journal.reader import Event, RowBlock, TextRow
from pulsetrain_schemas.events import STDERR, STDOUT, LogBatch, MetricBatch, SystemBatch

TARGET_BYTES = 384 << 10
MAX_TEXT_BYTES = 1 << 20
ROW_BYTES = 6  # sequence, step, time and shape, delta coded, most of the time
MICROSECONDS = 1e6

T = TypeVar("T", bound=np.generic)
Int64Array = NDArray[np.int64]
IntArray = NDArray[np.integer[Any]]
Float64Array = NDArray[np.float64]


class _Rows:
    """Rows that are being gathered into one message. A shape is known by the identity of its tuple first: it is
    cheap.
    """

    def __init__(self) -> None:
        self.size = 0
        self.keys: dict[str, int] = {}
        self.shapes: dict[tuple[str, ...], int] = {}
        self.counts: list[int] = []
        self.row_shapes: list[int] = []
        self.sequences: list[IntArray] = []
        self.steps: list[IntArray] = []
        self.times: list[Float64Array] = []
        self.values: list[Float64Array] = []
        self.text_rows: list[int] = []
        self.text_keys: list[int] = []
        self.text_values: list[str] = []
        self.rows = 0
        self.last = 0

    def add(self, block: RowBlock) -> None:
        count, width = block.values.shape
        self.row_shapes.append(self._shape(block.keys))
        self.counts.append(count)
        self.sequences.append(block.sequences)
        self.steps.append(block.steps)
        self.times.append(block.times)
        self.values.append(block.values.reshape(-1))
        self.size += count * (8 * width + ROW_BYTES)
        self.rows += count
        self.last = int(block.sequences[-1])

    def add_texts(self, row: TextRow) -> None:
        numbers = RowBlock(
            tuple(row.numbers),
            np.array([row.sequence]),
            np.array([row.step]),
            np.array([row.time]),
            np.array([list(row.numbers.values())], np.float64).reshape(1, len(row.numbers)),
        )
        self.add(numbers)
        for key, text in row.texts.items():
            value = clipped_json(text)
            self.text_rows.append(self.rows - 1)
            self.text_keys.append(self._key(key))
            self.text_values.append(value)
            self.size += len(value) + 4

    def shape_arrays(self) -> tuple[Int64Array, Int64Array]:
        """The lengths of the shapes, and their keys one after another."""
        lengths = np.array([len(shape) for shape in self.shapes], np.int64)
        keys = np.array([self.keys[key] for shape in self.shapes for key in shape], np.int64)
        return lengths, keys

    def row_shape_array(self) -> Int64Array:
        return np.repeat(np.array(self.row_shapes, np.int64), self.counts)

    def _shape(self, keys: tuple[str, ...]) -> int:
        shape = self.shapes.get(keys)
        if shape is None:
            shape = self.shapes[keys] = len(self.shapes)
            for key in keys:
                self._key(key)
            self.size += 2 * len(keys)
        return shape

    def _key(self, key: str) -> int:
        number = self.keys.get(key)
        if number is None:
            number = self.keys[key] = len(self.keys)
            self.size += len(key) + 2
        return number


def _gather(items: Iterable[RowBlock | TextRow], target: int) -> Iterator[_Rows]:
    rows = _Rows()
    for item in items:
        if isinstance(item, TextRow):
            if rows.rows and rows.size + sum(map(len, item.texts.values())) > target:
                yield rows
                rows = _Rows()
            rows.add_texts(item)
            continue
        block = item
        row_bytes = 8 * len(block.keys) + ROW_BYTES
        while (room := (target - rows.size) // row_bytes) < len(block.sequences):
            if room >= 1 or not rows.rows:
                fits = max(room, 1)
                rows.add(_first(block, fits))
                block = after(block, int(block.sequences[0]) + fits - 1)
            yield rows
            rows = _Rows()
            if not len(block.sequences):
                break
        else:
            rows.add(block)
    if rows.rows:
        yield rows


def _first(block: RowBlock, count: int) -> RowBlock:
    return RowBlock(block.keys, block.sequences[:count], block.steps[:count], block.times[:count], block.values[:count])


def metric_batches(
    identity: Identity, first: int, items: Iterable[RowBlock | TextRow], target: int = TARGET_BYTES
) -> Iterator[MetricBatch]:
    """Batches that account, without a gap, for the sequences from `first` to the last row."""
    for rows in _gather(items, target):
        lengths, keys = rows.shape_arrays()
        yield MetricBatch(
            origin=identity.origin(first, rows.last),
            keys=list(rows.keys),
            shape_lengths=lengths,
            shape_keys=keys,
            row_sequences=_joined(rows.sequences),
            row_steps=_joined(rows.steps),
            row_times=microseconds(_joined(rows.times)),
            row_shapes=rows.row_shape_array(),
            values=_joined(rows.values),
            text_rows=np.array(rows.text_rows, np.int64),
            text_keys=np.array(rows.text_keys, np.int64),
            text_values=rows.text_values,
        )
        first = rows.last + 1


def system_batches(
    identity: Identity, first: int, items: Iterable[RowBlock | TextRow], target: int = TARGET_BYTES
) -> Iterator[SystemBatch]:
    """As `metric_batches`, of a journal of hardware samples."""
    for rows in _gather(items, target):
        lengths, keys = rows.shape_arrays()
        series = [_series(key) for key in rows.keys]
        yield SystemBatch(
            origin=identity.origin(first, rows.last),
            host=identity.host,
            series_metrics=[metric for metric, _, _ in series],
            series_gpus=[gpu for _, gpu, _ in series],
            series_gpu_indexes=np.array([index for _, _, index in series], np.int64),
            shape_lengths=lengths,
            shape_keys=keys,
            row_sequences=_joined(rows.sequences),
            row_times=microseconds(_joined(rows.times)),
            row_shapes=rows.row_shape_array(),
            values=_joined(rows.values),
        )
        first = rows.last + 1


def log_batches(
    identity: Identity, first: int, lines: Iterable[Event], target: int = TARGET_BYTES
) -> Iterator[LogBatch]:
    """Batches of console records: `{"stream": "stdout" | "stderr", "line": text}`."""
    gathered: list[tuple[Event, str]] = []
    size = 0
    for event in lines:
        line = clipped(str(event.data.get("line", "")))
        if gathered and size + len(line) > target:
            yield _log_batch(identity, first, gathered)
            first, gathered, size = gathered[-1][0].sequence + 1, [], 0
        gathered.append((event, line))
        size += len(line) + 8
    if gathered:
        yield _log_batch(identity, first, gathered)


def _log_batch(identity: Identity, first: int, gathered: list[tuple[Event, str]]) -> LogBatch:
    events = [event for event, _ in gathered]
    return LogBatch(
        origin=identity.origin(first, events[-1].sequence),
        row_sequences=np.array([event.sequence for event in events], np.int64),
        row_times=microseconds(np.array([event.time for event in events])),
        row_streams=np.array([STDERR if event.data.get("stream") == "stderr" else STDOUT for event in events]),
        lines=[line for _, line in gathered],
    )


def microseconds(times: Float64Array) -> Int64Array:
    """Seconds since the epoch to whole microseconds."""
    return np.rint(times * MICROSECONDS).astype(np.int64)


def clipped(text: str) -> str:
    """Text that fits a message with room to spare: what is larger is cut, and says so."""
    if len(text) <= MAX_TEXT_BYTES // 4:  # no character takes more than four bytes
        return text
    encoded = text.encode("utf-8", "surrogatepass")
    if len(encoded) <= MAX_TEXT_BYTES:
        return text
    head = encoded[: MAX_TEXT_BYTES // 2].decode("utf-8", "ignore")
    return f"{head}… [cut: {len(encoded)} bytes]"


def clipped_json(text: str) -> str:
    """JSON that fits a message: what is too large becomes a string of its beginning."""
    cut = clipped(text)
    return text if cut is text else json.dumps(cut)


def _series(key: str) -> tuple[str, str, int]:
    """A key of a system journal as (metric, UUID of the GPU, its index): `gpu/<index>/<uuid>/<metric>`, or plain."""
    parts = key.split("/", 3)
    if len(parts) == 4 and parts[0] == "gpu" and parts[1].isdecimal():
        return parts[3], parts[2], int(parts[1])
    return key, "", -1


def _joined(arrays: list[NDArray[T]]) -> NDArray[T]:
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
