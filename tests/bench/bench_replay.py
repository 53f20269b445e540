"""A hundred million points from Kafka into ClickHouse by one writer: python -m tests.bench.bench_replay [--points N]

As a rebuild does it, or a writer that was away for long: the topic is full before the writer starts. Broker, writer and
the embedded ClickHouse share the machine. The messages are as the forwarder packs them, of about half a mebibyte.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import psutil

from pulsetrain_schemas.events import MetricBatch, Origin
from tests.bench.machine import describe, table
from tests.clickhouse_fixture import running_clickhouse
from tests.pipeline_rig import Pipeline
from tests.stack_fixture import running_broker

METRICS = 10
ROWS = 6_000
RUNS = 16
PARTITIONS = 4
STARTED = 1_700_000_000_000_000
_PROGRESS_SECONDS = 10.0


def message(run: int, index: int, random: np.random.Generator) -> MetricBatch:
    """Rows of ten metrics, sixty thousand points."""
    first = index * ROWS + 1
    sequences = np.arange(first, first + ROWS)
    return MetricBatch(
        origin=Origin("replay", f"run-{run}", f"writer-{run}", 0, 0, STARTED, first, first + ROWS - 1),
        keys=tuple(f"train/metric_{number}" for number in range(METRICS)),
        shape_lengths=np.array([METRICS]),
        shape_keys=np.arange(METRICS),
        row_sequences=sequences,
        row_steps=sequences - 1,
        row_times=STARTED + sequences * 1_000 + random.integers(0, 50, ROWS),
        row_shapes=np.zeros(ROWS, np.int64),
        values=random.standard_normal(ROWS * METRICS),
    )


def fill(pipeline: Pipeline, points: int, random: np.random.Generator) -> int:
    """Fills the topic, in turn with messages of each run; how many points that were."""
    messages = -(-points // (ROWS * METRICS))
    said = time.monotonic()
    for number in range(messages):
        run = number % RUNS
        pipeline.send(message(run, number // RUNS, random), partition=run % PARTITIONS)
        if time.monotonic() - said > _PROGRESS_SECONDS:
            said = time.monotonic()
            print(f"  filled {number / messages:.0%}", flush=True)
    pipeline.sent()
    return messages * ROWS * METRICS


class Peaks:
    """The largest resident memory, in bytes, and the processor seconds of some processes since they were first seen."""

    def __init__(self, pids: Mapping[str, int]) -> None:
        self._processes = {name: psutil.Process(pid) for name, pid in pids.items()}
        self._began = self._seconds()
        self.memory = dict.fromkeys(pids, 0)

    def look(self) -> None:
        for name, process in self._processes.items():
            self.memory[name] = max(self.memory[name], process.memory_info().rss)

    def spent(self) -> dict[str, float]:
        return {name: seconds - self._began[name] for name, seconds in self._seconds().items()}

    def _seconds(self) -> dict[str, float]:
        times = {name: process.cpu_times() for name, process in self._processes.items()}
        return {name: found.user + found.system for name, found in times.items()}


def replay(pipeline: Pipeline, points: int, pids: Mapping[str, int]) -> list[tuple[str, str]]:
    """Starts a writer and waits until all is stored."""
    began = time.monotonic()
    writer = pipeline.writer()
    peaks = Peaks({"writer": writer.process.pid, **pids})
    said = began
    while (stored := int(pipeline.client.query("SELECT count() FROM metrics").one())) < points:
        assert writer.process.poll() is None, writer.log[-3000:]
        peaks.look()
        if time.monotonic() - said > _PROGRESS_SECONDS:
            said = time.monotonic()
            print(f"  stored {stored:,}, {stored / (said - began):,.0f} points/s so far", flush=True)
        time.sleep(0.25)
    took, spent = time.monotonic() - began, peaks.spent()
    writer.stop(20)
    counted = pipeline.client.query("SELECT count() FROM metrics").one()
    return [
        ("points stored, of those sent", f"{counted:,} of {points:,}"),
        ("from the start of the writer to the last point", f"{took:.1f} s"),
        ("points/s", f"{points / took:,.0f}"),
        ("processor seconds for a million points", _each(spent, lambda s: f"{s / points * 1e6:.2f}")),
        ("largest resident memory", _each(peaks.memory, lambda size: f"{size / 2**20:,.0f} MiB")),
    ]


def _each(figures: Mapping[str, float], shown: Callable[[float], str]) -> str:
    return ", ".join(f"{name} {shown(figure)}" for name, figure in figures.items())


def disk(pipeline: Pipeline, data: Path) -> list[tuple[str, str]]:
    """What the topic and the table take."""
    log = sum(path.stat().st_size for path in data.glob("pulsetrain.metrics-*/*.log"))
    on_disk, rows = pipeline.client.query(
        "SELECT sum(bytes_on_disk), sum(rows) FROM system.parts "
        "WHERE active AND database = currentDatabase() AND table = 'metrics'"
    ).rows[0]
    return [
        ("disk of the topic", f"{log / 2**20:,.0f} MiB, {log / rows:.1f} bytes/point"),
        ("disk of the table", f"{on_disk / 2**20:,.0f} MiB, {on_disk / rows:.1f} bytes/point"),
    ]


def main() -> None:
    """Prints the machine, the progress and the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--points", type=int, default=100_000_000)
    options = parser.parse_args()
    print(describe("clickhouse-driver", "kafka-python", "chdb", "numpy"), flush=True)
    with tempfile.TemporaryDirectory(prefix="pulsetrain-bench-") as name:
        directory = Path(name)
        with (
            running_clickhouse(directory / "clickhouse") as clickhouse,
            running_broker(directory / "kafka") as broker,
        ):
            pipeline = Pipeline(directory, broker.address, clickhouse, "pulsetrain")
            began = time.monotonic()
            points = fill(pipeline, options.points, np.random.default_rng(1))
            rows = [("filling the topic", f"{time.monotonic() - began:.1f} s")]
            assert clickhouse.process is not None
            assert broker.process is not None
            pids = {"ClickHouse": clickhouse.process.pid, "Kafka": broker.process.pid}
            rows += replay(pipeline, points, pids)
            rows += disk(pipeline, directory / "kafka" / "data")
            pipeline.close()
    print(table(("figure", "measured"), rows))


if __name__ == "__main__":
    main()
