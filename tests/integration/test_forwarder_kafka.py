"""The forwarder's process over the real broker: away and back, killed, and a training process that is killed."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from kafka import KafkaAdminClient

from pulsetrain.forwarder import spawn
from pulsetrain.forwarder.places import Place, destination, read_json
from pulsetrain_schemas import events
from pulsetrain_schemas.topics import PREFIX, create_or_check
from tests.journals import points_logged, points_of, same_points, uncovered
from tests.stack_fixture import running_broker
from tests.topics import records_of
from tests.waiting import wait_for

pytestmark = [pytest.mark.kafka]

KINDS = {"metrics": events.MetricBatch, "runs": events.RunEvent, "system": events.SystemBatch}


def make_topics(address: str) -> None:
    admin = KafkaAdminClient(bootstrap_servers=address)
    try:
        create_or_check(admin)
    finally:
        admin.close()


class Setting:
    """A home, its environment, and a run of one's own on a broker that others may share."""

    def __init__(self, tmp_path: Path, address: str) -> None:
        self.address = address
        self.home = tmp_path / "home"
        self.home.mkdir(exist_ok=True)
        self.runs = tmp_path / "runs"
        self.run_id = uuid.uuid4().hex[:8]
        self.writer = uuid.uuid4().hex
        self.env = {**os.environ, "PULSETRAIN_HOME": str(self.home), "PULSETRAIN_KAFKA": address}
        self.place = Place.of(self.home, destination(self.env))

    @property
    def journal(self) -> Path:
        return self.runs / self.writer

    @contextmanager
    def training(self, rows: int, end: str, pause: float = 0.0) -> Iterator[subprocess.Popen[str]]:
        command = [sys.executable, "-m", "tests.training", str(self.runs), self.writer, self.run_id, str(rows)]
        with subprocess.Popen(
            [*command, str(pause), end], env=self.env, stdout=subprocess.PIPE, stderr=None, text=True
        ) as process:
            try:
                yield process
            finally:
                process.kill()

    @contextmanager
    def forwarder(self, *options: str) -> Iterator[subprocess.Popen[bytes]]:
        process = subprocess.Popen([sys.executable, "-m", "pulsetrain.forwarder", *options], env=self.env)
        try:
            yield process
        finally:
            process.terminate()
            process.wait(timeout=20)

    def logged(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        assert process.stdout.readline() == "logged\n"

    def status(self) -> dict:
        return read_json(self.place.status) or {}

    def complete(self) -> bool:
        return bool((read_json(self.journal / "ack.json") or {}).get("complete"))

    def received(self, topic: str) -> list:
        """What Kafka has of this run on the topic, in order of partition and offset."""
        keys = (self.run_id.encode(), socket.gethostname().encode())
        records = [record for record in records_of(self.address, PREFIX + topic) if record.key in keys]
        found = [events.decode(record.value, KINDS[topic]) for record in records]
        return [event for event in found if event.origin.run_id == self.run_id]

    def check(self) -> None:
        """Every point of the journal is in Kafka once, after dropping what is covered already; no topic has a gap."""
        batches = self.received("metrics")
        assert uncovered([(b.origin.first_sequence, b.origin.last_sequence) for b in batches]) == []
        points, covered = [], 0
        for batch in batches:
            points += [point for point in points_of(batch) if point[0] > covered]
            covered = max(covered, batch.origin.last_sequence)
        assert same_points(points, points_logged(self.journal))

    def finish(self) -> events.RunEvent:
        (*_, last) = [e for e in self.received("runs") if e.kind == "finish" and e.origin.writer == self.writer]
        return last


@pytest.fixture
def setting(tmp_path: Path, kafka_broker: str) -> Setting:
    make_topics(kafka_broker)
    return Setting(tmp_path, kafka_broker)


def test_a_run_is_delivered_whole_and_its_registration_goes(setting: Setting) -> None:
    with setting.forwarder() as forwarder, setting.training(20_000, "finish") as training:
        setting.logged(training)
        wait_for(setting.complete, 30, "the acknowledgement of everything")
        wait_for(lambda: not list(setting.place.writers.glob("*.json")), 10, "the end of all registrations")
        assert psutil.Process(forwarder.pid).memory_info().rss < 150 << 20
    setting.check()
    finish = setting.finish()
    assert (finish.state, finish.exit_code, finish.rows, finish.points) == ("finished", 0, 20_000, 40_000)
    summary = {k: v for e in setting.received("runs") for k, v in e.summary.items()}
    assert json.loads(summary["loss"]) == pytest.approx(1 / 20_000)


def test_a_killed_training_process_ends_its_run_as_killed_within_two_seconds(setting: Setting) -> None:
    with setting.forwarder(), setting.training(100, "wait") as training:
        setting.logged(training)
        wait_for(lambda: len(setting.received("system")) > 1, 20, "hardware samples")
        training.send_signal(signal.SIGKILL)
        killed_at = time.time()
        wait_for(setting.complete, 10, "the end of the run")
        assert time.time() - killed_at < 3.0  # half a second where the machine is not busy
    setting.check()
    finish = setting.finish()
    assert (finish.state, finish.exit_code, finish.rows) == ("killed", None, 100)
    assert abs(finish.time / 1e6 - killed_at) < 3.0
    series = {metric for batch in setting.received("system") for metric in batch.series_metrics}
    assert {"memory_percent", "process_memory_rss_bytes"} <= series
    (alive, *_, closed) = [e for e in setting.received("runs") if e.origin.writer != setting.writer]
    assert (alive.kind, alive.is_primary, closed.kind, closed.is_primary) == ("heartbeat", True, "finish", False)


def test_a_forwarder_that_is_killed_again_and_again_leaves_no_gap(setting: Setting) -> None:
    with setting.training(40_000, "finish", pause=0.0001) as training:
        for _ in range(4):
            with setting.forwarder() as forwarder:
                before = len(setting.received("metrics"))
                wait_for(
                    lambda before=before: len(setting.received("metrics")) > before or setting.complete(), 30, "rows"
                )
                forwarder.kill()
        setting.logged(training)
        with setting.forwarder():
            wait_for(setting.complete, 30, "the acknowledgement of everything")
    setting.check()
    assert setting.finish().points == 80_000


def test_a_broker_that_goes_away_gets_everything_when_it_is_back(tmp_path: Path) -> None:
    with running_broker(tmp_path / "kafka") as broker:
        make_topics(broker.address)
        setting = Setting(tmp_path, broker.address)
        with setting.forwarder() as forwarder, setting.training(60_000, "finish", pause=0.0001) as training:
            wait_for(lambda: setting.received("metrics"), 30, "the first rows")
            broker.kill()
            wait_for(lambda: setting.status().get("broker") == "away", 20, "word of it")
            setting.logged(training)
            assert not setting.complete()
            busy = psutil.Process(forwarder.pid).cpu_times()
            updated = setting.status()["updated"]
            wait_for(lambda: setting.status()["updated"] > updated + 2, 20, "another status")
            spent = psutil.Process(forwarder.pid).cpu_times()
            seconds = setting.status()["updated"] - updated
            assert spent.user + spent.system - busy.user - busy.system < 0.5 * seconds  # no busy loop
            broker.start()
            wait_for(setting.complete, 60, "the acknowledgement of everything")
        setting.check()
        assert setting.finish().rows == 60_000


def test_a_forwarder_without_any_broker_waits_and_says_so_once(setting: Setting) -> None:
    setting.env["PULSETRAIN_KAFKA"] = "127.0.0.1:1"
    setting.place = Place.of(setting.home, destination(setting.env))
    with setting.training(100, "finish") as training:
        setting.logged(training)
    assert spawn.ensure_running(setting.home, setting.env)
    wait_for(lambda: setting.status().get("broker") == "away", 20, "word of it")
    assert not spawn.ensure_running(setting.home, setting.env)
    status = setting.status()
    assert "no broker answers at 127.0.0.1:1" in status["detail"]
    wait_for(lambda: setting.status()["updated"] > status["updated"] + 3, 20, "another status, several tries later")
    psutil.Process(status["pid"]).terminate()
    wait_for(lambda: not spawn.is_running(setting.place), 20, "its end")
    assert setting.place.log.read_text().count("no broker answers") == 1
    assert list(setting.place.writers.glob("*.json"))
    setting.env["PULSETRAIN_KAFKA"] = setting.address
