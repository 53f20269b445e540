"""Columns in ClickHouse's Native format, written from numpy arrays without a Python object per value.

clickhouse-driver's own numpy columns build a pandas Categorical from every string of a LowCardinality column; here the
caller brings codes and a dictionary, which is what the format holds. The types written are the ones that the server
named for its table, so a column that does not fit is an error here and not garbage there.
Format: https://clickhouse.com/docs/interfaces/formats/Native, and SerializationLowCardinality.cpp for the dictionary.
"""

import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_NUMBERS = {
    "UInt8": "u1",
    "UInt16": "<u2",
    "UInt32": "<u4",
    "UInt64": "<u8",
    "Int8": "i1",
    "Int16": "<i2",
    "Int32": "<i4",
    "Int64": "<i8",
    "Float32": "<f4",
    "Float64": "<f8",
    "Bool": "u1",
}
# LowCardinality: the version of the keys; then, per block, "has additional keys" and "update the dictionary".
_KEYS_VERSION = struct.pack("<q", 1)
_DICTIONARY_FLAGS = (1 << 9) | (1 << 10)
_KEY_TYPES = ((1 << 8, 0, "u1"), (1 << 16, 1, "<u2"), (1 << 32, 2, "<u4"))


@dataclass(frozen=True, slots=True, eq=False)
class Dictionary:
    """Strings by number, for a LowCardinality(String) column: row i is `values[codes[i]]`."""

    codes: NDArray[np.integer[Any]]
    values: Sequence[str]

    def __len__(self) -> int:
        return len(self.codes)

    @classmethod
    def constant(cls, value: str, rows: int) -> "Dictionary":
        return cls(np.zeros(rows, dtype=np.uint8), (value,))


# A column to insert: numbers and times as arrays (DateTime64 in its own ticks), strings (text or bytes) as a list (None
# where the column is Nullable), arrays of strings as a list of lists.
ColumnData = NDArray[Any] | Dictionary | Sequence[Any]


class ColumnError(ValueError):
    """A column does not fit the table's type."""


def encode(type_name: str, data: ColumnData, rows: int) -> bytes:
    """The bytes of one column of a Native block, serialisation prefix included. Raises ColumnError."""
    if len(data) != rows:
        raise ColumnError(f"a column of type {type_name} has {len(data)} values where the block has {rows} rows")
    if type_name == "LowCardinality(String)":
        return _low_cardinality(data)
    return _plain(type_name, data)


def _plain(type_name: str, data: ColumnData) -> bytes:
    if inner := _inside(type_name, "Nullable"):
        return _nullable(inner, data)
    if inner := _inside(type_name, "Array"):
        return _array(inner, data)
    if type_name == "String":
        return _strings(data)
    if isinstance(data, Dictionary):
        raise ColumnError(f"a dictionary of strings was given for a column of type {type_name}")
    return np.asarray(data).astype(_number_type(type_name), copy=False).tobytes()


def _number_type(type_name: str) -> str:
    if type_name.startswith("DateTime64("):
        return "<i8"
    if re.fullmatch(r"DateTime(\(.*\))?", type_name):
        return "<u4"
    try:
        return _NUMBERS[type_name]
    except KeyError:
        raise ColumnError(f"columns of type {type_name} are not written by Pulsetrain") from None


def _inside(type_name: str, wrapper: str) -> str | None:
    return type_name[len(wrapper) + 1 : -1] if type_name.startswith(wrapper + "(") else None


def _low_cardinality(data: ColumnData) -> bytes:
    if not isinstance(data, Dictionary):
        raise ColumnError("a LowCardinality(String) column needs a Dictionary")
    if not len(data.codes):
        return _KEYS_VERSION
    for limit, code, dtype in _KEY_TYPES:
        if len(data.values) <= limit:
            key_type, key_code = dtype, code
            break
    else:
        raise ColumnError("a LowCardinality(String) column has more than 2**32 distinct values")
    head = struct.pack("<qq", _DICTIONARY_FLAGS | key_code, len(data.values))
    keys = data.codes.astype(key_type, copy=False).tobytes()
    return b"".join((_KEYS_VERSION, head, _strings(data.values), struct.pack("<q", len(data.codes)), keys))


def _strings(data: ColumnData) -> bytes:
    if isinstance(data, Dictionary):
        raise ColumnError("a dictionary of strings was given for a column of type String")
    parts: list[bytes] = []
    for text in data:
        encoded = text if isinstance(text, bytes) else text.encode()
        parts.append(_varint(len(encoded)))
        parts.append(encoded)
    return b"".join(parts)


def _nullable(inner: str, data: ColumnData) -> bytes:
    assert not isinstance(data, Dictionary)
    nulls = bytes(value is None for value in data)
    default: Any = "" if inner == "String" else 0
    return nulls + _plain(inner, [default if value is None else value for value in data])


def _array(inner: str, data: ColumnData) -> bytes:
    assert not isinstance(data, Dictionary)
    ends = np.cumsum([len(entry) for entry in data], dtype="<u8")
    return ends.tobytes() + _plain(inner, [value for entry in data for value in entry])


_SHORT = [bytes((length,)) for length in range(128)]


def _varint(value: int) -> bytes:
    if value < 128:
        return _SHORT[value]
    out = bytearray()
    while value >= 128:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
