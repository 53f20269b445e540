"""Bytes of the native protocol: a growing buffer over a socket that is read in pieces, and the primitive encodings.

Nothing here trusts a length that a peer claims: a buffer grows by what has really arrived, and never past its limit. So
an absurd length costs its sender the bytes, and this process nothing.
"""

import socket
import struct
from abc import ABC, abstractmethod

RECEIVE_SIZE = 1 << 20
COMPACT_AFTER = 1 << 16


class ProtocolError(Exception):
    """What the peer sent is not the native protocol, or is more than is taken. The connection cannot go on."""

    def __init__(self, message: str, code: int = 102) -> None:
        super().__init__(message)
        self.code = code  # 102 is ClickHouse's UNEXPECTED_PACKET_FROM_CLIENT


class ConnectionEnded(Exception):
    """The peer went away; `in_the_middle` tells whether something that it had begun is cut off."""

    def __init__(self, in_the_middle: bool) -> None:
        super().__init__("the connection ended in the middle of a packet" if in_the_middle else "the connection ended")
        self.in_the_middle = in_the_middle


class Source(ABC):
    """Bytes to be read in order. `buffer[position:]` is what has arrived and was not taken yet."""

    def __init__(self, limit: int) -> None:
        self.buffer = bytearray()
        self.position = 0
        self.limit = limit

    @abstractmethod
    def _fill(self, wanted: int) -> None:
        """Appends at least one byte to the buffer; `wanted` says how many would be of use."""

    def need(self, count: int) -> None:
        """Returns when `count` bytes lie at `position`.

        Raises ProtocolError past the limit, ConnectionEnded where the peer ends before that.
        """
        missing = self.position + count - len(self.buffer)
        if missing <= 0:
            return
        if self.position + count > self.limit:
            raise ProtocolError(f"a packet needs {self.position + count:,} bytes at once, more than {self.limit:,}")
        while missing > 0:
            self._fill(missing)
            missing = self.position + count - len(self.buffer)

    def skip(self, count: int) -> None:
        """Moves past `count` bytes, once they are here."""
        self.need(count)
        self.position += count

    def take(self, count: int) -> bytes:
        """The next `count` bytes."""
        self.need(count)
        start = self.position
        self.position = start + count
        return bytes(self.buffer[start : self.position])

    def byte(self) -> int:
        """The next byte."""
        self.need(1)
        value = self.buffer[self.position]
        self.position += 1
        return value

    def varint(self) -> int:
        """An unsigned LEB128 number of at most 64 bits."""
        value = shift = 0
        while True:
            piece = self.byte()
            value |= (piece & 0x7F) << shift
            if piece < 0x80:
                return value
            shift += 7
            if shift > 63:
                raise ProtocolError("a variable-length number is longer than 64 bits")

    def string(self, limit: int) -> str:
        """A length and that many bytes of UTF-8; more than `limit` bytes are refused."""
        length = self.varint()
        if length > limit:
            raise ProtocolError(f"a string claims {length:,} bytes where at most {limit:,} are taken")
        return self.take(length).decode("utf-8", "replace")

    def uint64(self) -> int:
        """A little-endian 64-bit number."""
        self.need(8)
        (value,) = struct.unpack_from("<Q", self.buffer, self.position)
        self.position += 8
        return int(value)

    def forget(self) -> None:
        """Gives back the memory of what was taken. Positions noted before are void."""
        if self.position == len(self.buffer):
            self.buffer = bytearray()
            self.position = 0
        elif self.position > COMPACT_AFTER:
            del self.buffer[: self.position]
            self.position = 0


class SocketSource(Source):
    """What a socket delivers."""

    def __init__(self, connection: socket.socket, limit: int) -> None:
        super().__init__(limit)
        self._connection = connection

    def _fill(self, wanted: int) -> None:
        received = self._connection.recv(min(max(wanted, 1 << 16), RECEIVE_SIZE))
        if not received:
            raise ConnectionEnded(in_the_middle=len(self.buffer) > 0)
        self.buffer += received

    def wait(self) -> None:
        """Returns when there is something to read. Raises ConnectionEnded, TimeoutError."""
        self.forget()
        self.need(1)

    def arrived(self) -> bytes:
        """The first byte that has arrived and was not taken; empty where there is none."""
        return bytes(self.buffer[self.position : self.position + 1])


class MemorySource(Source):
    """Bytes that are all here."""

    def __init__(self, data: bytes) -> None:
        super().__init__(limit=len(data))
        self.buffer = bytearray(data)

    def _fill(self, wanted: int) -> None:
        raise ProtocolError(f"{wanted} bytes are missing")


def varint(value: int) -> bytes:
    """The unsigned LEB128 encoding of a number."""
    if value < 0x80:
        return bytes((value,))
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def string(value: str) -> bytes:
    """A string as the protocol writes it: its length in bytes, then UTF-8."""
    encoded = value.encode("utf-8", "replace")
    return varint(len(encoded)) + encoded
