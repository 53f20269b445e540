"""The loop over several journals: one that fails, one that is offline, one whose process dies."""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from pulsetrain._run.summary import SummaryFold
from pulsetrain.forwarder import acknowledgement
from pulsetrain.forwarder.ledger import removed
from pulsetrain.forwarder.liveness import created
from pulsetrain.forwarder.memory_delivery import MemoryBroker, MemoryDelivery
from pulsetrain.forwarder.ownership import Ownership
from pulsetrain.forwarder.places import LOCAL, Place, Registration, read_json
from pulsetrain.forwarder.retention import Policy, Retention
from pulsetrain.forwarder.service import Forwarder
from pulsetrain.forwarder.telemetry import Telemetry
from pulsetrain.journal.room import Usage
from pulsetrain_schemas import events
from pulsetrain_schemas.framing import SINGLE_OBJECT
from pulsetrain_schemas.registry import RegistryUnavailable
from tests.journals import records, start_run
from tests.waiting import wait_for

OWN = (os.getpid(), created(os.getpid()))


class House:
    """A forwarder over a broker in memory, with real telemetry every 50 ms."""

    def __init__(self, tmp_path: Path) -> None:
        self.place = Place.of(tmp_path / "home", LOCAL)
        self.place.create()
        self.broker = MemoryBroker()
        self.now = [1000.0]
        self.framing = SINGLE_OBJECT
        self.make()

    def make(self) -> None:
        self.delivery = MemoryDelivery(self.broker)
        self.telemetry = Telemetry(
            lambda writer, journal: self.place.register(writer, Registration(str(journal), *OWN)),
            psutil=psutil,
            disk=self.place.path,
            nvml=lambda: None,
            period=0.05,
        )
        self.forwarder = Forwarder(
            self.place,
            self.delivery,
            self.telemetry,
            host="box",
            own=OWN,
            make_fold=SummaryFold,
            framing=self.framing,
            monotonic=lambda: self.now[0],
            idle_exit=0.0,
        )

    def register(self, journal: Path, pid: int = OWN[0], since: float = OWN[1]) -> None:
        self.place.register(journal.name, Registration(str(journal), pid, since))

    def tick_until(self, condition, what: str) -> None:
        def ticked():
            self.now[0] += 0.3
            self.forwarder.tick()
            return condition()

        wait_for(ticked, 10, what)

    def registered(self) -> set[str]:
        return {name for name, _ in self.place.registrations()}

    def runs(self) -> list[events.RunEvent]:
        return [events.decode(message.payload, events.RunEvent) for message in self.broker.of("runs")]


@pytest.fixture
def house(tmp_path):
    made = House(tmp_path)
    yield made
    made.telemetry.stop()


@pytest.fixture
def child():
    with subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE) as process:
        yield process
        process.kill()


def complete(journal: Path) -> bool:
    return bool((read_json(journal / "ack.json") or {}).get("complete"))


def test_a_run_that_ends_is_acknowledged_and_its_registration_and_its_samples_end_with_it(house, tmp_path):
    journal = start_run(tmp_path / "runs")
    house.register(journal.directory)
    house.tick_until(lambda: house.broker.of("system"), "hardware samples")
    assert len(house.registered()) == 2
    journal.row(("loss",), (1.0,), 0, 1.76e9)
    journal.event("finish", {"state": "finished", "exit_code": 0})
    journal.close()
    house.tick_until(lambda: not house.registered(), "the end of the run and of its samples")
    assert complete(journal.directory)
    (samples,) = [path for path in journal.directory.parent.iterdir() if path != journal.directory]
    assert complete(samples)
    assert (samples.parent, journal.directory.parent) == (tmp_path / "runs",) * 2
    status = json.loads(house.place.status.read_text())
    assert (status["broker"], status["pid"]) == ("connected", os.getpid())


def test_a_process_that_dies_ends_its_run_as_killed(house, tmp_path, child):
    since = created(child.pid)
    journal = start_run(tmp_path / "runs", pid=child.pid, pid_created=since)
    journal.row(("loss",), (1.0,), 0, 1.76e9)
    house.register(journal.directory, child.pid, since)
    house.tick_until(lambda: house.broker.of("metrics"), "the row")
    assert [event.state for event in house.runs() if event.state] == ["running"]
    child.kill()
    house.tick_until(lambda: not house.registered(), "the end of the run")
    assert [event.state for event in house.runs() if event.is_primary and event.state] == ["running", "killed"]
    journal.close()


def test_an_offline_run_is_sampled_and_its_death_noted_and_nothing_is_sent(house, tmp_path, child):
    since = created(child.pid)
    journal = start_run(tmp_path / "runs", pid=child.pid, pid_created=since, mode="offline")
    house.register(journal.directory, child.pid, since)
    house.forwarder.tick()
    (samples,) = [path for path in journal.directory.parent.iterdir() if path != journal.directory]
    assert house.registered() == {journal.directory.name}
    child.kill()
    house.tick_until(lambda: not house.registered(), "the end of the run")
    assert house.broker.messages == []
    assert read_json(journal.directory / "end.json")["time"] > 1.7e9
    assert len(records(samples, "finish")) == 1
    journal.close()


def test_a_journal_that_fails_does_not_hold_up_the_others(house, tmp_path, caplog):
    good, bad = start_run(tmp_path / "good", "a" * 32), start_run(tmp_path / "bad", "b" * 32, run_id="r2")
    for journal in (good, bad):
        journal.event("finish", {"state": "finished", "exit_code": 0})
        journal.close()
        house.register(journal.directory)
    house.forwarder.tick()
    house.forwarder._writers[bad.directory.name].pump.step = None  # as a bug in there would have it
    house.tick_until(lambda: house.registered() == {bad.directory.name}, "the end of all but the bad one")
    assert complete(good.directory)
    assert "is left alone" in caplog.text
    house.make()
    house.tick_until(lambda: not house.registered(), "the other journal, by the next forwarder")
    assert complete(bad.directory)


def test_what_is_no_journal_is_refused_and_said_once(house, tmp_path, caplog):
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "00000001.journal").write_bytes(b"nothing of ours" * 10)
    house.register(tmp_path / "x")
    for _ in range(5):
        house.now[0] += 2
        house.forwarder.tick()
    assert caplog.text.count("is left alone") == 1
    assert not house.forwarder.has_news


def test_a_registration_whose_process_died_before_its_first_record_is_dropped(house, tmp_path):
    (tmp_path / "x").mkdir()
    house.register(tmp_path / "x", 2**22 + 1, 1.0)
    house.forwarder.tick()
    assert house.registered() == set()


def test_a_journal_that_sync_sends_just_now_is_taken_over_afterwards(house, tmp_path):
    journal = start_run(tmp_path / "runs")
    ownership = Ownership.take(journal.directory)
    assert ownership is not None
    house.register(journal.directory)
    house.forwarder.tick()
    assert house.broker.messages == []
    ownership.release()
    house.tick_until(lambda: house.broker.of("runs"), "the run's start")
    journal.close()


def test_when_the_broker_is_away_what_is_in_flight_stays_bounded(house, tmp_path, monkeypatch):
    monkeypatch.setattr("pulsetrain.forwarder.service.MAX_IN_FLIGHT_BYTES", 100_000)
    journal = start_run(tmp_path / "runs", segment_bytes=1 << 20)
    for step in range(60_000):
        journal.row(("a", "b", "c"), (1.0, 2.0, 3.0), step, 1.76e9)
    journal.event("finish", {"state": "finished", "exit_code": 0})
    journal.close()
    house.broker.away = True
    house.register(journal.directory)
    for _ in range(50):
        house.forwarder.tick()
    assert house.delivery.in_flight_bytes < 100_000 + (600 << 10)
    house.broker.away = False
    house.tick_until(lambda: complete(journal.directory), "everything")


def test_a_registry_that_is_away_holds_back_without_loss(house, tmp_path):
    class Registry:
        away = True

        def frame(self, name, body):
            if self.away:
                raise RegistryUnavailable("the registry does not answer")
            return SINGLE_OBJECT.frame(name, body)

    house.framing = Registry()
    house.make()
    journal = start_run(tmp_path / "runs")
    journal.event("finish", {"state": "finished", "exit_code": 0})
    journal.close()
    house.register(journal.directory)
    house.forwarder.tick()
    assert json.loads(house.place.status.read_text())["detail"] == "the registry does not answer"
    Registry.away = False
    house.now[0] += 10
    house.tick_until(lambda: complete(journal.directory), "everything")


def test_it_leaves_when_nothing_is_left(house, tmp_path):
    journal = start_run(tmp_path / "runs")
    journal.event("finish", {"state": "finished", "exit_code": 0})
    journal.close()
    house.register(journal.directory)
    clock = iter(range(10**6))
    house.forwarder._monotonic = lambda: float(next(clock))
    house.forwarder.run()
    assert complete(journal.directory)
    assert house.registered() == set()


def test_told_to_stop_it_writes_down_what_was_confirmed_and_leaves_the_living_registered(house, tmp_path):
    journal = start_run(tmp_path / "runs")
    journal.row(("loss",), (1.0,), 0, 1.76e9)
    house.register(journal.directory)
    threading.Timer(0.3, house.forwarder.stop).start()
    house.forwarder._monotonic = time.monotonic
    house.forwarder._idle_exit = 100.0
    house.forwarder.run()
    assert read_json(journal.directory / "ack.json")["sequence"] == 2
    assert house.registered() == {journal.directory.name}
    journal.close()


def test_a_full_disk_delays_the_acknowledgement_and_nothing_else(house, tmp_path, monkeypatch, caplog):
    def no_room(path, data):
        raise OSError(28, "No space left on device")

    write = acknowledgement.write_atomically
    monkeypatch.setattr(acknowledgement, "write_atomically", no_room)
    journal = start_run(tmp_path / "runs")
    journal.event("finish", {"state": "finished", "exit_code": 0})
    journal.close()
    house.register(journal.directory)
    house.tick_until(lambda: any(event.kind == "finish" for event in house.runs()), "the end of the run in Kafka")
    for _ in range(5):
        house.forwarder.tick()
    assert not complete(journal.directory)
    assert caplog.text.count("No space left") == 1
    monkeypatch.setattr(acknowledgement, "write_atomically", write)
    house.tick_until(lambda: complete(journal.directory), "the acknowledgement")


def test_a_run_folder_that_is_deleted_is_let_go(house, tmp_path, caplog):
    journal = start_run(tmp_path / "runs")
    house.register(journal.directory)
    house.tick_until(lambda: house.broker.of("runs"), "the run's start")
    journal.row(("loss",), (1.0,), 0, 1.76e9)
    shutil.rmtree(journal.directory)
    house.tick_until(lambda: "was deleted before all of it was sent" in caplog.text, "word of it")
    assert journal.directory.name not in house.forwarder._writers
    journal.forsake()


def test_a_forwarder_whose_home_is_deleted_leaves(house):
    shutil.rmtree(house.place.path)
    house.forwarder._idle_exit = 1e9
    house.forwarder._monotonic = time.monotonic
    house.forwarder.run()


def test_the_directories_of_its_runs_are_looked_after_and_their_fill_is_in_the_status(house, tmp_path):
    policy = Policy(max_bytes=100_000, grace=0.0)
    house.forwarder._retention = retention = Retention(house.place.directories, policy)
    journal = start_run(tmp_path / "runs" / "run-1-r1", mode="offline")
    for step in range(2000):
        journal.row(("loss",), (1.0,), step, 1.76e9)
    house.register(journal.directory)
    house.tick_until(lambda: house.place.directories.exists(), "the directory's entry")
    retention.look()

    def said():
        return (read_json(house.place.status) or {}).get("notice")

    house.tick_until(said, "the notice")
    status = read_json(house.place.status)
    assert status["journal_limit"] == 100_000
    assert status["journal_bytes"] > 100_000
    assert str(tmp_path / "runs") in status["notice"]
    assert Usage.load(tmp_path / "runs").notice == status["notice"]
    journal.close()


def test_a_run_that_ends_is_removed_in_time_by_the_forwarder_that_sent_it(house, tmp_path):
    house.forwarder._retention = retention = Retention(house.place.directories, Policy(retention=0.0, grace=0.0))
    journal = start_run(tmp_path / "runs" / "run-1-r1")
    journal.row(("loss",), (1.0,), 0, 1.76e9)
    house.register(journal.directory)
    house.tick_until(lambda: house.broker.of("metrics"), "the row")
    retention.look()
    assert journal.directory.exists()
    journal.event("finish", {"state": "finished", "exit_code": 0})
    journal.close()
    house.tick_until(lambda: not house.registered(), "the end of the run and of its samples")
    retention.look()
    assert [path.name for path in (tmp_path / "runs").glob("*run-*")] == []
    assert {entry.identity.role for entry in removed(tmp_path / "runs").values()} == {"run", "system"}
    house.place.register(journal.directory.name, Registration(str(journal.directory), 2**22 + 1, 1.0))
    house.tick_until(lambda: not house.registered(), "the end of a registration whose journal was removed")
    assert not (tmp_path / "runs" / "run-1-r1").exists()


def test_a_process_of_another_machine_that_shares_the_home_is_not_taken_for_dead_while_it_writes(house, tmp_path):
    journal = start_run(tmp_path / "runs", host="another", pid=2**22 + 1, pid_created=1.0)
    written = [time.time()]
    house.forwarder._clock = lambda: written[0] + silence
    silence = 0.0
    house.register(journal.directory, 2**22 + 1, 1.0)
    journal.row(("loss",), (1.0,), 0, written[0])
    house.tick_until(lambda: house.broker.of("metrics"), "the row")
    for _ in range(20):
        house.forwarder.tick()
    assert not any(event.kind == "finish" for event in house.runs())
    journal.row(("loss",), (2.0,), 1, written[0])
    house.tick_until(lambda: len(house.broker.of("metrics")) == 2, "the second row")
    silence = 3600.0
    house.tick_until(lambda: complete(journal.directory), "the end")
    assert [event.state for event in house.runs() if event.kind == "finish"] == ["killed"]
    journal.close()
