"""What stands before a message's body and says which schema wrote it.

Without a registry: Avro's single-object encoding, C3 01 and the schema's fingerprint. With one: Confluent's framing, a
zero and the registry's id for the schema. A reader tells them apart by the first byte, so that a topic may hold both.

A fingerprint says nothing to a reader that does not have the schema. So that versions may be mixed, producers publish
the schemas that they write with where readers find them: see `Schemas`, and `published` for how Kafka carries them.
"""

import struct
import time
from collections.abc import Callable
from typing import Protocol

from pulsetrain_schemas import catalog
from pulsetrain_schemas.catalog import Schema
from pulsetrain_schemas.columnar import DecodeError
from pulsetrain_schemas.registry import Registry
from pulsetrain_schemas.topics import TOPICS

Payload = bytes | bytearray | memoryview

_SINGLE_OBJECT = b"\xc3\x01"
_SINGLE_OBJECT_BYTES = 10
_CONFLUENT = struct.Struct(">bI")
# How many ids the registry is asked for in vain in a second: messages that name made-up ones must not hold up others.
_MISSES_A_SECOND = 20


class UnknownSchema(DecodeError):
    """The message names a schema that is neither one of this package's nor in the registry."""


class Framing(Protocol):
    """How messages say which schema wrote them."""

    def frame(self, name: str, body: bytes) -> bytes:
        """The message that goes to Kafka, for a body written with the current schema of `name`."""

    def unframe(self, payload: Payload) -> tuple[Schema, memoryview]:
        """The schema that wrote a message, and its body. Raises DecodeError, of which UnknownSchema is one."""


class Schemas(Protocol):
    """Where the schemas of all releases are: published by those who write with them, found by those who read."""

    def announce(self, schema: Schema) -> None:
        """Has the schema published, if it is not yet. Never blocks, never raises; called with every message."""

    def find(self, fingerprint: bytes) -> Schema | None:
        """The published schema with this fingerprint, or None. Raises RegistryUnavailable where to ask again soon."""


class SingleObject:
    """Avro's single-object encoding: for the schemas that this package knows and, with `schemas`, those of others."""

    def __init__(self, schemas: Schemas | None = None) -> None:
        self._schemas = schemas

    def frame(self, name: str, body: bytes) -> bytes:
        """C3 01, the fingerprint of the current schema of `name`, the body."""
        schema = catalog.current(name)
        if self._schemas is not None:
            self._schemas.announce(schema)
        return b"".join((_SINGLE_OBJECT, schema.fingerprint, body))

    def unframe(self, payload: Payload) -> tuple[Schema, memoryview]:
        """The schema with the message's fingerprint, and the body."""
        view = memoryview(payload).cast("B")
        if view and view[0] == 0:
            raise UnknownSchema(
                "the message names its schema by a registry's id; no registry is known: set PULSETRAIN_SCHEMA_REGISTRY"
            )
        if len(view) < _SINGLE_OBJECT_BYTES or view[:2] != _SINGLE_OBJECT:
            raise DecodeError(f"the message starts with {bytes(view[:2]).hex(' ') or 'nothing'}, not with c3 01 or 00")
        fingerprint = bytes(view[2:_SINGLE_OBJECT_BYTES])
        schema = catalog.by_fingerprint().get(fingerprint)
        if schema is None and self._schemas is not None:
            schema = self._schemas.find(fingerprint)
        if schema is None:
            raise UnknownSchema(
                f"no schema has the fingerprint {fingerprint.hex()}: the message is not ours, or of another version "
                f"that has not published its schema"
            )
        return schema, view[_SINGLE_OBJECT_BYTES:]


class Confluent:
    """Confluent's framing: a zero, the schema's id in a registry (big-endian), the body.

    Schemas are registered under the topic's subject, `pulsetrain.<name>-value`, when the first message is framed. Reads
    single-object messages too, by `single_object`. What the registry answers for an id is asked once. Errors of the
    registry itself are RegistryError, no DecodeError: they say nothing about the message.
    """

    def __init__(
        self,
        registry: Registry,
        single_object: SingleObject | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._registry = registry
        self._monotonic = monotonic
        self._missed: set[int] = set()
        self._missed_since = monotonic()
        self._single_object = single_object or SINGLE_OBJECT
        self._headers: dict[str, bytes] = {}
        self._schemas: dict[int, Schema] = {}

    def frame(self, name: str, body: bytes) -> bytes:
        """The header for the current schema of `name`, and the body."""
        header = self._headers.get(name)
        if header is None:
            schema_id = self._registry.register(subject(name), catalog.current(name).document)
            header = self._headers[name] = _CONFLUENT.pack(0, schema_id)
        return header + body

    def unframe(self, payload: Payload) -> tuple[Schema, memoryview]:
        """The schema that the registry has for the message's id, and the body."""
        view = memoryview(payload).cast("B")
        if not view or view[0] != 0:
            return self._single_object.unframe(view)
        if len(view) < _CONFLUENT.size:
            raise DecodeError(f"the message ends within its {_CONFLUENT.size} bytes of framing")
        schema_id = _CONFLUENT.unpack_from(view)[1]
        schema = self._schemas.get(schema_id)
        if schema is None:
            schema = self._schemas[schema_id] = self._find(schema_id)
        return schema, view[_CONFLUENT.size :]

    def _find(self, schema_id: int) -> Schema:
        now = self._monotonic()
        if now - self._missed_since >= 1.0:
            self._missed.clear()
            self._missed_since = now
        if schema_id in self._missed or len(self._missed) >= _MISSES_A_SECOND:
            raise UnknownSchema(f"the registry was not asked for the id {schema_id}: too many were not there just now")
        document = self._registry.by_id(schema_id)
        if document is None:
            self._missed.add(schema_id)
            raise UnknownSchema(f"the registry has no schema with the id {schema_id}")
        schema = catalog.recognise(document)
        if schema is None:
            raise UnknownSchema(f"the registry's schema {schema_id} is {document.get('name')!r}, none of ours")
        return schema


def schema_id(payload: Payload) -> bytes:
    """The bytes by which a framed message names its schema, whether that is known or not."""
    view = memoryview(payload).cast("B")
    framed = view[2:_SINGLE_OBJECT_BYTES] if view[:2] == _SINGLE_OBJECT else view[1 : _CONFLUENT.size]
    return bytes(framed)


def subject(name: str) -> str:
    """The registry's subject for the values of the topic whose messages have this schema."""
    topic = next(topic for topic in TOPICS.values() if topic.schema == name)
    return f"{topic.kafka_name}-value"


SINGLE_OBJECT = SingleObject()
"""For where there is no Kafka to find a schema on: messages of the schemas that this package knows."""
