"""The schemas of the messages: the current one of each name, and every earlier version that may still lie in a topic.

The current version is avro/<name>.avsc; avro/history/<name>.<version>.avsc holds every published one, the current
included. A schema is told by the CRC-64-AVRO fingerprint of its parsing canonical form.
"""

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from types import MappingProxyType
from typing import Any


@dataclass(frozen=True, slots=True, eq=False)
class Schema:
    """One version of a message. `fingerprint`: the eight little-endian bytes that single-object framing carries."""

    name: str
    document: Mapping[str, Any]
    fingerprint: bytes


def fingerprint(document: Mapping[str, Any]) -> bytes:
    """The CRC-64-AVRO fingerprint of a schema, little-endian."""
    from fastavro import schema

    return bytes.fromhex(schema.fingerprint(schema.to_parsing_canonical_form(document), "CRC-64-AVRO"))


@functools.cache
def names() -> tuple[str, ...]:
    """The names of all messages that have a schema."""
    folder = files(__package__) / "avro"
    return tuple(sorted(f.name.removesuffix(".avsc") for f in folder.iterdir() if f.name.endswith(".avsc")))


def load(name: str) -> dict[str, Any]:
    """The parsed JSON of the current schema of this name."""
    return _read(f"{name}.avsc")


@functools.cache
def current(name: str) -> Schema:
    """The schema that messages of this name are written with. Raises KeyError for a name that has none."""
    if name not in names():
        raise KeyError(f"no message is called {name!r}; there are {', '.join(names())}")
    return _load(name, f"{name}.avsc")


@functools.cache
def history(name: str) -> tuple[Schema, ...]:
    """Every published version of this name, oldest first."""
    folder = files(__package__) / "avro" / "history"
    versions = sorted(
        int(parts[1]) for f in folder.iterdir() if len(parts := f.name.split(".")) == 3 and parts[0] == name
    )
    return tuple(_load(name, f"history/{name}.{version}.avsc") for version in versions)


@functools.cache
def by_fingerprint() -> Mapping[bytes, Schema]:
    """All schemas that a message may have been written with; of two with one canonical form, the current one."""
    known = {schema.fingerprint: schema for name in names() for schema in history(name)}
    known.update({current(name).fingerprint: current(name) for name in names()})
    return MappingProxyType(known)


def _load(name: str, path: str) -> Schema:
    document = _read(path)
    return Schema(name, document, fingerprint(document))


def _read(path: str) -> dict[str, Any]:
    text = files(__package__).joinpath("avro", *path.split("/")).read_text(encoding="utf-8")
    document: dict[str, Any] = json.loads(text)
    return document
