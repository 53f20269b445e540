"""Avro's binary encoding of numbers, strings and blocks, vectorised with numpy where there are many.

Two properties of Avro make a column cheap in Python. An array block of doubles is a count and then contiguous
little-endian doubles: written by `tobytes`, read as a view without a copy. An array block may say its size in bytes, by
a negative count: then the varints in it are found and decoded all at once. Every legal layout is read, though (several
blocks, counts of either sign), and what is malformed raises DecodeError, with work and memory bounded by the input.

The encoding is that of https://avro.apache.org/docs/1.12.0/specification/#binary-encoding.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Int64Array = NDArray[np.int64]
Float64Array = NDArray[np.float64]

_LONG_MIN, _LONG_MAX = -(2**63), 2**63 - 1
_VARINT_BYTES = 10
_DOUBLE = np.dtype("<f8")
_END_OF_ARRAY = b"\x00"
# Blocks with fewer numbers than this are decoded one by one: numpy's overhead would outweigh them.
_VECTORISED_FROM = 16


class DecodeError(ValueError):
    """The bytes are not a message that this schema describes."""


class EncodeError(ValueError):
    """The value does not fit the schema."""


def encode_long(value: int) -> bytes:
    """One zig-zag varint. Raises EncodeError beyond 64 bits."""
    if not _LONG_MIN <= value <= _LONG_MAX:
        raise EncodeError(f"{value} does not fit into 64 bits")
    unsigned = (value << 1) ^ (value >> 63)
    if unsigned < 0x80:
        return bytes((unsigned,))
    out = bytearray()
    while unsigned >= 0x80:
        out.append(unsigned & 0x7F | 0x80)
        unsigned >>= 7
    out.append(unsigned)
    return bytes(out)


def encode_longs(values: Int64Array) -> bytes:
    """Zig-zag varints, one after another."""
    zigzag = ((values << 1) ^ (values >> 63)).view(np.uint64)
    largest = int(zigzag.max()) if zigzag.size else 0
    if largest < 0x80:
        return zigzag.astype(np.uint8).tobytes()
    widths = np.ones(zigzag.size, np.int64)
    width = 1
    while largest >> (7 * width):
        widths += zigzag >= np.uint64(1 << (7 * width))
        width += 1
    ends = np.cumsum(widths)
    starts = ends - widths
    out = np.empty(int(ends[-1]), np.uint8)
    out[starts] = zigzag & np.uint64(0x7F)
    for place in range(1, width):
        longer = np.flatnonzero(widths > place)
        where = starts[longer] + place
        out[where - 1] |= 0x80
        out[where] = (zigzag[longer] >> np.uint64(7 * place)) & np.uint64(0x7F)
    return out.tobytes()


def decode_longs(data: NDArray[np.uint8], count: int) -> Int64Array:
    """The `count` zig-zag varints that fill `data` exactly. Raises DecodeError where they do not."""
    last = data < 0x80
    ends = np.flatnonzero(last)
    if ends.size != count or (data.size and not last[-1]):
        raise DecodeError(f"a block of {count} integers holds {ends.size}")
    if count == data.size:
        zigzag = data.astype(np.uint64)
    else:
        starts = np.empty_like(ends)
        starts[0] = 0
        starts[1:] = ends[:-1] + 1
        widths = ends - starts + 1
        width = int(widths.max())
        if width > _VARINT_BYTES or (width == _VARINT_BYTES and (data[ends[widths == _VARINT_BYTES]] > 1).any()):
            raise DecodeError("an integer has more than 64 bits")
        zigzag = (data[starts] & 0x7F).astype(np.uint64)
        for place in range(1, width):
            longer = np.flatnonzero(widths > place)
            zigzag[longer] |= (data[starts[longer] + place] & 0x7F).astype(np.uint64) << np.uint64(7 * place)
    return (zigzag >> np.uint64(1)).view(np.int64) ^ -(zigzag & np.uint64(1)).view(np.int64)


def encode_long_array(values: ArrayLike) -> bytes:
    """An Avro array of int or long: one block that says its size in bytes. EncodeError for what is no integer."""
    array = np.asarray(values)
    if array.size == 0:
        return _END_OF_ARRAY
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise EncodeError(f"expected a flat array of integers, got {array.ndim} dimensions of {array.dtype}")
    body = encode_longs(np.ascontiguousarray(array, np.int64))
    return b"".join((encode_long(-array.size), encode_long(len(body)), body, _END_OF_ARRAY))


def encode_double_array(values: ArrayLike) -> bytes:
    """An Avro array of double: a count and the doubles as they lie in memory."""
    array = np.ascontiguousarray(values, _DOUBLE)
    if array.ndim != 1:
        raise EncodeError(f"expected a flat array of numbers, got {array.ndim} dimensions")
    if array.size == 0:
        return _END_OF_ARRAY
    return b"".join((encode_long(array.size), array.tobytes(), _END_OF_ARRAY))


def encode_string(text: str) -> bytes:
    """Length and UTF-8. A lone surrogate, which UTF-8 cannot say, becomes a question mark."""
    encoded = text.encode("utf-8", "replace")
    return encode_long(len(encoded)) + encoded


def encode_string_array(texts: Iterable[str]) -> bytes:
    """An Avro array of string, in one block."""
    encoded = [encode_string(text) for text in texts]
    if not encoded:
        return _END_OF_ARRAY
    return b"".join((encode_long(len(encoded)), *encoded, _END_OF_ARRAY))


class Reader:
    """Reads one encoded value after another. Arrays of doubles and byte strings are views of `data`, not copies."""

    __slots__ = ("_bytes", "_data", "position")

    def __init__(self, data: bytes | bytearray | memoryview) -> None:
        self._data = memoryview(data).cast("B")
        self._bytes = np.frombuffer(self._data, np.uint8)
        self.position = 0

    @property
    def remaining(self) -> int:
        """How many bytes have not been read."""
        return len(self._data) - self.position

    def take(self, size: int) -> memoryview:
        """The next `size` bytes."""
        if not 0 <= size <= self.remaining:
            raise DecodeError(f"{size} bytes are announced at byte {self.position}, {self.remaining} are left")
        start = self.position
        self.position = start + size
        return self._data[start : self.position]

    def long(self) -> int:
        """One zig-zag varint."""
        data, position = self._data, self.position
        unsigned = shift = 0
        for byte in data[position : position + _VARINT_BYTES]:
            position += 1
            unsigned |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        else:
            if shift < 7 * _VARINT_BYTES:
                raise DecodeError(f"the message ends within an integer, at byte {position}")
        if unsigned >> 64 or data[position - 1] >= 0x80:
            raise DecodeError(f"an integer at byte {self.position} has more than 64 bits")
        self.position = position
        return (unsigned >> 1) ^ -(unsigned & 1)

    def string(self) -> str:
        """Length and UTF-8."""
        start = self.position
        try:
            return str(self.take(self.long()), "utf-8")
        except UnicodeDecodeError:
            raise DecodeError(f"the string at byte {start} is not UTF-8") from None

    def items(self, smallest_item: int) -> Iterator[None]:
        """Steps through the items of an array or map, whatever its blocks; the caller reads one item at each step."""
        while True:
            count, size = self.block(smallest_item)
            start = self.position
            for _ in range(count):
                yield
            self._end_of_block(start, size)
            if count == 0:
                return

    def block(self, smallest_item: int) -> tuple[int, int | None]:
        """The head of an array's or map's next block: its count (0 at the end), and its size in bytes if told.

        A count that cannot be true, for items of at least `smallest_item` bytes, is refused before memory is taken.
        """
        start = self.position
        count, size = self.long(), None
        if count < 0:
            count, size = -count, self.long()
            if not 0 <= size <= self.remaining:
                raise DecodeError(f"a block at byte {start} has {size} bytes, {self.remaining} are left")
        if count * smallest_item > (self.remaining if size is None else size):
            raise DecodeError(f"a block at byte {start} announces {count} items, more than there are bytes for")
        return count, size

    def long_array(self) -> Int64Array:
        """An array of int or long."""
        blocks: list[Int64Array] = []
        while True:
            count, size = self.block(smallest_item=1)
            if count == 0:
                self._end_of_block(self.position, size)
                return _joined(blocks, np.dtype(np.int64))
            blocks.append(self._longs(count, size))

    def double_array(self) -> Float64Array:
        """An array of double: a view of the message where it is one block."""
        blocks: list[Float64Array] = []
        while True:
            count, size = self.block(smallest_item=_DOUBLE.itemsize)
            start = self.position
            if count == 0:
                self._end_of_block(start, size)
                return _joined(blocks, _DOUBLE)
            self.take(count * _DOUBLE.itemsize)
            self._end_of_block(start, size)
            blocks.append(np.frombuffer(self._data, _DOUBLE, count, start))

    def string_array(self) -> list[str]:
        """An array of string."""
        return [self.string() for _ in self.items(smallest_item=1)]

    def _longs(self, count: int, size: int | None) -> Int64Array:
        start = self.position
        if count < _VECTORISED_FROM:
            few = np.array([self.long() for _ in range(count)], np.int64)
            self._end_of_block(start, size)
            return few
        if size is None:
            ends = np.flatnonzero(self._bytes[start : start + count * _VARINT_BYTES] < 0x80)
            if ends.size < count:
                raise DecodeError(f"a block of {count} integers at byte {start} holds {ends.size}")
            size = int(ends[count - 1]) + 1
        self.position = start + size
        return decode_longs(self._bytes[start : self.position], count)

    def _end_of_block(self, start: int, size: int | None) -> None:
        if size is not None and self.position - start != size:
            raise DecodeError(f"a block at byte {start} has {size} bytes, its items {self.position - start}")


def _joined(blocks: list[NDArray[Any]], dtype: np.dtype[Any]) -> NDArray[Any]:
    if len(blocks) == 1:
        return blocks[0]
    return np.concatenate(blocks) if blocks else np.empty(0, dtype)
