"""The codec against fastavro, in both directions, and against every kind of damage."""

import contextlib
import io
import random
import struct
import time
import tracemalloc
from typing import Any

import fastavro
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pulsetrain_schemas import catalog, columnar
from pulsetrain_schemas.codec import RecordCodec
from pulsetrain_schemas.columnar import DecodeError, EncodeError, Reader
from pulsetrain_schemas.resolution import Resolution

INT64 = st.integers(-(2**63), 2**63 - 1)
INT32 = st.integers(-(2**31), 2**31 - 1)
TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)


def values_of(schema: Any) -> st.SearchStrategy[Any]:
    """Values of an Avro type, as fastavro takes them."""
    if isinstance(schema, list):
        return st.one_of([values_of(branch) for branch in schema])
    kind = schema["type"] if isinstance(schema, dict) else schema
    match kind:
        case "record":
            return st.fixed_dictionaries({f["name"]: values_of(f["type"]) for f in schema["fields"]})
        case "array":
            return st.lists(values_of(schema["items"]), max_size=40)
        case "map":
            return st.dictionaries(TEXT, values_of(schema["values"]), max_size=5)
        case "enum":
            return st.sampled_from(schema["symbols"])
    return {
        "null": st.none(),
        "boolean": st.booleans(),
        "int": INT32,
        "long": INT64,
        "double": st.floats(),
        "string": TEXT,
        "bytes": st.binary(max_size=20),
    }[kind]


RECORDS = st.sampled_from(catalog.names()).flatmap(lambda name: st.tuples(st.just(name), values_of(catalog.load(name))))
CODECS = {name: RecordCodec(catalog.load(name)) for name in catalog.names()}
PARSED = {name: fastavro.parse_schema(catalog.load(name)) for name in catalog.names()}


def plain(value: Any) -> Any:
    """A decoded value with lists for arrays, and doubles as their bits, so that NaN is equal to itself."""
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return struct.pack("<d", value) if isinstance(value, float) else value


@given(RECORDS)
@settings(max_examples=200)
def test_what_we_write_fastavro_reads(case: tuple[str, dict[str, Any]]):
    name, record = case
    stream = io.BytesIO(CODECS[name].encode(record))
    assert plain(fastavro.schemaless_reader(stream, PARSED[name], None)) == plain(record)
    assert stream.read() == b""


@given(RECORDS)
@settings(max_examples=200)
def test_what_fastavro_writes_we_read(case: tuple[str, dict[str, Any]]):
    name, record = case
    stream = io.BytesIO()
    fastavro.schemaless_writer(stream, PARSED[name], record)
    assert plain(CODECS[name].decode(stream.getvalue())) == plain(record)


@given(RECORDS)
def test_resolving_with_the_same_schema_gives_the_same_record(case: tuple[str, dict[str, Any]]):
    name, record = case
    body = CODECS[name].encode(record)
    resolved = Resolution(catalog.load(name), catalog.load(name)).decode(body)
    decoded = CODECS[name].decode(body)
    assert plain(resolved) == plain(decoded)
    assert {k: v.dtype for k, v in resolved.items() if isinstance(v, np.ndarray)} == {
        k: v.dtype for k, v in decoded.items() if isinstance(v, np.ndarray)
    }


@given(hnp.arrays(np.int64, st.integers(0, 300), elements=st.one_of(INT64, st.integers(-200, 200))))
@example(np.array([-(2**63), 2**63 - 1, 0, -1, 63, -64, 64, -65] * 4))
def test_varints_written_together_are_those_written_one_by_one(values: np.ndarray):
    together = columnar.encode_longs(values)
    assert together == b"".join(columnar.encode_long(int(value)) for value in values)
    decoded = columnar.decode_longs(np.frombuffer(together, np.uint8), len(values))
    assert decoded.tolist() == values.tolist()


def block(items: list[Any], encoded: list[bytes], sized: bool) -> bytes:
    body = b"".join(encoded)
    if sized:
        return columnar.encode_long(-len(items)) + columnar.encode_long(len(body)) + body
    return columnar.encode_long(len(items)) + body


@given(
    st.sampled_from(["long", "double", "string"]).flatmap(
        lambda kind: st.tuples(
            st.just(kind),
            st.lists(st.tuples(st.lists(values_of(kind), min_size=1, max_size=60), st.booleans()), max_size=6),
        )
    )
)
def test_every_legal_layout_of_an_array_is_read(case: tuple[str, list[tuple[list[Any], bool]]]):
    kind, blocks = case
    encode, read = {
        "long": (columnar.encode_long, Reader.long_array),
        "double": (struct.Struct("<d").pack, Reader.double_array),
        "string": (columnar.encode_string, Reader.string_array),
    }[kind]
    data = b"".join(block(items, [encode(item) for item in items], sized) for items, sized in blocks) + b"\x00"
    reader = Reader(data)
    assert plain(read(reader)) == plain([item for items, _ in blocks for item in items])
    assert reader.remaining == 0


def sample(name: str) -> dict[str, Any]:
    """A record with something in every place."""
    return {field["name"]: sample_of(field["type"]) for field in catalog.load(name)["fields"]}


def sample_of(kind: Any) -> Any:
    if isinstance(kind, list):
        kind = next(branch for branch in kind if branch != "null")
    match kind:
        case {"type": "record", "fields": fields}:
            return {field["name"]: sample_of(field["type"]) for field in fields}
        case {"type": "array", "items": "string"}:
            return ["a", "bé"] * 9
        case {"type": "array", "items": "double"}:
            return [0.5] * 20
        case {"type": "array", "items": "int" | "long"}:
            return list(range(-300, 300, 31))
        case {"type": "array", "items": items}:
            return [sample_of(items)] * 2
        case {"type": "map", "values": values}:
            return {"key": sample_of(values)}
        case {"type": "enum", "symbols": symbols}:
            return symbols[-1]
    return {"string": "text", "boolean": True, "bytes": b"\x00\xff", "double": 0.5}.get(kind, 1 << 20)


@pytest.mark.parametrize("name", catalog.names())
def test_a_message_cut_at_any_byte_is_refused(name: str):
    body = CODECS[name].encode(sample(name))
    for end in range(len(body)):
        with pytest.raises(DecodeError):
            CODECS[name].decode(body[:end])
    with pytest.raises(DecodeError, match="follow the end"):
        CODECS[name].decode(body + b"\x00")


@pytest.mark.parametrize("name", catalog.names())
def test_a_message_with_any_byte_changed_is_read_or_refused(name: str):
    body = CODECS[name].encode(sample(name))
    for position in range(len(body)):
        for byte in (0x00, 0x01, 0x7F, 0x80, 0xFF, body[position] ^ 0x01):
            changed = bytearray(body)
            changed[position] = byte
            try:
                CODECS[name].decode(changed)
            except DecodeError:
                continue


@given(st.sampled_from(catalog.names()), st.binary(max_size=400))
@settings(max_examples=500)
def test_random_bytes_are_read_or_refused(name: str, data: bytes):
    with contextlib.suppress(DecodeError):
        CODECS[name].decode(data)


@pytest.mark.parametrize("read", [Reader.long_array, Reader.double_array, Reader.string_array])
@pytest.mark.parametrize("count", [2**31, 2**62, -(2**62), -(2**63), 2**63 - 1])
def test_an_absurd_count_is_refused_before_memory_is_taken(read: Any, count: int):
    data = columnar.encode_long(count) + columnar.encode_long(100) + bytes(100)
    with pytest.raises(DecodeError):
        read(Reader(data))


@pytest.mark.parametrize("length", [-1, -(2**63), 2**31, 2**63 - 1])
def test_an_absurd_length_of_a_string_is_refused(length: int):
    with pytest.raises(DecodeError):
        Reader(columnar.encode_long(length) + b"abc").string()


@pytest.mark.parametrize(
    "data",
    [
        b"\xff" * 9 + b"\x02",
        b"\xff" * 10 + b"\x00",
        b"\x80" * 11,
        b"\x80" * 10,
        b"\x80",
        b"",
    ],
)
def test_an_integer_of_more_than_64_bits_or_without_an_end_is_refused(data: bytes):
    with pytest.raises(DecodeError):
        Reader(data).long()
    if data:
        many = b"\x02" * 20
        with pytest.raises(DecodeError):
            columnar.decode_longs(np.frombuffer(many + data, np.uint8), 21)


def test_a_megabyte_of_the_smallest_blocks_is_read_in_bounded_time():
    data = b"\x02\x02" * (1 << 19) + b"\x00"
    started = time.perf_counter()
    assert len(Reader(data).long_array()) == 1 << 19
    assert time.perf_counter() - started < 30


def test_doubles_are_a_view_of_the_message():
    data = columnar.encode_double_array(np.arange(100.0))
    array = Reader(data).double_array()
    assert np.shares_memory(array, np.frombuffer(data, np.uint8))
    assert not array.flags.writeable


@pytest.mark.parametrize("number", [2**63, -(2**63) - 1])
def test_a_number_beyond_64_bits_is_refused_with_the_name_of_its_field(number: int):
    with pytest.raises(EncodeError, match="attempt_started of the LogBatch"):
        CODECS["logs"].encode(sample("logs") | {"attempt_started": number})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("rank", 2**31),
        ("row_streams", [2**31]),
        ("row_times", [0.5]),
        ("project", None),
        ("lines", [1]),
        ("row_times", [[1]]),
    ],
)
def test_a_value_of_the_wrong_kind_is_refused_with_the_name_of_its_field(field: str, value: Any):
    with pytest.raises(EncodeError, match=f"{field} of the LogBatch"):
        CODECS["logs"].encode(sample("logs") | {field: value})


def test_a_missing_field_is_refused_unless_it_has_a_default():
    with pytest.raises(EncodeError, match="lacks project"):
        CODECS["runs"].encode({})
    record = {k: v for k, v in sample("runs").items() if k not in ("config", "name")}
    decoded = CODECS["runs"].decode(CODECS["runs"].encode(record))
    assert decoded["config"] == {}
    assert decoded["name"] is None


def test_what_the_codec_does_not_support_is_said_when_it_is_compiled():
    with pytest.raises(TypeError, match="fixed"):
        RecordCodec({"type": "record", "name": "R", "fields": [{"name": "f", "type": {"type": "fixed", "size": 4}}]})
    with pytest.raises(TypeError, match="unions of null"):
        RecordCodec({"type": "record", "name": "R", "fields": [{"name": "f", "type": ["int", "string"]}]})


def test_records_within_records_and_arrays_of_them_are_read_as_fastavro_reads_them():
    inner = {
        "type": "record",
        "name": "I",
        "fields": [{"name": "x", "type": "float"}, {"name": "b", "type": {"type": "array", "items": "bytes"}}],
    }
    schema = {
        "type": "record",
        "name": "O",
        "fields": [{"name": "is", "type": {"type": "array", "items": inner}}, {"name": "d", "type": "double"}],
    }
    record = {"is": [{"x": 0.5, "b": [b"1", b""]}, {"x": -1.0, "b": []}], "d": 2.5}
    stream = io.BytesIO()
    fastavro.schemaless_writer(stream, schema, record)
    codec = RecordCodec(schema)
    assert codec.decode(stream.getvalue()) == record
    assert codec.encode(record) == stream.getvalue()


def test_a_million_random_bytes_take_no_more_than_their_share_of_memory():
    data = columnar.encode_long(-500_000) + columnar.encode_long(1_000_000) + random.Random(1).randbytes(1_000_000)
    tracemalloc.start()
    with pytest.raises(DecodeError):
        Reader(data).long_array()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40_000_000
