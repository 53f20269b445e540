"""Reads a journal back, also while another process writes it.

Runs of rows of one shape are decoded at one go. The reader gives the records as far as they are whole and in order, and
then stops: it never guesses, and says in `damage` what it found there and how much it left.
"""

import json
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pulsetrain.journal.format import (
    BODY_HEADER_BYTES,
    CLOSE,
    EVENT,
    EVENT_HEADER,
    HEADER_BYTES,
    MAX_RECORD_BYTES,
    RECORD_HEADER,
    RECORD_HEADER_BYTES,
    ROW,
    ROW_HEADER_BYTES,
    SHAPE,
    START,
    TEXT_ROW,
    TEXT_ROW_HEADER,
    Position,
    SegmentHeader,
    extent_of,
    segment_path,
)

# The first look at a journal that may have little to give.
GLANCE_BYTES = 16 << 10
# How many records of one shape are compared before the whole buffer is.
PROBE_RECORDS = 64

UNCLOSED = "the segment ends without saying so, though another follows"


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


@dataclass(frozen=True, slots=True)
class Damage:
    """Where the reader stopped though there is something: what it is, and how many bytes are left from there on."""

    segment: int
    offset: int
    reason: str
    bytes_left: int
    torn: bool
    """It is the last thing in the journal: a record that was never finished, so no log() that returned is missing."""


class _Bad(Exception):
    """A record that is not as it should be."""


@dataclass(slots=True)
class _Segment:
    """The segment that is being read, and what is known of it up to the reader's place."""

    descriptor: int
    header: SegmentHeader
    offset: int
    sequence: int
    shapes: dict[int, tuple[str, ...]]
    closed: bool = False


class JournalReader:
    """The records of one journal, in order, from a position on. Not safe for threads; holds one file open."""

    def __init__(self, directory: str | os.PathLike[str], position: Position = START) -> None:
        """A journal that does not exist yet is one that has nothing to give yet."""
        self.directory = Path(directory)
        self.damage: Damage | None = None
        """What stopped the last read, if it was not the end of what has been written."""
        self._last = 0
        self._start = Position(*position)
        self._segment: _Segment | None = None

    def __enter__(self) -> "JournalReader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def position(self) -> Position:
        """The place after what was returned."""
        if self._segment is None:
            return self._start
        return Position(self._segment.header.number, self._segment.offset)

    @property
    def sequence(self) -> int:
        """The last sequence returned; 0 before the first. From a position on, the first read finds it out."""
        return self._last if self._segment is None else self._segment.sequence

    @property
    def writer(self) -> str | None:
        """Whose journal it is, as soon as its first segment was seen."""
        return None if self._segment is None else self._segment.header.writer

    def close(self) -> None:
        """Closes the file. Reading again goes on from the same position."""
        if self._segment is not None:
            self._start, self._last = self.position, self.sequence
            os.close(self._segment.descriptor)
            self._segment = None

    def read(self, max_bytes: int = 1 << 20) -> list[Item]:
        """The complete records there now, in order, about `max_bytes` of them; empty when nothing is new."""
        items: list[Item] = []
        self.damage = None
        budget = max_bytes
        want = min(GLANCE_BYTES, max_bytes)
        try:
            while budget > 0 or not items:
                segment = self._segment or self._open(self._start)
                if segment is None:
                    break
                if segment.closed:
                    if not self._advance(segment):
                        break
                    continue
                buffer = os.pread(segment.descriptor, want, segment.offset)
                before = segment.offset
                need = _decode(segment, buffer, items)
                budget -= segment.offset - before
                if need < 0:
                    self._check_end(segment)
                    break
                if need > len(buffer) and len(buffer) < want and segment.offset == before:
                    raise _Bad("the segment ends in the middle of a record" if buffer else UNCLOSED)
                want = max(need, min(max_bytes, max(budget, GLANCE_BYTES)))
        except _Bad as bad:
            self._stop(str(bad))
        return items

    def __iter__(self) -> Iterator[Item]:
        """Everything that is there now."""
        while items := self.read():
            yield from items

    def _open(self, position: Position) -> _Segment | None:
        """Opens a segment at an offset. None when it does not exist yet."""
        try:
            descriptor = os.open(segment_path(self.directory, position.segment), os.O_RDONLY)
        except FileNotFoundError:
            return None
        try:
            try:
                header = SegmentHeader.decode(os.pread(descriptor, HEADER_BYTES, 0))
            except ValueError as error:
                raise _Bad(str(error)) from None
            if header.number != position.segment:
                raise _Bad(f"the file says that it is segment {header.number}")
            segment = _Segment(descriptor, header, HEADER_BYTES, header.first_sequence - 1, {})
            _skip_to(segment, max(position.offset, HEADER_BYTES))
        except BaseException:
            os.close(descriptor)
            raise
        self._segment = segment
        return segment

    def _advance(self, segment: _Segment) -> bool:
        """Goes on to the segment after one that was closed."""
        number = segment.header.number + 1
        following = self._open_next(segment, number)
        if following is None:
            raise _Bad(f"segment {number} is missing, though the one before it says that it follows")
        os.close(segment.descriptor)
        return True

    def _open_next(self, segment: _Segment, number: int) -> _Segment | None:
        following = self._open(Position(number, 0))
        if following is None:
            return None
        expected = (segment.header.writer, segment.sequence + 1)
        if (following.header.writer, following.header.first_sequence) != expected:
            os.close(following.descriptor)
            self._segment = segment
            raise _Bad(f"segment {number} does not continue the one before it")
        return following

    def _check_end(self, segment: _Segment) -> None:
        """At zeros: is it the end, or has a loss of power taken what stood there?"""
        following = segment_path(self.directory, segment.header.number + 1)
        if not _has_records(following):
            return
        if os.pread(segment.descriptor, RECORD_HEADER_BYTES, segment.offset).strip(b"\0"):
            return  # written since we looked
        raise _Bad(UNCLOSED)

    def _stop(self, reason: str) -> None:
        position = self.position
        offset = position.offset
        try:
            rest = segment_path(self.directory, position.segment).read_bytes()[offset:]
        except FileNotFoundError:
            rest = b""
        left = len(rest.rstrip(b"\0"))
        names = {segment_path(self.directory, number).name for number in range(1, position.segment + 1)}
        others = (path for path in self.directory.glob("*.journal") if path.name not in names)
        later = sum(path.stat().st_size for path in others if _has_records(path))
        if not left + later:
            return
        torn = False
        if not later and offset >= HEADER_BYTES:
            length = RECORD_HEADER.unpack_from(rest.ljust(RECORD_HEADER_BYTES, b"\0"))[0]
            torn = left < RECORD_HEADER_BYTES or (0 < length <= MAX_RECORD_BYTES and left <= extent_of(length))
        self.damage = Damage(position.segment, offset, reason, left + later, torn)


def _has_records(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return any(file.read(HEADER_BYTES + RECORD_HEADER_BYTES)[HEADER_BYTES:])
    except FileNotFoundError:
        return False


def _skip_to(segment: _Segment, target: int) -> None:
    """Reads a segment from its start to `target`, for its shapes and its sequence."""
    want = 1 << 20
    while segment.offset < target and not segment.closed:
        buffer = os.pread(segment.descriptor, min(want, target - segment.offset), segment.offset)
        before = segment.offset
        need = _decode(segment, buffer, [])
        if segment.offset == before:
            if need <= want or need > target - before:
                raise _Bad(f"offset {target} of segment {segment.header.number} is not between two records")
            want = need


def _decode(segment: _Segment, buffer: bytes, items: list[Item]) -> int:
    """Decodes the records at the start of `buffer`, which was read at the segment's offset, and moves the offset on.

    Returns -1 at the end of what has been written, else how many bytes the next record needs, as far as they are known.
    """
    size = len(buffer)
    at = 0
    base = segment.offset
    while True:
        segment.offset = base + at
        if at + RECORD_HEADER_BYTES > size:
            return RECORD_HEADER_BYTES
        length, crc = RECORD_HEADER.unpack_from(buffer, at)
        if not length and not crc:
            return -1
        if not BODY_HEADER_BYTES <= length <= MAX_RECORD_BYTES:
            raise _Bad(f"a record of {length} bytes cannot be")
        extent = extent_of(length)
        if at + extent > size:
            return extent
        start = at + RECORD_HEADER_BYTES
        body = buffer[start : start + length]
        if zlib.crc32(body) != crc:
            raise _Bad("a record does not match its checksum")
        word = int.from_bytes(body[:8], "little")
        sequence = int.from_bytes(body[8:16], "little")
        kind, shape = word & 0xFFFF, word >> 32
        if kind == ROW:
            keys = segment.shapes.get(shape)
            if keys is None or length != ROW_HEADER_BYTES + 8 * len(keys):
                raise _Bad(f"a row does not fit shape {shape}")
            _expect(segment, sequence)
            block = _rows(keys, buffer, at, length, word, sequence)
            items.append(block)
            segment.sequence = sequence + len(block.sequences) - 1
            at += extent * len(block.sequences)
            continue
        if kind == SHAPE:
            segment.shapes[shape] = _shape(body)
        elif kind == EVENT:
            _expect(segment, sequence)
            items.append(_event(body, sequence))
            segment.sequence = sequence
        elif kind == TEXT_ROW:
            _expect(segment, sequence)
            items.append(_text_row(body, sequence))
            segment.sequence = sequence
        elif kind == CLOSE:
            segment.closed = True
            segment.offset = base + at + extent
            return 0
        else:
            raise _Bad(f"this release knows no record of kind {kind}")
        at += extent


def _expect(segment: _Segment, sequence: int) -> None:
    if sequence != segment.sequence + 1:
        raise _Bad(f"record {sequence} comes after record {segment.sequence}")


def _rows(keys: tuple[str, ...], buffer: bytes, at: int, length: int, word: int, sequence: int) -> RowBlock:
    """The rows of one shape from `at` on; the first is known to be good."""
    extent = RECORD_HEADER_BYTES + length
    columns = extent >> 3
    most = (len(buffer) - at) // extent
    following = at + extent
    count = 1
    if most > 1 and RECORD_HEADER.unpack_from(buffer, following)[0] == length:
        words = np.frombuffer(buffer, np.uint64, most * columns, at).reshape(most, columns)
        count = _same(words[:PROBE_RECORDS], length, word, sequence)
        if count == PROBE_RECORDS < most:
            count = _same(words, length, word, sequence)
        count = _sound(buffer, at, extent, (words[:count, 0] >> np.uint64(32)).tolist())
    if count == 1:  # a copy of the one body, and views of it, in place of four copies
        start = at + RECORD_HEADER_BYTES
        body = buffer[start : start + length]
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
        raise _Bad("a record holds no JSON where it should") from None
    if not isinstance(value, expected):
        raise _Bad("a record holds JSON of another form than it should")
    return value


def _shape(body: bytes) -> tuple[str, ...]:
    keys = _json(body[BODY_HEADER_BYTES:], list)
    if not all(isinstance(key, str) for key in keys):
        raise _Bad("a shape has a key that is no text")
    return tuple(keys)


def _event(body: bytes, sequence: int) -> Event:
    if len(body) < EVENT_HEADER.size:
        raise _Bad("an event is cut short")
    time = EVENT_HEADER.unpack_from(body)[2]
    data = _json(body[EVENT_HEADER.size :], dict)
    kind = data.pop("kind", None)
    if not isinstance(kind, str):
        raise _Bad("an event does not say its kind")
    return Event(sequence, time, kind, data)


def _text_row(body: bytes, sequence: int) -> TextRow:
    if len(body) < TEXT_ROW_HEADER.size:
        raise _Bad("a row is cut short")
    _, _, step, time, count, _ = TEXT_ROW_HEADER.unpack_from(body)
    begin = TEXT_ROW_HEADER.size
    end = begin + 8 * count
    if end > len(body):
        raise _Bad("a row is cut short")
    tail = _json(body[end:], dict)
    keys, texts = tail.get("keys"), tail.get("texts")
    if not isinstance(keys, list) or not isinstance(texts, dict) or len(keys) != count:
        raise _Bad("a row has not as many keys as values")
    values = np.frombuffer(body, np.float64, count, begin).tolist()
    return TextRow(sequence, step, time, dict(zip(keys, values, strict=True)), texts)
