"""Events there and back, what decode refuses, and the framings."""

import copy
import dataclasses
import io
from dataclasses import replace
from typing import Any

import fastavro
import numpy as np
import pytest

from pulsetrain_schemas import catalog, events
from pulsetrain_schemas.codec import RecordCodec
from pulsetrain_schemas.columnar import DecodeError, EncodeError
from pulsetrain_schemas.events import (
    LATEST_TIME,
    Alert,
    DeadLetter,
    Event,
    LogBatch,
    MetricBatch,
    Origin,
    RunEvent,
    SystemBatch,
    decode,
    encode,
    message_key,
)
from pulsetrain_schemas.framing import SingleObject, UnknownSchema

STARTED = 1_700_000_000_000_000
ORIGIN = Origin("project", "run", "writer", 3, 1, STARTED, 5, 9)


def array(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


METRICS = MetricBatch(
    ORIGIN,
    keys=["loss", "accuracy", "note"],
    shape_lengths=array(2, 1, 0),
    shape_keys=array(0, 1, 1),
    row_sequences=array(5, 6, 7, 9),
    row_steps=array(10, -(2**63), 2**63 - 1, 3),
    row_times=array(STARTED, STARTED + 1, STARTED - 5, 0),
    row_shapes=array(0, 1, 2, 0),
    values=np.array([0.1, np.nan, np.inf, -0.0, 5e-324]),
    text_rows=array(2),
    text_keys=array(2),
    text_values=['"ünï"'],
)
SYSTEM = SystemBatch(
    ORIGIN,
    host="node-1",
    series_metrics=["cpu_percent", "power_watts"],
    series_gpus=["", "GPU-1"],
    series_gpu_indexes=array(-1, 0),
    shape_lengths=array(2),
    shape_keys=array(1, 0),
    row_sequences=array(5, 6),
    row_times=array(STARTED, STARTED + 1_000_000),
    row_shapes=array(0, 0),
    values=np.array([1.0, 2.0, 3.0, 4.0]),
)
LOGS = LogBatch(ORIGIN, array(5, 9), array(STARTED, STARTED + 3), array(1, 2), ["one", "two\x00\U0001f600"])
RUN = RunEvent(
    ORIGIN, "finish", STARTED, True, name="n", tags=["a"], state="failed", exit_code=-9,
    config={"lr": "0.1", "gone": None}, environment={"host": '"h"'}, rows=1, points=2, texts=3,
)  # fmt: skip
DEAD = DeadLetter(
    "undecodable", "what was wrong", "pulsetrain.metrics", 1, 2**40, STARTED, "writer", b"k", b"\x00\xff", "id", 5,
    more_offsets=array(2**40 + 3, 7, 8), more_errors=["a", "b"], more_error_indexes=array(1, 0, 1),
    more_record_times=array(1, 2, 3), more_key_lengths=array(-1, 0, 2), more_keys=b"kk",
    more_payload_lengths=array(1, -1, 0), more_payloads=b"\xc3",
)  # fmt: skip
ALERT = Alert(
    "project", "run", "id", 1, "nan", "train/loss", "firing", "critical", "tïtle", "\U0001f600", STARTED, STARTED - 5,
    "monitor", step=-7, value=float("nan"), rank=0, host="h", gpu="GPU-1", silenced=True, labels={"team": "vision"},
)  # fmt: skip
ALL: tuple[Event, ...] = (METRICS, SYSTEM, LOGS, RUN, DEAD, ALERT)


def fields(event: Any) -> dict[str, Any]:
    return {
        f.name: value.tolist() if isinstance(value := getattr(event, f.name), np.ndarray) else value
        for f in dataclasses.fields(event)
    }


@pytest.mark.parametrize("event", ALL, ids=lambda event: type(event).__name__)
def test_an_event_comes_back_as_it_was_encoded(event: Event):
    decoded = decode(encode(event), type(event))
    assert str(fields(decoded)) == str(fields(event))  # as text, since NaN is not equal to itself


@pytest.mark.parametrize("event", ALL, ids=lambda event: type(event).__name__)
def test_a_message_is_single_object_avro_that_fastavro_reads(event: Event):
    payload = encode(event)
    name = events.schema_name(type(event))
    assert payload[:2] == b"\xc3\x01"
    assert payload[2:10].hex() == fastavro.schema.fingerprint(
        fastavro.schema.to_parsing_canonical_form(catalog.load(name)), "CRC-64-AVRO"
    )
    stream = io.BytesIO(payload[10:])
    fastavro.schemaless_reader(stream, catalog.load(name), None)
    assert not stream.read()


def test_small_steps_of_time_and_sequence_take_a_byte_or_two():
    rows = 1000
    batch = MetricBatch(
        replace(ORIGIN, first_sequence=1, last_sequence=rows), ["loss"], array(1), array(0),
        np.arange(1, rows + 1), np.arange(rows), STARTED + np.arange(rows) * 1000, np.zeros(rows, np.int64),
        np.zeros(rows),
    )  # fmt: skip
    assert len(encode(batch)) < rows * (8 + 1 + 1 + 2 + 1) + 200


def test_each_value_is_told_its_row_and_its_key():
    assert METRICS.point_rows.tolist() == [0, 0, 1, 3, 3]
    assert METRICS.point_keys.tolist() == [0, 1, 1, 0, 1]
    assert SYSTEM.point_rows.tolist() == [0, 0, 1, 1]
    assert SYSTEM.point_keys.tolist() == [1, 0, 1, 0]


def test_a_batch_without_rows_only_accounts_for_its_sequences():
    empty = replace(
        METRICS, keys=[], shape_lengths=array(), shape_keys=array(), row_sequences=array(), row_steps=array(),
        row_times=array(), row_shapes=array(), values=np.empty(0), text_rows=array(), text_keys=array(), text_values=[],
    )  # fmt: skip
    decoded = decode(encode(empty), MetricBatch)
    assert (len(decoded.point_rows), len(decoded.point_keys), decoded.origin) == (0, 0, ORIGIN)


def test_the_key_of_a_message_is_the_run_or_the_host_of_a_sample_or_what_a_dead_letter_had():
    assert [message_key(event) for event in ALL] == [b"run", b"node-1", b"run", b"run", b"k", b"run"]


INCONSISTENT: list[tuple[Any, dict[str, Any], str]] = [
    (METRICS, {"row_steps": array(1)}, "row_steps"),
    (METRICS, {"row_times": array(1)}, "row_times"),
    (METRICS, {"row_shapes": array(0)}, "row_shapes"),
    (METRICS, {"row_shapes": array(0, 1, 3, 0)}, "none of the shapes"),
    (METRICS, {"row_shapes": array(0, -1, 2, 0)}, "none of the shapes"),
    (METRICS, {"values": np.zeros(4)}, "5 values by their shapes, and 4"),
    (METRICS, {"shape_keys": array(0, 1, 3)}, "none of the keys"),
    (METRICS, {"shape_lengths": array(2, 2, -1)}, "out of range"),
    (METRICS, {"shape_lengths": array(2, 2, 0)}, "add up"),
    (METRICS, {"text_rows": array(4)}, "none of the rows"),
    (METRICS, {"text_keys": array(-1)}, "none of the keys"),
    (METRICS, {"text_values": []}, "an entry a text"),
    (METRICS, {"row_sequences": array(4, 6, 7, 9)}, "outside"),
    (METRICS, {"row_sequences": array(5, 6, 7, 10)}, "outside"),
    (METRICS, {"origin": replace(ORIGIN, first_sequence=0)}, "first <= last"),
    (METRICS, {"origin": replace(ORIGIN, last_sequence=4)}, "first <= last"),
    (METRICS, {"origin": replace(ORIGIN, rank=-1)}, "rank"),
    (METRICS, {"origin": replace(ORIGIN, attempt=-1)}, "attempt"),
    (METRICS, {"origin": replace(ORIGIN, attempt_started=2**62)}, "attempt_started"),
    (SYSTEM, {"series_gpus": [""]}, "an entry a series"),
    (SYSTEM, {"shape_keys": array(1, 2)}, "none of the keys"),
    (LOGS, {"lines": ["one"]}, "an entry a row"),
    (LOGS, {"row_streams": array(1, 3)}, "stdout"),
    (RUN, {"points": -1}, "counter"),
    (DEAD, {"more_key_lengths": array(1)}, "an entry a letter"),
    (DEAD, {"more_errors": []}, "none of the errors"),
    (DEAD, {"more_keys": b"k"}, "add up"),
    (DEAD, {"more_payload_lengths": array(1, -2, 0)}, "add up"),
    (DEAD, {"more_offsets": array(1, -1, 2)}, "negative"),
    (DEAD, {"offset": -1}, "negative"),
    (ALERT, {"alert_id": ""}, "alert_id"),
    (ALERT, {"sequence": -1}, "sequence"),
    (ALERT, {"severity": "bad"}, "severity"),
    (ALERT, {"rank": -1}, "rank"),
    (ALERT, {"started": -1}, "start is no time"),
    (ALERT, {"time": LATEST_TIME + 1}, "time is no time"),
]


@pytest.mark.parametrize(("event", "changes", "reason"), INCONSISTENT)
def test_an_event_whose_parts_contradict_each_other_is_neither_sent_nor_taken(
    event: Any, changes: dict[str, Any], reason: str, monkeypatch: pytest.MonkeyPatch
):
    wrong = replace(event, **changes)
    with pytest.raises(EncodeError, match=reason):
        encode(wrong)
    with monkeypatch.context() as patched:
        patched.setattr(events, "_check", lambda event: None)
        payload = encode(wrong)
    with pytest.raises(DecodeError, match=reason):
        decode(payload, type(wrong))


def test_a_message_of_another_kind_is_refused_by_name():
    with pytest.raises(DecodeError, match="expected a MetricBatch, the message is a LogBatch"):
        decode(encode(LOGS), MetricBatch)


@pytest.mark.parametrize(
    "payload", [b"", b"\xc3", b"\xc3\x01abc", b"\xc3\x02" + bytes(20), b"{}", b"\xc3\x01" + bytes(8)]
)
def test_what_is_no_message_of_ours_is_refused(payload: bytes):
    with pytest.raises(DecodeError):
        decode(payload, MetricBatch)


def test_a_schema_that_is_not_known_is_told_apart_from_damage():
    with pytest.raises(UnknownSchema, match="fingerprint"):
        SingleObject().unframe(b"\xc3\x01" + bytes(8) + b"body")
    with pytest.raises(UnknownSchema, match="PULSETRAIN_SCHEMA_REGISTRY"):
        SingleObject().unframe(b"\x00\x00\x00\x00\x01body")


@pytest.mark.parametrize("event", ALL, ids=lambda event: type(event).__name__)
def test_a_damaged_message_is_read_or_refused_and_nothing_else(event: Event):
    payload = encode(event)
    generator = np.random.default_rng(7)
    for _ in range(2000):
        damaged = bytearray(payload)
        for position in generator.integers(10, len(payload), generator.integers(1, 4)):
            damaged[position] = generator.integers(0, 256)
        try:
            decoded = decode(damaged[: generator.integers(10, len(payload) + 1)], type(event))
        except DecodeError:
            continue
        if isinstance(decoded, MetricBatch | SystemBatch):
            assert len(decoded.point_rows) == len(decoded.point_keys) == len(decoded.values)


def test_a_message_of_another_version_of_the_schema_is_resolved(monkeypatch: pytest.MonkeyPatch):
    document = catalog.load("logs")
    newer = document | {"fields": [*document["fields"], {"name": "level", "type": "int", "default": 0}]}
    schema = catalog.Schema("logs", newer, catalog.fingerprint(newer))
    known = dict(catalog.by_fingerprint()) | {schema.fingerprint: schema}
    monkeypatch.setattr(catalog, "by_fingerprint", lambda: known)
    body = RecordCodec(newer).encode(RecordCodec(document).decode(encode(LOGS)[10:]) | {"level": 3})
    payload = b"\xc3\x01" + schema.fingerprint + body
    assert str(fields(decode(payload, LogBatch))) == str(fields(LOGS))
    with pytest.raises(DecodeError):
        decode(payload[:-1], LogBatch)


def test_what_run_alert_said_comes_back():
    said = replace(
        RUN, kind="alert", alert={"title": "\ud55c\uad6d\uc5b4", "text": "", "level": "WARN", "wait_seconds": 1.5}
    )
    assert decode(encode(said), RunEvent) == said


def test_a_state_of_an_alert_that_a_newer_monitor_invented_is_unknown(monkeypatch: pytest.MonkeyPatch):
    document = copy.deepcopy(dict(catalog.load("alerts")))
    state = next(field for field in document["fields"] if field["name"] == "state")
    state["type"]["symbols"].append("acknowledged")
    schema = catalog.Schema("alerts", document, catalog.fingerprint(document))
    known = dict(catalog.by_fingerprint()) | {schema.fingerprint: schema}
    monkeypatch.setattr(catalog, "by_fingerprint", lambda: known)
    body = RecordCodec(document).encode(
        RecordCodec(catalog.load("alerts")).decode(encode(ALERT)[10:]) | {"state": "acknowledged"}
    )
    assert decode(b"\xc3\x01" + schema.fingerprint + body, Alert).state == "unknown"
