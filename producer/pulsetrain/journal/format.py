"""The layout of a journal on disk, format version 1.

A journal is a folder of segments, `00000001.journal`, `00000002.journal`, … All numbers are little-endian. A segment is
a header of 64 bytes and then records, one after another; what follows the last record is zeros, since the space of a
segment is allocated before it is used.

    segment header   8s magic, u32 version, u32 CRC-32 of the 48 bytes that follow,
                     32s writer (hex), u64 segment number, u64 sequence of the first record to come
    record           u32 length of the body, u32 CRC-32 of the body, the body, zeros up to a multiple of 8
    body             u16 kind, u16 flags (0), u32 shape, u64 sequence, then by kind:
      SHAPE          JSON list of the keys; declares the number in `shape`. Sequence 0.
      ROW            i64 step, f64 time (seconds since the epoch), one f64 for each key of the shape
      TEXT_ROW       i64 step, f64 time, u32 number of numbers, u32 0, the numbers as f64, then JSON
                     {"keys": [of the numbers], "texts": {key: JSON text}}
      EVENT          f64 time, then JSON {"kind": …, …}
      CLOSE          nothing. The last record of a segment that another follows. Sequence 0.

The first record is the event `start`; the others, by kind (what an event leaves out stays as it was):

    start          project, entity, run_id, writer, rank, attempt, attempt_started (µs), first_step, primary, role
                   ("run", or "system" for samples of the hardware), pid, pid_created, host, mode, name, notes, tags,
                   group, job_type, environment {key: value}
    config         config {key: value}, removed [key]
    summary        summary {key: value}, removed [key], carried (true: from an earlier attempt of the run)
    define_metric  name, step_metric, step_sync, hidden, summary [operation], goal, overwrite
    alert          title, text, level, wait_seconds
    waiting        for ("data"), seconds, steps (how many had ended), is_over
    alert_rule     a rule as `pulsetrain_schemas.alert_rules` has it; or its name, and removed (true)
    update         name, notes, tags, environment {key: value}
    console        stream ("stdout" or "stderr"), line
    finish         state, exit_code, time, dropped (rows that a full disk kept out)

Rows and events are numbered 1, 2, 3 … through all segments of a journal. Shapes are declared anew in each segment, so
that a segment is read without the ones before it: those may be removed once Kafka has them, see `forwarder.checkpoint`.

The eight bytes of length and CRC are stored last and at once: a reader that finds zeros there is at the end of what has
been written, and one that finds a CRC that does not match is at a record that was torn by a loss of power, or damaged.
"""

import struct
import sys
import zlib
from pathlib import Path
from typing import NamedTuple

if sys.byteorder != "little":  # pragma: no cover - no machine that trains models
    raise ImportError("Pulsetrain's journal is written by little-endian machines only.")

MAGIC = b"PTJRNL\r\n"
VERSION = 1
SEGMENT_BYTES = 4 << 20
MAX_RECORD_BYTES = 1 << 30

SHAPE, ROW, TEXT_ROW, EVENT, CLOSE = 1, 2, 3, 4, 5

SEGMENT_HEADER = struct.Struct("<8sII32sQQ")
HEADER_BYTES = SEGMENT_HEADER.size
RECORD_HEADER = struct.Struct("<II")
RECORD_HEADER_BYTES = RECORD_HEADER.size
BODY_HEADER = struct.Struct("<HHIQ")
BODY_HEADER_BYTES = BODY_HEADER.size
ROW_HEADER = struct.Struct("<QQqd")
ROW_HEADER_BYTES = ROW_HEADER.size
TEXT_ROW_HEADER = struct.Struct("<QQqdII")
EVENT_HEADER = struct.Struct("<QQd")
CLOSE_EXTENT = RECORD_HEADER_BYTES + BODY_HEADER_BYTES


class Position(NamedTuple):
    """A place in a journal: a segment's number, from 1, and a byte offset in it; 0 is where its records begin."""

    segment: int
    offset: int


START = Position(1, 0)


class SegmentHeader(NamedTuple):
    """What a segment says of itself."""

    writer: str
    number: int
    first_sequence: int

    def encode(self) -> bytes:
        """The 64 bytes that open the segment."""
        rest = struct.pack("<32sQQ", self.writer.encode("ascii"), self.number, self.first_sequence)
        return struct.pack("<8sII", MAGIC, VERSION, zlib.crc32(rest)) + rest

    @classmethod
    def decode(cls, data: bytes) -> "SegmentHeader":
        """Reads the header back; ValueError says what is wrong with it."""
        if len(data) < HEADER_BYTES:
            raise ValueError(f"the segment's header is cut short at {len(data)} bytes")
        magic, version, crc, writer, number, first_sequence = SEGMENT_HEADER.unpack_from(data)
        if magic != MAGIC:
            raise ValueError("this is no segment of a journal: its magic bytes differ")
        if version != VERSION:
            raise ValueError(f"the journal has format version {version}, this release reads version {VERSION}")
        if crc != zlib.crc32(data[16:HEADER_BYTES]):
            raise ValueError("the segment's header does not match its checksum")
        return cls(writer.rstrip(b"\0").decode("ascii"), number, first_sequence)


def segment_path(directory: Path, number: int) -> Path:
    """The file of one segment."""
    return directory / f"{number:08d}.journal"


def extent_of(length: int) -> int:
    """The bytes that a record takes whose body has `length` bytes."""
    return RECORD_HEADER_BYTES + ((length + 7) & ~7)


def body_word(kind: int, shape: int = 0) -> int:
    """Kind, flags and shape as the one 64-bit word that they are stored as."""
    return kind | shape << 32
