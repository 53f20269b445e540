"""How long taking over a long journal takes: from its checkpoint, and from its first segment as without one.

    python -m tests.bench.bench_takeover [--segments 25]

A run that lives is sent wholly; then another forwarder takes it over and is timed until it has caught up: processor
time and time on the clock. The two kinds of rows are those of `bench_forwarder`. What a checkpoint costs is there too:
making one and writing it, for a summary of 10 and of 1,000 keys.
"""

import argparse
import shutil
import tempfile
import time
from pathlib import Path

from pulsetrain._run.summary import SummaryFold
from pulsetrain.forwarder.checkpoint import CHECKPOINT_FILE, Checkpoint
from pulsetrain.forwarder.pump import Pump
from pulsetrain.forwarder.tail import Tail, read_identity
from pulsetrain.journal.format import segment_path
from tests.bench.bench_forwarder import CASES, Sink
from tests.bench.machine import describe, table
from tests.journals import start_run

KINDS = ("10 metrics a row", "10 metrics, two shapes in turn", "1,000 metrics a row")


def take_over(journal: Path) -> tuple[float, float]:
    """Seconds, of the processor and on the clock, until a forwarder that starts now has nothing more to read."""
    begun, began = time.process_time(), time.perf_counter()
    identity = read_identity(journal)
    assert identity is not None
    sink = Sink()
    pump = Pump(journal, identity, sink, fold=SummaryFold())
    while not pump.is_settled:
        pump.step(time.time(), alive=True)
        for ticket in sink.poll().confirmed:
            pump.confirm(ticket)  # type: ignore[arg-type]
        pump.save()
    pump.close()
    return time.process_time() - begun, time.perf_counter() - began


def measure(name: str, segments: int) -> tuple[str, ...]:
    with tempfile.TemporaryDirectory() as directory:
        journal = start_run(Path(directory), segment_bytes=4 << 20)
        while journal.position.segment <= segments:
            CASES[name](journal, 100_000)
        take_over(journal.directory)
        points = Tail(journal.directory).counters.points
        quick = take_over(journal.directory)
        fold = SummaryFold()
        tail = Tail(journal.directory, fold)
        tail.read_all()
        checkpoint = Checkpoint.load(journal.directory)
        assert checkpoint is not None
        begun = time.perf_counter()
        for _ in range(20):
            made = Checkpoint(
                checkpoint.acknowledged,
                tail.start,
                tail.last_time,
                tail.latest_time,
                tail.last_step,
                tail.config,
                fold.state(),
            )
            made.save(journal.directory)
        cost = (time.perf_counter() - begun) / 20
        (journal.directory / CHECKPOINT_FILE).unlink()
        assert segment_path(journal.directory, 1).exists()
        slow = take_over(journal.directory)
        journal.close()
        shutil.rmtree(journal.directory)
    return (
        name,
        f"{points / 1e6:,.0f} M",
        f"{slow[1]:.2f} ({slow[0]:.2f})",
        f"{quick[1]:.3f} ({quick[0]:.3f})",
        f"{slow[0] / quick[0]:,.0f}",
        f"{cost * 1e3:.2f}",
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--segments", type=int, default=25)
    given = parser.parse_args()
    print(describe("numpy"))
    print(f"Taking over a journal of {given.segments} segments of 4 MiB, all of it sent. Seconds (of the processor).\n")
    rows = [measure(name, given.segments) for name in KINDS]
    header = ("rows", "points", "from the start", "from the checkpoint", "times faster", "a checkpoint, ms")
    print(table(header, rows))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
