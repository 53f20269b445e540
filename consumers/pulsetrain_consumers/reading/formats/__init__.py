"""Results of queries written in one format or another, a batch of rows at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO

from pulsetrain_consumers.reading.formats.base import Column, Writer
from pulsetrain_consumers.reading.formats.columnar import ArrowFile, ArrowStream, Parquet
from pulsetrain_consumers.reading.formats.delimited import Csv, Markdown, Tsv
from pulsetrain_consumers.reading.formats.documents import Json, JsonLines
from pulsetrain_consumers.reading.formats.table import Table

__all__ = ["BINARY", "FORMATS", "Column", "Writer", "by_extension", "writer"]

BINARY = frozenset({"arrow", "parquet"})
"""Formats that are no text: they go into a file or a pipe."""

_MAKERS: Mapping[str, Callable[[BinaryIO], Writer]] = {
    "table": Table,
    "csv": Csv,
    "tsv": Tsv,
    "json": Json,
    "jsonl": JsonLines,
    "markdown": Markdown,
    "arrow": ArrowStream,
    "parquet": Parquet,
}
FORMATS = tuple(_MAKERS)
_EXTENSIONS = {".md": "markdown", ".ndjson": "jsonl", ".feather": "arrow", ".txt": "table", ".pq": "parquet"}


def by_extension(path: Path) -> str | None:
    """The format that a file's name asks for."""
    name = path.suffix.lower()
    return _EXTENSIONS.get(name) or (name[1:] if name[1:] in _MAKERS else None)


def writer(name: str, out: BinaryIO, *, into_file: bool) -> Writer:
    """A writer of the format. Arrow is the file format (Feather) in a file, the stream format in a pipe."""
    return ArrowFile(out) if name == "arrow" and into_file else _MAKERS[name](out)
