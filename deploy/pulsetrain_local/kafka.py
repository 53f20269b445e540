"""The real Apache Kafka broker as one local process: broker and controller in KRaft mode, on loopback only.

`prepare` lays out a broker's directory and gives the command that runs it; `answers` asks a broker whether it is
ready; `rehearse` makes every later start quick, by letting the Java in use write down the classes that a broker loads
(class data sharing, or the ahead-of-time cache from Java 25 on: a start falls from 3.3 s to 1.5 s on two cores).
"""

import contextlib
import os
import shutil
import socket
import struct
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from pulsetrain_local.java import Java
from pulsetrain_local.kafka_jars import KafkaInstallation, Silent, locked, new_uuid
from pulsetrain_local.ports import HOST, free_ports

MAX_MESSAGE_BYTES = 8 * 1024 * 1024
_NODE = 1
_DAY_HOURS = 24
_API_VERSIONS = 18


@dataclass(frozen=True, slots=True)
class BrokerPorts:
    """Where clients connect, and where the broker talks to itself as its controller."""

    clients: int
    controller: int

    @property
    def address(self) -> str:
        return f"{HOST}:{self.clients}"


def prepare(
    directory: Path, ports: BrokerPorts, java: Java, kafka: KafkaInstallation, *, extra_options: Sequence[str] = ()
) -> list[str]:
    """Makes `directory` a broker's home, keeping the data that is there, and returns the command that runs it."""
    data = directory / "data"
    directory.mkdir(parents=True, exist_ok=True)
    if not (data / "meta.properties").exists():
        _lay_out_storage(data, kafka)
    properties = directory / "server.properties"
    properties.write_text("".join(f"{name}={value}\n" for name, value in settings(data, ports).items()))
    logging = directory / "log4j2.properties"
    logging.write_text(resources.files("pulsetrain_local").joinpath("kafka_log4j2.properties").read_text())
    options = directory / "java.options"
    options.write_text("".join(f"{_quoted(option)}\n" for option in _java_options(java, kafka, logging, extra_options)))
    return [str(java.executable), f"@{options}", "kafka.Kafka", str(properties)]


def settings(data: Path, ports: BrokerPorts) -> dict[str, object]:
    """The broker's server.properties."""
    return {
        "process.roles": "broker,controller",
        "node.id": _NODE,
        "controller.quorum.voters": f"{_NODE}@{HOST}:{ports.controller}",
        "listeners": f"PLAINTEXT://{HOST}:{ports.clients},CONTROLLER://{HOST}:{ports.controller}",
        "advertised.listeners": f"PLAINTEXT://{HOST}:{ports.clients}",
        "controller.listener.names": "CONTROLLER",
        "inter.broker.listener.name": "PLAINTEXT",
        "log.dirs": data,
        "message.max.bytes": MAX_MESSAGE_BYTES,
        "replica.fetch.max.bytes": MAX_MESSAGE_BYTES,
        # Topics are made by `pulsetrain topics`, with the partitions and the retention that they are to have.
        "auto.create.topics.enable": "false",
        "log.retention.hours": 7 * _DAY_HOURS,
        "log.segment.bytes": 128 * 1024 * 1024,
        # Committed offsets are what exactly-once leans on: a stack that was down for months still finds them.
        "offsets.retention.minutes": 365 * _DAY_HOURS * 60,
        "offsets.topic.replication.factor": 1,
        "offsets.topic.num.partitions": 4,
        "offsets.topic.segment.bytes": 16 * 1024 * 1024,
        "transaction.state.log.replication.factor": 1,
        "transaction.state.log.min.isr": 1,
        "transaction.state.log.num.partitions": 4,
        "share.coordinator.state.topic.replication.factor": 1,
        "share.coordinator.state.topic.min.isr": 1,
        "group.initial.rebalance.delay.ms": 0,
        # A broker that was killed is let in again when the session of its former life is over: not 9 s later.
        "broker.session.timeout.ms": 3_000,
        "broker.heartbeat.interval.ms": 500,
        # One machine, shared with a training job: few threads, a small cleaner, no idle writes.
        "num.network.threads": 2,
        "num.io.threads": 4,
        "background.threads": 2,
        "log.cleaner.dedupe.buffer.size": 16 * 1024 * 1024,
        "log.cleaner.io.buffer.size": 256 * 1024,
        "metadata.max.idle.interval.ms": 10_000,
    }


def answers(port: int, host: str = HOST, timeout: float = 2.0) -> bool:
    """Whether a broker there answers Kafka's protocol: one ApiVersions request, version 0, and a first byte back."""
    client = b"pulsetrain"
    request = struct.pack(">hhih", _API_VERSIONS, 0, 1, len(client)) + client
    try:
        with socket.create_connection((host, port), timeout=timeout) as connection:
            connection.sendall(struct.pack(">i", len(request)) + request)
            return len(connection.recv(1)) == 1
    except OSError:
        return False


def rehearse(java: Java, kafka: KafkaInstallation, exercise: Callable[[str], None] | None = None) -> bool:
    """Starts a broker aside, once for each Java, so that it leaves the archive that later starts read.

    `exercise` may use the broker at the address it is given, so that those classes are in the archive too. Returns
    whether there is an archive; where there cannot be one, starts are slower and all else is the same.
    """
    archive = kafka.quick_start(java)
    if archive is None or archive.exists():
        return archive is not None
    with locked(archive.with_suffix(".lock"), Silent()):
        if archive.exists():
            return True
        with tempfile.TemporaryDirectory(prefix="pulsetrain-kafka-") as directory:
            made = Path(directory) / archive.name
            option = "AOTCacheOutput" if archive.suffix == ".aot" else "ArchiveClassesAtExit"
            ports = BrokerPorts(*free_ports(2))
            command = prepare(Path(directory), ports, java, kafka, extra_options=[f"-XX:{option}={made}"])
            with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as broker:
                try:
                    _wait_until_it_answers(broker, ports.clients, timeout=60)
                    if exercise is not None:
                        exercise(ports.address)
                    broker.terminate()
                    broker.wait(timeout=60)
                except (TimeoutError, subprocess.TimeoutExpired):
                    return False
                finally:
                    broker.kill()
            if not made.exists():
                return False
            whole = archive.with_name(archive.name + ".partial")
            shutil.copyfile(made, whole)
            whole.rename(archive)
    return True


def _wait_until_it_answers(broker: "subprocess.Popen[bytes]", port: int, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    while not answers(port):
        if broker.poll() is not None or time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(0.05)


def _lay_out_storage(data: Path, kafka: KafkaInstallation) -> None:
    """What `kafka-storage format` does, from the storage formatted at installation: no JVM is started for it."""
    aside = data.with_name(data.name + ".formatting")
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(aside)
    shutil.copytree(kafka.formatted, aside)
    (aside / "meta.properties").write_text(
        f"version=1\ncluster.id={new_uuid()}\nnode.id={_NODE}\ndirectory.id={new_uuid()}\n"
    )
    aside.rename(data)


def _java_options(java: Java, kafka: KafkaInstallation, logging: Path, extra: Sequence[str]) -> list[str]:
    options = [
        "-Xms64m",
        "-Xmx512m",
        # The broker waits more than it computes: quick to start and small counts for more than the last tenth of speed.
        "-XX:TieredStopAtLevel=1",
        "-XX:+UseSerialGC",
        "-XX:+ExitOnOutOfMemoryError",
        "-Djava.awt.headless=true",
        f"-Dlog4j2.configurationFile={logging}",
    ]
    archive = kafka.quick_start(java)
    if archive is not None and archive.exists() and not extra:
        options.append(f"-XX:{'AOTCache' if archive.suffix == '.aot' else 'SharedArchiveFile'}={archive}")
    if java.version >= 24:
        # What the JVM says of its own archive tells nobody anything.
        options += ["-Xlog:aot*=off", "--enable-native-access=ALL-UNNAMED", "--sun-misc-unsafe-memory-access=allow"]
    return [*options, *extra, "-cp", kafka.class_path]


def _quoted(option: str) -> str:
    """An option as a line of a java argument file."""
    return '"' + option.replace("\\", "\\\\").replace('"', '\\"') + '"'


def broker_environment(env: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The environment for a broker: the user's, less what would change the JVM behind our back."""
    return {
        name: value for name, value in env.items() if name not in ("JDK_JAVA_OPTIONS", "JAVA_TOOL_OPTIONS", "CLASSPATH")
    }
