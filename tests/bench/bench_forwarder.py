"""The forwarder's share of the work: a journal to packed and framed messages, and what its process takes.

    python -m tests.bench.bench_forwarder [--points 5000000]

Each case runs in a process of its own, with all that a forwarder imports, over a delivery that confirms at once. The
peer is a reference: fastavro encoding the same rows as one record a row.
"""

import argparse
import io
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import fastavro
import numpy as np

from pulsetrain._run.summary import SummaryFold
from pulsetrain.forwarder import composition as everything_that_a_forwarder_imports
from pulsetrain.forwarder.delivery import BrokerState, Message, Outcome
from pulsetrain.forwarder.pump import Pump
from pulsetrain.forwarder.tail import read_identity
from pulsetrain.journal.reader import JournalReader, RowBlock
from pulsetrain.journal.writer import JournalWriter
from tests.bench.machine import describe, table
from tests.journals import start_run

CASES: dict[str, Callable[[JournalWriter, int], None]] = {}
ROW_SCHEMA = fastavro.parse_schema(
    {
        "type": "record",
        "name": "Row",
        "fields": [
            {"name": "step", "type": "long"},
            {"name": "time", "type": "long"},
            {"name": "values", "type": {"type": "map", "values": "double"}},
        ],
    }
)


def case(name: str) -> Callable[[Callable[[JournalWriter, int], None]], Callable[[JournalWriter, int], None]]:
    def keep(write: Callable[[JournalWriter, int], None]) -> Callable[[JournalWriter, int], None]:
        CASES[name] = write
        return write

    return keep


@case("10 metrics a row")
def _ten(journal: JournalWriter, points: int) -> None:
    keys = tuple(f"train/metric_{i}" for i in range(10))
    values = np.random.default_rng(0).standard_normal(10).tolist()
    for step in range(points // 10):
        journal.row(keys, values, step, 1.76e9 + step * 1e-3)


@case("10 metrics, two shapes in turn")
def _alternating(journal: JournalWriter, points: int) -> None:
    train, validation = (tuple(f"{part}/metric_{i}" for i in range(10)) for part in ("train", "val"))
    values = [0.5] * 10
    for step in range(points // 10):
        journal.row(validation if step % 2 else train, values, step, 1.76e9 + step * 1e-3)


@case("1,000 metrics a row")
def _thousand(journal: JournalWriter, points: int) -> None:
    keys = tuple(f"layer_{i}/gradient_norm" for i in range(1000))
    values = np.random.default_rng(0).standard_normal(1000).tolist()
    for step in range(points // 1000):
        journal.row(keys, values, step, 1.76e9 + step * 1e-3)


@case("1 metric a row")
def _one(journal: JournalWriter, points: int) -> None:
    for step in range(points // 4):
        journal.row(("loss",), (0.5,), step, 1.76e9 + step * 1e-3)


class Sink:
    """A delivery that confirms at the next poll and keeps nothing."""

    def __init__(self) -> None:
        self.bytes = self.messages = 0
        self._tickets: list[object] = []

    in_flight_bytes = 0
    state = BrokerState("connected")

    def send(self, message: Message, ticket: object) -> None:
        self.bytes += len(message.payload)
        self.messages += 1
        self._tickets.append(ticket)

    def poll(self) -> Outcome:
        tickets, self._tickets = tuple(self._tickets), []
        return Outcome(tickets)

    def close(self, timeout: float) -> None:
        pass


def measure(name: str, points: int) -> None:
    """Prints points/s, megabytes/s of payload, bytes a point, messages and the peak of the process's memory in MiB."""
    assert everything_that_a_forwarder_imports
    with tempfile.TemporaryDirectory() as directory:
        journal = start_run(Path(directory), segment_bytes=4 << 20)
        CASES[name](journal, points)
        journal.event("finish", {"state": "finished", "exit_code": 0})
        journal.close()
        identity = read_identity(journal.directory)
        assert identity is not None
        sink = Sink()
        pump = Pump(journal.directory, identity, sink, fold=SummaryFold())
        begun = time.process_time()
        while not pump.done:
            pump.step(time.time(), alive=False)
            pump.progress(time.time())
            for ticket in sink.poll().confirmed:
                pump.confirm(ticket)  # type: ignore[arg-type]
        spent = time.process_time() - begun
        counted = pump.acknowledged.counters.points
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(counted / spent, sink.bytes / spent, sink.bytes / counted, sink.messages, memory)


def reference(points: int) -> float:
    """Points/s of fastavro, a record a row, on the rows of the first case."""
    with tempfile.TemporaryDirectory() as directory:
        journal = start_run(Path(directory), segment_bytes=4 << 20)
        CASES["10 metrics a row"](journal, points)
        journal.close()
        begun = time.process_time()
        counted = 0
        with JournalReader(journal.directory) as reader:
            for item in reader:
                if isinstance(item, RowBlock):
                    for step, at, row in zip(
                        item.steps.tolist(), item.times.tolist(), item.values.tolist(), strict=True
                    ):
                        values = dict(zip(item.keys, row, strict=True))
                        record = {"step": step, "time": int(at * 1e6), "values": values}
                        fastavro.schemaless_writer(io.BytesIO(), ROW_SCHEMA, record)
                        counted += len(row)
        return counted / (time.process_time() - begun)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=5_000_000)
    parser.add_argument("--case", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.case:
        measure(given.case, given.points)
        return 0
    print(describe("numpy", "fastavro", "kafka-python"))
    print("One core (processor time), journal to framed messages, the summary folded meanwhile.\n")
    rows = []
    for name in CASES:
        command = [sys.executable, "-m", "tests.bench.bench_forwarder", "--case", name, "--points", str(given.points)]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        rate, bandwidth, size, messages, memory = map(float, output.split())
        rows.append(
            (name, f"{rate:,.0f}", f"{bandwidth / 1e6:,.0f}", f"{size:.1f}", f"{messages:,.0f}", f"{memory:.0f}")
        )
    slow = reference(given.points // 10)
    rows.append(("fastavro, a record a row", f"{slow:,.0f}", "", "", "", ""))
    print(table(("case", "points/s", "MB/s", "bytes/point", "messages", "peak RSS, MiB"), rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
