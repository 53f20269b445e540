"""The SDK over the real forwarder and the real broker: what finish() promises, and what Kafka has then."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from kafka import KafkaAdminClient

from pulsetrain.forwarder import spawn
from pulsetrain.forwarder.places import Place, destination, read_json
from pulsetrain_schemas import events
from pulsetrain_schemas.topics import PREFIX, create_or_check
from tests.topics import records_of
from tests.waiting import wait_for

pytestmark = [pytest.mark.kafka]

PROGRAM = """
import os, sys, time
import pulsetrain
run = pulsetrain.init(project="sdk", config={"lr": 0.1, "nested": {"a": [1, 2]}}, tags=["t"], rank=2)
run.define_metric("acc", summary="max")
for step in range(20_000):
    run.log({"loss": 1 / (step + 1), "acc": step / 20_000})
run.log({"note": "kept", "nan": float("nan")})
run.summary["by hand"] = {"k": 1}
print("printed")
if not os.fork():
    run.log({"child": 1})
    run.finish()
    os._exit(0)
os.wait()
begun = time.monotonic()
run.finish(exit_code=3)
print(f"id={run.id} finish={time.monotonic() - begun:.3f}", flush=True)
"""


@pytest.fixture
def env(tmp_path: Path, kafka_broker: str) -> Iterator[dict[str, str]]:
    admin = KafkaAdminClient(bootstrap_servers=kafka_broker)
    create_or_check(admin)
    admin.close()
    env = {**os.environ, "PULSETRAIN_KAFKA": kafka_broker, "PULSETRAIN_HOME": str(tmp_path / "home")}
    yield env
    status = read_json(Place.of(tmp_path / "home", destination(env)).status) or {}
    with suppress(psutil.NoSuchProcess, KeyError):
        process = psutil.Process(status["pid"])
        process.terminate()
        process.wait(20)


def received(address: str, topic: str, kind: type) -> list:
    return [events.decode(record.value, kind) for record in records_of(address, PREFIX + topic)]


def test_when_finish_returns_kafka_has_everything(env: dict[str, str], kafka_broker: str) -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=env, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stderr
    assert "Nothing is lost" not in done.stderr, done.stderr
    run_id, seconds = re.search(r"id=(\w+) finish=([\d.]+)", done.stdout).groups()
    assert float(seconds) < 30

    def of_this_run(topic: str, kind: type) -> list:
        return [event for event in received(kafka_broker, topic, kind) if event.origin.run_id == run_id]

    metrics = of_this_run("metrics", events.MetricBatch)
    writers = {batch.origin.writer for batch in metrics}
    assert len(writers) == 2
    assert {batch.origin.rank for batch in metrics} == {2}
    assert sum(len(batch.values) for batch in metrics) == 40_000 + 1 + 1
    assert [text for batch in metrics for text in batch.text_values] == ['"kept"']
    runs = of_this_run("runs", events.RunEvent)
    (finish,) = [event for event in runs if event.kind == "finish" and event.is_primary]
    assert (finish.state, finish.exit_code, finish.rows, finish.points, finish.texts) == (
        "failed",
        3,
        20_001,
        40_001,
        1,
    )
    own = [event for event in runs if event.origin.writer == finish.origin.writer]
    config = {key: value for event in own for key, value in event.config.items()}
    assert {key: json.loads(value) for key, value in config.items()} == {"lr": 0.1, "nested": {"a": [1, 2]}}
    summary = {key: json.loads(value) for event in own for key, value in event.summary.items() if value is not None}
    assert summary == {
        "loss": 1 / 20_000,
        "acc.max": 19_999 / 20_000,
        "note": "kept",
        "nan": "NaN",
        "by hand": {"k": 1},
    }
    environment = {key: json.loads(value) for event in own for key, value in event.environment.items()}
    assert environment["host"] == os.uname().nodename
    assert "printed" in [line for batch in of_this_run("logs", events.LogBatch) for line in batch.lines]


TRAINING = """
import os, signal, sys, time
import pulsetrain
signal.signal(signal.SIGINT, signal.default_int_handler)
run = pulsetrain.init(project="sdk", settings={"disable_git": True})
for step in range(3000):
    run.log({"loss": step})
print(run.id, flush=True)
"""


class Training:
    """A program that has logged 3,000 rows to a forwarder that is up, and what Kafka has of its run."""

    def __init__(self, env: dict[str, str], address: str, end: str) -> None:
        self.address = address
        self.place = Place.of(Path(env["PULSETRAIN_HOME"]), destination(env))
        self.process = subprocess.Popen(
            [sys.executable, "-c", TRAINING + end],
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.run_id = self.process.stdout.readline().strip()
        self.forwarder = wait_for(self._forwarder, 30, "a forwarder")

    def _forwarder(self) -> int:
        said = read_json(self.place.status) or {}
        return said["pid"] if said.get("broker") == "connected" and spawn.is_running(self.place) else 0

    def waits(self) -> None:
        """Returns when finish() has said that it waits."""
        assert self.process.stderr is not None
        assert any("sending what was logged" in line for line in iter(self.process.stderr.readline, ""))

    def ends(self) -> list[tuple[str | None, int | None, int]]:
        """State, exit code and rows of each end of the run that Kafka has."""
        events_ = received(self.address, "runs", events.RunEvent)
        return [
            (event.state, event.exit_code, event.rows)
            for event in events_
            if event.origin.run_id == self.run_id and event.kind == "finish" and event.is_primary
        ]

    def steps(self) -> set[int]:
        batches = received(self.address, "metrics", events.MetricBatch)
        return {int(s) for b in batches if b.origin.run_id == self.run_id for s in b.row_steps}

    def check(self, state: str, exit_code: int | None) -> None:
        """All arrives, with one end."""
        wait_for(self.ends, 30, "the end of the run", 0.2)
        assert set(self.ends()) == {(state, exit_code, 3000)}
        assert self.steps() == set(range(3000))


@pytest.fixture
def train(env: dict[str, str], kafka_broker: str) -> Iterator[Callable[[str], Training]]:
    made: list[Training] = []

    def start(end: str) -> Training:
        made.append(Training(env, kafka_broker, end))
        return made[-1]

    yield start
    for training in made:
        training.process.kill()
        training.process.communicate()


def test_ctrl_c_twice_leaves_at_once_and_the_forwarder_sends_the_rest(train) -> None:
    training = train("while True: run.log({}); time.sleep(9)")
    os.kill(training.forwarder, signal.SIGSTOP)  # so that there is something to wait for
    try:
        training.process.send_signal(signal.SIGINT)
        training.waits()
        training.process.send_signal(signal.SIGINT)
        _, said = training.process.communicate(timeout=30)
    finally:
        os.kill(training.forwarder, signal.SIGCONT)
    assert "interrupted. Nothing is lost" in said
    wait_for(training.ends, 30, "the end of the run", 0.2)
    assert {(state, exit_code) for state, exit_code, _ in training.ends()} == {("killed", 255)}
    assert training.steps() >= set(range(3000))


def test_sigterm_kills_a_run_and_takes_nothing_from_it(train) -> None:
    training = train("signal.pause()")
    training.process.terminate()
    assert training.process.wait(30) == -signal.SIGTERM
    training.check("killed", None)


def test_sigterm_while_finish_waits_leaves_the_run_with_the_end_that_it_said(train) -> None:
    training = train("sys.stdin.readline(); run.finish(exit_code=3)")
    os.kill(training.forwarder, signal.SIGSTOP)
    try:
        training.process.stdin.write("\n")
        training.process.stdin.flush()
        training.waits()
        training.process.terminate()
        assert training.process.wait(30) == -signal.SIGTERM
    finally:
        os.kill(training.forwarder, signal.SIGCONT)
    training.check("failed", 3)


def test_a_forwarder_that_dies_with_the_training_process_comes_back_and_tells_of_both(train) -> None:
    training = train("signal.pause()")
    os.kill(training.forwarder, signal.SIGKILL)
    training.process.kill()
    training.check("killed", None)
    assert training._forwarder() != training.forwarder
