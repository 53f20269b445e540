"""A broker and a ClickHouse of a test's own, with topics and tables, and writer processes between them."""

import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from kafka import KafkaAdminClient, KafkaProducer

from pulsetrain_consumers.clickhouse import connect
from pulsetrain_consumers.clickhouse.migrate import migrate
from pulsetrain_schemas import events
from pulsetrain_schemas.addresses import ClickHouseAddress
from pulsetrain_schemas.topics import TOPICS, create_or_check
from tests.clickhouse_fixture import ClickHouse
from tests.stack_fixture import running_broker
from tests.waiting import wait_for


class WriterProcess:
    """`pulsetrain consumer writer`, or another service, as a process; `command` is the module that is the `pulsetrain`
    command.
    """

    def __init__(
        self,
        pipeline: "Pipeline",
        number: int,
        options: Sequence[str],
        command: str,
        env: Mapping[str, str],
        service: str = "writer",
    ) -> None:
        self.port_file = pipeline.directory / f"{service}-{number}.port"
        self.log_file = pipeline.directory / f"{service}-{number}.log"
        fixed = ["--port-file", str(self.port_file), "--session-timeout", "6"]
        with self.log_file.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", command, "consumer", service, *fixed, *options],
                env={**pipeline.env, **env},
                stdout=log,
                stderr=log,
            )

    @property
    def log(self) -> str:
        return self.log_file.read_text(errors="replace")

    def get(self, path: str) -> tuple[int, str]:
        """Status and text of a page of the service; 0 while it does not listen."""
        assert self.process.poll() is None, self.log[-3000:]
        if not self.port_file.exists():
            return 0, ""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port_file.read_text().strip()}{path}") as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def wait_ready(self) -> "WriterProcess":
        wait_for(lambda: self.get("/readyz")[0] == 200, 30, "a ready writer")
        return self

    def metric(self, name: str) -> float:
        """The sum of a metric over its labels."""
        return self.told(f"pulsetrain_consumer_{name}")

    def told(self, name: str) -> float:
        """The sum of a metric of this whole name over its labels."""
        lines = [line for line in self.get("/metrics")[1].splitlines() if line.startswith(name)]
        return sum(float(line.rpartition(" ")[2]) for line in lines)

    def cpu_seconds(self) -> float:
        """Processor time of the process so far."""
        times = psutil.Process(self.process.pid).cpu_times()
        return times.user + times.system

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        self.process.wait()

    def stop(self, timeout: float = 10) -> int:
        """SIGTERM; its exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout)


class Pipeline:
    """Kafka with the topics, a database with the tables."""

    def __init__(self, directory: Path, broker: str, clickhouse: ClickHouse, database: str) -> None:
        self.directory = directory
        self.broker = broker
        self.address = ClickHouseAddress(
            clickhouse.host, clickhouse.port, clickhouse.user, clickhouse.password, database
        )
        self.env = {
            **os.environ,
            "PULSETRAIN_KAFKA": broker,
            "PULSETRAIN_CLICKHOUSE": self.address.url(),
            "OMP_NUM_THREADS": "1",
        }
        self.writers: list[WriterProcess] = []
        self.producer = KafkaProducer(bootstrap_servers=broker, acks="all", linger_ms=5, max_request_size=8 << 20)
        admin = KafkaAdminClient(bootstrap_servers=broker)
        create_or_check(admin, replication_factor=1)
        admin.close()
        migrate(self.address)
        self.client = connect(self.address)

    def writer(
        self,
        *options: str,
        command: str = "pulsetrain.commands",
        env: Mapping[str, str] | None = None,
        service: str = "writer",
    ) -> WriterProcess:
        process = WriterProcess(self, len(self.writers), options, command, env or {}, service)
        self.writers.append(process)
        return process

    def send(self, event: Any, partition: int | None = None) -> None:
        self.send_bytes(events.schema_name(type(event)), events.encode(event), events.message_key(event), partition)

    def send_bytes(self, topic: str, payload: bytes, key: bytes | None, partition: int | None = None) -> None:
        self.producer.send(TOPICS[topic].kafka_name, payload, key, partition=partition)

    def sent(self) -> None:
        """Returns when everything that was sent is acknowledged."""
        self.producer.flush()

    def count(self, what: str, *, expected: int, timeout: float = 30) -> None:
        """Waits until a count, without FINAL, has a value."""
        sql = f"SELECT count() FROM {what}"
        wait_for(lambda: self.client.query(sql).one() == expected, timeout, f"{expected} from {sql}", 0.1)

    def close(self) -> None:
        for process in self.writers:
            if process.process.poll() is None:
                process.kill()
        self.producer.close(timeout=2)
        self.client.close()


@contextmanager
def running_pipeline(directory: Path, clickhouse: ClickHouse, database: str) -> Iterator[Pipeline]:
    """A pipeline of one's own, on a broker of its own and a database of its own."""
    with running_broker(directory / "kafka") as broker:
        pipeline = Pipeline(directory, broker.address, clickhouse, database)
        try:
            yield pipeline
        finally:
            pipeline.close()
