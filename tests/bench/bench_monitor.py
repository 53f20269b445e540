"""How soon the monitor says that something is wrong, and how much it follows: python -m tests.bench.bench_monitor

First on a whole stack: runs whose loss becomes NaN, one after another, each logged by the SDK; the time is from just
before the log() call of the first NaN until SQL finds the alert. Then a topic of many runs: worked off as fast as one
monitor process can, and coming at a pace. What counts there is the processor time of the process.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pulsetrain_schemas import events
from pulsetrain_schemas.events import MetricBatch, Origin
from tests.bench.bench_dead_letters import at_pace
from tests.bench.machine import describe, quantile, table
from tests.clickhouse_fixture import running_clickhouse
from tests.pipeline_rig import Pipeline, WriterProcess, running_pipeline
from tests.stack_fixture import Stack, running_stack
from tests.waiting import wait_for

METRICS = 50
ROWS = 10
RUNS_THAT_FAIL = """
import math, sys, time
import pulsetrain
for number in range(int(sys.argv[1])):
    with pulsetrain.init(project="latency", id=f"run-{number}", settings={"console": "off"}) as run:
        for step in range(60):
            run.log({"train/loss": 2 + 1 / (step + 1), "lr": 0.1})
            time.sleep(0.002)
        print(f"run-{number}", time.time(), flush=True)
        run.log({"train/loss": math.nan})
        run.log({"train/loss": math.nan})
        time.sleep(float(sys.argv[2]))
"""


def latencies(stack: Stack, runs: int, apart: float) -> list[float]:
    """Seconds from the log() of a NaN to its alert in SQL, for so many runs, each of which lasts about so long."""
    from clickhouse_driver import Client

    from pulsetrain_schemas.addresses import ClickHouseAddress

    address = ClickHouseAddress.parse(stack.addresses["PULSETRAIN_CLICKHOUSE"])
    client = Client(
        address.host, port=address.port, user=address.user, password=address.password, database=address.database
    )
    program = [sys.executable, "-c", RUNS_THAT_FAIL, str(runs), str(apart)]
    seen: dict[str, float] = {}
    sql = "SELECT run_id FROM alert_events WHERE project = 'latency' AND kind = 'nan' AND state = 'firing'"
    with subprocess.Popen(
        program, env=stack.env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:

        def all_seen() -> bool:
            assert process.poll() in (None, 0), "the runs have failed"
            now = time.time()
            for (run_id,) in client.execute(sql):
                seen.setdefault(run_id, now)
            return len(seen) >= runs

        wait_for(all_seen, 60 + 3 * runs, "the alerts", 0.02)
        assert process.stdout is not None
        logged = dict(line.split() for line in process.stdout)
    return [seen[run_id] - float(at) for run_id, at in logged.items()]


def message(run: int, number: int, random: np.random.Generator) -> bytes:
    """A second of a run: ten rows of fifty metrics, among them a loss and a gradient norm."""
    names = ("train/loss", "train/grad_norm", *(f"layer_{index}/norm" for index in range(METRICS - 2)))
    sequences = np.arange(number * ROWS + 1, (number + 1) * ROWS + 1)
    started = int(time.time() * 1e6)
    return events.encode(
        MetricBatch(
            Origin("many", f"run-{run}", f"w{run}", 0, 0, started, int(sequences[0]), int(sequences[-1])),
            names,
            np.array([METRICS]),
            np.arange(METRICS),
            sequences,
            sequences - 1,
            started + np.arange(ROWS) * 100_000,
            np.zeros(ROWS, np.int64),
            random.normal(2.0, 0.02, ROWS * METRICS),
        )
    )


def messages(runs: int, seconds: int) -> list[tuple[int, bytes]]:
    """The messages of so many runs over so many seconds, in the order in which they come."""
    random = np.random.default_rng(1)
    return [(run % 4, message(run, number, random)) for number in range(seconds) for run in range(runs)]


def monitor(pipeline: Pipeline) -> WriterProcess:
    return pipeline.writer(service="monitor", env={"PULSETRAIN_HOME": str(pipeline.directory / "home")}).wait_ready()


def judged(process: WriterProcess, points: int, every: float = 0.1) -> None:
    """Returns when the monitor has judged so many points."""
    wait_for(lambda: process.told("pulsetrain_monitor_points_total") >= points, 600, f"{points} points judged", every)


def follow(pipeline: Pipeline, runs: int, seconds: int) -> Sequence[tuple[str, ...]]:
    """What following takes, as fast as it goes and at a pace of a message a run and second."""
    made = messages(runs, seconds)
    points = len(made) * ROWS * METRICS
    for partition, payload in made:
        pipeline.send_bytes("metrics", payload, None, partition=partition)
    pipeline.sent()
    process = monitor(pipeline)
    judged(process, 1, 0.02)
    before, cpu, began = process.told("pulsetrain_monitor_points_total"), process.cpu_seconds(), time.monotonic()
    judged(process, points)
    took, used = time.monotonic() - began, process.cpu_seconds() - cpu
    fast = (
        "a full topic",
        f"{(points - before) / took:,.0f}",
        f"{(points - before) / used:,.0f}",
        f"{used / took:.0%}",
        "",
    )

    more = messages(runs, 2 * seconds)[len(made) :]
    cpu, began = process.cpu_seconds(), time.monotonic()

    def send(number: int) -> None:
        partition, payload = more[number]
        pipeline.send_bytes("metrics", payload, None, partition=partition)

    at_pace(len(more), seconds, send)
    pipeline.sent()
    sent = time.monotonic()
    judged(process, 2 * points, 0.02)
    behind, took, used = time.monotonic() - sent, time.monotonic() - began, process.cpu_seconds() - cpu
    assert process.stop(30) == 0
    paced = ("at a pace", f"{points / took:,.0f}", f"{points / used:,.0f}", f"{used / took:.0%}", f"{behind:.2f} s")
    return [fast, paced]


def main() -> None:
    """Prints the machine, then the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--alerts", type=int, default=100)
    parser.add_argument("--apart", type=float, default=0.3, help="seconds that each of these runs lasts on")
    parser.add_argument("--runs", type=int, default=200, help="each has fifty series, and ten rows a second")
    parser.add_argument("--seconds", type=int, default=30)
    options = parser.parse_args()
    print(describe("kafka-python", "chdb", "numpy"))
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        with running_stack(directory / "stack") as stack:
            found = latencies(stack, options.alerts, options.apart)
        shown: list[Any] = [f"{quantile(found, q):.2f} s" for q in (0.5, 0.99, 1)]
        print(
            f"\nfrom log() to the alert in SQL, {len(found)} alerts: median {shown[0]}, p99 {shown[1]}, max {shown[2]}"
        )
        print(
            f"\n{options.runs * METRICS:,} series of {options.runs} runs, {options.runs * ROWS * METRICS:,} points/s\n"
        )
        (directory / "pipeline").mkdir()
        with (
            running_clickhouse(directory / "clickhouse") as clickhouse,
            running_pipeline(directory / "pipeline", clickhouse, "monitor") as pipeline,
        ):
            rows = follow(pipeline, options.runs, options.seconds)
    print(table(("", "points/s", "points/s of CPU", "of a core", "behind at the end"), rows))


if __name__ == "__main__":
    main()
