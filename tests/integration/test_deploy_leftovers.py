"""What a training container that was killed leaves on the host, and what `leftovers` does with it, over real Kafka."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from kafka import KafkaAdminClient

from pulsetrain.journal.reader import JournalReader
from pulsetrain_local.ports import HOST, free_ports
from pulsetrain_schemas import events
from pulsetrain_schemas.topics import TOPICS, create_or_check
from tests.deploy_files import DEPLOY
from tests.journals import points_logged, points_of
from tests.topics import records_of
from tests.waiting import wait_for

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(120)]

# The shell of a container: process numbers of its own, and a name of its own.
CONTAINER = ["unshare", "--pid", "--uts", "--fork", "--mount-proc", "--kill-child"]
TRAINING = """
import os, sys, time
import pulsetrain
run = pulsetrain.init(project="leftovers", id="killed")
for step in range(1000):
    run.log({"loss": 1.0 / (step + 1)}, step=step)
print("logged", flush=True)
time.sleep(600)
"""


def _can_contain() -> bool:
    try:
        return subprocess.run([*CONTAINER, "true"], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


@contextmanager
def _container(env: dict[str, str]) -> Iterator["subprocess.Popen[str]"]:
    """A training process in a container; killing that kills everything in it."""
    script = 'hostname pod-1 && exec "$@"'
    command = [*CONTAINER, "sh", "-c", script, "sh", sys.executable, "-c", TRAINING]
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


@contextmanager
def _leftovers(tmp_path: Path, env: dict[str, str]) -> Iterator[None]:
    tools = tmp_path / "bin"
    tools.mkdir()
    tool = tools / "pulsetrain"
    tool.write_text(f'#!/bin/sh\nexec {sys.executable} -m pulsetrain.commands "$@"\n')
    tool.chmod(0o755)
    log = (tmp_path / "leftovers.log").open("wb")
    process = subprocess.Popen(
        [str(DEPLOY / "docker" / "leftovers.sh"), "0.2"],
        env={**env, "PATH": f"{tools}:{os.environ['PATH']}"},
        stdout=log,
        stderr=log,
    )
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=10) == 0
        log.close()


def _rounds(tmp_path: Path) -> int:
    """How often it has looked."""
    return (tmp_path / "leftovers.log").read_text().count("history")


def _received(address: str) -> list[tuple[int, int, str, float]]:
    """All points that Kafka has."""
    found = []
    for record in records_of(address, TOPICS["metrics"].kafka_name):
        found += points_of(events.decode(record.value, events.MetricBatch))
    return sorted(found)


@pytest.mark.skipif(not _can_contain(), reason="containers cannot be made here: that takes root on Linux, and unshare")
def test_a_journal_is_left_to_the_container_s_own_forwarder_and_sent_when_the_container_is_killed(
    kafka_broker: str, tmp_path: Path
):
    admin = KafkaAdminClient(bootstrap_servers=kafka_broker)
    create_or_check(admin, replication_factor=1)
    admin.close()
    runs = tmp_path / "runs"
    env = {**os.environ, "PULSETRAIN_DIR": str(runs), "PYTHONPATH": os.pathsep.join(sys.path)}
    # The container does not reach Kafka, so its forwarder has everything to send when it dies.
    (nowhere,) = free_ports(1)
    inside = {**env, "PULSETRAIN_HOME": str(tmp_path / "inside"), "PULSETRAIN_KAFKA": f"{HOST}:{nowhere}"}
    outside = {**env, "PULSETRAIN_HOME": str(tmp_path / "outside"), "PULSETRAIN_KAFKA": kafka_broker}
    with _container(inside) as container:
        assert container.stdout is not None
        assert container.stdout.readline() == "logged\n"
        wait_for(lambda: list(runs.glob("run-*/*/owner.lock")), 20, "the container's forwarder")
        with _leftovers(tmp_path, outside):
            wait_for(lambda: _rounds(tmp_path) >= 2, 30, "two looks")
            assert "owned" in (tmp_path / "leftovers.log").read_text()
            assert _received(kafka_broker) == []
            within = psutil.Process(container.pid).children(recursive=True)
            assert any("pulsetrain.forwarder" in " ".join(one.cmdline()) for one in within)
            container.kill()
            psutil.wait_procs(within, timeout=10)
            wait_for(lambda: len(_received(kafka_broker)) >= 1000, 30, "what it left", 0.5)
    (journal,) = (path for path in runs.glob("run-*/*") if _is_a_run(path))
    assert _received(kafka_broker) == sorted(points_logged(journal))
    # Whether its process lives cannot be seen from outside, so it is not told to be over yet.
    assert "it may still run on pod-1" in (tmp_path / "leftovers.log").read_text()


def _is_a_run(folder: Path) -> bool:
    if not list(folder.glob("*.journal")):
        return False
    with JournalReader(folder) as reader:
        return next(iter(reader)).data["role"] == "run"
