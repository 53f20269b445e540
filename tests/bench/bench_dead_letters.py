"""What a flood of bad messages costs the good ones: python -m tests.bench.bench_dead_letters [--bad N] [--seconds S]

First live: good messages come at a steady pace, alone, and then with the flood coming meanwhile. The time of a good
message is from its send until SQL finds it. Then worked off: a topic that was filled before, with good messages alone,
and with the flood amid them, evenly, on every partition; here the writer is at its limit, and each bad message takes
time of the good ones. Each time all letters must reach their table. The memory is the writer's, at its highest.
"""

import argparse
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
from kafka import KafkaProducer

from pulsetrain_schemas import events
from pulsetrain_schemas.topics import TOPICS
from tests.bench.bench_writer import METRICS, ROWS, message
from tests.bench.machine import describe, quantile, table
from tests.clickhouse_fixture import ClickHouse, running_clickhouse
from tests.pipeline_rig import Pipeline, WriterProcess, running_pipeline
from tests.waiting import wait_for

PARTITIONS = 4
LIVE_POINTS = 1_000
BAD = b"this is no message of ours, but somebody sends it: " + bytes(range(97, 123)) * 4


class Watched:
    """A writer, the number of rows that it stored, and its largest memory at any look."""

    def __init__(self, pipeline: Pipeline, writer: WriterProcess) -> None:
        self._client = pipeline.client
        self._process = psutil.Process(writer.process.pid)
        self.writer = writer
        self.peak = 0

    def stored(self, what: str) -> int:
        """The rows in a table, without FINAL."""
        self.peak = max(self.peak, self._process.memory_info().rss)
        return int(self._client.query(f"SELECT count() FROM {what}").one())

    def reach(self, what: str, expected: int, every: float = 0.1) -> None:
        """Returns as soon as a table has so many rows."""
        wait_for(lambda: self.stored(what) >= expected, 1_800, f"{expected} rows in {what}", every)

    def settle(self, points: int, letters: int) -> None:
        """Returns when all is stored, and raises where it is not exactly once."""
        self.reach("metrics", points)
        self.reach("dead_letter_events", letters)
        for what, expected in (("metrics", points), ("dead_letters", letters)):
            assert self.stored(what) == expected, f"{self.stored(what)} rows in {what}, {expected} were sent"
        assert len(self.writer.log.splitlines()) < 100, "the writer logs a line for each"


@contextmanager
def watched(directory: Path, clickhouse: ClickHouse, name: str) -> Iterator[tuple[Pipeline, Callable[[], Watched]]]:
    """A pipeline of one's own, and what starts its writer."""
    (directory / name).mkdir()
    with running_pipeline(directory / name, clickhouse, name) as pipeline:
        yield pipeline, lambda: Watched(pipeline, pipeline.writer())


def at_pace(count: int, seconds: float, send: Callable[[int], None]) -> None:
    """Sends numbers 0 to `count`, evenly over the seconds."""
    began = time.monotonic()
    for number in range(count):
        send(number)
        ahead = began + number * seconds / count - time.monotonic()
        if ahead > 0:
            time.sleep(ahead)


def send_bad(broker: str, count: int, seconds: float) -> None:
    """The flood, in a process of its own."""
    producer = KafkaProducer(bootstrap_servers=broker, linger_ms=20, batch_size=256 << 10)
    topic = TOPICS["metrics"].kafka_name
    at_pace(count, seconds, lambda number: producer.send(topic, BAD, b"bad", partition=number % PARTITIONS))
    producer.close()


@dataclass(frozen=True)
class Live:
    """Of good messages at a pace: points/s, seconds until SQL found each, the writer's processor seconds."""

    rate: float
    seconds: list[float]
    cpu: float
    mebibytes: float


def live(directory: Path, clickhouse: ClickHouse, rate: int, seconds: float, bad: int) -> Live:
    """Good messages of a thousand points at `rate` points/s, and `bad` ones evenly over the same seconds."""
    random = np.random.default_rng(1)
    total = int(rate * seconds / LIVE_POINTS)
    payloads = [
        events.encode(message(number % PARTITIONS, number // PARTITIONS, random, rows=LIVE_POINTS // METRICS))
        for number in range(total)
    ]
    sent_at: list[float] = []
    found_at: list[float] = []
    with watched(directory, clickhouse, f"live_{bad}") as (pipeline, start), ThreadPoolExecutor() as threads:
        writer = start()
        writer.writer.wait_ready()

        def send(number: int) -> None:
            sent_at.append(time.monotonic())
            pipeline.send_bytes("metrics", payloads[number], None, partition=number % PARTITIONS)

        def look() -> bool:
            found = writer.stored("metrics") // LIVE_POINTS
            found_at.extend([time.monotonic()] * (found - len(found_at)))
            return found >= total

        flood = multiprocessing.get_context("spawn").Process(target=send_bad, args=(pipeline.broker, bad, seconds))
        flood.start()
        looking = threads.submit(wait_for, look, 1_800, "the good rows", 0.02)
        began, cpu = time.monotonic(), writer.writer.cpu_seconds()
        at_pace(total, seconds, send)
        pipeline.sent()
        looking.result()
        took = time.monotonic() - began
        flood.join()
        assert flood.exitcode == 0, "the flood did not get through"
        writer.settle(total * LIVE_POINTS, bad)
        cpu = writer.writer.cpu_seconds() - cpu
        writer.writer.stop(30)
    waited = [found - sent for sent, found in zip(sent_at, found_at, strict=True)]
    return Live(total * LIVE_POINTS / took, waited, cpu, writer.peak / 2**20)


def fill(pipeline: Pipeline, points: int, bad: int, random: np.random.Generator) -> tuple[int, int]:
    """Fills the topic; the number of good points and of bad messages."""
    per_partition = points // (ROWS * METRICS) // PARTITIONS
    bad_between = bad // PARTITIONS // per_partition
    for index in range(per_partition):
        for run in range(PARTITIONS):
            for _ in range(bad_between):
                pipeline.send_bytes("metrics", BAD, b"run-%d" % run, run)
            pipeline.send(message(run, index, random), partition=run)
    pipeline.sent()
    return per_partition * PARTITIONS * ROWS * METRICS, per_partition * PARTITIONS * bad_between


@dataclass(frozen=True)
class WorkedOff:
    """Of a full topic: seconds and the writer's processor seconds until the good points were stored."""

    points: int
    bad: int
    seconds: float
    cpu: float
    mebibytes: float


def work_off(directory: Path, clickhouse: ClickHouse, points: int, bad: int) -> WorkedOff:
    """Fills a topic and has one writer work it off."""
    with watched(directory, clickhouse, f"full_{bad}") as (pipeline, start):
        points, bad = fill(pipeline, points, bad, np.random.default_rng(1))
        writer = start()
        writer.reach("metrics", 1, every=0.02)
        began, cpu = time.monotonic(), writer.writer.cpu_seconds()
        writer.reach("metrics", points)
        seconds, cpu = time.monotonic() - began, writer.writer.cpu_seconds() - cpu
        writer.settle(points, bad)
        writer.writer.stop(30)
    return WorkedOff(points, bad, seconds, cpu, writer.peak / 2**20)


def main() -> None:
    """Prints the machine, then the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bad", type=int, default=1_000_000)
    parser.add_argument("--rate", type=int, default=100_000, help="good points/s, live")
    parser.add_argument("--seconds", type=float, default=60, help="how long they come, and the flood with them")
    parser.add_argument("--points", type=int, default=40_000_000, help="good points in the topic that is worked off")
    options = parser.parse_args()
    print(describe("kafka-python", "chdb", "numpy"))
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        with running_clickhouse(directory / "clickhouse") as clickhouse:
            print(f"\n{options.rate:,} points/s for {options.seconds:g} s, in messages of {LIVE_POINTS:,}\n")
            lives = {bad: live(directory, clickhouse, options.rate, options.seconds, bad) for bad in (0, options.bad)}
            header = ("bad messages", "points/s", "to SQL: median", "p99", "max", "writer CPU", "peak memory")
            print(
                table(
                    header,
                    [
                        (
                            f"{bad:,}",
                            f"{it.rate:,.0f}",
                            *(f"{quantile(it.seconds, q):.2f} s" for q in (0.5, 0.99, 1)),
                            f"{it.cpu:.1f} s",
                            f"{it.mebibytes:.0f} MiB",
                        )
                        for bad, it in lives.items()
                    ],
                ),
                flush=True,
            )
            print("\na full topic\n")
            alone, flooded = [work_off(directory, clickhouse, options.points, bad) for bad in (0, options.bad)]
    print(
        table(
            ("bad messages", "good points", "points/s", "points/s of CPU", "peak memory"),
            [
                (
                    f"{it.bad:,}",
                    f"{it.points:,}",
                    f"{it.points / it.seconds:,.0f}",
                    f"{it.points / it.cpu:,.0f}",
                    f"{it.mebibytes:.0f} MiB",
                )
                for it in (alone, flooded)
            ],
        )
    )
    print(
        f"\na bad message takes {(flooded.seconds - alone.seconds) / flooded.bad * 1e6:.1f} µs of a full topic's time, "
        f"{(flooded.cpu - alone.cpu) / flooded.bad * 1e6:.1f} µs of CPU"
    )


if __name__ == "__main__":
    main()
