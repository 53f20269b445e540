"""Every version of a schema reads every other (FULL_TRANSITIVE), by Avro's rules of schema resolution.

To change a schema: edit avro/<name>.avsc, and put a copy with the next number into avro/history/. These tests say
whether the change may be made.
"""

import copy
import io
import json
from collections.abc import Callable, Iterator
from itertools import permutations
from typing import Any

import fastavro
import numpy as np
import pytest

from pulsetrain_schemas import catalog, events
from pulsetrain_schemas.catalog import Schema
from pulsetrain_schemas.codec import RecordCodec
from pulsetrain_schemas.events import Origin, RunEvent
from pulsetrain_schemas.framing import SingleObject
from pulsetrain_schemas.resolution import Irreconcilable, Resolution
from tests.versions import NEW_FIELDS, newer, older

PROMOTIONS = {
    "int": {"long", "float", "double"},
    "long": {"float", "double"},
    "float": {"double"},
    "string": {"bytes"},
    "bytes": {"string"},
}


def kind(schema: Any) -> str:
    return "union" if isinstance(schema, list) else schema["type"] if isinstance(schema, dict) else schema


def incompatibilities(reader: Any, writer: Any, path: str = "") -> Iterator[str]:
    """What keeps `reader` from reading all that `writer` writes (Avro 1.12, Schema Resolution)."""
    if kind(writer) == "union":
        for branch in writer:
            yield from incompatibilities(reader, branch, path)
    elif kind(reader) == "union":
        if all(any(True for _ in incompatibilities(branch, writer, path)) for branch in reader):
            yield f"{path}: no branch reads {kind(writer)}"
    elif kind(reader) != kind(writer):
        if kind(reader) not in PROMOTIONS.get(kind(writer), ()):
            yield f"{path}: {kind(writer)} became {kind(reader)}"
    elif kind(reader) == "array":
        yield from incompatibilities(reader["items"], writer["items"], path + "[]")
    elif kind(reader) == "map":
        yield from incompatibilities(reader["values"], writer["values"], path + "{}")
    elif kind(reader) == "enum":
        unknown = set(writer["symbols"]) - set(reader["symbols"])
        if unknown and "default" not in reader:
            yield f"{path}: nothing stands for {sorted(unknown)}"
    elif kind(reader) == "record":
        if reader["name"] != writer["name"]:
            yield f"{path}: {writer['name']} became {reader['name']}"
        written = {field["name"]: field for field in writer["fields"]}
        for field in reader["fields"]:
            if field["name"] in written:
                yield from incompatibilities(field["type"], written[field["name"]]["type"], f"{path}.{field['name']}")
            elif "default" not in field:
                yield f"{path}.{field['name']}: is not in every version and has no default"


def example(schema: Any) -> Any:
    """A value of the schema with something in every place."""
    match kind(schema):
        case "union":
            return example(schema[-1])
        case "record":
            return {field["name"]: example(field["type"]) for field in schema["fields"]}
        case "array":
            return [example(schema["items"])]
        case "map":
            return {"key": example(schema["values"])}
        case "enum":
            return schema["symbols"][-1]
        case name:
            return {"string": "x", "bytes": b"x", "boolean": True, "null": None, "double": 0.5}.get(name, 7)


@pytest.mark.parametrize("name", catalog.names())
def test_the_current_schema_is_the_newest_of_its_history(name: str):
    assert catalog.history(name), f"put a copy of {name}.avsc into avro/history as {name}.1.avsc"
    assert catalog.history(name)[-1].document == catalog.current(name).document, (
        f"{name}.avsc was changed: put a copy with the next number into avro/history"
    )


@pytest.mark.parametrize("name", catalog.names())
def test_every_version_reads_every_other(name: str):
    versions = catalog.history(name)
    for reader, writer in permutations(versions, 2):
        assert list(incompatibilities(reader.document, writer.document)) == []
    for writer in versions:
        stream = io.BytesIO()
        fastavro.schemaless_writer(stream, dict(writer.document), example(writer.document))
        current = catalog.current(name).document
        record = Resolution(current, writer.document).decode(stream.getvalue())
        assert set(record) == {field["name"] for field in current["fields"]}


@pytest.mark.parametrize("name", catalog.names())
def test_every_version_is_known_by_its_fingerprint(name: str):
    for schema in catalog.history(name):
        assert catalog.by_fingerprint()[schema.fingerprint].name == name
    assert catalog.by_fingerprint()[catalog.current(name).fingerprint] is catalog.current(name)


def field(document: dict[str, Any], name: str) -> dict[str, Any]:
    return next(field for field in document["fields"] if field["name"] == name)


FORBIDDEN: dict[str, Callable[[dict[str, Any]], Any]] = {
    "a field without a default": lambda d: d["fields"].append({"name": "new", "type": "int"}),
    "a field that is gone": lambda d: d["fields"].remove(field(d, "rows")),
    "a field with another name": lambda d: field(d, "rows").update(name="lines"),
    "a field of another type": lambda d: field(d, "time").update(type="string"),
    "a field of a wider type": lambda d: field(d, "rank").update(type="long"),
    "a field that may be null": lambda d: field(d, "writer").update(type=["null", "string"]),
    "a record with another name": lambda d: d.update(name="Event"),
}
ALLOWED: dict[str, Callable[[dict[str, Any]], Any]] = {
    "a field with a default": lambda d: d["fields"].append({"name": "new", "type": "int", "default": 0}),
    "a field with a default that is gone": lambda d: d["fields"].remove(field(d, "notes")),
    "a new symbol where there is a default": lambda d: field(d, "kind")["type"]["symbols"].append("preempted"),
    "another order of the fields": lambda d: d["fields"].reverse(),
}


@pytest.mark.parametrize("change", FORBIDDEN)
def test_a_change_that_would_part_old_from_new_is_noticed(change: str):
    before = catalog.load("runs")
    after = copy.deepcopy(before)
    FORBIDDEN[change](after)
    assert [*incompatibilities(after, before), *incompatibilities(before, after)]


@pytest.mark.parametrize("change", ALLOWED)
def test_a_change_that_keeps_all_versions_readable_is_let_through_and_is_read(change: str):
    before = catalog.load("runs")
    after = copy.deepcopy(before)
    ALLOWED[change](after)
    assert not [*incompatibilities(after, before), *incompatibilities(before, after)]
    for writer, reader in ((before, after), (after, before)):
        stream = io.BytesIO()
        fastavro.schemaless_writer(stream, copy.deepcopy(writer), example(writer))
        assert Resolution(reader, writer).decode(stream.getvalue())["run_id"] == "x"


def written(schema: Any, record: Any) -> bytes:
    """The body, by the reference."""
    stream = io.BytesIO()
    fastavro.schemaless_writer(stream, copy.deepcopy(schema), record)
    return stream.getvalue()


def by_reference(body: bytes, writer: Any, reader: Any) -> Any:
    return fastavro.schemaless_reader(io.BytesIO(body), copy.deepcopy(writer), copy.deepcopy(reader))


def plain(value: Any) -> Any:
    """Lists in place of arrays, here and further in."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    return {key: plain(item) for key, item in value.items()} if isinstance(value, dict) else value


@pytest.mark.parametrize("name", catalog.names())
def test_versions_read_each_other_as_the_reference_does(name: str):
    """This one, the next, and one without anything that has a default."""
    versions = [catalog.load(name), newer(catalog.load(name)), older(newer(catalog.load(name)))]
    assert len({len(version["fields"]) for version in versions}) >= 2
    for writer, reader in permutations(versions, 2):
        assert not [*incompatibilities(reader, writer)]
        body = written(writer, example(writer))
        read = Resolution(reader, writer).decode(body)
        assert plain(read) == by_reference(body, writer, reader)
        types = {key: value.dtype for key, value in read.items() if isinstance(value, np.ndarray)}
        direct = RecordCodec(reader).decode(written(reader, example(reader)))
        assert types == {key: value.dtype for key, value in direct.items() if isinstance(value, np.ndarray)}


@pytest.mark.parametrize("name", catalog.names())
def test_a_wider_type_is_read_from_what_had_the_narrower_one(name: str):
    narrow = catalog.load(name)
    wide = json.loads(json.dumps(narrow).replace('"int"', '"long"').replace('"long"', '"double"'))
    body = written(narrow, example(narrow))
    assert plain(Resolution(wide, narrow).decode(body)) == by_reference(body, narrow, wide)
    with pytest.raises(Irreconcilable, match="double cannot become"):
        Resolution(narrow, wide)


def test_a_default_is_given_anew_to_each_record():
    now, then = catalog.load("logs"), newer(catalog.load("logs"))
    resolution, body = Resolution(then, now), written(now, example(now))
    resolution.decode(body)["new_labels"]["a"] = "changed"
    assert resolution.decode(body)["new_labels"] == {"a": "b"}


@pytest.mark.parametrize("change", FORBIDDEN)
def test_what_no_rule_allows_is_refused_one_way_at_least(change: str):
    before = catalog.load("runs")
    after = copy.deepcopy(before)
    FORBIDDEN[change](after)
    refused = 0
    for writer, reader in ((before, after), (after, before)):
        record = example(writer) | (
            {"writer": None} if change == "a field that may be null" and writer is after else {}
        )
        try:
            Resolution(reader, writer).decode(written(writer, record))
        except events.DecodeError:
            refused += 1
    assert refused


RUN_EVENT = RunEvent(Origin("p", "r1", "w", 0, 0, 1_760_000_000_000_000, 1, 2), "finish", 1, True, state="finished")


class OneSchema:
    """A place for schemas that has one."""

    def __init__(self, name: str, document: dict[str, Any]) -> None:
        self.schema = Schema(name, document, catalog.fingerprint(document))

    def announce(self, schema: Schema) -> None:
        """There is nobody to tell."""

    def find(self, fingerprint: bytes) -> Schema | None:
        return self.schema if fingerprint == self.schema.fingerprint else None


def test_an_event_of_the_next_version_is_decoded_once_its_schema_is_found():
    then = OneSchema("runs", newer(catalog.load("runs")))
    record = RecordCodec(catalog.load("runs")).decode(events.encode(RUN_EVENT)[10:])
    body = RecordCodec(then.schema.document).encode(record | {"kind": "preempted", "new_text": "x"})
    payload = b"\xc3\x01" + then.schema.fingerprint + body
    event = events.decode(payload, RunEvent, SingleObject(then))
    assert (event.kind, event.state, event.origin) == ("unknown", "finished", RUN_EVENT.origin)
    with pytest.raises(events.DecodeError, match=then.schema.fingerprint.hex()):
        events.decode(payload, RunEvent)


@pytest.mark.parametrize("field", NEW_FIELDS, ids=lambda field: field["name"])
def test_a_hostile_version_whose_new_field_breaks_off_is_refused(field: dict[str, Any]):
    document = catalog.load("runs")
    document["fields"] = [*document["fields"], field]
    writer = OneSchema("runs", document)
    record = RecordCodec(catalog.load("runs")).decode(events.encode(RUN_EVENT)[10:])
    body = RecordCodec(document).encode(record)
    for wrong in (body[:-1], body + b"\x00"):
        with pytest.raises(events.DecodeError):
            events.decode(b"\xc3\x01" + writer.schema.fingerprint + wrong, RunEvent, SingleObject(writer))
