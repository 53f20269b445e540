"""Arrow and Parquet: columns with the types that ClickHouse gave them."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from pulsetrain_consumers.reading.formats.base import Column, as_text

_SIMPLE = {
    **{f"{sign}Int{bits}": getattr(pa, f"{sign.lower()}int{bits}")() for sign in ("", "U") for bits in (8, 16, 32, 64)},
    "Float32": pa.float32(),
    "Float64": pa.float64(),
    "Bool": pa.bool_(),
    "Date": pa.date32(),
    "Date32": pa.date32(),
}
_TIME = re.compile(r"DateTime(?:64)?(?:\(.*?(?:'(?P<zone>[^']+)')?\s*\))?")
_DECIMAL = re.compile(r"Decimal\((\d+), (\d+)\)")
_WRAPPED = re.compile(r"(?:Nullable|LowCardinality)\((.*)\)", re.DOTALL)
_ARRAY = re.compile(r"Array\((.*)\)", re.DOTALL)


def arrow_type(kind: str) -> Any:
    """Arrow's type for one of ClickHouse's. What Arrow has nothing like becomes text."""
    if kind in _SIMPLE:
        return _SIMPLE[kind]
    if found := _WRAPPED.fullmatch(kind):
        return arrow_type(found[1])
    if found := _ARRAY.fullmatch(kind):
        return pa.list_(arrow_type(found[1]))
    if found := _TIME.fullmatch(kind):
        return pa.timestamp("us", tz=found["zone"])
    if found := _DECIMAL.fullmatch(kind):
        return (
            pa.decimal128(int(found[1]), int(found[2]))
            if int(found[1]) <= 38
            else pa.decimal256(int(found[1]), int(found[2]))
        )
    return pa.string()


class _Columnar:
    """Collects rows into record batches and hands each to a writer that is made when the schema is known."""

    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self._schema: Any = None
        self._writer: Any = None

    def _open(self, out: BinaryIO, schema: Any) -> Any:
        raise NotImplementedError

    def begin(self, columns: Sequence[Column]) -> None:
        """Opens the file with the columns' types. Names that come twice get a number: these formats need them apart."""
        seen: dict[str, int] = {}
        fields = []
        for name, kind in columns:
            seen[name] = seen.get(name, 0) + 1
            fields.append(pa.field(name if seen[name] == 1 else f"{name}_{seen[name]}", arrow_type(kind)))
        self._schema = pa.schema(fields)
        self._writer = self._open(self._out, self._schema)

    def rows(self, batch: Sequence[tuple[Any, ...]]) -> None:
        """Writes a record batch."""
        if not batch:
            return
        arrays = [
            pa.array(_cells(values, field.type), type=field.type)
            for values, field in zip(zip(*batch, strict=True), self._schema, strict=True)
        ]
        self._writer.write_batch(pa.record_batch(arrays, schema=self._schema))

    def end(self) -> None:
        """Writes the footer."""
        self._writer.close()


def _cells(values: Sequence[Any], kind: Any) -> Sequence[Any]:
    convert = _conversion(kind)
    return values if convert is None else [None if value is None else convert(value) for value in values]


def _conversion(kind: Any) -> Callable[[Any], Any] | None:
    if pa.types.is_string(kind):
        return as_text
    if pa.types.is_list(kind) and (inner := _conversion(kind.value_type)) is not None:
        return lambda items: [None if item is None else inner(item) for item in items]
    return None


class ArrowFile(_Columnar):
    """Arrow's file format (Feather 2)."""

    def _open(self, out: BinaryIO, schema: Any) -> Any:
        return pa.ipc.new_file(out, schema)


class ArrowStream(_Columnar):
    """Arrow's stream format, for a pipe."""

    def _open(self, out: BinaryIO, schema: Any) -> Any:
        return pa.ipc.new_stream(out, schema)


class Parquet(_Columnar):
    """Parquet with zstd."""

    def _open(self, out: BinaryIO, schema: Any) -> Any:
        return pq.ParquetWriter(out, schema, compression="zstd")
