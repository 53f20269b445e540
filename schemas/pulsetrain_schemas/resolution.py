"""Reading what was written with another version of a schema, by Avro's rules of schema resolution.

The body is decoded by the codec of its writer's schema, columns and all, and then projected: fields that the reader
does not know are dropped, those that the writer did not know get the reader's default, numbers are widened, symbols
that the reader does not know become its default. What is to be done is found once for a pair of schemas; between two
versions that differ by a field it is next to nothing. The rules are those of
https://avro.apache.org/docs/1.12.0/specification/#schema-resolution, without aliases; fastavro is the reference in
the tests.

A writer's schema may come from anywhere. One that the codec cannot read by is refused, so that work and memory are
bounded by the message as they are for a schema of our own.
"""

import copy
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from pulsetrain_schemas.codec import RecordCodec, array_dtype, plain_type
from pulsetrain_schemas.columnar import DecodeError

Convert = Callable[[Any], Any]
"""From a value as the writer's codec gives it to one as the reader's does. None in place of one: they are the same."""


class Irreconcilable(DecodeError):
    """No rule makes of what this schema writes what the other reads."""


class Resolution:
    """Decodes bodies (no framing) that were written with the schema `writer` into records of the schema `reader`."""

    def __init__(self, reader: Mapping[str, Any], writer: Mapping[str, Any]) -> None:
        """Raises Irreconcilable where Avro's rules do not allow it, or the codec does not support the writer's."""
        try:
            self._codec = RecordCodec(writer)
            self._project = _record(writer, reader)
        except Irreconcilable as error:
            raise Irreconcilable(f"the {reader['name']} cannot be read with its writer's schema: {error}") from None
        except (TypeError, KeyError, ValueError, AttributeError, RecursionError) as error:
            raise Irreconcilable(
                f"the {reader['name']} was written with a schema that is not supported: {error}"
            ) from None

    def decode(self, body: bytes | bytearray | memoryview) -> dict[str, Any]:
        """The record in `body`, which it must fill, as the reader's codec would give it. Raises DecodeError."""
        record = self._codec.decode(body)
        return record if self._project is None else self._project(record)


def _resolve(writer: Any, reader: Any) -> Convert | None:
    writer, reader = plain_type(writer), plain_type(reader)
    if isinstance(writer, list) or isinstance(reader, list):
        return _union(writer, reader)
    kind, wanted = _kind(writer), _kind(reader)
    if kind != wanted:
        if (kind, wanted) not in _PROMOTIONS:
            raise Irreconcilable(f"{kind} cannot become {wanted}")
        return _PROMOTIONS[kind, wanted]
    return _COMPLEX[kind](writer, reader) if kind in _COMPLEX else None


def _kind(schema: Any) -> str:
    return str(schema["type"] if isinstance(schema, Mapping) else schema)


def _union(writer: Any, reader: Any) -> Convert | None:
    """Unions are of null and one other type; a value of one is the value itself, or None."""
    written, wanted = _other_than_null(writer), _other_than_null(reader)
    convert = _resolve(written, wanted)
    if not isinstance(writer, list):
        return convert
    if isinstance(reader, list):
        return None if convert is None else lambda value: None if value is None else convert(value)

    def require(value: Any) -> Any:
        if value is None:
            raise DecodeError("it is null, which this version does not know")
        return value if convert is None else convert(value)

    return require


def _other_than_null(schema: Any) -> Any:
    return next(branch for branch in schema if branch != "null") if isinstance(schema, list) else schema


def _record(writer: Mapping[str, Any], reader: Mapping[str, Any]) -> Convert | None:
    _same_name(writer, reader)
    written = {field["name"]: field["type"] for field in writer["fields"]}
    kept: list[tuple[str, Convert | None]] = []
    defaults: dict[str, Any] = {}
    for field in reader["fields"]:
        name = field["name"]
        if name in written:
            try:
                kept.append((name, _resolve(written[name], field["type"])))
            except Irreconcilable as error:
                raise Irreconcilable(f"{name}: {error}") from None
        elif "default" in field:
            defaults[name] = _default(field["type"], field["default"])
        else:
            raise Irreconcilable(f"{name} is missing and has no default")
    if not defaults and len(kept) == len(written) and all(convert is None for _, convert in kept):
        return None

    def convert(record: dict[str, Any]) -> dict[str, Any]:
        projected = {}
        for name, convert_field in kept:
            try:
                projected[name] = record[name] if convert_field is None else convert_field(record[name])
            except DecodeError as error:
                raise DecodeError(f"{name} of the {reader['name']}: {error}") from None
        for name, value in defaults.items():
            projected[name] = copy.deepcopy(value)
        return projected

    return convert


def _array(writer: Mapping[str, Any], reader: Mapping[str, Any]) -> Convert | None:
    convert = _resolve(writer["items"], reader["items"])
    before, after = array_dtype(writer), array_dtype(reader)
    if before is not None and after is not None:
        return None if before is after else lambda values: np.asarray(values, after)
    if before is after and convert is None:
        return None

    def convert_all(values: Any) -> Any:
        items = values.tolist() if isinstance(values, np.ndarray) else values
        converted = items if convert is None else [convert(item) for item in items]
        return converted if after is None else np.array(converted, after)

    return convert_all


def _map(writer: Mapping[str, Any], reader: Mapping[str, Any]) -> Convert | None:
    convert = _resolve(writer["values"], reader["values"])
    return None if convert is None else lambda values: {key: convert(value) for key, value in values.items()}


def _enum(writer: Mapping[str, Any], reader: Mapping[str, Any]) -> Convert | None:
    _same_name(writer, reader)
    symbols, default = frozenset(reader["symbols"]), reader.get("default")
    if symbols.issuperset(writer["symbols"]):
        return None

    def convert(symbol: str) -> str:
        if symbol in symbols:
            return symbol
        if default is None:
            raise DecodeError(f"this version does not know {symbol!r}")
        return str(default)

    return convert


def _same_name(writer: Mapping[str, Any], reader: Mapping[str, Any]) -> None:
    if writer["name"].rpartition(".")[2] != reader["name"].rpartition(".")[2]:
        raise Irreconcilable(f"{writer['name']} cannot become {reader['name']}")


def _default(schema: Any, value: Any) -> Any:
    """The value that a field's default stands for: bytes are written as text in it, of a union it is the first."""
    schema = plain_type(schema)
    if isinstance(schema, list):
        return None if value is None else _default(_other_than_null(schema), value)
    match _kind(schema):
        case "bytes":
            return value.encode("iso-8859-1")
        case "float" | "double":
            return float(value)
        case "array":
            items, dtype = [_default(schema["items"], item) for item in value], array_dtype(schema)
            return items if dtype is None else np.array(items, dtype)
        case "map":
            return {key: _default(schema["values"], item) for key, item in value.items()}
        case "record":
            fields = {field["name"]: field for field in schema["fields"]}
            return {
                name: _default(field["type"], value[name] if name in value else field["default"])
                for name, field in fields.items()
            }
        case _:
            return value


def _decoded(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise DecodeError("it is not UTF-8") from None


_PROMOTIONS: Mapping[tuple[str, str], Convert | None] = {
    ("int", "long"): None,
    ("int", "float"): float,
    ("int", "double"): float,
    ("long", "float"): float,
    ("long", "double"): float,
    ("float", "double"): None,
    ("string", "bytes"): str.encode,
    ("bytes", "string"): _decoded,
}
_COMPLEX: Mapping[str, Callable[[Mapping[str, Any], Mapping[str, Any]], Convert | None]] = {
    "record": _record,
    "array": _array,
    "map": _map,
    "enum": _enum,
}
