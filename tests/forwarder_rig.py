"""The forwarder on real journals and a broker in memory, with time, delivery, processes and crashes in the hands of the
test.
"""

import contextlib
import errno
import functools
import itertools
import json
import random
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar
from unittest import mock

from pulsetrain._run.summary import SummaryFold
from pulsetrain.forwarder import places, pump, service
from pulsetrain.forwarder.delivery import Message, Outcome
from pulsetrain.forwarder.memory_delivery import MemoryBroker, MemoryDelivery
from pulsetrain.forwarder.ownership import Ownership
from pulsetrain.forwarder.places import Place, Registration
from pulsetrain.forwarder.service import Forwarder
from pulsetrain.forwarder.telemetry import Telemetry
from pulsetrain.journal.format import segment_path
from pulsetrain_schemas import events
from tests.journals import start_run
from tests.writer_rig import Crash, Faults

KINDS = {"metrics": events.MetricBatch, "logs": events.LogBatch, "runs": events.RunEvent, "system": events.SystemBatch}
Writer = str


class Trainer:
    """A training process that logs by a journal of its own, and knows what each call was given."""

    def __init__(self, rig: "Rig", run_id: str, number: int, parent: "Trainer | None" = None) -> None:
        self.rig = rig
        self.run_id = run_id
        self.pid = rig.new_pid()
        self.writer = f"{number:032x}"
        self.journal = start_run(
            rig.folder / run_id,
            self.writer,
            run_id=run_id,
            pid=self.pid,
            pid_created=float(self.pid),
            primary=parent is None,
            # Small ones are left behind soon, with a checkpoint at each; the way through a large one takes many steps.
            segment_bytes=rig.random.choice([8 << 10, 64 << 10]),
        )
        self.directory = self.journal.directory
        self.rows: dict[int, Any] = {}
        self.lines: dict[int, str] = {}
        self.config: dict[str, int] = {}
        self.summary: dict[str, Any] = {}
        self.end: tuple[str, int | None] | None = None
        """State and exit code that it said, None while it says nothing."""
        rig.place.register(self.writer, Registration(str(self.directory), self.pid, float(self.pid)))

    @property
    def logs(self) -> bool:
        """Whether it lives and has not finished."""
        return self.pid in self.rig.alive and self.end is None

    def log(self, what: str, count: int) -> None:
        """So many calls of log() and the like, each of which returns."""
        for _ in range(count):
            sequence = self.journal.sequence + 1
            if what == "console":
                self.journal.event("console", {"stream": "stdout", "line": f"line {sequence}"})
                self.lines[sequence] = f"line {sequence}"
            elif what == "config":
                self.journal.event("config", {"config": {"c": sequence}})
                self.config["c"] = sequence
            elif what == "summary":
                key = f"s{sequence % 2}"
                if key in self.summary:
                    self.journal.event("summary", {"summary": {}, "removed": [key]})
                    del self.summary[key]
                else:
                    self.journal.event("summary", {"summary": {key: "set"}, "removed": []})
                    self.summary[key] = "set"
            elif what == "text":
                self.journal.text_row({"n": float(sequence)}, {"t": f'"{sequence}"'}, sequence, 1e9)
                self.rows[sequence] = (sequence, {"n": float(sequence), "t": f'"{sequence}"'})
                self.summary |= {"n": float(sequence), "t": str(sequence)}
            else:
                keys = ("loss", "acc") if what == "row" else (f"k{sequence % 3}",)
                value = float(sequence if what == "row" else sequence % 2)  # some come back to what they were
                self.journal.row(keys, [value] * len(keys), sequence, 1e9)
                self.rows[sequence] = (sequence, dict.fromkeys(keys, value))
                self.summary |= dict.fromkeys(keys, value)

    def finish(self, state: str = "finished", exit_code: int = 0) -> None:
        """Says how the run ended, and goes on living."""
        self.journal.event("finish", {"state": state, "exit_code": exit_code})
        self.journal.close()
        self.end = (state, exit_code)

    def vanish(self, *, within_log: bool = False) -> None:
        """Is killed, maybe in the middle of a call: then it leaves a body without its length."""
        self.rig.alive.discard(self.pid)
        if self.journal.closed:
            return
        number, offset = self.journal.position
        self.journal.forsake()
        path = segment_path(self.directory, number)
        if within_log and path.stat().st_size > offset + 64:
            with path.open("r+b") as segment:
                segment.seek(offset + 8)
                segment.write(b"\x02\x00\x00\x00\x01\x00\x00\x00" * 4)


class FaultyDelivery(MemoryDelivery):
    """A delivery in the hands of the test, with a boundary before and after each call."""

    def __init__(self, broker: MemoryBroker, faults: Faults) -> None:
        super().__init__(broker, by_hand=True)
        self._faults = faults

    def send(self, message: Message, ticket: Any) -> None:
        self._faults.boundary()
        super().send(message, ticket)
        self._faults.boundary()

    def poll(self) -> Outcome:
        self._faults.boundary()
        outcome = super().poll()
        self._faults.boundary()
        return outcome


class ManualTelemetry(Telemetry):
    """The journals of hardware samples, each of which is taken when told to."""

    def _start_sampler(self) -> None:
        """Time does not pass by itself here."""

    def _visible_devices(self, pid: int) -> str | None:
        return None

    def sample(self, time: float) -> None:
        self._deliver(time, {"host": {"cpu": float(time)}})

    def journals(self) -> Iterator[Any]:
        return (run.journal for run in self._runs.values())


class Process:
    """One forwarder process."""

    def __init__(self, rig: "Rig") -> None:
        self.rig = rig
        self.pid = rig.new_pid()
        self.faults = Faults()
        self.delivery = FaultyDelivery(rig.broker, self.faults)
        own = (self.pid, float(self.pid))
        self.telemetry = ManualTelemetry(
            lambda writer, journal: rig.place.register(writer, Registration(str(journal), *own)),
            psutil=SimpleNamespace(),
            disk=rig.folder,
            nvml=lambda: None,
        )
        self.forwarder = Forwarder(
            rig.place,
            self.delivery,
            self.telemetry,
            host="box",
            own=own,
            make_fold=SummaryFold,
            clock=rig.clock,
            monotonic=lambda: rig.passed,
            idle_exit=0.0,
        )

    def tick(self) -> bool:
        """One round. False where it crashed in there."""
        try:
            self.forwarder.tick()
            return True
        except Crash:
            self.die()
            return False

    def sample(self) -> None:
        """The hardware is sampled once for each live run."""
        self.telemetry.sample(self.rig.clock())
        for journal in self.telemetry.journals():
            self.rig.samples[journal.writer] = journal.sequence

    def die(self) -> None:
        """kill -9: the kernel closes its files, with them its locks go, and nothing else happens."""
        self.rig.alive.discard(self.pid)
        self.rig.process = None
        for journal in self.telemetry.journals():
            journal.forsake()
        for held in list(_Held.all):
            held.release()
        for writer in self.forwarder._writers.values():
            if writer.pump is not None:
                writer.pump.close()
        self.rig.late += self.delivery.interrupt()


class _Held(Ownership):
    """What a process that dies lets go of."""

    all: ClassVar[set["_Held"]] = set()

    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor)
        self.all.add(self)

    def release(self) -> None:
        if self in self.all:
            self.all.remove(self)
            super().release()


class FaultyPlace(Place):
    """The forwarder's folder, with a boundary before and after a registration is taken away."""

    rig: "Rig"

    def unregister(self, writer: str) -> None:
        with self.rig.boundaries():
            super().unregister(writer)


class Rig:
    """A broker, a disk, a clock, training processes, and the one forwarder there may be at a time."""

    def __init__(self, folder: Path, seed: int = 0) -> None:
        self.folder = folder
        self.broker = MemoryBroker()
        self.random = random.Random(seed)
        self.passed = 1_000.0
        self.skew = 0.0
        self.disk_full = self.was_full = False
        self.alive: set[int] = set()
        self.trainers: list[Trainer] = []
        self.samples: dict[Writer, int] = {}
        self.process: Process | None = None
        self.late: list[Message] = []
        """What was sent and lost with its connection: some of it may still be on its way to the broker."""
        self.acks: dict[Path, list[bytes]] = {}
        self._arrivals = Arrivals()
        self._pids = itertools.count(1)
        FaultyPlace.rig = self
        self.place = FaultyPlace.of(folder / "home", places.LOCAL)
        self.place.create()
        self._patches = contextlib.ExitStack()
        self._write = places.write_atomically
        for name, module in list(sys.modules.items()):
            if name.startswith("pulsetrain.forwarder.") and hasattr(module, "write_atomically"):
                self._patches.enter_context(mock.patch.object(module, "write_atomically", self._write_with_faults))
        self._patches.enter_context(mock.patch.object(service, "ProcessWatch", functools.partial(_Watch, self)))
        self._patches.enter_context(mock.patch.object(service, "Ownership", _Held))
        # So that what a test logs takes several steps.
        self._patches.enter_context(mock.patch.object(pump, "STEP_BYTES", 2048))

    def close(self) -> None:
        if self.process is not None:
            self.process.die()
        self._patches.close()

    def arrived(self) -> "Arrivals":
        """What the broker has, by writer."""
        return self._arrivals.look(self.broker)

    def clock(self) -> float:
        """The time of day, which may be put forward and back."""
        return 1e9 + self.passed + self.skew

    def new_pid(self) -> int:
        pid = next(self._pids)
        self.alive.add(pid)
        return pid

    def start_forwarder(self) -> Process:
        self.process = Process(self)
        return self.process

    def start_trainer(self, parent: Trainer | None = None) -> Trainer:
        number = len(self.trainers) + 1
        trainer = Trainer(self, f"r{number}" if parent is None else parent.run_id, number, parent)
        self.trainers.append(trainer)
        return trainer

    def lose_connection(self) -> None:
        """The producer is gone. What had not arrived may yet do so, a part of each topic from its beginning."""
        if self.process is not None:
            self.late += self.process.delivery.interrupt()

    def arrive_late(self) -> None:
        """Of what was on the wire of a lost connection, the first messages of each topic arrive, and the rest never."""
        late, self.late = self.late, []
        for topic in KINDS:
            of_topic = [message for message in late if message.topic == topic]
            self.broker.messages += of_topic[: self.random.randint(0, len(of_topic))]

    def lose_acknowledgements(self, what: str) -> None:
        """Power was lost: of files that are not synced, an older version, half of one, or none is left."""
        assert self.process is None
        for path, versions in self.acks.items():
            if path.parent.exists():
                if what == "gone":
                    path.unlink(missing_ok=True)
                else:
                    data = self.random.choice(versions)
                    path.write_bytes(data if what == "old" else data[: len(data) // 2])

    def settle(self, rounds: int = 1000) -> None:
        """Everything works, the processes that still log are gone, and a forwarder works until nothing is left."""
        self.broker.away = self.disk_full = False
        self.broker.max_message_bytes = None
        for trainer in self.trainers:
            if trainer.logs:
                trainer.vanish()
        if self.process is not None:
            self.process.faults.remaining = None
        process = self.process or self.start_forwarder()
        for _ in range(rounds):
            assert process.tick()
            process.delivery.arrive()
            process.delivery.confirm()
            self.passed += 1.0
            if not list(self.place.registrations()):
                return
        raise AssertionError(f"these journals never ended: {[name for name, _ in self.place.registrations()]}")

    @contextlib.contextmanager
    def boundaries(self) -> Iterator[None]:
        """A boundary before and after an effect of the forwarder's."""
        if self.process is not None:
            self.process.faults.boundary()
        yield
        if self.process is not None:
            self.process.faults.boundary()

    def _write_with_faults(self, path: Path, data: bytes) -> None:
        if path.parent == self.place.writers:  # by a process that logs; disks fill for the forwarder alone here
            self._write(path, data)
            return
        if self.disk_full:
            self.was_full = True
            raise OSError(errno.ENOSPC, "No space left on device")
        with self.boundaries():
            self._write(path, data)
            if path.name == "ack.json":
                self.acks.setdefault(path, []).append(data)


class _Watch:
    """Whether a process of the test's lives."""

    def __init__(self, rig: Rig, pid: int, pid_created: float) -> None:
        self.pid = pid
        self._rig = rig
        self._same = pid == pid_created

    def alive(self) -> bool:
        return self._same and self.pid in self._rig.alive

    def send(self, number: signal.Signals) -> None:
        """Nobody is there to get it."""

    def close(self) -> None:
        """Nothing is held open."""


class Arrived:
    """What Kafka has of one writer, checked as it is read: no gap, nothing out of order, nothing in two versions."""

    def __init__(self) -> None:
        self.reached: dict[str, int] = {}
        self.rows: dict[int, Any] = {}
        self.lines: dict[int, str] = {}
        self.ends: list[events.RunEvent] = []
        self.config: dict[str, Any] = {}
        self.summary: dict[str, Any] = {}

    def add(self, topic: str, event: Any) -> None:
        """Takes in the next message that arrived."""
        first, last = event.origin.first_sequence, event.origin.last_sequence
        before = self.reached.get(topic, 0)
        assert first <= before + 1, f"{topic}: {before} is followed by {first}"
        assert first <= last
        self.reached[topic] = max(before, last)
        if topic == "runs":
            self._add_event(event, before)
            return
        found = self.lines if topic == "logs" else self.rows
        for sequence, content in contents(event).items():
            assert first <= sequence <= last
            assert sequence > before or sequence in found, f"{topic}: {sequence} came after {before} had been told"
            assert found.setdefault(sequence, content) == content, f"{sequence} came in two versions"

    def _add_event(self, event: events.RunEvent, before: int) -> None:
        if event.kind == "finish":
            self.ends.append(event)
        if event.origin.last_sequence > before:  # else it is dropped downstream
            self.config.update({key: json.loads(value) for key, value in event.config.items() if value is not None})
            for key, value in event.summary.items():
                if value is None:
                    self.summary.pop(key, None)
                else:
                    self.summary[key] = json.loads(value)


def contents(event: Any) -> dict[int, Any]:
    """What a batch says of each sequence."""
    if isinstance(event, events.LogBatch):
        return dict(zip(event.row_sequences.tolist(), event.lines, strict=True))
    keys = event.keys if isinstance(event, events.MetricBatch) else event.series_metrics
    steps = event.row_steps if isinstance(event, events.MetricBatch) else event.row_times
    found: list[dict[str, Any]] = [{} for _ in event.row_sequences]
    for row, key, value in zip(event.point_rows, event.point_keys, event.values, strict=True):
        found[row][keys[key]] = float(value)
    if isinstance(event, events.MetricBatch):
        for row, key, text in zip(event.text_rows, event.text_keys, event.text_values, strict=True):
            found[row][keys[key]] = text
    return {
        int(sequence): (int(step), values)
        for sequence, step, values in zip(event.row_sequences, steps, found, strict=True)
    }


class Arrivals(dict[Writer, Arrived]):
    """What arrived, by writer, up to the last `look`."""

    def __init__(self) -> None:
        super().__init__()
        self._looked = 0

    def look(self, broker: MemoryBroker) -> "Arrivals":
        """Takes in what is new. AssertionError where ranges leave a gap or a sequence has two contents."""
        for message in broker.messages[self._looked :]:
            self._looked += 1
            event: Any = events.decode(message.payload, KINDS[message.topic])
            self.setdefault(event.origin.writer, Arrived()).add(message.topic, event)
        return self


def judge(rig: Rig) -> None:
    """Everything that was logged has arrived, as it was logged, and each writer has one end with the right counts."""
    found = rig.arrived()
    for trainer in rig.trainers:
        told = found[trainer.writer]
        assert told.rows == trainer.rows
        assert told.lines == trainer.lines
        assert told.config == trainer.config
        assert told.summary == trainer.summary
        # Without room for a note of it, the time of a death may be told in two ways.
        times = {end.time for end in told.ends if not rig.was_full}
        ends = {(end.state, end.exit_code, end.origin.last_sequence) for end in told.ends}
        assert len(times) <= 1
        assert len(ends) == 1, f"{trainer.writer} has several ends: {ends}"
        (end, *_) = told.ends
        assert (end.state, end.exit_code) == (trainer.end or ("killed", None))
        assert end.origin.last_sequence == trainer.journal.sequence + (trainer.end is None)
        texts = sum("t" in values for _, values in trainer.rows.values())
        points = sum(len(values) for _, values in trainer.rows.values()) - texts
        assert {(e.rows, e.points, e.texts) for e in told.ends} == {(len(trainer.rows), points, texts)}
    for writer, sequence in rig.samples.items():
        told = found[writer]
        assert max(told.reached.values()) >= sequence
        assert len({(end.state, end.origin.last_sequence) for end in told.ends}) == 1
