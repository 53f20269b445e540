"""The wait at the end of a run: how long, for what reasons it is left, and what the user gets to read."""

import io
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pulsetrain._run import farewell
from pulsetrain._run.farewell import Farewell
from pulsetrain._run.faults import Faults
from pulsetrain._run.link import Link
from pulsetrain.forwarder.places import Place
from pulsetrain.forwarder.process import locked


class Scene:
    """A forwarder that says and acknowledges what the test tells it to, and time that passes in the wait alone."""

    def __init__(self, tmp_path: Path) -> None:
        self.now = 100.0
        self.place = Place.of(tmp_path / "home", "local")
        self.place.create()
        self.journal = tmp_path / "run-1" / "w"
        self.journal.mkdir(parents=True)
        self.plan: list[tuple[float, Callable[[], object]]] = []
        self.says_since = 0.0

    def at(self, second: float, what: Callable[[], object]) -> None:
        self.plan.append((second, what))

    def acknowledge(self, sequence: int, complete: bool = False) -> None:
        (self.journal / "ack.json").write_text(json.dumps({"sequence": sequence, "complete": complete}))

    def say(self, broker: str, detail: str = "", updated: float | None = None) -> None:
        said = {"broker": broker, "detail": detail, "updated": self.now if updated is None else updated}
        self.place.status.write_text(json.dumps(said))

    def wait(self, timeout: float = 60.0, *, has_broker: bool = True, quiet: bool = False) -> tuple[str, float]:
        """Why the wait was left, and after how many seconds."""
        begun = self.now
        self.interrupted = False

        def sleep(seconds: float) -> None:
            self.now += seconds
            while self.plan and self.plan[0][0] <= self.now - begun:
                self.plan.pop(0)[1]()

        reason = Farewell(
            self.place,
            self.journal,
            1000,
            timeout=timeout,
            has_broker=has_broker,
            quiet=quiet,
            is_interrupted=lambda: self.interrupted,
            clock=lambda: self.now,
            time_of_day=lambda: self.now,
            sleep=sleep,
        ).wait()
        return reason, self.now - begun


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


@pytest.fixture
def running(scene: Scene) -> Iterator[Scene]:
    with locked(scene.place) as ours:
        assert ours
        yield scene


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_it_is_over_as_soon_as_kafka_has_everything_and_nothing_is_said_of_a_short_wait(running, capsys):
    running.at(0.5, lambda: running.acknowledge(1000, complete=True))
    reason, seconds = running.wait()
    assert reason == ""
    assert seconds == pytest.approx(0.5, abs=0.1)
    assert capsys.readouterr().err == ""


def test_a_broker_that_is_away_is_waited_for_two_seconds_though_its_forwarder_says_so_late(running, capsys):
    running.at(1.8, lambda: running.say("away", "no broker answers at b:1; what is logged waits"))
    reason, seconds = running.wait()
    assert reason == "the broker cannot be reached (no broker answers at b:1)"
    assert seconds == pytest.approx(2.0, abs=0.1)
    said = capsys.readouterr().err
    assert "Nothing is lost: Kafka has 0 of 1,000 records, the rest is in" in said
    assert f"`pulsetrain sync {running.journal.parent}`" in said


def test_a_broker_that_goes_away_meanwhile_has_two_seconds_to_come_back(running):
    running.say("connected")
    running.at(3.0, lambda: running.say("away"))
    running.at(4.5, lambda: running.say("connected"))
    running.at(5.0, lambda: running.say("away"))
    assert running.wait() == ("the broker cannot be reached", pytest.approx(7.0, abs=0.1))


def test_what_an_earlier_forwarder_said_does_not_count(running):
    running.say("away", updated=running.now - 60)
    running.at(4.0, lambda: running.acknowledge(1000, complete=True))
    assert running.wait() == ("", pytest.approx(4.0, abs=0.1))


def test_at_the_deadline_it_says_what_was_sent_and_that_the_rest_will_be(running, capsys):
    running.say("connected")
    running.at(4.9, lambda: running.acknowledge(400))
    reason, seconds = running.wait(5.0)
    assert reason == "it was not all sent within 5 s"
    assert seconds == pytest.approx(5.0, abs=0.1)
    said = capsys.readouterr().err
    assert "Kafka has 400 of 1,000 records" in said
    assert "the forwarder sends it" in said


def test_a_forwarder_that_says_nothing_is_named(running):
    assert running.wait(20.0)[0] == "it was not all sent within 20 s; the forwarder does not say anything"


def test_a_forwarder_that_does_not_come_up_is_not_waited_for_to_the_end(scene, capsys):
    reason, seconds = scene.wait()
    assert (reason, seconds) == (f"no forwarder comes up, see {scene.place.log}", pytest.approx(10.0, abs=0.1))
    assert "the next run's forwarder sends it" in capsys.readouterr().err


def test_an_interruption_leaves_at_once_and_says_where_things_stand(running, capsys):
    running.acknowledge(10)
    running.at(1.5, lambda: setattr(running, "interrupted", True))
    assert running.wait() == ("interrupted", pytest.approx(1.5, abs=0.1))
    assert "interrupted. Nothing is lost: Kafka has 10 of 1,000 records" in capsys.readouterr().err


def test_where_no_broker_is_known_there_is_no_wait(running, capsys):
    assert running.wait(has_broker=False) == ("no Kafka is known", 0.0)
    assert not running.wait(has_broker=False, quiet=True)[1]
    assert capsys.readouterr().err.count("no Kafka is known") == 1


def test_in_a_log_the_progress_is_a_line_now_and_then(running, capsys):
    running.say("connected")
    for tenth in range(1, 300):
        running.at(tenth / 10, lambda tenth=tenth: (running.say("connected"), running.acknowledge(tenth)))
    running.at(30.0, lambda: running.acknowledge(1000, complete=True))
    assert running.wait()[0] == ""
    lines = capsys.readouterr().err.splitlines()
    assert [line.startswith("pulsetrain: sending what was logged: ") for line in lines] == [True] * 3
    assert lines[0].endswith(" of 1,000 records")


def test_on_a_terminal_it_is_one_line_that_is_rewritten_a_few_times_a_second(running, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    running.say("connected")
    for hundredth in range(100, 500):
        running.at(hundredth / 100, lambda n=hundredth: running.acknowledge(n))
    running.at(5.0, lambda: running.acknowledge(1000, complete=True))
    assert running.wait()[0] == ""
    shown = terminal.getvalue()
    assert 10 < shown.count("\r\x1b[K") < 30
    assert shown.count("\n") == 1
    assert shown.endswith("\r\x1b[Kpulsetrain: sending what was logged: 1,000 of 1,000 records\n")


def test_without_a_terminal_at_all_it_waits_all_the_same(running, monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    running.at(3.0, lambda: running.acknowledge(1000, complete=True))
    assert running.wait()[0] == ""
    assert running.wait(quiet=True)[0] == ""


def test_a_link_waits_by_its_environment(tmp_path, capsys):
    journal = tmp_path / "run-1" / "w"
    journal.mkdir(parents=True)
    known, unknown = {"PULSETRAIN_KAFKA": "127.0.0.1:1"}, {"PULSETRAIN_HOME": str(tmp_path)}
    assert not Link(tmp_path, unknown, Faults()).wait_delivered(journal, 7, 30)
    assert not Link(tmp_path, known, Faults()).wait_delivered(journal, 7, 30, is_interrupted=lambda: True)
    (journal / "ack.json").write_text(json.dumps({"complete": True}))
    assert Link(tmp_path, known, Faults()).wait_delivered(journal, 7, 30)
    said = capsys.readouterr().err.splitlines()
    assert [line.partition(".")[0] for line in said] == ["pulsetrain: no Kafka is known", "pulsetrain: interrupted"]


def test_the_age_at_which_a_word_is_old_is_more_than_the_forwarder_takes_between_two():
    from pulsetrain.forwarder.status import StatusFile

    assert 2 * StatusFile(Path("x"))._period < farewell.STALE_SECONDS
