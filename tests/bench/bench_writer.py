"""How fast the writer is: python -m tests.bench.bench_writer [--points N] [--processes N]

First what its own code costs, without any server: decoding messages, and making the bytes of ClickHouse's blocks. Then
the whole service between a real broker and the embedded ClickHouse, working off a topic that was filled before: with
pending ranges committed, tokens and the ledger (exactly once), and with plain inserts of the same rows in the same
batches and the same order (at least once), so that what exactly-once costs can be told.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from kafka import KafkaConsumer, TopicPartition

from pulsetrain_consumers.clickhouse import connect, native
from pulsetrain_consumers.writer import tables
from pulsetrain_consumers.writer.tables import Kept
from pulsetrain_schemas import events
from pulsetrain_schemas.events import MetricBatch, Origin
from pulsetrain_schemas.topics import TOPICS
from tests.bench.machine import describe
from tests.clickhouse_fixture import running_clickhouse
from tests.pipeline_rig import Pipeline, running_pipeline
from tests.waiting import wait_for

METRICS = 10
ROWS = 1_000
STARTED = 1_700_000_000_000_000
_TYPES = {
    "project": "LowCardinality(String)",
    "run_id": "LowCardinality(String)",
    "writer": "LowCardinality(String)",
    "metric": "LowCardinality(String)",
    "rank": "UInt32",
    "attempt": "UInt32",
    "attempt_started": "DateTime('UTC')",
    "step": "Int64",
    "ts": "DateTime64(6, 'UTC')",
    "value": "Float64",
    "sequence": "UInt64",
}


def message(run: int, index: int, random: np.random.Generator) -> MetricBatch:
    """A thousand rows of ten metrics."""
    first = index * ROWS + 1
    sequences = np.arange(first, first + ROWS)
    return MetricBatch(
        origin=Origin("bench", f"run-{run}", f"writer-{run}", 0, 0, STARTED, first, first + ROWS - 1),
        keys=tuple(f"train/metric_{number}" for number in range(METRICS)),
        shape_lengths=np.array([METRICS]),
        shape_keys=np.arange(METRICS),
        row_sequences=sequences,
        row_steps=sequences - 1,
        row_times=STARTED + sequences * 1000,
        row_shapes=np.zeros(ROWS, np.int64),
        values=random.standard_normal(ROWS * METRICS),
    )


def own_code(random: np.random.Generator, messages: int = 100) -> None:
    """Points per second of one core, without servers; the best of three."""
    payloads = [events.encode(message(index % 4, index // 4, random)) for index in range(messages)]
    points = messages * ROWS * METRICS
    decoding, building = [], []
    for _ in range(3):
        began = time.process_time()
        decoded = [events.decode(payload, MetricBatch) for payload in payloads]
        decoding.append(time.process_time() - began)
        began = time.process_time()
        for begin in range(0, messages, 40):
            batch = [Kept(event) for event in decoded[begin : begin + 40]]
            columns = tables.metric_tables(batch)["metrics"]
            rows = len(columns["value"])
            sum(len(native.encode(_TYPES[name], column, rows)) for name, column in columns.items())
        building.append(time.process_time() - began)
    both = min(decoding) + min(building)
    print(
        f"decoding            {points / min(decoding):12,.0f} points/s a core  ({len(payloads[0]):,} bytes a message)"
    )
    print(f"rows to blocks      {points / min(building):12,.0f} points/s a core")
    print(f"both                {points / both:12,.0f} points/s a core")


def fill(pipeline: Pipeline, points: int, random: np.random.Generator) -> int:
    """Fills the topic, four runs on four partitions; the number of points."""
    per_message = ROWS * METRICS
    for index in range(points // per_message // 4):
        for run in range(4):
            pipeline.send(message(run, index, random), partition=run)
    pipeline.sent()
    return points // per_message // 4 * 4 * per_message


def exactly_once(pipeline: Pipeline, points: int, processes: int) -> None:
    """Prints how fast the writer works the topic off, from the first batch stored to the last."""
    writers = [pipeline.writer() for _ in range(processes)]
    wait_for(lambda: pipeline.client.query("SELECT count() FROM metrics").one(), 60, "the first row", 0.02)
    first = pipeline.client.query("SELECT count() FROM metrics").one()
    began = time.monotonic()
    wait_for(lambda: pipeline.client.query("SELECT count() FROM metrics").one() >= points, 600, "all rows", 0.05)
    took = time.monotonic() - began
    stored = pipeline.client.query("SELECT count() FROM metrics").one()
    assert stored == points, f"{stored} rows are stored, {points} were sent"
    cpu = sum(writer.cpu_seconds() for writer in writers)
    print(f"exactly once        {(points - first) / took:12,.0f} points/s stored  ({took:.1f} s, {processes} process)")
    print(f"                    {points / cpu:12,.0f} points/s by CPU second of the writer")
    print(f"                    {writers[0].metric('commit_seconds_count'):12,.0f} commits, ", end="")
    batches = writers[0].metric("batch_rows_count")
    print(f"{batches:,.0f} batches of {writers[0].metric('batch_rows_sum') / max(1, batches):,.0f} rows on average")
    print(f"                    {writers[0].metric('store_seconds_sum'):12.1f} seconds storing")
    for writer in writers:
        writer.stop(20)


def at_least_once(pipeline: Pipeline, points: int) -> None:
    """Prints the same for the same rows through the same code, with nothing committed, no tokens and no ledger."""
    topic = TOPICS["metrics"].kafka_name
    consumer = KafkaConsumer(
        bootstrap_servers=pipeline.broker, fetch_max_bytes=16 << 20, max_partition_fetch_bytes=4 << 20
    )
    consumer.assign([TopicPartition(topic, number) for number in range(4)])
    consumer.seek_to_beginning()
    pipeline.client.execute("CREATE TABLE plain AS metrics")
    stored, waiting = 0, []
    began = time.monotonic()
    with connect(pipeline.address) as client:
        while stored < points:
            for records in consumer.poll(timeout_ms=100).values():
                waiting += [Kept(events.decode(record.value, MetricBatch)) for record in records]
            for begin in range(0, len(waiting), 50):
                stored += client.insert("plain", tables.metric_tables(waiting[begin : begin + 50])["metrics"])
            waiting.clear()
    took = time.monotonic() - began
    consumer.close()
    print(f"at least once       {points / took:12,.0f} points/s stored  ({took:.1f} s, one thread, nothing overlaps)")


def main() -> None:
    """Prints the machine, then the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points", type=int, default=8_000_000)
    parser.add_argument("--processes", type=int, default=1)
    options = parser.parse_args()
    print(describe("clickhouse-driver", "kafka-python", "chdb", "numpy", "lz4"))
    random = np.random.default_rng(1)
    own_code(random)
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        with (
            running_clickhouse(directory / "clickhouse") as clickhouse,
            running_pipeline(directory, clickhouse, "pulsetrain") as pipeline,
        ):
            points = fill(pipeline, options.points, random)
            exactly_once(pipeline, points, options.processes)
            at_least_once(pipeline, points)


if __name__ == "__main__":
    main()
