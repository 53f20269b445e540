"""How long a kill -9 of the forwarder is felt: from the kill until Kafka has what was logged at that moment.

    python -m tests.bench.bench_recovery_forwarder [--rounds 7]

On a broker of its own. A training process logs a hundred rows a second; in one case it goes on, in the other it is
killed together with the forwarder, and the end of its run has to be in Kafka too. Most of the time goes into starting
a Python process with what it imports: on a machine without a free core it takes as much longer.
"""

import argparse
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition

from pulsetrain.forwarder import spawn
from pulsetrain.forwarder.places import Place, destination, read_json
from pulsetrain_schemas import events
from pulsetrain_schemas.topics import TOPICS, create_or_check
from tests.bench.machine import describe, table
from tests.stack_fixture import running_broker
from tests.waiting import wait_for

PROBE = """
import sys, time
import pulsetrain
run = pulsetrain.init(project="recovery", id=sys.argv[1], settings={"console": "off", "disable_git": True})
while True:
    run.log({"loss": 0.5})
    time.sleep(0.01)
"""


class Line:
    """A training process, the forwarder that it started, and what comes out at the end of it."""

    def __init__(self, folder: Path, address: str) -> None:
        self.env = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("PULSETRAIN_", "WANDB_"))},
            "PULSETRAIN_HOME": str(folder / "home"),
            "PULSETRAIN_DIR": str(folder / "runs"),
            "PULSETRAIN_KAFKA": address,
        }
        self._place = Place.of(folder / "home", destination(self.env))
        self._started = 0
        self._training: subprocess.Popen[bytes] | None = None
        self._consumer = KafkaConsumer(bootstrap_servers=address, enable_auto_commit=False)
        names = {TOPICS["metrics"].kafka_name: events.MetricBatch, TOPICS["runs"].kafka_name: events.RunEvent}
        self._kinds: dict[str, Any] = names
        self._consumer.assign([TopicPartition(name, n) for name in names for n in range(_partitions(name))])

    @property
    def run_id(self) -> str:
        return f"run-{self._started}"

    def train(self) -> None:
        """Starts a training process, and returns when its rows come out."""
        self._started += 1
        self._training = subprocess.Popen([sys.executable, "-c", PROBE, self.run_id], env=self.env)
        self.until_row(time.time())

    def forwarder(self) -> int:
        """The process of the forwarder, which says that it is connected."""

        def connected() -> int:
            said = read_json(self._place.status) or {}
            return int(said["pid"]) if said.get("broker") == "connected" and spawn.is_running(self._place) else 0

        return wait_for(connected, 30, "a forwarder")

    def kill_training(self) -> None:
        if self._training is not None:
            self._training.kill()
            self._training.wait()

    def until_row(self, since: float) -> float:
        """Waits for a row that was logged after `since`; gives the seconds from then until Kafka had it."""
        return self._until(lambda event: isinstance(event, events.MetricBatch) and event.row_times.max() > since * 1e6)

    def until_end(self) -> float:
        """Waits for the end of the run, which comes after all its rows."""
        return self._until(lambda event: isinstance(event, events.RunEvent) and event.kind == "finish")

    def _until(self, wanted: Callable[[Any], bool]) -> float:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            for partition, records in self._consumer.poll(timeout_ms=5).items():
                for record in records:
                    event = events.decode(record.value, self._kinds[partition.topic])
                    if event.origin.run_id == self.run_id and wanted(event):
                        return time.time()
        raise TimeoutError(f"{self.run_id}: nothing came for a minute")

    def close(self) -> None:
        self.kill_training()
        os.kill(self.forwarder(), signal.SIGTERM)
        self._consumer.close()


def _partitions(name: str) -> int:
    return next(topic.partitions for topic in TOPICS.values() if topic.kafka_name == name)


def usual(line: Line, rounds: int) -> list[float]:
    """What there is without any kill: from log() to Kafka."""
    line.train()
    seen = [_elapsed(line.until_row) for _ in range(rounds)]
    line.kill_training()
    return seen


def training_alive(line: Line, rounds: int) -> list[float]:
    """The forwarder is killed, the training process goes on."""
    line.train()
    seen = []
    for pause in _pauses(rounds):
        time.sleep(pause)
        os.kill(line.forwarder(), signal.SIGKILL)
        seen.append(_elapsed(line.until_row))
    line.kill_training()
    return seen


def training_dead(line: Line, rounds: int) -> list[float]:
    """The forwarder and the training process are killed together."""
    seen = []
    for pause in _pauses(rounds):
        line.train()
        time.sleep(pause)
        os.kill(line.forwarder(), signal.SIGKILL)
        line.kill_training()
        seen.append(_elapsed(lambda _: line.until_end()))
    return seen


def _elapsed(until: Callable[[float], float]) -> float:
    begun = time.time()
    return until(begun) - begun


def _pauses(rounds: int) -> list[float]:
    """Long enough that the forwarder is not taken for one that does not come up."""
    seeded = random.Random(1)
    return [seeded.uniform(6, 8) for _ in range(rounds)]


CASES: Sequence[Callable[[Line, int], list[float]]] = (usual, training_alive, training_dead)


def main() -> None:
    """Prints the machine, then a line for each case."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    print(describe("kafka-python"), flush=True)
    print(f"load average over the last minute: {os.getloadavg()[0]:.1f}", flush=True)
    rows = []
    with tempfile.TemporaryDirectory(prefix="pulsetrain-bench-") as folder, running_broker(Path(folder)) as broker:
        admin = KafkaAdminClient(bootstrap_servers=broker.address)
        create_or_check(admin)
        admin.close()
        line = Line(Path(folder), broker.address)
        try:
            for case in CASES:
                seen = case(line, options.rounds)
                figures = [f"{value:.2f} s" for value in (statistics.median(seen), max(seen))]
                rows.append(((case.__doc__ or "").rstrip("."), *figures, str(len(seen))))
        finally:
            line.close()
    print(table(("what is killed", "median", "max", "rounds"), rows))


if __name__ == "__main__":
    main()
