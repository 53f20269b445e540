"""`pulsetrain sync --watch`: what grows and what appears is sent, whatever happens to Kafka meanwhile."""

import os
import socket
from pathlib import Path

import pytest

from pulsetrain.forwarder import sending, watching
from pulsetrain.forwarder.memory_delivery import MemoryBroker, MemoryDelivery
from pulsetrain.forwarder.ownership import Ownership
from pulsetrain.forwarder.watching import Watching
from pulsetrain_schemas import events
from pulsetrain_schemas.framing import SINGLE_OBJECT
from pulsetrain_schemas.registry import RegistryUnavailable
from tests.journals import start_run

GONE = 2**22 + 1


class Watcher:
    """A watch over a folder, on a broker in memory and a clock of its own."""

    def __init__(self, folder: Path, **options) -> None:
        self.folder = folder
        self.broker = MemoryBroker()
        self.delivery = MemoryDelivery(self.broker)
        self.now = 0.0
        self.told: list[sending.Report] = []
        self.watching = Watching(
            [folder], self.delivery, self.told.append, monotonic=lambda: self.now, clock=lambda: 1.77e9, **options
        )

    def run(self, name: str, rows: int = 10, **changes):
        start = {"mode": "offline", "pid": os.getpid(), "host": socket.gethostname(), "run_id": name} | changes
        journal = start_run(self.folder / name, name * 8, **start)
        for step in range(rows):
            journal.row(("loss",), (float(step),), step, 1.76e9)
        return journal

    def turn(self, rounds: int = 6) -> None:
        for _ in range(rounds):
            self.now += watching.LOOK_SECONDS
            self.watching.tick()

    def rows(self, name: str) -> int:
        batches = [events.decode(message.payload, events.MetricBatch) for message in self.broker.of("metrics")]
        return sum(len(batch.row_sequences) for batch in batches if batch.origin.run_id == name)


@pytest.fixture
def watcher(tmp_path):
    made = Watcher(tmp_path / "runs")
    yield made
    made.watching.close()


def test_what_grows_and_what_appears_is_sent_and_said(watcher):
    watcher.turn()  # the folder is not even there
    first = watcher.run("a")
    watcher.turn()
    assert (watcher.rows("a"), [(r.state, r.counters.rows) for r in watcher.told]) == (10, [("sent so far", 10)])
    first.row(("loss",), (1.0,), 10, 1.76e9)
    second = watcher.run("b", rows=5)
    second.event("finish", {"state": "finished", "exit_code": 0})
    second.close()
    watcher.turn()
    assert (watcher.rows("a"), watcher.rows("b")) == (11, 5)
    assert ("sent", 5) in [(report.state, report.counters.rows) for report in watcher.told]
    assert (watcher.watching.progress.rows, watcher.watching.progress.open) == (16, 1)
    first.event("finish", {"state": "finished", "exit_code": 0})
    first.close()
    watcher.turn()
    assert watcher.told[-1].state == "sent"
    assert watcher.watching.progress.open == 0
    sent = len(watcher.broker.messages)
    watcher.turn(200)
    assert len(watcher.broker.messages) == sent


def test_a_broker_that_goes_away_for_hours_is_waited_for(watcher):
    journal = watcher.run("a")
    watcher.turn()
    watcher.broker.away = True
    journal.row(("loss",), (1.0,), 10, 1.76e9)
    watcher.turn(500)
    assert watcher.watching.progress.broker == "away"
    assert watcher.rows("a") == 10
    watcher.delivery.interrupt()
    watcher.broker.away = False
    watcher.turn()
    assert watcher.rows("a") == 11
    journal.close()


def test_a_registry_that_is_away_is_waited_for(tmp_path):
    class Away:
        away = True

        def frame(self, name, body):
            if self.away:
                raise RegistryUnavailable("the registry is away")
            return SINGLE_OBJECT.frame(name, body)

        def unframe(self, payload):
            return SINGLE_OBJECT.unframe(payload)

    framing = Away()
    watcher = Watcher(tmp_path, framing=framing)
    watcher.run("a").close()
    watcher.turn()
    assert watcher.watching.progress.detail == "the registry is away"
    framing.away = False
    watcher.turn()
    assert watcher.rows("a") == 10
    watcher.watching.close()


def test_what_a_forwarder_has_in_hand_is_left_until_it_lets_go(watcher):
    journal = watcher.run("a")
    ownership = Ownership.take(journal.directory)
    watcher.turn()
    assert watcher.rows("a") == 0
    assert [report.state for report in watcher.told] == ["owned"]
    ownership.release()
    watcher.turn()
    assert watcher.rows("a") == 10
    journal.close()


def test_more_runs_than_may_be_held_open_take_turns(tmp_path):
    watcher = Watcher(tmp_path, max_open=2)
    journals = [watcher.run(name) for name in "abcde"]
    watcher.turn(20)
    assert [watcher.rows(name) for name in "abcde"] == [10] * 5
    for journal in journals:
        journal.row(("loss",), (1.0,), 10, 1.76e9)
    watcher.turn(20)
    assert [watcher.rows(name) for name in "abcde"] == [11] * 5
    watcher.watching.close()


def test_a_copy_of_what_is_being_sent_waits_for_that(watcher):
    first = watcher.run("a")
    second = start_run(
        watcher.folder / "copy",
        "a" * 8,
        mode="offline",
        pid=GONE,
        pid_created=1.0,
        run_id="a",
        host=socket.gethostname(),
    )
    second.row(("loss",), (0.0,), 0, 1.76e9)
    watcher.turn()
    assert watcher.watching.progress.open == 1
    first.event("finish", {"state": "finished", "exit_code": 0})
    first.close()
    watcher.turn()
    assert watcher.watching.progress.open == 0
    assert [report.state for report in watcher.told].count("sent") == 2
    second.close()


def test_what_cannot_be_read_is_said_once_and_holds_nothing_up(watcher):
    (watcher.folder / "x" / "w").mkdir(parents=True)
    (watcher.folder / "x" / "w" / "00000001.journal").write_bytes(b"something else altogether" * 10)
    journal = watcher.run("y")
    watcher.turn(300)
    assert watcher.rows("y") == 10
    assert [report.state for report in watcher.told].count("unreadable") == 1
    journal.close()


def test_what_was_confirmed_is_on_the_disk_when_the_watch_is_broken_off(watcher):
    journal = watcher.run("a")
    watcher.turn()
    watcher.watching.close()
    again = Watcher(watcher.folder)
    again.turn()
    assert again.rows("a") == 0
    assert again.watching.progress.rows == 0
    again.watching.close()
    journal.close()
