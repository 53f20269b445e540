"""A journal's way to Kafka, killed, interrupted and rewound at every point: no gap, and what comes twice overlaps."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pulsetrain._run.summary import SummaryFold
from pulsetrain.forwarder import pump
from pulsetrain.forwarder.acknowledgement import Acknowledged
from pulsetrain.forwarder.memory_delivery import MemoryBroker, MemoryDelivery
from pulsetrain.forwarder.pump import Pump
from pulsetrain.forwarder.tail import read_identity
from pulsetrain_schemas import events
from tests.forwarder_rig import Arrivals
from tests.journals import points_logged, points_of, same_points, start_run, texts_logged, texts_of, uncovered

KINDS = {"metrics": events.MetricBatch, "logs": events.LogBatch, "runs": events.RunEvent, "system": events.SystemBatch}


class Line:
    """A pump with its delivery, as one process would have them; `crash` loses all but the files."""

    def __init__(self, journal: Path) -> None:
        self.journal = journal
        self.broker = MemoryBroker()
        self.now = 1.0e9
        self.alive = True
        self.crash()

    def crash(self) -> None:
        self.delivery = MemoryDelivery(self.broker)
        identity = read_identity(self.journal)
        assert identity is not None
        self.pump = Pump(self.journal, identity, self.delivery, fold=SummaryFold())

    def step(self) -> bool:
        self.now += 1.5
        moved = self.pump.step(self.now, alive=self.alive)
        self.pump.progress(self.now)
        return moved

    def hear(self) -> None:
        outcome = self.delivery.poll()
        for ticket in outcome.confirmed:
            self.pump.confirm(ticket)
        if outcome.interrupted:
            self.pump.rewind()
        self.pump.save()

    def drain(self) -> None:
        self.broker.away = False
        for _ in range(2000):
            self.step()
            self.hear()
            if self.pump.done:
                return
        raise AssertionError("the journal was never done")

    def events(self, topic: str):
        return [events.decode(message.payload, KINDS[topic]) for message in self.broker.of(topic)]

    def check(self) -> None:
        """No gap on any topic; counted once by its sequence, everything that the journal has."""
        for topic in KINDS:
            ranges = [(e.origin.first_sequence, e.origin.last_sequence) for e in self.events(topic)]
            assert uncovered(ranges) == [], topic
        points, texts, covered = [], [], 0
        for batch in self.events("metrics"):
            points += [point for point in points_of(batch) if point[0] > covered]
            texts += [text for text in texts_of(batch) if text[0] > covered]
            covered = max(covered, batch.origin.last_sequence)
        assert same_points(points, points_logged(self.journal))
        assert texts == texts_logged(self.journal)


@pytest.fixture
def run(tmp_path):
    journal = start_run(tmp_path)
    yield journal, Line(journal.directory)
    journal.close()


def test_a_run_arrives_with_its_rows_its_lines_and_its_end(run):
    journal, line = run
    journal.event("config", {"config": {"lr": 0.1, "old": None}})
    journal.row(("loss", "acc"), (0.5, 0.9), 0, 1.76e9)
    journal.event("console", {"stream": "stderr", "line": "epoch 1"})
    journal.row(("loss",), (float("nan"),), 1, 1.76e9)
    journal.text_row({"n": 1.0}, {"note": '"hello"'}, 2, 1.76e9)
    journal.event("finish", {"state": "failed", "exit_code": 3})
    line.drain()
    line.check()
    start, finish = (e for e in line.events("runs") if e.kind in ("start", "finish"))
    assert (start.state, start.name, list(start.tags)) == ("running", "first", ["a", "b"])
    assert start.config == {"lr": "0.1", "old": "null"}
    assert start.environment == {"python": '"3.11"'}
    assert (finish.state, finish.exit_code, finish.rows, finish.points, finish.texts) == ("failed", 3, 3, 4, 1)
    assert [list(batch.lines) for batch in line.events("logs")] == [["epoch 1"]]
    assert {message.key for message in line.broker.messages} == {b"r1"}


def test_counters_are_published_while_the_run_goes_on(run):
    journal, line = run
    for step in range(5):
        journal.row(("loss",), (1.0,), step, 1.76e9)
        line.step()
        line.hear()
    heartbeats = [e for e in line.events("runs") if e.kind == "heartbeat"]
    assert heartbeats
    assert heartbeats[-1].rows >= 3
    assert heartbeats[-1].state is None


def test_nothing_new_publishes_nothing(run):
    _, line = run
    for _ in range(20):
        line.step()
        line.hear()
    assert len(line.broker.messages) == 1


def test_a_process_that_vanished_ends_its_run_as_killed_once_its_journal_is_read(run):
    journal, line = run
    journal.row(("loss",), (1.0,), 0, 1.76e9)
    line.alive = False
    line.drain()
    line.check()
    finish = line.events("runs")[-1]
    assert (finish.kind, finish.state, finish.exit_code, finish.rows) == ("finish", "killed", None, 1)
    assert finish.origin.last_sequence == journal.sequence + 1
    assert json.loads((journal.directory / "end.json").read_text())["time"] == finish.time / 1e6


def test_the_end_of_a_killed_run_is_the_same_event_when_it_is_sent_again(run):
    _, line = run
    line.alive = False
    line.step()
    line.step()
    line.delivery.interrupt(arrived=9)
    line.hear()
    line.crash()
    line.drain()
    ends = [e for e in line.events("runs") if e.kind == "finish"]
    assert len(ends) == 2
    assert ends[0].time == ends[1].time
    assert ends[0].origin.last_sequence == ends[1].origin.last_sequence


def test_a_journal_that_is_done_is_not_sent_again(run):
    journal, line = run
    journal.event("finish", {"state": "finished", "exit_code": 0})
    line.drain()
    sent = len(line.broker.messages)
    line.crash()
    assert line.pump.done
    line.drain()
    assert len(line.broker.messages) == sent


def test_the_acknowledgement_never_runs_ahead_of_the_broker(run):
    journal, line = run
    line.step()
    line.hear()
    line.broker.away = True
    for step in range(50):
        journal.row(("loss",), (1.0,), step, 1.76e9)
        line.step()
        line.hear()
    assert Acknowledged.load(journal.directory).sequence == 1
    line.broker.away = False
    line.hear()
    assert Acknowledged.load(journal.directory).sequence >= 50


def test_a_damaged_acknowledgement_means_that_all_is_sent_again(run):
    journal, line = run
    journal.row(("loss",), (1.0,), 0, 1.76e9)
    line.step()
    line.hear()
    (journal.directory / "ack.json").write_text('{"segment": 1, "off')
    line.crash()
    line.alive = False
    line.drain()
    line.check()


def test_an_event_whose_values_are_too_large_goes_without_them(run):
    journal, line = run
    journal.event("config", {"config": {f"k{i}": "x" * 900_000 for i in range(10)}})
    journal.event("finish", {"state": "finished", "exit_code": 0})
    line.drain()
    line.check()
    assert line.pump.undeliverable >= 1
    assert line.events("runs")[-1].state == "finished"


def test_a_connection_lost_on_the_way_to_what_was_confirmed_loses_nothing_that_was_read(run, monkeypatch):
    """A forwarder reads from the checkpoint on, to know what was counted and what the summary is."""
    journal, line = run
    monkeypatch.setattr(pump, "STEP_BYTES", 2048)
    for step in range(100):
        journal.row(("loss", f"k{step}"), (1.0, 2.0), step, 1.76e9)
    while not line.pump.is_settled:
        line.step()
        line.hear()
    line.crash()
    line.step()
    assert line.pump.position < line.pump.acknowledged.position
    line.delivery.interrupt()
    line.hear()
    line.alive = False
    line.drain()
    line.check()
    told = Arrivals().look(line.broker)[journal.writer]
    assert told.summary == {"loss": 1.0} | {f"k{step}": 2.0 for step in range(100)}
    assert {(end.rows, end.points) for end in told.ends} == {(100, 200)}


def test_a_summary_in_an_event_of_what_was_told_before_is_told_again(run, monkeypatch):
    """Downstream drops such an event: an earlier forwarder had come further, with an event that tells no summary."""
    journal, line = run
    monkeypatch.setattr(pump, "STEP_BYTES", 2048)
    line.step()
    line.hear()
    for step in range(40):
        journal.row(("loss",), (1.0,), step, 1.76e9)
    for number in range(40):
        journal.event("config", {"config": {"c": number}})
    for _ in range(2):
        line.pump.step(line.now, alive=True)
    line.delivery.interrupt(arrived=9)
    line.crash()
    line.alive = False
    line.drain()
    line.check()
    assert Arrivals().look(line.broker)[journal.writer].summary == {"loss": 1.0}


@pytest.mark.parametrize(
    "removal", [{"summary": {}, "removed": ["loss"]}, {"summary": {"acc": 1}, "removed": ["loss"]}]
)
def test_what_was_removed_from_a_summary_while_no_forwarder_lived_is_removed(run, removal):
    journal, line = run
    journal.event("define_metric", {"name": "acc", "summary": ["max"]})
    journal.row(("loss", "acc"), (1.0, 0.5), 0, 1.76e9)
    for _ in range(3):
        line.step()
        line.hear()
    assert Arrivals().look(line.broker)[journal.writer].summary == {"loss": 1.0, "acc.max": 0.5}
    line.crash()
    journal.event("summary", removal)
    line.alive = False
    line.drain()
    assert Arrivals().look(line.broker)[journal.writer].summary == (removal["summary"] or {"acc.max": 0.5})


ACTIONS = st.sampled_from(["row", "other", "text", "line", "config", "step", "hear", "away", "back", "crash", "cut"])


@given(st.lists(st.tuples(ACTIONS, st.integers(0, 5)), max_size=60), st.booleans())
@settings(max_examples=150, deadline=None)
def test_killed_and_interrupted_anywhere_nothing_is_lost_and_ranges_never_leave_a_gap(tmp_path_factory, actions, says):
    journal = start_run(tmp_path_factory.mktemp("run"), segment_bytes=8192)
    line = Line(journal.directory)
    step = 0
    for action, amount in actions:
        match action:
            case "row" | "other":
                for _ in range(amount * 20):
                    step += 1
                    keys = ("loss", "acc") if action == "row" else (f"k{amount}",)
                    journal.row(keys, [step * 0.5] * len(keys), step, 1.76e9 + step)
            case "text":
                journal.text_row({"n": 1.0}, {"t": json.dumps("x" * amount)}, step, 1.76e9)
            case "line":
                journal.event("console", {"stream": "stdout", "line": f"line {step}"})
            case "config":
                journal.event("config", {"config": {"a": amount}})
            case "step":
                line.step()
            case "hear":
                line.hear()
            case "away" | "back":
                line.broker.away = action == "away"
            case "crash":
                line.delivery.interrupt(arrived=amount)
                line.crash()
            case "cut":
                line.delivery.interrupt(arrived=amount)
    if says:
        journal.event("finish", {"state": "finished", "exit_code": 0})
    journal.close()
    line.alive = False
    line.drain()
    line.check()
    lines = [sequence for batch in line.events("logs") for sequence in batch.row_sequences.tolist()]
    assert len(set(lines)) == sum(action == "line" for action, _ in actions)
    last = line.events("runs")[-1]
    assert (last.kind, last.state) == ("finish", "finished" if says else "killed")
    assert last.points == len(points_logged(journal.directory))
