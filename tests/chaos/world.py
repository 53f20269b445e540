"""The real pipeline in the hands of the harness: every process can be killed, stopped, held down, and comes back.

What the local stack's supervisor does, restarting what dies, is done here, so that a fault may also keep something
down. Two things are harder than in earnest: a proxy stands before the broker and the database, and the tables are
plain MergeTree, so that a row which is stored twice stays twice and no merge hides it.
"""

import contextlib
import itertools
import json
import mmap
import os
import random
import re
import signal
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.errors import KafkaError

from pulsetrain_consumers.clickhouse import ClickHouseUnavailable, connect
from pulsetrain_consumers.clickhouse import migrate as migrating
from pulsetrain_consumers.writer.service import GROUP
from pulsetrain_consumers.writer.sink import WRITER_TOPICS
from pulsetrain_local.tether import tethered
from pulsetrain_schemas import migrations
from pulsetrain_schemas.addresses import ClickHouseAddress
from pulsetrain_schemas.topics import TOPICS, create_or_check
from tests.chaos.disks import Disk
from tests.chaos.ledger import Counted, Ledger
from tests.chaos.proxy import Proxy
from tests.clickhouse_fixture import ClickHouse
from tests.stack_fixture import Broker
from tests.waiting import wait_for

DATABASE = "pulsetrain"
DISK_BYTES = 1 << 30
RESTART_SECONDS = 0.2
SESSION_SECONDS = "6"
_ROWS_ONCE = re.compile(
    r"(CREATE TABLE (?:metrics|texts|system|logs|run_events)\b.*?ENGINE = )ReplacingMergeTree\b", re.DOTALL
)


@dataclass(slots=True)
class Workload:
    """A training process, what it was told, and the counters of what its log() calls returned for."""

    name: str
    project: str
    run_id: str
    kind: str
    ledger: Ledger
    process: "subprocess.Popen[bytes]"
    log: Path
    online: bool
    stop_file: Path
    alerts: bool = False
    """Whether it raises alerts of its own."""
    killed: bool = False

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    @property
    def may_be_no_run(self) -> bool:
        """Whether it was killed before it logged anything, so maybe before its run began."""
        return self.killed and not self.counted()

    def counted(self) -> list[Counted]:
        return self.ledger.counted()


class ProxiedBroker(Broker):
    """A broker that tells its clients the address of a proxy, behind which it may be cut off."""

    def __init__(self, directory: Path, seed: int) -> None:
        super().__init__(directory)
        self.proxy = Proxy(lambda: ("127.0.0.1", self.ports.clients), seed)

    def command(self) -> list[str]:
        command = super().command()
        properties = self.directory / "server.properties"
        told = f"advertised.listeners=PLAINTEXT://127.0.0.1:{self.ports.clients}"
        text = properties.read_text()
        assert told in text
        properties.write_text(text.replace(told, f"advertised.listeners=PLAINTEXT://{self.proxy.address}"))
        return command


class WriterSlot:
    """A place for one writer process; what stands in it is started again when it dies."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.process: subprocess.Popen[bytes] | None = None
        self.next_options: list[str] = []
        """For the next process only, as a boundary at which it dies."""

    @property
    def name(self) -> str:
        return f"writer-{self.number}"


class World:
    """Everything between log() and ClickHouse. Use as a context manager; `say` prints what happens."""

    def __init__(
        self,
        directory: Path,
        seed: int,
        say: Callable[[str], None],
        *,
        writers: int = 2,
        writer_mutant: str | None = None,
        forwarder_mutant: str | None = None,
    ) -> None:
        self.directory = directory
        self.random = random.Random(seed)
        self.say = say
        self.workloads: list[Workload] = []
        self._numbers = itertools.count()  # faults start processes too, at the same time
        self.happened: Counter[str] = Counter()
        self.writer_slots = [WriterSlot(number) for number in range(writers)]
        self._writer_mutant = writer_mutant
        self.monitor: subprocess.Popen[bytes] | None = None
        names = ["broker", "clickhouse", "monitor", *(slot.name for slot in self.writer_slots)]
        self._held = {name: threading.Lock() for name in names}
        self._leave = threading.Event()
        self._keeper = threading.Thread(target=self._keep_alive, name="keeper", daemon=True)
        self._log_files: list[Any] = []
        directory.mkdir(parents=True, exist_ok=True)
        self.journal_disk = Disk(directory / "journal-disk", DISK_BYTES)
        self.broker_disk = Disk(directory / "broker-disk", DISK_BYTES)
        self.clickhouse_disk = Disk(directory / "clickhouse-disk", DISK_BYTES)
        self.home = self.journal_disk.path / "home"
        self.runs = self.journal_disk.path / "runs"
        self.elsewhere = directory / "elsewhere"
        """The run folders of a machine that is never online."""
        self._clock = directory / "clock"
        self._clock.write_bytes(struct.pack("<d", 0.0))
        self.broker = ProxiedBroker(self.broker_disk.path / "kafka", seed)
        self.clickhouse = ClickHouse(self.clickhouse_disk.path / "clickhouse")
        self.clickhouse_proxy = Proxy(lambda: (self.clickhouse.host, self.clickhouse.port), seed + 1)
        self.address = ClickHouseAddress(
            "127.0.0.1", self.clickhouse_proxy.port, self.clickhouse.user, self.clickhouse.password, DATABASE
        )
        interposed = Path(__file__).parent / "interposed"
        path = [str(interposed), str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("PULSETRAIN_", "WANDB_"))}
        self.env = {
            **inherited,
            "PULSETRAIN_HOME": str(self.home),
            "PULSETRAIN_DIR": str(self.runs),
            "PULSETRAIN_KAFKA": self.broker.proxy.address,
            "PULSETRAIN_CLICKHOUSE": self.address.url(),
            "PYTHONPATH": os.pathsep.join(entry for entry in path if entry),
            "CHAOS_CLOCK": str(self._clock),
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
        }
        if forwarder_mutant:
            self.env["CHAOS_FORWARDER_MUTANT"] = forwarder_mutant

    # -- life

    def __enter__(self) -> "World":
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _start(self) -> None:
        self.home.mkdir()
        self.runs.mkdir()
        self.broker.start()
        self.clickhouse.start()
        admin = KafkaAdminClient(bootstrap_servers=self.broker.address)
        try:
            create_or_check(admin, replication_factor=1)
        finally:
            admin.close()
        with _plain_tables():
            migrating.migrate(self.address)
        for slot in self.writer_slots:
            self.start_writer(slot)
        self.start_monitor()
        self._keeper.start()

    def __exit__(self, *_: object) -> None:
        self._leave.set()
        if self._keeper.is_alive():
            self._keeper.join(30)
        for disk in self.disks():
            disk.free()
        for workload in self.workloads:
            if workload.running:
                workload.process.kill()
                workload.process.wait()
        self._end_forwarders()
        for slot in self.writer_slots:
            if slot.process is not None:
                slot.process.kill()
                slot.process.wait()
        if self.monitor is not None:
            self.monitor.kill()
            self.monitor.wait()
        if self.clickhouse.process is not None:
            self.clickhouse.kill()
        self.broker.kill()
        self.broker.proxy.close()
        self.clickhouse_proxy.close()
        for file in self._log_files:
            file.close()
        for disk in self.disks():
            disk.unmount()

    def disks(self) -> tuple[Disk, Disk, Disk]:
        return self.journal_disk, self.broker_disk, self.clickhouse_disk

    def pause(self, seconds: float) -> None:
        """Lets time pass while a fault lasts."""
        self._leave.wait(seconds)

    @contextlib.contextmanager
    def held_down(self, what: str) -> Iterator[None]:
        """Within it, what dies of this name (broker, clickhouse, writer-0 …) is not started again but by the caller."""
        with self._held[what]:
            yield

    def _keep_alive(self) -> None:
        while not self._leave.wait(RESTART_SECONDS):
            for name, process, start in self._kept():
                lock = self._held[name]
                if lock.acquire(blocking=False):
                    try:
                        current = process()
                        if current is not None and current.poll() is not None:
                            self._revive(name, start)
                    finally:
                        lock.release()

    def _kept(self) -> Iterator[tuple[str, Callable[[], "subprocess.Popen[bytes] | None"], Callable[[], None]]]:
        yield "broker", lambda: self.broker.process, self.broker.start
        yield "clickhouse", lambda: self.clickhouse.process, self.clickhouse.start
        yield "monitor", lambda: self.monitor, self.start_monitor
        for slot in self.writer_slots:
            yield slot.name, lambda slot=slot: slot.process, lambda slot=slot: self.start_writer(slot)

    def _revive(self, name: str, start: Callable[[], None]) -> None:
        try:
            start()
            self.happened[f"{name} started again"] += 1
        except AssertionError as error:  # it died again, as on a disk that is full: the next look tries again
            self.happened[f"{name} did not start"] += 1
            if self.happened[f"{name} did not start"] > 50:
                self.say(f"{name} does not start: {error}")

    # -- the parts

    def _open_log(self, name: str) -> Any:
        file = (self.directory / f"{name}.log").open("ab")
        self._log_files.append(file)
        return file

    def start_writer(self, slot: WriterSlot) -> None:
        options, slot.next_options = slot.next_options, []
        if self._writer_mutant:
            options = [*options, "--mutant", self._writer_mutant]
        command = [sys.executable, "-m", "tests.chaos.writer_process", *options, "--"]
        command += ["--session-timeout", SESSION_SECONDS]
        log = self._open_log(slot.name)
        slot.process = subprocess.Popen(tethered(command, os.getpid()), env=self.env, stdout=log, stderr=log)

    def kill_writer(self, slot: WriterSlot, *next_options: str) -> None:
        """kill -9; the process that follows gets these options."""
        assert slot.process is not None
        slot.next_options = list(next_options)
        slot.process.kill()
        slot.process.wait()

    def start_monitor(self) -> None:
        command = [sys.executable, "-m", "pulsetrain.commands", "consumer", "monitor"]
        command += ["--session-timeout", SESSION_SECONDS]
        log = self._open_log("monitor")
        self.monitor = subprocess.Popen(tethered(command, os.getpid()), env=self.env, stdout=log, stderr=log)

    def kill_monitor(self) -> None:
        """kill -9 of the monitor; another takes its place."""
        if self.monitor is not None:
            self.monitor.kill()
            self.monitor.wait()

    def forwarder_pids(self) -> list[int]:
        """The forwarders that live; at most one but for a moment."""
        found = []
        for status in (self.home / "forwarder").glob("*/status.json"):
            with contextlib.suppress(OSError, ValueError, KeyError, psutil.Error):
                process = psutil.Process(json.loads(status.read_text())["pid"])
                if "pulsetrain.forwarder" in process.cmdline():
                    found.append(process.pid)
        return found

    def kill_forwarder(self) -> None:
        """kill -9 of the forwarder, if there is one at this moment."""
        for pid in self.forwarder_pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _end_forwarders(self) -> None:
        """All of this home: by their environment, for one that hangs may have written no status."""
        for process in psutil.process_iter(["cmdline"]):
            command = process.info["cmdline"] or []
            if "pulsetrain.forwarder" in command and str(self.home) in command:
                with contextlib.suppress(psutil.Error):
                    process.kill()

    def shift_clock(self, seconds: float) -> None:
        """The wall clock of all processes jumps to so many seconds from the true time."""
        with self._clock.open("r+b") as file, mmap.mmap(file.fileno(), 8) as shared:
            shared[:8] = struct.pack("<d", seconds)

    def recreate_topic(self, name: str) -> None:
        """Deletes a topic with all that is in it, and creates it anew."""
        admin = KafkaAdminClient(bootstrap_servers=self.broker.address)
        kafka_name = TOPICS[name].kafka_name
        try:
            admin.delete_topics([kafka_name])
            wait_for(lambda: kafka_name not in admin.list_topics(), 30, f"the end of {kafka_name}")

            def created() -> bool:
                try:
                    create_or_check(admin, [TOPICS[name]], replication_factor=1)
                except KafkaError:
                    return False  # still being deleted
                return True

            wait_for(created, 30, f"a new {kafka_name}", 0.2)
        finally:
            admin.close()

    def send(self, topic: str, payloads: Sequence[bytes]) -> None:
        """Sends messages of the harness's own to a topic, past the proxy, once the broker is back."""

        def producer_of_it() -> "KafkaProducer | None":
            with contextlib.suppress(KafkaError):
                return KafkaProducer(bootstrap_servers=self.broker.address, acks="all")
            return None

        producer = wait_for(producer_of_it, 120, "a broker that answers", 1.0)
        try:
            for number, payload in enumerate(payloads):
                producer.send(TOPICS[topic].kafka_name, payload, key=f"poison-{number}".encode())
            producer.flush(timeout=30)
        finally:
            producer.close(timeout=5)

    def group_members(self) -> int:
        """How many members the writers' group has, as the broker sees it."""
        admin = KafkaAdminClient(bootstrap_servers=self.broker.address)
        try:
            found = admin.describe_groups([GROUP])
            return len(found[GROUP]["members"])
        finally:
            admin.close()

    def lag(self) -> int:
        """How many messages of the writers' topics are not committed as stored."""
        consumer = KafkaConsumer(bootstrap_servers=self.broker.address, group_id=GROUP, enable_auto_commit=False)
        try:
            partitions = [
                TopicPartition(topic, number)
                for topic in WRITER_TOPICS
                for number in consumer.partitions_for_topic(topic) or ()
            ]
            ends = consumer.end_offsets(partitions)
            return sum(ends[partition] - (consumer.committed(partition) or 0) for partition in partitions)
        finally:
            consumer.close(autocommit=False)

    # -- what trains

    def train(
        self,
        project: str,
        kind: str = "plain",
        *,
        rate: float = 500,
        rows: int | None = None,
        run_id: str | None = None,
        rank: int = 0,
        resume: str | None = None,
        online: bool = True,
        finish_timeout: float = 60,
    ) -> Workload:
        """Starts a training process. `rate`: rows a second and stream, 0 for as fast as it goes."""
        name = f"{kind[:1]}{next(self._numbers)}"
        run_id = run_id or f"{project}-{name}"
        ledger_file = self.directory / f"{name}.ledger"
        ledger = Ledger(ledger_file, create=True)
        directory = self.runs if online else self.elsewhere
        stop_file = self.directory / f"{project}.stop"
        arguments = [
            str(ledger_file), "--project", project, "--run-id", run_id, "--kind", kind, "--rank", str(rank),
            "--rate", str(rate), "--seed", str(self.random.getrandbits(30)), "--finish-timeout", str(finish_timeout),
            "--mode", "online" if online else "offline", "--stop-file", str(stop_file),
        ]  # fmt: skip
        if rows is not None:
            arguments += ["--rows", str(rows)]
        if resume:
            arguments += ["--resume", resume]
        command = [sys.executable, "-m", "tests.chaos.workload", *arguments]
        log = self._open_log(name)
        process = subprocess.Popen(
            tethered(command, os.getpid()),
            env={**self.env, "PULSETRAIN_DIR": str(directory)},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        workload = Workload(
            name, project, run_id, kind, ledger, process, Path(log.name), online, stop_file, alerts=rate > 0
        )
        self.workloads.append(workload)
        return workload

    def of(self, project: str) -> list[Workload]:
        return [workload for workload in self.workloads if workload.project == project]

    def wait_logging(self, workload: Workload, rows: int = 1, timeout: float = 30) -> None:
        """Waits until the process has logged so many rows a stream."""

        def logs() -> bool:
            assert workload.running, workload.log.read_text(errors="replace")[-3000:]
            return any(stream.returned >= rows for stream in workload.counted())

        wait_for(logs, timeout, f"{rows} rows of {workload.name}")

    def kill_training(self, workload: Workload) -> None:
        """kill -9 of a training process and what it has forked."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(workload.process.pid, signal.SIGKILL)
        workload.killed = workload.process.wait() == -signal.SIGKILL

    def stop_training(self, project: str, timeout: float) -> None:
        """Asks the processes of a project to end, and waits until they have."""
        workloads = self.of(project)
        for workload in workloads:
            workload.stop_file.touch()
        for workload in workloads:
            try:
                workload.process.wait(timeout)
            except subprocess.TimeoutExpired:
                tail = workload.log.read_text(errors="replace")[-2000:]
                raise AssertionError(f"{workload.name} did not end within {timeout:g} s:\n{tail}") from None
        for workload in workloads:
            code = workload.process.returncode
            assert workload.killed or code == 0, (
                f"{workload.name} ended with {code}:\n{workload.log.read_text(errors='replace')[-3000:]}"
            )

    def pulsetrain(self, *arguments: str, timeout: float = 600) -> "subprocess.CompletedProcess[str]":
        """Runs the command."""
        command = [sys.executable, "-m", "pulsetrain.commands", *arguments]
        return subprocess.run(command, env=self.env, capture_output=True, text=True, timeout=timeout, check=False)

    def query(self, sql: str, parameters: dict[str, Any] | None = None) -> Sequence[tuple[Any, ...]]:
        """Asks ClickHouse, past the proxy; again for as long as it is just coming back."""
        deadline = time.monotonic() + 60
        while True:
            try:
                with connect(replace(self.address, host=self.clickhouse.host, port=self.clickhouse.port)) as client:
                    return list(client.query(sql, parameters or {}).rows)
            except ClickHouseUnavailable:
                if time.monotonic() > deadline:
                    raise
                self.pause(0.2)


@contextlib.contextmanager
def _plain_tables() -> Iterator[None]:
    """The migrations, with tables in which a row that is stored twice stays twice."""
    load = migrations.load

    def plain() -> tuple[migrations.Migration, ...]:
        return tuple(
            replace(migration, statements=tuple(_ROWS_ONCE.sub(r"\1MergeTree", sql) for sql in migration.statements))
            for migration in load()
        )

    migrations.load = plain  # type: ignore[assignment]
    try:
        yield
    finally:
        migrations.load = load
