"""Avro records to and from dictionaries, by functions compiled once from the schema; numeric arrays are numpy arrays.

What is supported is what the schemas of this package use: records of booleans, integers, floating-point numbers,
strings, bytes, enums, arrays, string-keyed maps, nested records, and unions of null with one other type. What was
written with another version of a schema is read by `resolution`.
"""

import json
import struct
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from pulsetrain_schemas.columnar import (
    DecodeError,
    EncodeError,
    Reader,
    encode_double_array,
    encode_long,
    encode_long_array,
    encode_string,
    encode_string_array,
)

Encode = Callable[[Any], bytes]
Decode = Callable[[Reader], Any]

_INT_MIN, _INT_MAX = -(2**31), 2**31 - 1
_FLOAT, _DOUBLE = struct.Struct("<f"), struct.Struct("<d")
_MISSING = object()


class RecordCodec:
    """Encodes and decodes the bodies (no framing) of one record schema, given as the parsed JSON of an .avsc."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        if schema.get("type") != "record":
            raise TypeError(f"expected a record schema, got {schema.get('type')!r}")
        self.schema = schema
        self.name = str(schema["name"])
        self._encode, self._decode = _record(schema)

    def encode(self, record: Mapping[str, Any]) -> bytes:
        """The record's bytes. A field that is left out takes its default. Raises EncodeError, which names the field."""
        return self._encode(record)

    def decode(self, body: bytes | bytearray | memoryview) -> dict[str, Any]:
        """The record in `body`, which it must fill. Arrays of int and long become int64, of double views in float64.

        Raises DecodeError for anything else that the bytes may be; work and memory are bounded by their number.
        """
        reader = Reader(body)
        record: dict[str, Any] = self._decode(reader)
        if reader.remaining:
            raise DecodeError(f"{reader.remaining} bytes follow the end of the {self.name}")
        return record


def plain_type(schema: Any) -> Any:
    """The schema, a primitive type by its bare name: Avro allows {"type": "long", …}, with notes on what it means."""
    return schema["type"] if isinstance(schema, Mapping) and schema["type"] in _PRIMITIVES else schema


def array_dtype(schema: Any) -> type[np.generic] | None:
    """What an array of this schema is decoded into; None where that is a list."""
    if isinstance(schema, Mapping) and schema["type"] == "array":
        items = plain_type(schema["items"])
        return _DTYPES.get(items) if isinstance(items, str) else None
    return None


def _compile(schema: Any) -> tuple[Encode, Decode]:
    schema = plain_type(schema)
    if isinstance(schema, list):
        return _union(schema)
    if isinstance(schema, Mapping) and schema["type"] in _COMPLEX:
        return _COMPLEX[schema["type"]](schema)
    if isinstance(schema, str) and schema in _PRIMITIVES:
        return _PRIMITIVES[schema]
    raise TypeError(f"the codec does not support the Avro type {json.dumps(schema)[:200]}")


def _record(schema: Mapping[str, Any]) -> tuple[Encode, Decode]:
    fields = [(f["name"], *_compile(f["type"]), f.get("default", _MISSING)) for f in schema["fields"]]

    def encode(record: Mapping[str, Any]) -> bytes:
        parts = []
        for name, encode_field, _, default in fields:
            value = record.get(name, default)
            if value is _MISSING:
                raise EncodeError(f"the {schema['name']} lacks {name}")
            try:
                parts.append(encode_field(value))
            except (ValueError, TypeError, AttributeError, OverflowError, struct.error) as error:
                raise EncodeError(f"{name} of the {schema['name']}: {error}") from error
        return b"".join(parts)

    def decode(reader: Reader) -> dict[str, Any]:
        record = {}
        for name, _, decode_field, _ in fields:
            try:
                record[name] = decode_field(reader)
            except DecodeError as error:
                raise DecodeError(f"{name} of the {schema['name']}: {error}") from None
        return record

    return encode, decode


def _array(schema: Mapping[str, Any]) -> tuple[Encode, Decode]:
    items = plain_type(schema["items"])
    if items == "double":
        return encode_double_array, Reader.double_array
    if items == "long":
        return encode_long_array, Reader.long_array
    if items == "int":
        return _encode_int_array, _decode_int_array
    if items == "string":
        return encode_string_array, Reader.string_array
    encode_item, decode_item = _compile(items)
    smallest = _smallest(items)

    def encode(values: Iterable[Any]) -> bytes:
        encoded = [encode_item(value) for value in values]
        return b"".join((encode_long(len(encoded)), *encoded, b"\x00")) if encoded else b"\x00"

    def decode(reader: Reader) -> list[Any]:
        return [decode_item(reader) for _ in reader.items(smallest)]

    return encode, decode


def _map(schema: Mapping[str, Any]) -> tuple[Encode, Decode]:
    encode_value, decode_value = _compile(schema["values"])
    smallest = 1 + _smallest(schema["values"])

    def encode(values: Mapping[str, Any]) -> bytes:
        if not values:
            return b"\x00"
        encoded = [encode_string(key) + encode_value(value) for key, value in values.items()]
        return b"".join((encode_long(len(encoded)), *encoded, b"\x00"))

    def decode(reader: Reader) -> dict[str, Any]:
        return {reader.string(): decode_value(reader) for _ in reader.items(smallest)}

    return encode, decode


def _union(branches: list[Any]) -> tuple[Encode, Decode]:
    if len(branches) != 2 or branches.count("null") != 1:
        raise TypeError(f"the codec supports unions of null with one other type, not {json.dumps(branches)}")
    null = branches.index("null")
    null_index, value_index = encode_long(null), encode_long(1 - null)
    encode_value, decode_value = _compile(branches[1 - null])

    def encode(value: Any) -> bytes:
        return null_index if value is None else value_index + encode_value(value)

    def decode(reader: Reader) -> Any:
        branch = reader.long()
        if branch == null:
            return None
        if branch != 1 - null:
            raise DecodeError(f"a union of two types has no branch {branch}")
        return decode_value(reader)

    return encode, decode


def _enum(schema: Mapping[str, Any]) -> tuple[Encode, Decode]:
    symbols: list[str] = schema["symbols"]
    encoded = {symbol: encode_long(index) for index, symbol in enumerate(symbols)}

    def encode(symbol: str) -> bytes:
        if symbol not in encoded:
            raise EncodeError(f"{symbol!r} is none of {', '.join(symbols)}")
        return encoded[symbol]

    def decode(reader: Reader) -> str:
        index = reader.long()
        if not 0 <= index < len(symbols):
            raise DecodeError(f"the {schema['name']} has no symbol {index}")
        return symbols[index]

    return encode, decode


def _encode_int(value: int) -> bytes:
    if not _INT_MIN <= value <= _INT_MAX:
        raise EncodeError(f"{value} does not fit into 32 bits")
    return encode_long(value)


def _decode_int(reader: Reader) -> int:
    value = reader.long()
    if not _INT_MIN <= value <= _INT_MAX:
        raise DecodeError(f"{value} does not fit into 32 bits")
    return value


def _encode_int_array(values: Any) -> bytes:
    array = np.asarray(values)
    if array.size and not (array.min() >= _INT_MIN and array.max() <= _INT_MAX):
        raise EncodeError("an integer does not fit into 32 bits")
    return encode_long_array(array)


def _decode_int_array(reader: Reader) -> Any:
    array = reader.long_array()
    if array.size and not (array.min() >= _INT_MIN and array.max() <= _INT_MAX):
        raise DecodeError("an integer does not fit into 32 bits")
    return array


def _encode_boolean(value: Any) -> bytes:
    return b"\x01" if value else b"\x00"


def _decode_boolean(reader: Reader) -> bool:
    byte = reader.take(1)[0]
    if byte > 1:
        raise DecodeError(f"{byte} is no boolean")
    return bool(byte)


def _encode_bytes(value: bytes | bytearray | memoryview) -> bytes:
    content = memoryview(value).tobytes()
    return encode_long(len(content)) + content


_PRIMITIVES: Mapping[str, tuple[Encode, Decode]] = {
    "boolean": (_encode_boolean, _decode_boolean),
    "int": (_encode_int, _decode_int),
    "long": (encode_long, Reader.long),
    "float": (_FLOAT.pack, lambda reader: _FLOAT.unpack(reader.take(4))[0]),
    "double": (_DOUBLE.pack, lambda reader: _DOUBLE.unpack(reader.take(8))[0]),
    "string": (encode_string, Reader.string),
    "bytes": (_encode_bytes, lambda reader: bytes(reader.take(reader.long()))),
}
_COMPLEX: Mapping[str, Callable[[Mapping[str, Any]], tuple[Encode, Decode]]] = {
    "record": _record,
    "array": _array,
    "map": _map,
    "enum": _enum,
}


_DTYPES: Mapping[str, type[np.generic]] = {"int": np.int64, "long": np.int64, "double": np.float64}


def _smallest(schema: Any) -> int:
    """How many bytes a value takes at least: what a block's count is held against."""
    schema = plain_type(schema)
    if isinstance(schema, Mapping) and schema["type"] == "record":
        # At least one, so that a block of empty records cannot announce more than there are bytes.
        return max(1, sum(_smallest(field["type"]) for field in schema["fields"]))
    return {"float": 4, "double": 8}.get(schema, 1) if isinstance(schema, str) else 1
