"""The body of an HTTP request, whatever its framing and its compression: pieces of bytes, as they come."""

import zlib
from collections.abc import Iterator
from email.message import Message
from typing import BinaryIO

import lz4.frame

from pulsetrain_local.clickhouse.compression import DecompressedSource
from pulsetrain_local.clickhouse.wire import ConnectionEnded, ProtocolError, Source

PIECE = 1 << 20
LONGEST_LINE = 1 << 12
GZIP_OR_ZLIB = 32 + zlib.MAX_WBITS  # what it is, its header tells


class BadBody(ProtocolError):
    """The body is not what its headers say."""


def body(stream: BinaryIO, headers: Message, *, in_frames: bool) -> Iterator[bytes]:
    """The pieces of a body, decompressed. `in_frames` says that ClickHouse's own frames are within.

    Raises BadBody and ProtocolError for what cannot be read, ConnectionEnded where the client goes away.
    """
    pieces = _chunks(stream) if _is_chunked(headers) else _counted(stream, _length(headers))
    match (headers.get("Content-Encoding") or "").strip().lower():
        case "" | "identity":
            pass
        case "gzip" | "deflate":
            pieces = _inflated(pieces)
        case "lz4":
            pieces = _unpacked(pieces)
        case other:
            raise BadBody(f"Content-Encoding {other[:40]!r} is not supported here: use gzip, deflate or lz4")
    return _from_frames(pieces) if in_frames else pieces


def _is_chunked(headers: Message) -> bool:
    coding = headers.get("Transfer-Encoding")
    if coding is None:
        return False
    if coding.strip().lower() != "chunked" or "Content-Length" in headers:
        raise BadBody("a body is sent with a Content-Length, or with Transfer-Encoding: chunked alone")
    return True


def _length(headers: Message) -> int:
    text = (headers.get("Content-Length") or "0").strip()
    if not (text.isascii() and text.isdigit()):
        raise BadBody("Content-Length is not a number")
    return int(text)


def _counted(stream: BinaryIO, length: int) -> Iterator[bytes]:
    while length > 0:
        piece = stream.read(min(length, PIECE))
        if not piece:
            raise ConnectionEnded(in_the_middle=True)
        length -= len(piece)
        yield piece


def _chunks(stream: BinaryIO) -> Iterator[bytes]:
    """What stands in the chunks of RFC 9112, section 7.1. Trailers are passed over."""
    while size := _chunk_size(_line(stream)):
        yield from _counted(stream, size)
        if _line(stream):
            raise BadBody("a chunk is longer than it says")
    while _line(stream):
        pass


def _line(stream: BinaryIO) -> bytes:
    line = stream.readline(LONGEST_LINE)
    if not line:
        raise ConnectionEnded(in_the_middle=True)
    if not line.endswith(b"\n"):
        raise BadBody("a line of a chunked body is too long")
    return line.rstrip(b"\r\n")


def _chunk_size(line: bytes) -> int:
    try:
        digits = line.partition(b";")[0].strip().decode("ascii")
        if not all(digit in "0123456789abcdefABCDEF" for digit in digits):
            raise ValueError(digits)
        return int(digits, 16)
    except ValueError:
        raise BadBody("a chunk begins with no size") from None


def _inflated(pieces: Iterator[bytes]) -> Iterator[bytes]:
    decompressor = zlib.decompressobj(GZIP_OR_ZLIB)
    try:
        for piece in pieces:
            rest = piece
            while rest and not decompressor.eof:
                yield decompressor.decompress(rest, PIECE)
                rest = decompressor.unconsumed_tail
    except zlib.error as error:
        raise BadBody(f"the compressed body is damaged: {error}") from None
    if not decompressor.eof:
        raise BadBody("the compressed body is cut off")


def _unpacked(pieces: Iterator[bytes]) -> Iterator[bytes]:
    decompressor = lz4.frame.LZ4FrameDecompressor()
    try:
        for piece in pieces:
            yield decompressor.decompress(piece)
    except (RuntimeError, EOFError) as error:
        raise BadBody(f"the compressed body is damaged: {error}") from None
    if not decompressor.eof:
        raise BadBody("the compressed body is cut off")


class _PieceSource(Source):
    """Pieces as a source."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        super().__init__(limit=1 << 31)
        self._pieces = pieces

    def _fill(self, wanted: int) -> None:  # noqa: ARG002 - a piece comes as it is
        piece = next(self._pieces, None)
        if piece is None:
            raise ConnectionEnded(in_the_middle=self.position < len(self.buffer))
        self.buffer += piece


def _from_frames(pieces: Iterator[bytes]) -> Iterator[bytes]:
    source = DecompressedSource(_PieceSource(pieces), limit=1 << 31)
    while True:
        try:
            source.need(1)
        except ConnectionEnded as ended:
            if ended.in_the_middle:
                raise BadBody("the last frame of the body is cut off") from None
            return
        yield source.take(len(source.buffer) - source.position)
        source.forget()
