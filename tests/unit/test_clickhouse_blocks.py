"""Where blocks end, what compressed frames hold, and what holds an INSERT back: the parts that need no engine."""

import socket
import struct
from pathlib import Path

import pytest

from pulsetrain_local.clickhouse import legacy
from pulsetrain_local.clickhouse.blocks import Column, find_block, header_block
from pulsetrain_local.clickhouse.columns import UnknownLayout, layout, split_type, without_name
from pulsetrain_local.clickhouse.compression import DecompressedSource, compress
from pulsetrain_local.clickhouse.engine import EngineError
from pulsetrain_local.clickhouse.holding import HeldBlocks
from pulsetrain_local.clickhouse.wire import MemorySource, ProtocolError, SocketSource, string, varint

LOW = struct.pack("<Q", 1)  # the prefix of a LowCardinality column
TWO_KEYS = struct.pack("<QQ", 1 << 9, 2) + string("a") + string("b") + struct.pack("<Q", 3) + bytes([0, 1, 0])


@pytest.mark.parametrize(
    ("type_name", "data"),
    [
        ("Int64", bytes(24)),
        ("DateTime64(6, 'UTC')", bytes(24)),
        ("Decimal(38, 3)", bytes(48)),
        ("FixedString(5)", bytes(15)),
        ("Enum8('a(\\'' = 1, 'b,' = 2)", bytes(3)),
        ("String", string("") + string("é" * 100) + string("x")),
        ("Nullable(String)", bytes(3) + string("") * 3),
        ("Array(UInt16)", struct.pack("<3Q", 1, 1, 4) + bytes(8)),
        ("Array(Array(Int8))", struct.pack("<3Q", 1, 2, 2) + struct.pack("<2Q", 3, 4) + bytes(4)),
        ("Map(String, Int8)", struct.pack("<3Q", 0, 1, 2) + string("k") * 2 + bytes(2)),
        ("Tuple(a Int8, `b c` Array(Int8))", bytes(3) + struct.pack("<3Q", 0, 0, 1) + bytes(1)),
        ("LowCardinality(String)", LOW + TWO_KEYS),
        ("LowCardinality(Nullable(String))", LOW + TWO_KEYS),
        ("Tuple(LowCardinality(String), Int8)", LOW + TWO_KEYS + bytes(3)),
        ("SimpleAggregateFunction(sum, Float64)", bytes(24)),
        ("Point", bytes(48)),
        ("Ring", struct.pack("<3Q", 0, 1, 1) + bytes(16)),
        ("IntervalDay", bytes(24)),
    ],
)
def test_a_block_ends_where_its_last_column_does(type_name: str, data: bytes) -> None:
    block = varint(2) + varint(3) + string("x") + string(type_name) + data + string("y") + string("UInt8") + bytes(3)
    source = MemorySource(block + b"what follows")
    extent = find_block(source)
    assert source.position == extent.end == len(block)
    assert extent.columns == (Column("x", type_name), Column("y", "UInt8"))
    for length in range(len(block)):
        with pytest.raises(ProtocolError):
            find_block(MemorySource(block[:length]))


@pytest.mark.parametrize(
    "name", ["JSON", "Array(Dynamic)", "Decimal(99, 1)", "FixedString", "Array(", "Array(" * 99, ""]
)
def test_a_type_that_cannot_be_walked_is_said_to_be_so(name: str) -> None:
    with pytest.raises(UnknownLayout):
        layout(name)


def test_a_type_is_split_at_its_own_commas_alone() -> None:
    assert split_type("Tuple(a Int8, b Enum8('x,)' = 1), Map(String, Int8))") == (
        "Tuple",
        ["a Int8", "b Enum8('x,)' = 1)", "Map(String, Int8)"],
    )
    assert without_name("`a b` Array(Int8)") == without_name("Array(Int8)") == "Array(Int8)"


def test_a_header_is_a_block_without_rows() -> None:
    columns = (Column("a", "Int8"), Column("b", "JSON"))
    extent = find_block(MemorySource(header_block(columns)))
    assert (extent.columns, extent.rows) == (columns, 0)


def test_what_was_compressed_comes_back_over_frames_and_damage_is_seen() -> None:
    data = bytes(range(256)) * 10_000
    frames = compress(data[:7], data[7:])
    source = DecompressedSource(MemorySource(frames), limit=1 << 30)
    assert source.take(len(data)) == data
    for place in (0, 16, 20, 24, 100, len(frames) - 1):
        damaged = bytearray(frames)
        damaged[place] ^= 1
        with pytest.raises(ProtocolError):
            DecompressedSource(MemorySource(bytes(damaged)), limit=1 << 30).take(len(data))


def test_a_source_takes_no_more_at_once_than_its_limit_and_forgets_what_was_taken() -> None:
    here, there = socket.socketpair()
    with here, there:
        source = SocketSource(here, limit=100)
        there.sendall(bytes(80))
        assert source.take(80) == bytes(80)
        source.forget()
        there.sendall(bytes(80))
        assert source.take(80) == bytes(80)
        source.forget()
        with pytest.raises(ProtocolError):
            source.need(101)


def test_held_blocks_come_back_in_order_from_memory_and_from_a_file(tmp_path: Path) -> None:
    for in_memory in (1 << 20, 10):
        with HeldBlocks(tmp_path / "held", in_memory) as held:
            for number in range(10):
                held.add(bytes([number]) * 7)
            assert Path(held.path()).read_bytes() == b"".join(bytes([number]) * 7 for number in range(10))
    assert list((tmp_path / "held").iterdir()) == []


@pytest.mark.parametrize(
    ("type_name", "known"),
    [
        ("LowCardinality(Nullable(String))", True),
        ("Array(Tuple(a Int8, b DateTime('UTC')))", True),
        ("Decimal(38, 2)", True),
        ("DateTime64(6, 'UTC')", False),
        ("Nullable(Bool)", False),
        ("Array(Tuple(a Int8, b DateTime64(3)))", False),
        ("Map(String, Int8)", False),
        ("Decimal(39, 2)", False),
    ],
)
def test_a_client_of_revision_54412_knows_the_types_of_its_time(type_name: str, known: bool) -> None:
    assert legacy.understands(54412, type_name) is known
    assert legacy.understands(54453, type_name)


def test_only_columns_that_an_old_client_lacks_are_cast() -> None:
    columns = (Column("a", "Int8"), Column("at`", "DateTime64(6)"))
    assert legacy.for_selecting(columns[:1], "SELECT 1", 54412) == "SELECT 1"
    cast = legacy.for_selecting(columns, "SELECT x", 54412)
    assert cast.startswith("SELECT `a`, toString(`at\\``) AS `at\\`` FROM (SELECT x\n)")
    assert [column.type for column in legacy.for_inserting(columns, 54412)] == ["Int8", "String"]


def test_the_engines_text_is_read_back_into_code_and_name() -> None:
    text = (
        "Streaming query failed: Code: 60. DB::Exception: Table x\ndoes not exist. (UNKNOWN_TABLE) (version 26.9.2.1)"
    )
    error = EngineError.of(RuntimeError(text))
    assert (error.code, error.name) == (60, "UNKNOWN_TABLE")
    assert error.message == "Table x\ndoes not exist. (UNKNOWN_TABLE)"
    assert EngineError.of(RuntimeError("out of luck")).code == 1002
