"""How fast the writer is, and what exactly-once costs it: python -m tests.bench.bench_writer [--points N] [--rounds N]

First what its own code costs, without any server: decoding messages, and making the bytes of ClickHouse's blocks. Then
the whole service between a real broker and the embedded ClickHouse, against the same service with everything taken out
that makes a row count once (`at_least_once`): working off a topic that was filled before, in turn over several rounds;
and at a steady pace of small batches, both beside each other over the same messages, each with a ClickHouse of its own.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Self
from uuid import uuid4

import numpy as np
import psutil

from pulsetrain_consumers.clickhouse import connect, native
from pulsetrain_consumers.clickhouse.migrate import migrate
from pulsetrain_consumers.writer import tables
from pulsetrain_consumers.writer.tables import Kept
from pulsetrain_schemas import events
from pulsetrain_schemas.addresses import ClickHouseAddress
from pulsetrain_schemas.events import MetricBatch, Origin
from pulsetrain_schemas.topics import TOPICS
from tests.bench.machine import describe, table
from tests.clickhouse_fixture import ClickHouse, running_clickhouse
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


def message(run: int, index: int, random: np.random.Generator, rows: int = ROWS) -> MetricBatch:
    """The rows of number `index` of a run, with ten metrics each."""
    first = index * rows + 1
    sequences = np.arange(first, first + rows)
    return MetricBatch(
        origin=Origin("bench", f"run-{run}", f"writer-{run}", 0, 0, STARTED, first, first + rows - 1),
        keys=tuple(f"train/metric_{number}" for number in range(METRICS)),
        shape_lengths=np.array([METRICS]),
        shape_keys=np.arange(METRICS),
        row_sequences=sequences,
        row_steps=sequences - 1,
        row_times=STARTED + sequences * 1000,
        row_shapes=np.zeros(rows, np.int64),
        values=random.standard_normal(rows * METRICS),
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


@dataclass(frozen=True, slots=True)
class Cost:
    """What storing some points took: seconds, processor seconds of the writer and of ClickHouse, commits, batches."""

    points: int
    seconds: float
    writer: float
    clickhouse: float
    commits: float
    batches: float

    @property
    def rate(self) -> float:
        return self.points / self.seconds

    @property
    def processor(self) -> float:
        """Processor seconds for a million points."""
        return (self.writer + self.clickhouse) / self.points * 1e6


class Variant:
    """A writer of one kind, in a group and a database of its own, while the context lasts."""

    def __init__(self, pipeline: Pipeline, clickhouse: ClickHouse, module: str) -> None:
        self._clickhouse = clickhouse
        self._name = f"bench_{uuid4().hex[:8]}"
        address = ClickHouseAddress(clickhouse.host, clickhouse.port, clickhouse.user, clickhouse.password, self._name)
        migrate(address)
        self.client = connect(address)
        self.writer = pipeline.writer(
            "--group", self._name, command=module, env={"PULSETRAIN_CLICKHOUSE": address.url()}
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.writer.stop(20)
        self.client.execute(f"DROP DATABASE `{self._name}`")
        self.client.close()

    def stored(self) -> int:
        return int(self.client.query("SELECT count() FROM metrics").one())

    def spent(self) -> tuple[float, float]:
        """Processor seconds of the writer and of ClickHouse so far."""
        assert self._clickhouse.process is not None
        times = psutil.Process(self._clickhouse.process.pid).cpu_times()
        return self.writer.cpu_seconds(), times.user + times.system

    def measure(self, points: int) -> Cost:
        """From the first rows that are stored until so many are."""
        wait_for(self.stored, 60, "the first row", 0.02)
        before, began = self.stored(), time.monotonic()
        writer, clickhouse = self.spent()
        commits, batches = (self.writer.metric(name) for name in ("commit_seconds_count", "batch_rows_count"))
        wait_for(lambda: self.stored() >= points, 900, f"{points} rows", 0.05)
        took = time.monotonic() - began
        after = self.spent()
        return Cost(
            self.stored() - before,
            took,
            after[0] - writer,
            after[1] - clickhouse,
            self.writer.metric("commit_seconds_count") - commits,
            self.writer.metric("batch_rows_count") - batches,
        )


EXACTLY, AT_LEAST = "pulsetrain.commands", "tests.bench.at_least_once"
NAMES = {EXACTLY: "exactly once", AT_LEAST: "at least once"}


def in_turn(pipeline: Pipeline, clickhouse: ClickHouse, points: int, rounds: int) -> dict[str, list[Cost]]:
    """Each kind of writer works the same topic off, in turn."""
    costs: dict[str, list[Cost]] = {EXACTLY: [], AT_LEAST: []}
    for number in range(rounds):
        for kind in (EXACTLY, AT_LEAST) if number % 2 == 0 else (AT_LEAST, EXACTLY):
            with Variant(pipeline, clickhouse, kind) as variant:
                costs[kind].append(variant.measure(points))
                stored = variant.stored()
                assert stored == points, f"{stored} rows are stored, {points} were sent"
            print(f"  round {number + 1}, {NAMES[kind]}: {costs[kind][-1].rate:,.0f} points/s", flush=True)
    return costs


def paced(
    pipeline: Pipeline, servers: Sequence[ClickHouse], rate: int, seconds: float, random: np.random.Generator
) -> dict[str, list[Cost]]:
    """Both kinds at once over the same messages of a thousand points each, at `rate` points/s over all partitions."""
    partitions = TOPICS["metrics"].partitions
    total = int(rate * seconds / 1_000)
    payloads = [
        events.encode(message(100 + number % partitions, number // partitions, random, rows=100))
        for number in range(total)
    ]
    with (
        Variant(pipeline, servers[0], EXACTLY) as exactly,
        Variant(pipeline, servers[1], AT_LEAST) as at_least,
        ThreadPoolExecutor() as threads,
    ):
        exactly.writer.wait_ready()
        at_least.writer.wait_ready()
        wanted = total * 1_000
        measured = {
            kind: threads.submit(variant.measure, wanted)
            for kind, variant in ((EXACTLY, exactly), (AT_LEAST, at_least))
        }
        began = time.monotonic()
        for number, payload in enumerate(payloads):
            pipeline.send_bytes("metrics", payload, None, partition=number % partitions)
            time.sleep(max(0.0, began + number * 1_000 / rate - time.monotonic()))
        pipeline.sent()
        return {kind: [future.result()] for kind, future in measured.items()}


def compared(costs: Mapping[str, Sequence[Cost]]) -> str:
    """A table of the medians, and what exactly-once costs."""

    def median(kind: str, figure: Callable[[Cost], float]) -> float:
        return statistics.median(map(figure, costs[kind]))

    rows = [
        (
            NAMES[kind],
            f"{median(kind, lambda cost: cost.rate):,.0f}",
            f"{median(kind, lambda cost: cost.writer / cost.points * 1e6):.2f}",
            f"{median(kind, lambda cost: cost.clickhouse / cost.points * 1e6):.2f}",
            f"{median(kind, lambda cost: cost.commits / cost.seconds):.1f}",
            f"{median(kind, lambda cost: cost.points / max(1, cost.batches)):,.0f}",
        )
        for kind in (EXACTLY, AT_LEAST)
    ]
    header = ("", "points/s", "writer s/M", "ClickHouse s/M", "commits/s", "points a batch")
    dearer = median(EXACTLY, lambda cost: cost.processor) / median(AT_LEAST, lambda cost: cost.processor) - 1
    slower = 1 - median(EXACTLY, lambda cost: cost.rate) / median(AT_LEAST, lambda cost: cost.rate)
    cost = f"exactly-once costs {dearer:.1%} more processor time, and {slower:.1%} of the points/s"
    return f"{table(header, rows)}\n{cost}"


def main() -> None:
    """Prints the machine, then the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points", type=int, default=8_000_000, help="how many the topic is filled with")
    parser.add_argument("--rounds", type=int, default=3, help="how often each kind of writer works them off")
    parser.add_argument("--rate", type=int, default=100_000, help="points/s of the steady pace")
    parser.add_argument("--seconds", type=float, default=30, help="how long the steady pace lasts")
    options = parser.parse_args()
    print(describe("clickhouse-driver", "kafka-python", "chdb", "numpy", "lz4"))
    random = np.random.default_rng(1)
    own_code(random)
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        with (
            running_clickhouse(directory / "clickhouse") as clickhouse,
            running_clickhouse(directory / "other") as other,
            running_pipeline(directory, clickhouse, "pulsetrain") as pipeline,
        ):
            print(f"\nat a steady {options.rate:,} points/s, {options.seconds:g} s", flush=True)
            print(compared(paced(pipeline, (clickhouse, other), options.rate, options.seconds, random)))
        with (
            running_clickhouse(directory / "clickhouse") as clickhouse,
            running_pipeline(directory / "full", clickhouse, "pulsetrain") as pipeline,
        ):
            points = fill(pipeline, options.points, random)
            print(f"\na topic of {points:,} points, {options.rounds} rounds", flush=True)
            print(compared(in_turn(pipeline, clickhouse, points, options.rounds)))


if __name__ == "__main__":
    main()
