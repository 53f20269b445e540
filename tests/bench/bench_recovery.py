"""How long a kill -9 of a service is felt: from the kill until a point logged after it is found by SQL.

    python -m tests.bench.bench_recovery [--rounds 7] [--only NAME]

On a stack of its own. Four processes log a hundred rows a second each, one for every partition of the metrics, so that
what is measured is the partition that comes back last. The pause between two kills is drawn from a seed.
"""

import argparse
import contextlib
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from kafka.partitioner.default import murmur2

from pulsetrain_schemas.topics import TOPICS
from tests.bench.bench_pipeline import client, stack
from tests.bench.machine import describe, table
from tests.waiting import wait_for

PROJECT = "recovery"
PARTITIONS = TOPICS["metrics"].partitions

PROBE = """
import sys, time
import pulsetrain
run = pulsetrain.init(project=sys.argv[1], id=sys.argv[2], settings={"console": "off"})
while True:
    run.log({"sent": time.time()})
    time.sleep(0.01)
"""


class Flow:
    """Processes that log the time, one for each partition; and what of it SQL finds."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.environment = environment
        self._connection = client(environment)
        self._processes = [
            subprocess.Popen([sys.executable, "-c", PROBE, PROJECT, run_id], env=environment)
            for run_id in _run_ids(PARTITIONS)
        ]

    def oldest(self) -> float:
        """When the newest point was logged that is stored of the partition that is furthest behind; 0 for nothing."""
        rows = self._connection.execute(
            "SELECT max(value) FROM metrics WHERE project = %(project)s AND metric = 'sent' GROUP BY run_id",
            {"project": PROJECT},
        )
        return min(value for (value,) in rows) if len(rows) == PARTITIONS else 0.0

    def wait(self, since: float, timeout: float = 60) -> float:
        """Waits until a point of every partition is stored that was logged after `since`; seconds from then on."""
        wait_for(lambda: self.oldest() > since, timeout, "a point of every partition", 0.01)
        return time.time() - since

    def close(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait()


def _run_ids(partitions: int) -> list[str]:
    """A run id for each partition."""
    found: dict[int, str] = {}
    number = 0
    while len(found) < partitions:
        found.setdefault((murmur2(f"run-{number}".encode()) & 0x7FFFFFFF) % partitions, f"run-{number}")
        number += 1
    return list(found.values())


@contextlib.contextmanager
def flow() -> Iterator[Flow]:
    """A stack with a flow through it, up and stored."""
    with tempfile.TemporaryDirectory(prefix="pulsetrain-bench-") as folder, stack(Path(folder)) as environment:
        running = Flow(environment)
        try:
            running.wait(time.time())
            yield running
        finally:
            running.close()


def measure(running: Flow, kill: Callable[[], None], rounds: int, seed: int = 1) -> list[float]:
    """Seconds from each kill until every partition is stored again."""
    pauses = random.Random(seed)
    seen = []
    for _ in range(rounds):
        time.sleep(pauses.uniform(5, 8))
        killed = time.time()
        kill()
        seen.append(running.wait(killed))
    return seen


def kill_service(environment: Mapping[str, str], name: str) -> None:
    """kill -9 of a service of the stack, as soon as it runs."""

    def running() -> int | None:
        services = json.loads((Path(environment["PULSETRAIN_HOME"]) / "stack.json").read_text())["services"]
        return next((service["pid"] for service in services if service["name"] == name), None)

    pid = wait_for(running, 30, f"a {name} that runs")
    assert pid is not None
    os.kill(pid, signal.SIGKILL)


def usual(running: Flow, rounds: int) -> list[float]:
    """What there is without any kill: from log() to SQL."""
    return measure(running, lambda: None, rounds)


def writer(running: Flow, rounds: int) -> list[float]:
    """The only writer is killed; the supervisor starts another one."""
    return measure(running, lambda: kill_service(running.environment, "writer"), rounds)


def one_of_two_writers(running: Flow, rounds: int) -> list[float]:
    """Of two writers that share the partitions one is killed, and comes back."""
    with _second_writer(running.environment):
        return writer(running, rounds)


def other_of_two_writers(running: Flow, rounds: int) -> list[float]:
    """Of two writers that share the partitions one is killed for good; the other takes over."""
    seen: list[float] = []
    for number in range(rounds):
        with _second_writer(running.environment) as second:
            seen += measure(running, second.kill, 1, seed=number)
    return seen


@contextlib.contextmanager
def _second_writer(environment: Mapping[str, str]) -> "Iterator[subprocess.Popen[bytes]]":
    command = [sys.executable, "-m", "pulsetrain.commands", "consumer", "writer"]
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as process:
        try:
            yield process
        finally:
            process.terminate()


CASES: Sequence[Callable[[Flow, int], list[float]]] = (usual, writer, one_of_two_writers, other_of_two_writers)


def main() -> None:
    """Prints the machine, then a line for each case."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", help="the cases whose names contain this")
    options = parser.parse_args()
    print(describe("kafka-python", "clickhouse-driver", "chdb"), flush=True)
    rows = []
    with flow() as running:
        for case in CASES:
            if options.only and options.only not in case.__name__:
                continue
            seen = case(running, options.rounds)
            figures = [f"{value:.2f} s" for value in (statistics.median(seen), max(seen))]
            rows.append(((case.__doc__ or "").rstrip("."), *figures, str(len(seen))))
            print(rows[-1], flush=True)
    print(table(("what is killed", "median", "max", "rounds"), rows))


if __name__ == "__main__":
    main()
