"""The schemas of the messages: the current one of each name, and every earlier version that may still lie in a topic.

The current version is avro/<name>.avsc; avro/history/<name>.<version>.avsc holds every published one, the current
included. A schema is told by the CRC-64-AVRO fingerprint of its parsing canonical form.

Schemas that this package does not know come from other releases, by way of a topic or a registry. `recognise` tells
which message they are of, and takes nothing that reading by them could be led astray with.
"""

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from types import MappingProxyType
from typing import Any

_FOLDER = files(__package__) / "avro"
# No schema of ours comes near: the deepest has five levels.
_DEEPEST = 32


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
    return tuple(sorted(f.name.removesuffix(".avsc") for f in _FOLDER.iterdir() if f.name.endswith(".avsc")))


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
    files_there = (_FOLDER / "history").iterdir()
    versions = sorted(int(parts[1]) for f in files_there if len(parts := f.name.split(".")) == 3 and parts[0] == name)
    return tuple(_load(name, f"history/{name}.{version}.avsc") for version in versions)


@functools.cache
def by_fingerprint() -> Mapping[bytes, Schema]:
    """All schemas that a message may have been written with; of two with one canonical form, the current one."""
    known = {schema.fingerprint: schema for name in names() for schema in history(name)}
    known.update({current(name).fingerprint: current(name) for name in names()})
    return MappingProxyType(known)


def recognise(document: Any) -> Schema | None:
    """The schema of one of our messages that another release wrote with, by the name of its record; else None.

    The document comes from outside. None is also what is no schema, what has types that the codec does not support, a
    record without fields, or more levels than any of ours will have: so whatever reads by it comes to an end.
    """
    from pulsetrain_schemas.codec import RecordCodec

    if not isinstance(document, dict) or not _is_sound(document, _DEEPEST):
        return None
    records = {current(name).document["name"]: name for name in names()}
    record = document.get("name")
    if document.get("type") != "record" or not isinstance(record, str) or record not in records:
        return None
    try:
        found = fingerprint(document)
        RecordCodec(document)
    except Exception:  # noqa: BLE001  on what is no schema its parsing raises whatever it meets
        return None
    return by_fingerprint().get(found) or Schema(records[record], document, found)


def _is_sound(value: Any, levels: int) -> bool:
    """Whether there are no more levels than that, and no record takes no bytes: an array may announce any number."""
    if isinstance(value, dict) and value.get("type") == "record" and not value.get("fields"):
        return False
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return levels > 0 and all(_is_sound(child, levels - 1) for child in children)


def _load(name: str, path: str) -> Schema:
    document = _read(path)
    return Schema(name, document, fingerprint(document))


def _read(path: str) -> dict[str, Any]:
    text = _FOLDER.joinpath(*path.split("/")).read_text(encoding="utf-8")
    document: dict[str, Any] = json.loads(text)
    return document
