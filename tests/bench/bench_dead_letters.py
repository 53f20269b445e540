"""What a flood of bad messages costs the good ones: python -m tests.bench.bench_dead_letters [--points N] [--bad N]

A writer works a topic off that was filled before, once with good messages alone and once with a flood of bad ones amid
them, evenly, on every partition; then the letters reach their table. The good ones' speed is until the last of them is
stored. The memory is the writer's, at its highest.
"""

import argparse
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil

from tests.bench.bench_writer import METRICS, ROWS, message
from tests.bench.machine import describe
from tests.clickhouse_fixture import ClickHouse, running_clickhouse
from tests.pipeline_rig import Pipeline, running_pipeline
from tests.waiting import wait_for

PARTITIONS = 4
BAD = b"this is no message of ours, but somebody sends it: " + bytes(range(97, 123)) * 4


@dataclass(frozen=True)
class Figures:
    """Of one run: seconds and the writer's CPU seconds until the good ones were stored, its peak memory in MiB."""

    seconds: float
    cpu: float
    mebibytes: float
    letters_seconds: float


def fill(pipeline: Pipeline, points: int, bad: int, random: np.random.Generator) -> int:
    """Fills the topic; the number of good points."""
    per_partition = points // (ROWS * METRICS) // PARTITIONS
    bad_between = bad // PARTITIONS // per_partition
    for index in range(per_partition):
        for run in range(PARTITIONS):
            for _ in range(bad_between):
                pipeline.send_bytes("metrics", BAD, b"run-%d" % run, run)
            pipeline.send(message(run, index, random), partition=run)
    pipeline.sent()
    return per_partition * PARTITIONS * ROWS * METRICS


def work_off(directory: Path, clickhouse: ClickHouse, points: int, bad: int) -> tuple[int, Figures]:
    """Fills a topic and has one writer work it off."""
    with running_pipeline(directory, clickhouse, f"flood_{bad}") as pipeline:
        good = fill(pipeline, points, bad, np.random.default_rng(1))
        letters = bad // PARTITIONS // (good // ROWS // METRICS // PARTITIONS) * (good // ROWS // METRICS)
        writer = pipeline.writer()
        process = psutil.Process(writer.process.pid)
        peak = 0

        def stored(what: str, expected: int) -> bool:
            nonlocal peak
            peak = max(peak, process.memory_info().rss)
            return bool(pipeline.client.query(f"SELECT count() FROM {what}").one() >= expected)

        wait_for(lambda: stored("metrics", 1), 120, "the first row", 0.02)
        began, cpu = time.monotonic(), writer.cpu_seconds()
        wait_for(lambda: stored("metrics", good), 1_800, "the good rows", 0.1)
        seconds, cpu = time.monotonic() - began, writer.cpu_seconds() - cpu
        wait_for(lambda: stored("dead_letter_events", letters), 1_800, "the letters", 0.1)
        after = time.monotonic() - began - seconds
        count = pipeline.client.query("SELECT count() FROM metrics").one()
        assert count == good, f"{count} rows are stored, {good} were sent"
        found = pipeline.client.query("SELECT count() FROM dead_letters").one()
        assert found == letters, f"{found} letters are in the table, {letters} were sent"
        assert len(writer.log.splitlines()) < 100, "the writer logs a line for each"
        writer.stop(30)
    return good, Figures(seconds, cpu, peak / 2**20, after)


def main() -> None:
    """Prints the machine, then the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points", type=int, default=40_000_000)
    parser.add_argument("--bad", type=int, default=1_000_000)
    options = parser.parse_args()
    print(describe("kafka-python", "chdb", "numpy"))
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        with running_clickhouse(directory / "clickhouse") as clickhouse:
            results = []
            for bad in (0, options.bad):
                (directory / str(bad)).mkdir()
                good, figures = work_off(directory / str(bad), clickhouse, options.points, bad)
                results.append(figures)
                print(
                    f"{bad:9,} bad messages amid {good:,} points: {good / figures.seconds:10,.0f} points/s, "
                    f"{good / figures.cpu:10,.0f} by CPU second, {figures.mebibytes:.0f} MiB at most"
                )
    alone, flooded = results
    slower, dearer = flooded.seconds - alone.seconds, flooded.cpu - alone.cpu
    print(
        f"the flood takes {slower / alone.seconds:.1%} of the time more: {slower / options.bad * 1e6:.1f} µs a bad "
        f"message, {dearer / options.bad * 1e6:.1f} µs of CPU; its last letter is in the table "
        f"{flooded.letters_seconds:.1f} s after the last good row"
    )


if __name__ == "__main__":
    main()
