"""Compressed blocks of the native protocol: frames of LZ4 behind a CityHash128 checksum.

A frame is 16 bytes of checksum, a method byte, the compressed size (this 9-byte header included), the uncompressed
size, and the data. The checksum covers all that follows it. A block may span frames; a frame never spans blocks.
"""

import struct
from typing import cast

import lz4.block
from clickhouse_cityhash.cityhash import CityHash128

from pulsetrain_local.clickhouse.wire import ProtocolError, Source

FRAME_SIZE = 1 << 20
LARGEST_FRAME = 1 << 30  # clickhouse-driver writes a block as one frame, whatever its size
HEADER = struct.Struct("<BII")
CHECKSUM_SIZE = 16
METHOD_NONE, METHOD_LZ4, METHOD_ZSTD = 0x02, 0x82, 0x90
LZ4_BEST_RATIO = 255
CHECKSUM_DOESNT_MATCH = 40
UNKNOWN_COMPRESSION_METHOD = 89


class DecompressedSource(Source):
    """The bytes inside the frames of another source, frame by frame as they are needed."""

    def __init__(self, frames: Source, limit: int) -> None:
        super().__init__(limit)
        self._frames = frames

    def _fill(self, wanted: int) -> None:  # noqa: ARG002 - a frame comes whole
        checksum = self._frames.take(CHECKSUM_SIZE)
        self._frames.need(HEADER.size)
        method, compressed_size, size = HEADER.unpack_from(self._frames.buffer, self._frames.position)
        if compressed_size < HEADER.size or compressed_size > LARGEST_FRAME or size > LARGEST_FRAME:
            raise ProtocolError(f"a compressed frame claims {compressed_size:,} bytes for {size:,}: it is damaged")
        frame = self._frames.take(compressed_size)
        if _checksum(frame) != checksum:
            raise ProtocolError(
                "the checksum of a compressed frame does not match: it was damaged", CHECKSUM_DOESNT_MATCH
            )
        self.buffer += _decompress(method, memoryview(frame)[HEADER.size :], size)
        self._frames.forget()


def _decompress(method: int, data: memoryview, size: int) -> bytes | memoryview:
    if method == METHOD_NONE:
        return data
    if method == METHOD_LZ4:
        if size > (len(data) + 1) * LZ4_BEST_RATIO:
            raise ProtocolError(f"a compressed frame claims that {len(data):,} bytes hold {size:,}: LZ4 cannot")
        try:
            return cast(bytes, lz4.block.decompress(data, uncompressed_size=size))
        except lz4.block.LZ4BlockError as error:
            raise ProtocolError(f"a compressed frame is not valid LZ4: {error}") from error
    name = "ZSTD" if method == METHOD_ZSTD else f"{method:#04x}"
    raise ProtocolError(
        f"compression method {name} is not supported here: use LZ4 (network_compression_method)",
        UNKNOWN_COMPRESSION_METHOD,
    )


def compress(*pieces: bytes) -> bytes:
    """The pieces, one after another, as LZ4 frames."""
    data = memoryview(b"".join(pieces))
    frames = list[bytes]()
    for start in range(0, len(data), FRAME_SIZE):
        piece = data[start : start + FRAME_SIZE]
        compressed = lz4.block.compress(piece, store_size=False)
        frame = HEADER.pack(METHOD_LZ4, HEADER.size + len(compressed), len(piece)) + compressed
        frames += (_checksum(frame), frame)
    return b"".join(frames)


def _checksum(frame: bytes) -> bytes:
    """CityHash128 (version 1.0.2, which ClickHouse keeps to) as it is written: the upper half first."""
    value = CityHash128(frame)
    return struct.pack("<QQ", value >> 64, value & 0xFFFFFFFFFFFFFFFF)
