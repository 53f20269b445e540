"""What the aggregates cost, and what reading them saves: python -m tests.bench.bench_aggregator [--series N] [...]

Without Kafka: messages are decoded, stored by the writer's own code and aggregated by the aggregator's, second by
second of a stream that is made beforehand, as fast as it goes. The same stream is stored once without and once with the
aggregator, each in a database of its own; the difference in processor time is what the aggregator costs, its part of
ClickHouse's merges included. Then a table of many runs is filled, and plots are read from it.
"""

import argparse
import resource
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from pulsetrain_consumers.aggregator.backfill import backfill
from pulsetrain_consumers.aggregator.changes import Changes, changes_of
from pulsetrain_consumers.aggregator.store import ClickHouseAggregates
from pulsetrain_consumers.clickhouse import Client, Dictionary, connect
from pulsetrain_consumers.clickhouse.migrate import migrate
from pulsetrain_consumers.writer import tables
from pulsetrain_consumers.writer.tables import Kept
from pulsetrain_schemas import events
from pulsetrain_schemas.addresses import ClickHouseAddress
from pulsetrain_schemas.events import MetricBatch, Origin, SystemBatch
from tests.bench.machine import describe, table
from tests.clickhouse_fixture import ClickHouse, running_clickhouse

STARTED = (int(time.time()) // 3600 * 3600 - 3600) * 1_000_000
METRICS = 50
# Each second of a stream: its messages, as they would stand in Kafka.
Stream = Sequence[Sequence[bytes]]


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds, and processor seconds of this process and of ClickHouse, for so many rows of the raw table."""

    rows: int
    seconds: float
    own: float
    clickhouse: float

    @property
    def per_million(self) -> float:
        return (self.own + self.clickhouse) / self.rows * 1e6


class Meter:
    """Processor time of this process and of a ClickHouse server, from one moment on."""

    def __init__(self, server: ClickHouse) -> None:
        assert server.process is not None
        self._server = psutil.Process(server.process.pid)
        self._began = (time.monotonic(), *self._spent())

    def cost(self, rows: int) -> Cost:
        own, clickhouse = self._spent()
        return Cost(rows, time.monotonic() - self._began[0], own - self._began[1], clickhouse - self._began[2])

    def _spent(self) -> tuple[float, float]:
        used = resource.getrusage(resource.RUSAGE_SELF)
        times = self._server.cpu_times()
        return used.ru_utime + used.ru_stime, times.user + times.system


def metric_stream(series: int, per_second: int, seconds: int, random: np.random.Generator) -> Stream:
    """Runs of fifty metrics each, all of which log at the same pace; a message holds a second of a run."""
    runs = max(1, series // METRICS)
    rows = max(1, per_second // (runs * METRICS))
    stream = []
    for second in range(seconds):
        messages = []
        for run in range(runs):
            sequences = np.arange(second * rows, (second + 1) * rows) + 1
            batch = MetricBatch(
                origin=Origin("bench", f"run-{run}", f"w-{run}", 0, 0, STARTED, int(sequences[0]), int(sequences[-1])),
                keys=tuple(f"train/metric_{number}" for number in range(METRICS)),
                shape_lengths=np.array([METRICS]),
                shape_keys=np.arange(METRICS),
                row_sequences=sequences,
                # Runs are not at the same step: each has its own place in its buckets.
                row_steps=sequences + run * 37,
                row_times=STARTED + (sequences * 1_000_000) // rows,
                row_shapes=np.zeros(rows, np.int64),
                values=random.standard_normal(rows * METRICS),
            )
            messages.append(events.encode(batch))
        stream.append(messages)
    return stream


def system_stream(gpus: int, metrics: int, seconds: int, random: np.random.Generator) -> Stream:
    """Hosts of eight GPUs, sampled once a second; a message holds a second of a host."""
    stream = []
    series = [(gpu, number) for gpu in range(8) for number in range(metrics)]
    for second in range(seconds):
        messages = []
        for host in range(gpus // 8):
            batch = SystemBatch(
                origin=Origin("bench", f"run-{host}", f"s-{host}", 0, 0, STARTED, second + 1, second + 1),
                host=f"host-{host}",
                series_metrics=tuple(f"metric_{number}" for _, number in series),
                series_gpus=tuple(f"GPU-{host}-{gpu}" for gpu, _ in series),
                series_gpu_indexes=np.array([gpu for gpu, _ in series]),
                shape_lengths=np.array([len(series)]),
                shape_keys=np.arange(len(series)),
                row_sequences=np.array([second + 1]),
                row_times=np.array([STARTED + second * 1_000_000 + host]),
                row_shapes=np.zeros(1, np.int64),
                values=random.uniform(20, 100, len(series)),
            )
            messages.append(events.encode(batch))
        stream.append(messages)
    return stream


def play(
    server: ClickHouse, database: str, stream: Stream, kind: type[Any], age: int | None
) -> tuple[Cost, list[float]]:
    """Stores a stream, and aggregates it every `age` seconds of it (never, for None); and how long each round took."""
    address = ClickHouseAddress(server.host, server.port, server.user, server.password, database)
    migrate(address)
    rounds: list[float] = []
    rows = 0
    with connect(address) as client, connect(address) as other:
        store = ClickHouseAggregates(other, time.time)
        changes = Changes()
        meter = Meter(server)
        for second, payloads in enumerate(stream, start=1):
            rows += _store(client, [events.decode(payload, kind) for payload in payloads], kind)
            if age is None:
                continue
            # As the service does it: with a decoding of its own.
            for payload in payloads:
                changes.add(changes_of(events.decode(payload, kind)))
            if second % age == 0 or second == len(stream):
                began = time.monotonic()
                store.recompute(changes)
                rounds.append(time.monotonic() - began)
                changes = Changes()
        _wait_for_merges(client)
        cost = meter.cost(rows)
        if age is not None:
            print(_sizes(client), flush=True)
        client.execute(f"DROP DATABASE `{database}`")
    return cost, rounds


def _store(client: Client, batch: Sequence[Any], kind: type[Any]) -> int:
    made = (tables.metric_tables if kind is MetricBatch else tables.system_tables)([Kept(event) for event in batch])
    return sum(client.insert(name, columns) for name, columns in made.items() if name != "texts")


def _wait_for_merges(client: Client) -> None:
    """Returns when ClickHouse has caught up with what it merges, or after a while."""
    deadline = time.monotonic() + 20
    while client.query("SELECT count() FROM system.merges WHERE database = currentDatabase()").one():
        if time.monotonic() > deadline:
            return
        time.sleep(0.1)


def _sizes(client: Client) -> str:
    rows = client.query(
        "SELECT table, sum(rows), sum(bytes_on_disk) FROM system.parts WHERE active AND database = currentDatabase() "
        "AND rows > 0 AND table NOT IN ('migrations') GROUP BY table ORDER BY 2 DESC"
    ).rows
    return "    " + ", ".join(f"{name} {count:,} rows {size / 2**20:.1f} MiB" for name, count, size in rows)


def live(server: ClickHouse, name: str, stream: Stream, kind: type[Any], ages: Sequence[int]) -> None:
    """Prints what a stream costs without and with the aggregator."""
    plain, _ = play(server, f"{name}_plain", stream, kind, None)
    lines = [("none", f"{plain.rows:,}", f"{plain.per_million:.2f}", "", "", "")]
    for age in ages:
        cost, rounds = play(server, f"{name}_{age}", stream, kind, age)
        added = cost.per_million - plain.per_million
        busy = added * plain.rows / len(stream) / 1e6
        lines.append(
            (
                f"every {age} s",
                f"{cost.rows:,}",
                f"{cost.per_million:.2f}",
                f"{added:.2f}",
                f"{busy:.2f}",
                f"{statistics.median(rounds):.2f}",
            )
        )
    header = ("aggregator", "rows", "CPU s/M rows", "of it added", "cores at this pace", "s a round")
    print(f"\n{name}: {plain.rows / len(stream):,.0f} rows/s, {len(stream)} s of a stream")
    print(table(header, lines), flush=True)


def reading(server: ClickHouse, runs: int, steps: int) -> None:
    """Fills a table of runs of fifty metrics, and reads plots of one metric of ten of them."""
    address = ClickHouseAddress(server.host, server.port, server.user, server.password, "bench_reading")
    migrate(address)
    random = np.random.default_rng(3)
    with connect(address, timeout=3600) as client:
        began = time.monotonic()
        for run in range(runs):
            _fill(client, run, steps, random)
        points = runs * METRICS * steps
        print(f"\nreading: {points:,} points filled in {time.monotonic() - began:.0f} s", flush=True)
        meter = Meter(server)
        backfill(client, time.time)
        cost = meter.cost(points)
        print(f"backfill: {cost.seconds:.0f} s, {cost.per_million:.2f} CPU s/M points")
        print(_sizes(client))
        chosen = [f"run-{number}" for number in range(0, runs, max(1, runs // 10))][:10]
        rows = []
        for title, sql in _plots(steps):
            took = _median(client, sql, chosen)
            count = len(next(iter(client.arrays(sql, {"runs": chosen}).values())))
            rows.append((title, f"{count:,}", f"{took * 1000:.1f}"))
        print(table(("a plot of one metric of ten runs", "rows", "ms"), rows))
        client.execute("DROP DATABASE bench_reading")


def _fill(client: Client, run: int, steps: int, random: np.random.Generator) -> None:
    rows = METRICS * steps
    sequences = np.repeat(np.arange(1, steps + 1), METRICS)
    client.insert(
        "metrics",
        {
            "project": Dictionary.constant("bench", rows),
            "run_id": Dictionary.constant(f"run-{run}", rows),
            "metric": Dictionary(np.tile(np.arange(METRICS), steps), [f"train/metric_{n}" for n in range(METRICS)]),
            "rank": np.zeros(rows, np.int64),
            "step": sequences,
            "ts": STARTED + sequences * 1000,
            "value": random.standard_normal(rows),
            "attempt": np.zeros(rows, np.int64),
            "writer": Dictionary.constant(f"w-{run}", rows),
            "sequence": sequences,
            "attempt_started": np.full(rows, STARTED // 1_000_000),
        },
    )


def _plots(steps: int) -> Iterator[tuple[str, str]]:
    where = "project = 'bench' AND run_id IN %(runs)s AND metric = 'train/metric_7'"
    for level in range(3):
        sql = f"SELECT run_id, bucket, min, max, mean FROM metric_pyramid WHERE {where} AND level = {level} "
        yield f"metric_pyramid, level {level}", sql + "ORDER BY run_id, bucket"
    bucket = f"intDiv(step, {max(1, steps // 1000)}) AS bucket"
    sql = f"SELECT run_id, {bucket}, min(value), max(value), avg(value) FROM latest_metrics WHERE {where} "
    yield "latest_metrics, in 1,000 buckets", sql + "GROUP BY run_id, bucket ORDER BY run_id, bucket"
    yield "latest_metrics, every point", f"SELECT run_id, step, value FROM latest_metrics WHERE {where}"


def _median(client: Client, sql: str, runs: Sequence[str], times: int = 11) -> float:
    took = []
    for _ in range(times):
        began = time.monotonic()
        client.arrays(sql, {"runs": runs})
        took.append(time.monotonic() - began)
    return statistics.median(took)


def main() -> None:
    """Prints the machine, then the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--series", type=int, default=10_000, help="metrics of runs that log at once")
    parser.add_argument("--rate", type=int, default=100_000, help="their points/s, all together")
    parser.add_argument("--gpus", type=int, default=1_000)
    parser.add_argument("--gpu-metrics", type=int, default=40)
    parser.add_argument("--seconds", type=int, default=60, help="how much of each stream is played")
    parser.add_argument("--ages", type=int, nargs="*", default=[10, 30], help="seconds between two rounds")
    parser.add_argument("--runs", type=int, default=200, help="of the table that plots are read from; 0 for none")
    parser.add_argument("--steps", type=int, default=10_000, help="of each of them")
    parser.add_argument("--only", choices=["metrics", "system", "reading"])
    options = parser.parse_args()
    print(describe("clickhouse-driver", "chdb", "numpy"))
    random = np.random.default_rng(1)
    with tempfile.TemporaryDirectory() as name, running_clickhouse(Path(name) / "clickhouse") as server:
        if options.only in (None, "metrics"):
            stream = metric_stream(options.series, options.rate, options.seconds, random)
            live(server, "metrics", stream, MetricBatch, options.ages)
        if options.only in (None, "system"):
            stream = system_stream(options.gpus, options.gpu_metrics, options.seconds, random)
            live(server, "hardware", stream, SystemBatch, options.ages)
        if options.runs and options.only in (None, "reading"):
            reading(server, options.runs, options.steps)


if __name__ == "__main__":
    main()
