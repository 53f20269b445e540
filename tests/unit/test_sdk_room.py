"""What a training process notices of journals that are removed under it, and of a ceiling that comes near."""

import os
import time
from pathlib import Path

import pytest

import pulsetrain
from pulsetrain._run import link
from pulsetrain._run.faults import Faults
from pulsetrain._run.summary import SummaryFold
from pulsetrain.forwarder import removal, sending
from pulsetrain.forwarder.memory_delivery import MemoryBroker, MemoryDelivery
from pulsetrain.forwarder.pump import Pump
from pulsetrain.forwarder.tail import read_identity
from pulsetrain.journal import room
from pulsetrain.journal.room import Usage
from tests.unit import sdk_harness
from tests.unit.sdk_harness import sdk  # noqa: F401

SEGMENT = 1 << 16


@pytest.fixture
def runs(sdk, monkeypatch) -> Path:  # noqa: F811
    """The folder of the runs, whose journals have small segments."""
    from pulsetrain.journal.writer import JournalWriter

    monkeypatch.setitem(JournalWriter.__init__.__kwdefaults__, "segment_bytes", SEGMENT)
    return sdk


def forward(journal: Path) -> None:
    """Sends what the journal of this living process has, as a forwarder would."""
    delivery = MemoryDelivery(MemoryBroker())
    pump = Pump(journal, read_identity(journal), delivery, fold=SummaryFold())
    while not pump.is_settled:
        pump.step(time.time(), alive=True)
        for ticket in delivery.poll().confirmed:
            pump.confirm(ticket)
        pump.save()
    pump.close()


@pytest.mark.parametrize("asked_before", [False, True])
def test_the_summary_of_a_run_is_whole_though_its_first_segments_were_removed(runs, asked_before):
    run = pulsetrain.init(project="p")
    run.define_metric("loss", summary="mean,max")
    run.log({"first": 7, "loss": 100.0})
    if asked_before:
        assert run.summary["first"] == 7
    for step in range(5000):
        run.log({"loss": float(step % 10), "acc": step})
    journal = run._history.directory
    forward(journal)
    gone = list(removal.remove_segments(journal, 1 << 30))
    assert len(gone) > 2
    run.log({"last": 1})
    expected = {"first": 7, "loss.max": 100.0, "loss.mean": (100 + 4.5 * 5000) / 5001, "acc": 4999, "last": 1}
    assert dict(run.summary) == pytest.approx(expected)
    run.finish(quiet=True)
    assert dict(run.summary) == pytest.approx(expected)
    assert sending.send(journal, MemoryDelivery(MemoryBroker())).state == "sent"
    removal.remove(journal)
    assert dict(run.summary) == pytest.approx(expected)


def test_a_run_whose_journals_were_removed_is_gone_on_with(runs):
    run = pulsetrain.init(project="p", id="r", name="first", tags=["t"])
    for step in range(10):
        run.log({"loss": step})
    journal = run._history.directory
    run.finish(exit_code=1, quiet=True)
    sending.send(journal, MemoryDelivery(MemoryBroker()))
    removal.remove(journal)
    assert not list(runs.glob("*run-*"))
    with pytest.raises(pulsetrain.UsageError, match="is there already"):
        pulsetrain.init(project="p", id="r", resume="never")
    again = pulsetrain.init(project="p", resume="auto")
    assert (again.id, again.attempt, again.step, again.resumed) == ("r", 1, 10, True)
    again.finish(quiet=True)
    anew = pulsetrain.init(project="p", id="r")
    assert (anew.attempt, anew.step) == (2, 0)
    anew.finish(quiet=True)


def test_at_the_ceiling_rows_are_counted_and_said_and_the_run_goes_on_when_there_is_room(runs, capfd, monkeypatch):
    monkeypatch.setattr("pulsetrain.journal.writer.RETRY_SECONDS", 0.0)
    run = pulsetrain.init(project="p")
    (runs / room.USAGE_FILE).write_bytes(Usage(1 << 30, 1 << 30, time.time()).encode())
    for step in range(5000):
        run.log({"loss": float(step)})
    dropped = run._history.dropped
    assert dropped > 0
    (runs / room.USAGE_FILE).write_bytes(Usage(1 << 20, 1 << 30, time.time()).encode())
    run.log({"loss": -1.0})
    assert run._history.dropped == dropped
    journal = run._history.directory
    run.finish()
    rows = sdk_harness.rows(journal)
    assert len(rows) == 5000 - dropped + 1
    assert rows[-1] == (5000, {"loss": -1.0})
    (finish,) = sdk_harness.events(journal, "finish")
    assert finish["dropped"] == dropped
    said = capfd.readouterr().err
    assert (
        said.count("the journals take 1.0 GiB of the 1.0 GiB that they may. What is logged is lost until there is") == 1
    )
    assert f"{dropped:,} rows of run" in said


def test_a_new_run_is_known_though_the_ceiling_is_reached(runs):
    runs.mkdir(exist_ok=True)
    (runs / room.USAGE_FILE).write_bytes(Usage(1 << 30, 1 << 30, time.time()).encode())
    run = pulsetrain.init(project="p")
    run.log({"loss": 1.0})
    assert run._history.dropped == 0
    run.finish(quiet=True)


def test_a_forked_child_counts_the_rows_that_it_lost_itself(runs, monkeypatch):
    run = pulsetrain.init(project="p")
    run._history.dropped = 5
    child = os.fork()
    if not child:
        status = 1
        try:
            status = 0 if run._history.dropped == 0 else 1
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    run.finish(quiet=True)


def test_the_person_who_trains_is_told_once_that_the_ceiling_is_near(tmp_path, monkeypatch):
    monkeypatch.undo()
    said: list[str] = []
    told = link.Link(tmp_path / "home", {}, Faults(said.append))
    monkeypatch.setattr("pulsetrain.forwarder.spawn.register", lambda *_: None)
    monkeypatch.setattr("pulsetrain.forwarder.spawn.ensure_running", lambda *_: False)
    directory = tmp_path / "runs"
    directory.mkdir()
    told.announce("w", directory / "run-1" / "w")
    told._tell_of_room(100.0)
    assert said == []
    (directory / room.USAGE_FILE).write_bytes(Usage(9, 10, time.time(), "nearly full").encode())
    for second in range(101, 140):
        told._tell_of_room(float(second))
    assert len(said) == 1
    assert said[0].startswith("nearly full")
