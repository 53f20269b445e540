"""The commands `pulsetrain forwarder` and `pulsetrain sync`, as a person types them."""

import json
import os
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from pulsetrain.commands.forwarder import forwarder
from pulsetrain.commands.sync import sync
from pulsetrain.forwarder.places import LOCAL, Place
from pulsetrain.forwarder.process import locked
from pulsetrain_schemas.errors import UserError
from tests.journals import start_run


@pytest.fixture
def place() -> Place:
    return Place.of(Path(os.environ["PULSETRAIN_HOME"]), LOCAL)


def test_status_says_that_none_runs_and_what_waits(place: Place, tmp_path: Path):
    result = CliRunner().invoke(forwarder, ["status"])
    assert (result.exit_code, result.output) == (0, "no forwarder runs; 0 journals wait for one\n")


def test_status_says_that_one_is_about_to_start_and_where_it_would_complain(place: Place):
    place.create()
    place.awaited.write_text(str(int(time.time()) + 3))
    output = CliRunner().invoke(forwarder, ["status"]).output
    assert output.startswith("no forwarder runs; 0 journals wait for one\none is about to start")
    assert str(place.log) in output.replace("\n", "")
    assert json.loads(CliRunner().invoke(forwarder, ["status", "--json"]).output)["awaited"]


def test_status_tells_what_a_running_forwarder_says(place: Place):
    place.create()
    said = {"pid": 7, "broker": "away", "detail": "no broker answers", "journals": 2, "live": 1, "updated": 0}
    place.status.write_text(json.dumps(said))
    with locked(place) as ours:
        assert ours
        output = CliRunner().invoke(forwarder, ["status"]).output
        document = json.loads(CliRunner().invoke(forwarder, ["status", "--json"]).output)
    assert "forwarder 7: Kafka is away: no broker answers" in output
    assert "2 journals to send, 1 runs live" in output
    assert (document["running"], document["broker"]) == (True, "away")


def test_a_second_forwarder_is_refused_with_a_word(place: Place):
    place.create()
    with locked(place):
        result = CliRunner().invoke(forwarder, [])
    assert result.exit_code == 1
    assert "runs already" in result.output


def test_sync_of_nothing_says_so():
    result = CliRunner().invoke(sync, [])
    assert result.exit_code == 0
    assert "no run is in" in result.output


def test_a_dry_run_lists_what_would_be_sent(tmp_path: Path):
    journal = start_run(tmp_path / "runs" / "offline-run-1", mode="offline", pid=2**22 + 1)
    journal.row(("loss",), (1.0,), 0, 1.76e9)
    journal.close()
    output = CliRunner().invoke(sync, ["--dry-run"]).output
    assert "p/r1" in output
    assert "to send" in output
    (row,) = json.loads(CliRunner().invoke(sync, ["--dry-run", "--json"]).output)
    assert (row["run_id"], row["rows"], row["points"], row["state"]) == ("r1", 1, 1, "to send")
    assert not (journal.directory / "ack.json").exists()


def test_without_any_kafka_sync_says_what_to_do(tmp_path: Path):
    start_run(tmp_path / "runs" / "offline-run-1", mode="offline", pid=2**22 + 1).close()
    result = CliRunner().invoke(sync, [])
    assert isinstance(result.exception, UserError)
    assert "pulsetrain up" in str(result.exception)


def test_a_kafka_that_does_not_answer_ends_sync_with_a_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PULSETRAIN_KAFKA", "127.0.0.1:1")
    start_run(tmp_path / "runs" / "offline-run-1", mode="offline", pid=2**22 + 1).close()
    result = CliRunner().invoke(sync, ["--patience", "3"])
    assert isinstance(result.exception, UserError)
    assert "no broker answers at 127.0.0.1:1" in str(result.exception)
    assert "run pulsetrain sync again" in str(result.exception)
