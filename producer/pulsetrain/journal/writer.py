"""Writes a journal: what log() calls. Standard library alone, no lock, no fsync, no network.

A record is in the memory map of a preallocated segment when a call returns, so it survives the death of the process
at any instant. The writer keeps its own state right when a signal handler, run in the middle of a call, writes to the
same journal: a record is built first, and then stored by bytecodes between which the interpreter runs no handler.
Threads are the caller's business: it holds a lock around every call.
"""

import contextlib
import errno
import json
import mmap
import os
import struct
import time as clocks
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

from pulsetrain.journal.format import (
    BODY_HEADER,
    CLOSE,
    CLOSE_EXTENT,
    EVENT,
    EVENT_HEADER,
    HEADER_BYTES,
    MAX_RECORD_BYTES,
    ROW,
    ROW_HEADER_BYTES,
    SEGMENT_BYTES,
    SHAPE,
    TEXT_ROW,
    TEXT_ROW_HEADER,
    Position,
    SegmentHeader,
    body_word,
    extent_of,
    segment_path,
)

# Kept free at the end of every segment for the one record that says how the run ended, should the disk be full by then.
LAST_WORDS_BYTES = 1024
# How much memory the remembered shapes may take, about: a program that makes up keys does not grow the process.
MAX_REMEMBERED_BYTES = 8 << 20
SHAPE_BYTES, KEY_BYTES = 450, 70
# How long a full disk is left alone before room is asked for again.
RETRY_SECONDS = 0.5

OUT_OF_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class JournalFull(OSError):
    """There is no room for another segment; `strerror` says why. What was to be written is not in the journal."""


class JournalClosed(ValueError):
    """The journal was closed, or belongs to a process that this one was forked from."""


class RecordTooLarge(ValueError):
    """A record of more than MAX_RECORD_BYTES."""


class _Shape(NamedTuple):
    pack: Callable[..., bytes]
    length: int
    extent: int
    word: int


class JournalWriter:
    """One journal of one process. Not safe for threads (the caller locks), safe against signal handlers that write too.

    `sequence` is the number of the last record, 0 before the first. After a fork the child must call `forsake()` and
    write a journal of its own.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        writer: str | None = None,
        segment_bytes: int = SEGMENT_BYTES,
        refusal: Callable[[int], str] | None = None,
        clock: Callable[[], float] = clocks.time,
        monotonic: Callable[[], float] = clocks.monotonic,
    ) -> None:
        """Creates the folder and its first segment. JournalFull if there is no room, OSError if it is refused.

        `refusal(size)` says why the journal must not take so many bytes more, or nothing. It is asked before each
        segment but the first: what is known of a run at least is that it was.
        """
        self.directory = Path(directory)
        self.writer = writer or os.urandom(16).hex()
        self.sequence = 0
        self._segment_bytes = segment_bytes
        self._refusal = refusal
        self._clock = clock
        self._monotonic = monotonic
        self._retry_at = 0.0
        self._full_because = ""
        self._number = 0
        self._closed = False
        self._map: mmap.mmap
        self._words: memoryview
        self._shapes: dict[tuple[str, ...], _Shape] = {}
        self._remembered = 0
        self._next_shape = 1
        self._offset = 0
        self._limit = 0
        self.directory.mkdir(parents=True, exist_ok=True)
        self._roll(0)

    @property
    def position(self) -> Position:
        """Where the next record goes."""
        return Position(self._number, self._offset)

    @property
    def closed(self) -> bool:
        """Whether nothing can be written any more."""
        return self._closed

    def row(self, keys: tuple[str, ...], values: Iterable[Any], step: int, time: float) -> None:
        """Appends a row of numbers: whatever has __float__ or __index__, as many as keys; `time` in epoch seconds.

        `values` is iterated again should another shape or segment be needed. Raises what packing raises
        (struct.error, TypeError, OverflowError, ValueError …) when a value is no float64, JournalFull when there is no
        room; then nothing was written.
        """
        while True:
            shapes = self._shapes
            shape = shapes.get(keys)
            if shape is None:
                self._declare(keys)
                continue
            pack, length, extent, word = shape
            sequence = self.sequence + 1
            body = pack(word, sequence, step, time, *values)
            head = length | crc32(body) << 32
            # No call from here to the end: no signal handler, and with it no other record, comes between.
            start = self._offset
            end = start + extent
            if end <= self._limit and self.sequence + 1 == sequence and self._shapes is shapes:
                self.sequence = sequence
                self._offset = end
                self._map[start + 8 : end] = body
                self._words[start >> 3] = head
                return
            if end > self._limit:
                self._roll(extent + extent_of(len(_shape_body(0, keys))))

    def text_row(self, numbers: Mapping[str, float], texts: Mapping[str, str], step: int, time: float) -> None:
        """Appends a row with values that are no numbers; `texts` holds JSON by key. Raises as row()."""
        tail = json.dumps({"keys": list(numbers), "texts": dict(texts)}, separators=(",", ":")).encode()
        word = body_word(TEXT_ROW)
        packed = struct.pack(f"<{len(numbers)}d", *numbers.values())
        self._append(lambda sequence: TEXT_ROW_HEADER.pack(word, sequence, step, time, len(numbers), 0) + packed + tail)

    def event(self, kind: str, data: Mapping[str, Any], time: float | None = None, *, last: bool = False) -> None:
        """Appends `{"kind": kind, **data}`; `last` may use the room that is kept for the run's last words."""
        when = self._clock() if time is None else time
        tail = json.dumps({"kind": kind, **data}, separators=(",", ":")).encode()
        word = body_word(EVENT)
        self._append(lambda sequence: EVENT_HEADER.pack(word, sequence, when) + tail, LAST_WORDS_BYTES if last else 0)

    def close(self) -> None:
        """Gives back the space that was allocated and not used. What was written stays."""
        if self._release():
            os.truncate(segment_path(self.directory, self._number), self._offset)

    def forsake(self) -> None:
        """Lets go of a journal that belongs to the parent process, without touching it."""
        self._release()

    def _release(self) -> bool:
        if self._closed:
            return False
        self._closed = True
        self._limit = -LAST_WORDS_BYTES
        self._words.release()
        self._map.close()
        return True

    def _append(self, build: Callable[[int], bytes], reserve: int = 0, *, numbered: bool = True) -> None:
        """Stores the body that `build` gives for a sequence (0 for a record that is not counted)."""
        while True:
            number = self._number
            sequence = self.sequence + 1
            body = build(sequence if numbered else 0)
            length = len(body)
            if length > MAX_RECORD_BYTES:
                raise RecordTooLarge(
                    f"a record of {length} bytes is larger than the {MAX_RECORD_BYTES} that a journal takes"
                )
            extent = extent_of(length)
            head = length | crc32(body) << 32
            # As in row(): no call from here to the return.
            start = self._offset
            end = start + extent
            if end <= self._limit + reserve and self.sequence + 1 == sequence and self._number == number:
                if numbered:
                    self.sequence = sequence
                self._offset = end
                self._map[start + 8 : start + 8 + length] = body
                self._words[start >> 3] = head
                return
            if end > self._limit + reserve:
                self._roll(extent)

    def _declare(self, keys: tuple[str, ...]) -> None:
        """Writes the shape of `keys` into the segment, and remembers it."""
        if self._remembered > MAX_REMEMBERED_BYTES:
            self._shapes = {}
            self._remembered = 0
        packing = struct.Struct(f"@QQqd{len(keys)}d")  # native is twice as fast as "<", and the same on these machines
        row_extent = extent_of(packing.size)
        shape_extent = extent_of(len(_shape_body(0, keys)))
        if self._offset + shape_extent + row_extent > self._limit:
            self._roll(shape_extent + row_extent)
        shapes, number = self._shapes, 0

        def declaration(_: int) -> bytes:
            """With a number of the segment that it is stored in, which begins to count anew."""
            nonlocal shapes, number
            shapes, number = self._shapes, self._next_shape
            self._next_shape = number + 1
            return _shape_body(number, keys)

        self._append(declaration, numbered=False)
        if self._shapes is shapes:
            shapes[keys] = _Shape(packing.pack, packing.size, row_extent, body_word(ROW, number))
            self._remembered += SHAPE_BYTES + KEY_BYTES * len(keys)

    def _roll(self, need: int) -> None:
        """Goes on in a new segment that has room for `need` bytes of records. JournalFull leaves all as it was."""
        number, sequence = self._number, self.sequence
        if self._closed:
            raise JournalClosed("the journal is closed")
        if self._retry_at and self._monotonic() < self._retry_at:
            raise JournalFull(errno.ENOSPC, self._full_because, str(self.directory))
        size = max(self._segment_bytes, HEADER_BYTES + need + CLOSE_EXTENT + LAST_WORDS_BYTES)
        size = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
        if number and self._refusal is not None and (reason := self._refusal(size)):
            raise self._full(errno.EDQUOT, reason)
        path = str(segment_path(self.directory, number + 1))
        draft = f"{path}.{os.urandom(4).hex()}"
        descriptor = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0), 0o644)
        try:
            try:
                allocate(descriptor, size)
                mapped = mmap.mmap(descriptor, size)
            finally:
                os.close(descriptor)
            mapped[:HEADER_BYTES] = SegmentHeader(self.writer, number + 1, sequence + 1).encode()
            words = memoryview(mapped).cast("Q")
            close_body = BODY_HEADER.pack(CLOSE, 0, 0, 0)
            close_head = len(close_body) | crc32(close_body) << 32
            # Else a signal handler has written meanwhile, and maybe gone on to the next segment.
            if self._number == number and self.sequence == sequence:
                os.rename(draft, path)  # noqa: PTH104 - no other call may come between the check and the rename
        except BaseException as error:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(draft)  # noqa: PTH108
            if isinstance(error, OSError) and error.errno in OUT_OF_SPACE:
                raise self._full(error.errno, f"the disk is full ({error.strerror})") from None
            raise
        # No call before the CLOSE record is stored, see row().
        if self._number != number or self.sequence != sequence:
            stale = (words, mapped)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(draft)  # noqa: PTH108
        else:
            if number:
                stale = (self._words, self._map)
                end = self._offset
            self._retry_at = 0.0
            self._shapes = {}
            self._remembered = 0
            self._next_shape = 1
            self._map = mapped
            self._words = words
            self._number = number + 1
            self._offset = HEADER_BYTES
            self._limit = size - CLOSE_EXTENT - LAST_WORDS_BYTES
            if not number:
                return
            stale[1][end + 8 : end + CLOSE_EXTENT] = close_body
            stale[0][end >> 3] = close_head
        stale[0].release()
        stale[1].close()

    def _full(self, number: int, reason: str) -> JournalFull:
        self._retry_at = self._monotonic() + RETRY_SECONDS
        self._full_because = reason
        return JournalFull(number, reason, str(self.directory))


def allocate(descriptor: int, size: int) -> None:
    """Makes a file `size` bytes long with every block its own, so that storing into its memory map cannot fail."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)
        return
    zeros = bytes(1 << 16)  # macOS has no posix_fallocate
    for start in range(0, size, len(zeros)):
        os.write(descriptor, zeros[: size - start])


def _shape_body(number: int, keys: Sequence[str]) -> bytes:
    if not all(isinstance(key, str) for key in keys):
        raise TypeError("the keys of a row are text")
    # A half of a surrogate pair is text in Python and nowhere else.
    sound = [key if key.isascii() else key.encode("utf-8", "backslashreplace").decode() for key in keys]
    return BODY_HEADER.pack(SHAPE, 0, number, 0) + json.dumps(sound, separators=(",", ":")).encode()


assert struct.calcsize("@QQqd") == ROW_HEADER_BYTES
