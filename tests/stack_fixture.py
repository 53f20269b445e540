"""The real Kafka broker for tests: one for the whole session, on a free port, in a directory that goes away."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pulsetrain_local import kafka, kafka_jars
from pulsetrain_local.java import NoJava, find_java
from pulsetrain_local.rehearsal import exercise
from pulsetrain_local.tether import tethered
from tests.waiting import wait_for


class Broker:
    """A broker that a test may stop, kill and start again; its port and its data stay the same."""

    def __init__(self, directory: Path) -> None:
        self.java = find_java()
        self.installation = kafka_jars.install(self.java)
        kafka.rehearse(self.java, self.installation, exercise)
        self.directory = directory
        self.ports = kafka.BrokerPorts(*kafka.free_ports(2))
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return self.ports.address

    def start(self, timeout: float = 60) -> None:
        command = kafka.prepare(self.directory, self.ports, self.java, self.installation)
        with (self.directory / "broker.log").open("ab") as log:
            self.process = subprocess.Popen(
                tethered(command, os.getpid()),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=kafka.broker_environment(),
                start_new_session=True,
            )
        wait_for(self._answers, timeout, f"an answer of the broker (its log: {self.directory / 'broker.log'})", 0.05)

    def stop(self) -> None:
        """Asks it to end, as an orderly shutdown does."""
        if self.process is not None:
            self.process.terminate()
            try:
                self.process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                self.kill()
            self.process = None

    def kill(self) -> None:
        """kill -9."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, (self.directory / "broker.log").read_text(errors="replace")[-3000:]
        return kafka.answers(self.ports.clients)


@contextmanager
def running_broker(directory: Path) -> Iterator[Broker]:
    """A broker of one's own, for a test that kills it."""
    broker = Broker(directory)
    try:
        broker.start()
        yield broker
    finally:
        broker.stop()


@pytest.fixture(scope="session")
def kafka_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The bootstrap address of a broker that the whole session shares: use topics and groups of your own names."""
    try:
        find_java()
        kafka_jars.install(find_java())
    except (NoJava, kafka_jars.KafkaNotInstalled) as error:
        pytest.skip(f"the Kafka broker cannot run here: {error}")
    with running_broker(tmp_path_factory.mktemp("kafka")) as broker:
        yield broker.address
