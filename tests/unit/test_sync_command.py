"""`pulsetrain sync` as a person meets it: what it removes, what it leaves, what it refuses, and how a watch ends."""

import json
import os
import signal
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from pulsetrain.commands import sync as command
from pulsetrain.commands import verify as verify_command
from pulsetrain.forwarder import sending
from pulsetrain.forwarder.memory_delivery import MemoryBroker, MemoryDelivery
from tests.journals import start_run

GONE = 2**22 + 1


@pytest.fixture
def runs(tmp_path):
    """One run that Kafka has had for ten days, one that it has since now, one that was never sent."""
    folder = tmp_path / "runs"
    for name in ("old", "new", "unsent"):
        journal = start_run(
            folder / f"offline-run-1-{name}", f"{name}-writer", mode="offline", run_id=name, pid=GONE, pid_created=1.0
        )
        journal.row(("loss",), (1.0,), 0, 1.76e9)
        journal.close()
        if name != "unsent":
            sending.send(journal.directory, MemoryDelivery(MemoryBroker()))
            since = time.time() - (10 * 86400 if name == "old" else 0)
            os.utime(journal.directory / "ack.json", (since, since))
    return folder


def sync(*arguments: object):
    return CliRunner().invoke(command.sync, [str(argument) for argument in arguments])


def left(runs: Path) -> set[str]:
    return {path.name.rpartition("-")[2] for path in runs.glob("*run-*")}


def test_clean_removes_what_kafka_has_had_for_long(runs):
    result = sync("--clean", runs)
    assert left(runs) == {"new", "unsent"}
    assert "stays: not all of it is in Kafka" in result.output
    assert "stays: Kafka has had it for 0.0 days only" in result.output
    assert "freed" in result.output


def test_clean_of_all_ages_leaves_what_was_never_sent(runs):
    sync("--clean", "--older-than", "0", runs)
    assert left(runs) == {"unsent"}


def test_clean_takes_the_age_from_the_environment(runs, monkeypatch):
    monkeypatch.setenv("PULSETRAIN_JOURNAL_RETENTION", "30d")
    sync("--clean", runs)
    assert left(runs) == {"old", "new", "unsent"}
    result = sync("--clean", "--older-than", "soon", runs)
    assert "is no length of time; expected 7d" in str(result.exception)


def test_a_dry_clean_says_what_it_would_do_and_does_nothing(runs):
    result = sync("--clean", "--dry-run", "--json", "--older-than", "0", runs)
    rows = {Path(row["journal"]).name: row for row in json.loads(result.output)}
    assert {name for name, row in rows.items() if row["would_remove"]} == {"old-writer", "new-writer"}
    assert not any(row["removed"] for row in rows.values())
    assert left(runs) == {"old", "new", "unsent"}


def test_verify_tells_of_what_was_removed(runs, monkeypatch):
    sync("--clean", runs)
    for arguments in (["old"], ["p/old"], [str(runs / "offline-run-1-old")], ["old", "--json"]):
        result = CliRunner().invoke(
            verify_command.verify, [*arguments, "--dir", str(runs), "--skip", "kafka", "--skip", "clickhouse"]
        )
        assert result.exit_code == 0, result.output
        if "--json" in arguments:
            (row,) = json.loads(result.output)
            assert row["removed"] == pytest.approx(time.time(), abs=60)
            assert row["acknowledged"]
            assert row["journal"] == {"rows": 1, "points": 1, "texts": 0}
        else:
            assert "1 of them Kafka had confirmed and they were removed since" in result.output


def test_options_that_contradict_each_other_are_refused(runs):
    assert "goes with neither" in sync("--watch", "--clean", runs).output
    assert "give both" in sync("--older-than", "7d", runs).output


def test_a_watch_prints_a_line_for_each_thing_that_happens_and_ends_with_ctrl_c(runs, monkeypatch):
    broker = MemoryBroker()
    monkeypatch.setattr(command, "_delivery", lambda: MemoryDelivery(broker))
    monkeypatch.setattr(command, "time", Clock(300))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        result = sync("--watch", "--json", runs)
    finally:
        signal.signal(signal.SIGINT, before)
    assert result.exit_code == 0, result.output
    (row,) = [json.loads(line) for line in result.output.splitlines()]
    assert (row["run_id"], row["state"], row["rows"]) == ("unsent", "sent", 1)
    assert sending.look(runs / "offline-run-1-unsent" / "unsent-writer").state == "already sent"


class Clock:
    """The module `time` for the watch's loop; after so many rounds somebody presses Ctrl-C."""

    monotonic, time = staticmethod(time.monotonic), staticmethod(time.time)

    def __init__(self, rounds: int) -> None:
        self._left = rounds

    def sleep(self, _: float) -> None:
        self._left -= 1
        if not self._left:
            signal.raise_signal(signal.SIGINT)
