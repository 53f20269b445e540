"""What is in a journal: its records, and how the bytes of a segment become them.

Rows of one shape that follow one another are decoded at one go. A record counts when its checksum, its sequence and its
form are right; at the first that is not, decoding stops.
"""

import json
import struct
import zlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pulsetrain.journal.format import (
    BODY_HEADER_BYTES,
    CLOSE,
    EVENT,
    EVENT_HEADER,
    MAX_RECORD_BYTES,
    RECORD_HEADER,
    RECORD_HEADER_BYTES,
    ROW,
    ROW_HEADER_BYTES,
    SHAPE,
    TEXT_ROW,
    TEXT_ROW_HEADER,
    extent_of,
)

BODY_WORDS = struct.Struct("<QQ")  # kind, flags and shape as one, and the sequence
# How many records of one shape are compared before the whole buffer is.
PROBE_RECORDS = 64
# How many places are looked at, for a record behind a gap, whose first bytes might be one's.
MOST_CANDIDATES = 10_000


@dataclass(frozen=True, slots=True, eq=False)
class RowBlock:
    """Consecutive rows of one shape: n rows, k keys."""

    keys: tuple[str, ...]
    sequences: NDArray[np.int64]
    steps: NDArray[np.int64]
    times: NDArray[np.float64]
    """Seconds since the epoch."""
    values: NDArray[np.float64]
    """n by k."""


@dataclass(frozen=True, slots=True)
class TextRow:
    """A row some of whose values are no numbers: those are JSON in `texts`."""

    sequence: int
    step: int
    time: float
    numbers: dict[str, float]
    texts: dict[str, str]


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to the run: `kind`, and what else was written with it."""

    sequence: int
    time: float
    kind: str
    data: dict[str, Any]


Item = RowBlock | TextRow | Event


class BadRecord(Exception):
    """A record that is not as it should be."""


@dataclass(slots=True)
class Decoder:
    """Decodes one segment from its first record on, piece by piece."""

    offset: int
    """Where in the segment the next record begins."""
    sequence: int
    """The last record that was decoded; at first, the last of the segment before."""
    closed: bool = False
    """Whether the record was decoded that says that another segment follows."""
    _shapes: dict[int, tuple[str, ...]] = field(default_factory=dict)

    def decode(self, buffer: bytes, items: list[Item]) -> int:
        """Decodes the records at the start of `buffer`, which was read at `offset`, and moves `offset` on.

        Returns -1 at the end of what has been written, 0 when the segment is closed, else how many bytes the next
        record needs, as far as they are known. BadRecord at a record that is wrong; all before it is decoded then.
        """
        size = len(buffer)
        at = 0
        base = self.offset
        while True:
            self.offset = base + at
            if at + RECORD_HEADER_BYTES > size:
                return RECORD_HEADER_BYTES
            length, crc = RECORD_HEADER.unpack_from(buffer, at)
            if not length and not crc:
                return -1
            if not BODY_HEADER_BYTES <= length <= MAX_RECORD_BYTES:
                raise BadRecord(f"a record of {length} bytes cannot be")
            extent = extent_of(length)
            if at + extent > size:
                return extent
            start = at + RECORD_HEADER_BYTES
            body = buffer[start : start + length]
            if zlib.crc32(body) != crc:
                raise BadRecord("a record does not match its checksum")
            word, sequence = BODY_WORDS.unpack_from(body)
            kind, shape = word & 0xFFFF, word >> 32
            if kind == ROW:
                keys = self._shapes.get(shape)
                if keys is None or length != ROW_HEADER_BYTES + 8 * len(keys):
                    raise BadRecord(f"a row does not fit shape {shape}")
                self._expect(sequence)
                block = _rows(keys, buffer, body, at, word, sequence)
                items.append(block)
                count = len(block.sequences)
                self.sequence = sequence + count - 1
                at += extent * count
                continue
            if kind == SHAPE:
                self._shapes[shape] = _shape(body)
            elif kind == EVENT:
                self._expect(sequence)
                items.append(_event(body, sequence))
                self.sequence = sequence
            elif kind == TEXT_ROW:
                self._expect(sequence)
                items.append(_text_row(body, sequence))
                self.sequence = sequence
            elif kind == CLOSE:
                self.closed = True
                self.offset = base + at + extent
                return 0
            else:
                raise BadRecord(f"this release knows no record of kind {kind}")
            at += extent

    def _expect(self, sequence: int) -> None:
        if sequence != self.sequence + 1:
            raise BadRecord(f"record {sequence} comes after record {self.sequence}")


def holds_record(data: bytes) -> bool:
    """Whether a whole record is anywhere in `data`, which is at a place where one could begin."""
    words = np.frombuffer(data, np.uint64, len(data) >> 3)
    if len(words) < 3:
        return False
    lengths, crcs, kinds = words[:-1] & np.uint64(0xFFFFFFFF), words[:-1] >> np.uint64(32), words[1:]
    likely = (
        (lengths >= np.uint64(BODY_HEADER_BYTES)) & (crcs != 0) & (kinds & np.uint64(0xFFFFFFFF) <= np.uint64(CLOSE))
    )
    likely &= kinds != 0
    for index in np.flatnonzero(likely)[:MOST_CANDIDATES].tolist():
        start = index * 8 + RECORD_HEADER_BYTES
        body = data[start : start + int(lengths[index])]
        if len(body) == lengths[index] and zlib.crc32(body) == crcs[index]:
            return True
    return False


def _rows(keys: tuple[str, ...], buffer: bytes, body: bytes, at: int, word: int, sequence: int) -> RowBlock:
    """The rows of one shape from `at` on, of which the first has this `body` and is known to be good."""
    length = len(body)
    extent = RECORD_HEADER_BYTES + length
    columns = extent >> 3
    count = 1
    following = at + extent + RECORD_HEADER_BYTES
    if buffer[following : following + 8] == body[:8]:
        most = (len(buffer) - at) // extent
        words = np.frombuffer(buffer, np.uint64, most * columns, at).reshape(most, columns)
        count = _same(words[:PROBE_RECORDS], length, word, sequence)
        if count == PROBE_RECORDS < most:
            count = _same(words, length, word, sequence)
        count = _sound(buffer, at, extent, (words[:count, 0] >> np.uint64(32)).tolist())
    if count == 1:  # views of the one body, in place of four copies
        integers, floats = np.frombuffer(body, np.int64), np.frombuffer(body, np.float64)
        return RowBlock(keys, integers[1:2], integers[2:3], floats[3:4], floats[4:].reshape(1, -1))
    words = np.frombuffer(buffer, np.uint64, count * columns, at).reshape(count, columns)
    return RowBlock(
        keys,
        words[:, 2].astype(np.int64),
        words[:, 3].copy().view(np.int64),
        words[:, 4].copy().view(np.float64),
        words[:, 5:].copy().view(np.float64),
    )


def _same(words: NDArray[np.uint64], length: int, word: int, sequence: int) -> int:
    """How many of the records, from the first on, have this length, this kind and shape, and follow one another."""
    same = (words[:, 0] & np.uint64(0xFFFFFFFF)) == np.uint64(length)
    same &= words[:, 1] == np.uint64(word)
    same &= words[:, 2] == np.arange(sequence, sequence + len(words), dtype=np.uint64)
    different = np.flatnonzero(~same)
    return int(different[0]) if len(different) else len(words)


def _sound(buffer: bytes, at: int, extent: int, crcs: list[int]) -> int:
    """How many of the records, from the first on, match their checksums."""
    crc32 = zlib.crc32
    end = at
    for index, crc in enumerate(crcs):
        start = end + RECORD_HEADER_BYTES
        end += extent
        if crc32(buffer[start:end]) != crc:
            return index
    return len(crcs)


def _json(data: bytes, expected: type) -> Any:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        raise BadRecord("a record holds no JSON where it should") from None
    if not isinstance(value, expected):
        raise BadRecord("a record holds JSON of another form than it should")
    return value


def _shape(body: bytes) -> tuple[str, ...]:
    keys = _json(body[BODY_HEADER_BYTES:], list)
    if not all(isinstance(key, str) for key in keys):
        raise BadRecord("a shape has a key that is no text")
    return tuple(keys)


def _event(body: bytes, sequence: int) -> Event:
    if len(body) < EVENT_HEADER.size:
        raise BadRecord("an event is cut short")
    time = EVENT_HEADER.unpack_from(body)[2]
    data = _json(body[EVENT_HEADER.size :], dict)
    kind = data.pop("kind", None)
    if not isinstance(kind, str):
        raise BadRecord("an event does not say its kind")
    return Event(sequence, time, kind, data)


def _text_row(body: bytes, sequence: int) -> TextRow:
    if len(body) < TEXT_ROW_HEADER.size:
        raise BadRecord("a row is cut short")
    _, _, step, time, count, _ = TEXT_ROW_HEADER.unpack_from(body)
    begin = TEXT_ROW_HEADER.size
    end = begin + 8 * count
    if end > len(body):
        raise BadRecord("a row is cut short")
    tail = _json(body[end:], dict)
    keys, texts = tail.get("keys"), tail.get("texts")
    if not isinstance(keys, list) or not isinstance(texts, dict) or len(keys) != count:
        raise BadRecord("a row has not as many keys as values")
    values = np.frombuffer(body, np.float64, count, begin).tolist()
    return TextRow(sequence, step, time, dict(zip(keys, values, strict=True)), texts)
