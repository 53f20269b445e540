"""Blocks: the unit of data on the native protocol. Columns, by name and type, of one number of rows.

What the engine writes and reads as format Native is a block without the BlockInfo that the protocol puts in front.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from pulsetrain_local.clickhouse.columns import layout
from pulsetrain_local.clickhouse.wire import MemorySource, ProtocolError, Source, string, varint

# Two numbered fields, is_overflows (a byte) and bucket_num (an Int32, -1), and the end of the fields.
BLOCK_INFO = b"\x01\x00\x02\xff\xff\xff\xff\x00"
WITH_SERIALISATION_FLAGS = 54454
NOT_CUSTOM = b"\x00"
MOST_COLUMNS = 100_000
LONGEST_NAME = 1 << 20


@dataclass(frozen=True, slots=True)
class Column:
    """A column's name and its type, as ClickHouse writes it."""

    name: str
    type: str


@dataclass(frozen=True, slots=True)
class Extent:
    """A block that lies in a source's buffer."""

    columns: tuple[Column, ...]
    rows: int
    start: int
    end: int
    data: tuple[int, ...]
    """Where each column's data begins, behind its name and type."""


def skip_block_info(source: Source) -> None:
    """Moves past the BlockInfo in front of a block."""
    while True:
        match source.varint():
            case 0:
                return
            case 1:
                source.skip(1)
            case 2:
                source.skip(4)
            case field:
                raise ProtocolError(f"a block's information has an unknown field {field}")


def find_block(source: Source) -> Extent:
    """Where the block at the source's position lies. Moves past it; its bytes stay in the buffer until `forget()`.

    Raises UnknownLayout where a column's type cannot be walked, ProtocolError where the bytes are no block.
    """
    start = source.position
    number_of_columns = source.varint()
    if number_of_columns > MOST_COLUMNS:
        raise ProtocolError(f"a block claims {number_of_columns:,} columns")
    rows = source.varint()
    columns, data = list[Column](), list[int]()
    for _ in range(number_of_columns):
        column = Column(source.string(LONGEST_NAME), source.string(LONGEST_NAME))
        columns.append(column)
        data.append(source.position)
        if rows:
            column_layout = layout(column.type)
            column_layout.skip_prefix(source)
            column_layout.skip_rows(source, rows)
    return Extent(tuple(columns), rows, start, source.position, tuple(data))


def for_revision(block: bytes, revision: int) -> bytes:
    """A block as a peer of this revision reads it: with its BlockInfo, and from 54454 on with a flag at each column.

    Raises UnknownLayout where a column's type cannot be walked.
    """
    if not revision:
        return block
    if revision < WITH_SERIALISATION_FLAGS:
        return BLOCK_INFO + block
    flags = find_block(MemorySource(block)).data
    bounds = [0, *flags, len(block)]
    return BLOCK_INFO + NOT_CUSTOM.join(block[start:end] for start, end in itertools.pairwise(bounds))


def header_block(columns: Sequence[Column]) -> bytes:
    """A block of these columns and no rows."""
    described = b"".join(string(column.name) + string(column.type) for column in columns)
    return varint(len(columns)) + varint(0) + described


EMPTY_BLOCK = header_block(())
