"""Reads a journal back, also while another process writes it: its segments one after another, from any position on.

The reader gives the records as far as they are whole and in order, and then stops: it never guesses, and says in
`damage` what it found there and how much it left.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pulsetrain.journal.format import (
    HEADER_BYTES,
    MAX_RECORD_BYTES,
    RECORD_HEADER,
    RECORD_HEADER_BYTES,
    START,
    Position,
    SegmentHeader,
    extent_of,
    segment_path,
)
from pulsetrain.journal.records import BadRecord, Decoder, Event, Item, RowBlock, TextRow, holds_record

__all__ = ["Damage", "Event", "Item", "JournalReader", "RowBlock", "TextRow"]

# The first look at a journal that may have little to give.
GLANCE_BYTES = 16 << 10
# What is looked through at a time for something behind the end.
CHUNK_BYTES = 256 << 10
# How often a reader finds nothing new before it looks behind the end again: it takes two milliseconds.
QUIET_READS = 100

UNCLOSED = "the segment ends without saying so, though another follows"
UNFINISHED = "a record was begun and not finished"
GAP = "there is nothing where a record should be, and records after it"


@dataclass(frozen=True, slots=True)
class Damage:
    """Where the reader stopped though there is something: what it is, and how many bytes are left from there on."""

    segment: int
    offset: int
    reason: str
    bytes_left: int
    torn: bool
    """It is the last thing in the journal: a record that was never finished, so no log() that returned is missing."""


@dataclass(frozen=True, slots=True)
class _Segment:
    """The segment that is being read."""

    descriptor: int
    header: SegmentHeader
    decoder: Decoder

    @property
    def position(self) -> Position:
        return Position(self.header.number, self.decoder.offset)


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
        # The end that was met last without anything new, and how often; where something was found behind one.
        self._end: Position | None = None
        self._quiet_reads = 0
        self._suspect: Position | None = None
        self._looked = False

    def __enter__(self) -> "JournalReader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def position(self) -> Position:
        """The place after what was returned."""
        return self._start if self._segment is None else self._segment.position

    @property
    def sequence(self) -> int:
        """The last sequence returned; 0 before the first. From a position on, the first read finds it out."""
        return self._last if self._segment is None else self._segment.decoder.sequence

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
                decoder = segment.decoder
                if decoder.closed:
                    self._advance(segment)
                    continue
                before = decoder.offset
                buffer = os.pread(segment.descriptor, want, before)
                need = decoder.decode(buffer, items)
                budget -= decoder.offset - before
                if need < 0:
                    self._check_end(segment, quiet=not items)
                    break
                if need > len(buffer) and len(buffer) < want and decoder.offset == before:
                    raise BadRecord("the segment ends in the middle of a record" if buffer else UNCLOSED)
                want = max(need, min(max_bytes, max(budget, GLANCE_BYTES)))
        except BadRecord as bad:
            self._stop(str(bad))
        return items

    def __iter__(self) -> Iterator[Item]:
        """Everything that is there now."""
        while items := self.read():
            yield from items

    def _open(self, position: Position) -> _Segment | None:
        """Opens a segment at an offset. None when the journal does not exist yet."""
        number = position.segment
        try:
            descriptor = os.open(segment_path(self.directory, number), os.O_RDONLY)
        except FileNotFoundError:
            if any(later > number for later, _ in self._segments()):
                raise BadRecord(f"segment {number} is missing, though a later one is there") from None
            return None
        try:
            try:
                header = SegmentHeader.decode(os.pread(descriptor, HEADER_BYTES, 0))
            except ValueError as error:
                raise BadRecord(f"segment {number}: {error}") from None
            if header.number != number:
                raise BadRecord(f"the file of segment {number} says that it is segment {header.number}")
            segment = _Segment(descriptor, header, Decoder(HEADER_BYTES, header.first_sequence - 1))
            _skip_to(segment, max(position.offset, HEADER_BYTES))
        except BaseException:
            os.close(descriptor)
            raise
        self._segment = segment
        return segment

    def _advance(self, segment: _Segment) -> None:
        """Goes on to the segment after one that was closed."""
        number = segment.header.number + 1
        following = self._open(Position(number, 0))
        if following is None:
            raise BadRecord(f"segment {number} is missing, though the one before it says that it follows")
        expected = (segment.header.writer, segment.decoder.sequence + 1)
        if (following.header.writer, following.header.first_sequence) != expected:
            os.close(following.descriptor)
            self._segment = segment
            raise BadRecord(f"segment {number} does not continue the one before it")
        os.close(segment.descriptor)

    def _check_end(self, segment: _Segment, *, quiet: bool) -> None:
        """At zeros: is it the end, or has a loss of power taken what stood there?"""
        position = segment.position
        follows = _has_records(segment_path(self.directory, position.segment + 1)) > 0
        if not follows and not (quiet and self._is_to_look(position)):
            return
        follows = follows or any(number > position.segment for number, _ in self._segments())
        rest = _written_from(segment.descriptor, position.offset)
        if rest[:RECORD_HEADER_BYTES].strip(b"\0"):
            return  # written since we looked
        self._looked, self._suspect = True, position if rest or follows else None
        if follows:
            raise BadRecord(UNCLOSED)
        if rest:
            raise BadRecord(GAP if holds_record(rest) else UNFINISHED)

    def _is_to_look(self, end: Position) -> bool:
        """Whether the rest of the segment is looked through: by a reader that first finds nothing new, and then rarely.

        Gaps are left by a loss of power, and so found by readers that begin; one that lives meets them hardly ever.
        """
        self._quiet_reads = self._quiet_reads + 1 if end == self._end else 1
        self._end = end
        return not self._looked or end == self._suspect or self._quiet_reads == QUIET_READS

    def _stop(self, reason: str) -> None:
        position = self.position
        awaiting = self._segment is not None and self._segment.decoder.closed
        rest = b"" if awaiting else self._left_in(position)
        later = sum(size for number, size in self._segments() if number > position.segment)
        if not rest and not later and not awaiting:
            return
        torn = position.offset >= HEADER_BYTES and not later and not awaiting and _is_one_record(rest)
        self.damage = Damage(position.segment, position.offset, reason, len(rest) + later, torn)

    def _left_in(self, position: Position) -> bytes:
        try:
            descriptor = os.open(segment_path(self.directory, position.segment), os.O_RDONLY)
        except FileNotFoundError:
            return b""
        try:
            return _written_from(descriptor, position.offset)
        finally:
            os.close(descriptor)

    def _segments(self) -> Iterator[tuple[int, int]]:
        """The segments that have records, by number, with the sizes of their files."""
        for path in self.directory.glob("*.journal"):
            if path.stem.isdecimal() and (size := _has_records(path)):
                yield int(path.stem), size


def _has_records(path: Path) -> int:
    """The size of a segment's file, 0 where it has no record or is gone."""
    try:
        with path.open("rb") as file:
            head = file.read(HEADER_BYTES + RECORD_HEADER_BYTES)
            return os.fstat(file.fileno()).st_size if any(head[HEADER_BYTES:]) else 0
    except FileNotFoundError:
        return 0


def _written_from(descriptor: int, offset: int) -> bytes:
    """What stands in a segment from an offset on, a multiple of eight, without the zeros at its end."""
    end = os.fstat(descriptor).st_size
    while end > offset:
        start = max(offset, (end - 1) // CHUNK_BYTES * CHUNK_BYTES)
        chunk = os.pread(descriptor, end - start, start)
        if np.frombuffer(chunk, np.uint64, len(chunk) >> 3).any() or any(chunk[len(chunk) & ~7 :]):
            return os.pread(descriptor, end - offset, offset).rstrip(b"\0")
        end = start
    return b""


def _is_one_record(rest: bytes) -> bool:
    """Whether what is left may be the one record that was being written when its process or the machine died."""
    length, crc = RECORD_HEADER.unpack_from(rest.ljust(RECORD_HEADER_BYTES, b"\0"))
    if not length and not crc:
        return not holds_record(rest)
    return len(rest) <= RECORD_HEADER_BYTES or (0 < length <= MAX_RECORD_BYTES and len(rest) <= extent_of(length))


def _skip_to(segment: _Segment, target: int) -> None:
    """Reads a segment from its start to `target`, for its shapes and its sequence."""
    want = 1 << 20
    decoder = segment.decoder
    while decoder.offset < target:
        before = decoder.offset
        buffer = os.pread(segment.descriptor, min(want, target - before), before)
        need = -1 if decoder.closed else decoder.decode(buffer, [])
        if decoder.offset == before:
            if need <= want or need > target - before:
                raise BadRecord(f"offset {target} of segment {segment.header.number} is not between two records")
            want = need
