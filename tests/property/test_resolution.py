"""Reading across versions against fastavro: schemas are made up, changed as Avro allows, written, and read by both."""

import copy
import io
import json
from collections.abc import Callable
from typing import Any

import fastavro
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pulsetrain_schemas.codec import RecordCodec
from pulsetrain_schemas.columnar import DecodeError
from pulsetrain_schemas.resolution import Irreconcilable, Resolution
from tests.examples import examples
from tests.property.test_codec import plain, values_of

PRIMITIVES = ("boolean", "int", "long", "double", "string", "bytes")
WIDER = {"int": ("long", "double"), "long": ("double",), "string": ("bytes",)}
DEFAULTS = {"boolean": True, "int": -7, "long": 2**40, "double": 0.5, "string": "né", "bytes": "\u00ff\u0000a"}
SYMBOLS = ("a", "b", "c", "d")

Schema = Any
Draw = Callable[[st.SearchStrategy[Any]], Any]


@st.composite
def types(draw: Draw, depth: int = 1) -> Schema:
    """A type that the codec supports. Named types get their names afterwards."""
    kinds = ["primitive", "primitive", "array", "enum", "union", "annotated"] + ["map", "record"] * (depth > 0)
    match draw(st.sampled_from(kinds)):
        case "primitive":
            return draw(st.sampled_from(PRIMITIVES))
        case "annotated":
            return {"type": "long", "note": "microseconds"}
        case "array":
            return {"type": "array", "items": draw(types(depth - 1)) if depth else draw(st.sampled_from(PRIMITIVES))}
        case "map":
            return {"type": "map", "values": draw(types(depth - 1))}
        case "enum":
            return {"type": "enum", "symbols": list(SYMBOLS[: draw(st.integers(1, 3))]), "default": "a"}
        case "union":
            other = draw(types(0).filter(lambda found: not isinstance(found, list)))
            return draw(st.permutations(["null", other]))
        case _:
            return draw(records(depth - 1))


@st.composite
def records(draw: Draw, depth: int = 1) -> Schema:
    fields = [{"name": f"f{i}", "type": draw(types(depth))} for i in range(draw(st.integers(1, 5)))]
    return {"type": "record", "fields": fields}


def named(schema: Schema, path: str = "Batch") -> Schema:
    """The schema with a name for each record and enum, the same in all versions."""
    if isinstance(schema, list):
        return [named(branch, path) for branch in schema]
    if not isinstance(schema, dict):
        return schema
    if schema["type"] == "record":
        fields = [field | {"type": named(field["type"], f"{path}_{field['name']}")} for field in schema["fields"]]
        return schema | {"name": path, "fields": fields}
    if schema["type"] == "enum":
        return schema | {"name": path}
    return schema | {key: named(schema[key], path) for key in ("items", "values") if key in schema}


def default_of(schema: Schema) -> Any:
    """A default in the JSON of a schema."""
    match schema:
        case list():
            return None if schema[0] == "null" else default_of(schema[0])
        case {"type": "array", "items": items}:
            return [default_of(items)]
        case {"type": "map", "values": values}:
            return {"k": default_of(values)}
        case {"type": "enum"}:
            return schema["symbols"][0]
        case {"type": "record", "fields": fields}:
            return {field["name"]: default_of(field["type"]) for field in fields}
        case {"type": kind}:
            return DEFAULTS[kind]
    return DEFAULTS[schema]


@st.composite
def successors(draw: Draw, schema: Schema) -> Schema:
    """A type that reads what this one writes."""
    if isinstance(schema, list):
        return [draw(successors(branch)) for branch in schema]
    if isinstance(schema, str):
        if schema != "null" and draw(st.booleans()):
            schema = draw(st.sampled_from((schema, *WIDER.get(schema, ()))))
            return draw(st.sampled_from((schema, ["null", schema], [schema, "null"])))
        return schema
    match schema["type"]:
        case "array":
            return {"type": "array", "items": draw(successors(schema["items"]))}
        case "map":
            return {"type": "map", "values": draw(successors(schema["values"]))}
        case "enum":
            symbols = draw(st.lists(st.sampled_from(SYMBOLS), unique=True))
            return schema | {"symbols": ["a", *(symbol for symbol in symbols if symbol != "a")]}
        case "record":
            kept = [field for field in schema["fields"] if draw(st.integers(0, 3))]
            fields = [field | {"type": draw(successors(field["type"]))} for field in kept]
            for number in range(draw(st.integers(0, 2))):
                # fastavro leaves a default of bytes the text that JSON has for them.
                new = draw(types(1).filter(lambda found: '"bytes"' not in json.dumps(found)))
                fields.append({"name": f"new{number}", "type": new, "default": default_of(new)})
            return schema | {"fields": draw(st.permutations(fields))}
    return schema


@st.composite
def versions(draw: Draw) -> tuple[Schema, Schema, Any]:
    """A writer's schema, a reader's, and a value."""
    written = draw(records())
    read = draw(successors(copy.deepcopy(written)))
    writer, reader = named(written), named(read)
    return writer, reader, draw(values_of(writer))


def types_of(value: Any) -> Any:
    """What is an array of numpy, and of which, in a decoded value."""
    if isinstance(value, np.ndarray):
        return value.dtype
    if isinstance(value, dict):
        return {key: types_of(item) for key, item in value.items()}
    return [types_of(item) for item in value] if isinstance(value, list) else type(value)


@given(versions())
@examples(150)
def test_what_another_version_wrote_is_read_as_fastavro_reads_it(case: tuple[Schema, Schema, Any]):
    writer, reader, value = case
    stream = io.BytesIO()
    fastavro.schemaless_writer(stream, copy.deepcopy(writer), value)
    body = stream.getvalue()
    reference = fastavro.schemaless_reader(io.BytesIO(body), copy.deepcopy(writer), copy.deepcopy(reader))
    read = Resolution(reader, writer).decode(body)
    assert plain(read) == plain(reference)
    codec = RecordCodec(reader)
    assert types_of(read) == types_of(codec.decode(codec.encode(read)))


@given(versions(), st.binary(max_size=60), st.integers(0, 200))
@examples(80)
def test_bytes_that_another_version_did_not_write_are_read_or_refused(
    case: tuple[Schema, Schema, Any], noise: bytes, place: int
):
    writer, reader, value = case
    body = RecordCodec(writer).encode(value)
    place %= len(body) + 1
    resolution = Resolution(reader, writer)
    for wrong in (body[:place] + noise, body[:place] + noise + body[place:], body[:place]):
        try:
            resolution.decode(wrong)
        except DecodeError:
            continue


@given(records(), records())
@examples(60)
def test_of_any_two_schemas_one_reads_the_other_or_says_that_it_cannot(one: Schema, other: Schema):
    writer, reader = named(one), named(other)
    body = RecordCodec(writer).encode(default_of(writer) | _bytes_of(writer))
    try:
        read = Resolution(reader, writer).decode(body)
    except DecodeError:
        return
    reference = fastavro.schemaless_reader(io.BytesIO(body), copy.deepcopy(writer), copy.deepcopy(reader))
    assert plain(read) == plain(reference)


def _bytes_of(schema: Schema) -> dict[str, Any]:
    """The defaults of a record, with bytes where JSON has text."""

    def value(kind: Schema) -> Any:
        match kind:
            case list():
                return None if kind[0] == "null" else value(kind[0])
            case {"type": "array", "items": items}:
                return [value(items)]
            case {"type": "map", "values": values}:
                return {"k": value(values)}
            case {"type": "record", "fields": fields}:
                return {field["name"]: value(field["type"]) for field in fields}
            case "bytes":
                return b"\xff\x00a"
        return default_of(kind)

    return dict(value(schema))


def test_a_default_of_bytes_is_its_code_points():
    reader = {"type": "record", "name": "R", "fields": [{"name": "b", "type": "bytes", "default": "\u00ff\u0000a"}]}
    assert Resolution(reader, reader | {"fields": []}).decode(b"") == {"b": b"\xff\x00a"}


@pytest.mark.parametrize("kind", ["null", "R", {"type": "fixed", "name": "F", "size": 4}, ["int", "string"], {}, 7])
def test_a_writer_whose_schema_the_codec_does_not_support_is_refused(kind: Schema):
    reader = {"type": "record", "name": "R", "fields": []}
    with pytest.raises(Irreconcilable, match="not supported"):
        Resolution(reader, reader | {"fields": [{"name": "a", "type": kind}]})
