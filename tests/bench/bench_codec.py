"""Encoding and decoding batches of metrics, beside fastavro with the same schema: `python -m tests.bench.bench_codec`.

Rows of ten metrics, a row every 10 ms or so. Ours is the whole way, from the event to the framed message and back,
checks included; fastavro's is its C reader and writer on plain lists, without delta coding, framing and checks. The
last line is of messages that the next version of the schema wrote, read with this one's by Avro's rules.
"""

import io
import json
import time
from collections.abc import Callable, Mapping
from typing import Any

import fastavro
import numpy as np

from pulsetrain_schemas import catalog
from pulsetrain_schemas.codec import RecordCodec
from pulsetrain_schemas.events import MetricBatch, Origin, decode, encode
from pulsetrain_schemas.framing import SingleObject
from pulsetrain_schemas.published import PublishedSchemas
from tests.bench.machine import describe, table
from tests.versions import newer

METRICS = 10
STARTED = 1_700_000_000_000_000


def batch(points: int) -> MetricBatch:
    """A batch of that many points, as a training loop of ten metrics a step gives it."""
    generator = np.random.default_rng(points)
    rows = points // METRICS
    return MetricBatch(
        origin=Origin("project", "run-1", "0" * 32, 0, 0, STARTED, 1, rows),
        keys=[f"train/metric_{i}" for i in range(METRICS)],
        shape_lengths=np.array([METRICS]),
        shape_keys=np.arange(METRICS),
        row_sequences=np.arange(1, rows + 1),
        row_steps=np.arange(rows),
        row_times=STARTED + np.cumsum(generator.integers(8_000, 12_000, rows)),
        row_shapes=np.zeros(rows, np.int64),
        values=generator.normal(size=points),
    )


def best(work: Callable[[], Any], seconds: float = 0.6) -> float:
    """The shortest time of one call, in seconds, of as many as fit into the time given (three at least)."""
    times: list[float] = []
    until = time.perf_counter() + seconds
    while len(times) < 3 or time.perf_counter() < until:
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return min(times)


def main() -> None:
    """Prints the machine, the versions and the table."""
    print(describe("pulsetrain", "numpy", "fastavro"))
    document = catalog.load("metrics")
    schema = fastavro.parse_schema(catalog.load("metrics"))
    codec = RecordCodec(document)
    rows = []
    for points in (1_000, 10_000, 100_000):
        event = batch(points)
        payload = encode(event)
        record = {
            name: value.tolist() if isinstance(value, np.ndarray) else value
            for name, value in codec.decode(payload[10:]).items()
        }

        def write(record: dict[str, Any] = record) -> None:
            fastavro.schemaless_writer(io.BytesIO(), schema, record)

        def read(body: bytes = payload[10:]) -> None:
            fastavro.schemaless_reader(io.BytesIO(body), schema, None)

        figures = [
            best(lambda event=event: encode(event)),  # type: ignore[misc]
            best(write),
            best(lambda payload=payload: decode(payload, MetricBatch)),  # type: ignore[misc]
            best(read),
        ]
        rows.append([f"{points:,}", f"{len(payload):,}", *(f"{seconds / points * 1e9:,.1f}" for seconds in figures)])
    rows.append(next_version(100_000))
    print(table(["points", "bytes", "encode ns/pt", "fastavro ns/pt", "decode ns/pt", "fastavro ns/pt"], rows))


class NextVersion:
    """A topic that has the next version of a schema."""

    def __init__(self, document: dict[str, Any]) -> None:
        self.fingerprint = catalog.fingerprint(document)
        self._content = {self.fingerprint: json.dumps(document).encode()}

    def read(self) -> dict[bytes, bytes]:
        return self._content

    def write(self, schemas: Mapping[bytes, bytes]) -> None:
        """It is there."""


def next_version(points: int) -> list[str]:
    """A row of the table: decoding alone, of what the next version wrote."""
    now, then = catalog.load("metrics"), newer(catalog.load("metrics"))
    body = RecordCodec(then).encode(RecordCodec(now).decode(encode(batch(points))[10:]))
    topic = NextVersion(then)
    payload, framing = b"\xc3\x01" + topic.fingerprint + body, SingleObject(PublishedSchemas(topic))
    writer, reader = fastavro.parse_schema(then), fastavro.parse_schema(now)
    seconds = (
        best(lambda: decode(payload, MetricBatch, framing)),
        best(lambda: fastavro.schemaless_reader(io.BytesIO(body), writer, reader)),
    )
    figures = [f"{taken / points * 1e9:,.1f}" for taken in seconds]
    return [f"{points:,}, next version", f"{len(payload):,}", "", "", *figures]


if __name__ == "__main__":
    main()
