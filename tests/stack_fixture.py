"""The real servers for tests: a Kafka broker, and the whole local stack, in directories that go away.

`kafka_broker` is shared by a module, for the topics have the same names everywhere; `stack` by the whole session. A
test that stops or kills something takes one of its own with `running_broker` or `running_stack`. All of them end with
the test process, however that ends.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from pulsetrain_local import kafka, kafka_jars, launch
from pulsetrain_local.home import Home
from pulsetrain_local.java import NoJava, find_java
from pulsetrain_local.rehearsal import exercise
from pulsetrain_local.stack import WantedPorts
from pulsetrain_local.tether import tethered
from pulsetrain_schemas import addresses
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

    def command(self) -> list[str]:
        """Lays out its directory and gives the command that runs it."""
        return kafka.prepare(self.directory, self.ports, self.java, self.installation)

    def start(self, timeout: float = 60) -> None:
        command = self.command()
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


@pytest.fixture(scope="module")
def kafka_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The bootstrap address of a broker that the tests of one module share: it is empty when they begin."""
    try:
        find_java()
        kafka_jars.install(find_java())
    except (NoJava, kafka_jars.KafkaNotInstalled) as error:
        pytest.skip(f"the Kafka broker cannot run here: {error}")
    with running_broker(tmp_path_factory.mktemp("kafka")) as broker:
        yield broker.address


class Silence:
    """A reporter that shows nothing: a start that fails raises with the reason."""

    def starting(self, name: str) -> None: ...
    def ready(self, name: str, took: float, address: str | None) -> None: ...
    def ended(self, name: str, exit_code: int | None, log: str) -> None: ...
    def all_ready(self, seconds: float) -> None: ...
    def stopping(self) -> None: ...


class Stack:
    """A local stack that is up: how to reach it, and what tests do to it."""

    def __init__(self, home: Path, runs: Path) -> None:
        self.home = home
        said = self.said()
        inherited = {
            name: value for name, value in os.environ.items() if not name.startswith(("PULSETRAIN_", "WANDB_"))
        }
        self.env: dict[str, str] = {**inherited, "PULSETRAIN_HOME": str(home), "PULSETRAIN_DIR": str(runs)}
        """What a process needs to find the stack by its home, as a person's processes do."""
        self.addresses: dict[str, str] = said["environment"]
        """The PULSETRAIN_* values that reach it from anywhere."""

    def said(self) -> dict[str, Any]:
        """What stack.json says now."""
        return json.loads((self.home / "stack.json").read_text())

    def services(self) -> dict[str, dict[str, Any]]:
        """The services by name, with their process ids and states."""
        return {entry["name"]: entry for entry in self.said()["services"]}

    def pid(self, service: str) -> int:
        """The process of a service."""
        return int(self.services()[service]["pid"])

    def kill(self, service: str) -> int:
        """kill -9 of a service; returns the process id that it had."""
        pid = self.pid(service)
        os.kill(pid, signal.SIGKILL)
        return pid

    def wait_restarted(self, service: str, former: int, timeout: float = 60) -> int:
        """Waits until the service runs as another process than `former`."""

        def again() -> int:
            entry = self.services()[service]
            return entry["pid"] if entry["state"] == "running" and entry["pid"] not in (None, former) else 0

        return wait_for(again, timeout, f"a new process of {service}")

    def pulsetrain(
        self, *arguments: str, timeout: float = 60, check: bool = True, env: Mapping[str, str] | None = None
    ) -> "subprocess.CompletedProcess[str]":
        """Runs the `pulsetrain` command against this stack."""
        command = [sys.executable, "-m", "pulsetrain.commands", *arguments]
        return self._run(command, timeout, check, env)

    def python(
        self, *arguments: str, timeout: float = 60, check: bool = True, env: Mapping[str, str] | None = None
    ) -> "subprocess.CompletedProcess[str]":
        """Runs this Python against this stack: a script file, or `-c` and a text."""
        return self._run([sys.executable, *arguments], timeout, check, env)

    def sql(self, query: str, parameters: Mapping[str, Any] | None = None) -> list[tuple[Any, ...]]:
        """Rows of a query, over a connection of its own."""
        from clickhouse_driver import Client

        address = addresses.ClickHouseAddress.parse(self.addresses["PULSETRAIN_CLICKHOUSE"])
        client = Client(
            address.host, port=address.port, user=address.user, password=address.password, database=address.database
        )
        try:
            return client.execute(query, parameters)
        finally:
            client.disconnect()

    def _run(
        self, command: list[str], timeout: float, check: bool, env: Mapping[str, str] | None
    ) -> "subprocess.CompletedProcess[str]":
        environment = {**self.env, **(env or {})}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout, check=False)
        if check:
            assert done.returncode == 0, f"{command[1:]} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
        return done


@contextmanager
def running_stack(directory: Path, **more: str) -> Iterator[Stack]:
    """A whole stack of one's own: Kafka, ClickHouse and the writer, with its forwarders, ended at the end.

    `more` are variables of its environment.
    """
    home = Home(directory / "home")
    home.create()
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PULSETRAIN_", "WANDB_"))}
    env |= {"PULSETRAIN_GRAFANA_HOME": "off", "PULSETRAIN_PROMETHEUS_HOME": "off", **more}
    launch.prepare_kafka(kafka_jars.Silent(), env)
    with (
        home.log("supervisor").open("ab") as log,
        subprocess.Popen(
            tethered(launch.supervisor_command(home, WantedPorts(), timeout=90), os.getpid()),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            env=env,
            text=True,
            start_new_session=True,
        ) as supervisor,
    ):
        try:
            launch.follow(supervisor, home, Silence())
            yield Stack(home.root, directory / "runs")
        finally:
            _end_forwarders(home.root)
            supervisor.terminate()


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A whole stack that the session shares: use projects of your own names, and kill nothing of it."""
    try:
        find_java()
        kafka_jars.install(find_java())
    except (NoJava, kafka_jars.KafkaNotInstalled) as error:
        pytest.skip(f"the local stack cannot run here: {error}")
    with running_stack(tmp_path_factory.mktemp("stack")) as running:
        yield running


def _end_forwarders(home: Path) -> None:
    """Ends the forwarders of a home; by themselves they leave only when they have been idle for a while."""
    for status in (home / "forwarder").glob("*/status.json"):
        try:
            process = psutil.Process(json.loads(status.read_text())["pid"])
            if "pulsetrain" in " ".join(process.cmdline()):
                process.terminate()
                process.wait(10)
        except psutil.TimeoutExpired:
            process.kill()
        except (psutil.Error, OSError, ValueError, KeyError):
            continue  # it has left already
