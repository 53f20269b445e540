"""Checkpoints: what begins at one knows what a reading from the first segment teaches, and goes on in the same way."""

import json
import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pulsetrain._run.summary import SummaryFold
from pulsetrain.forwarder import account, checkpoint, sending
from pulsetrain.forwarder.acknowledgement import Acknowledged
from pulsetrain.forwarder.checkpoint import BASE_FILE, CHECKPOINT_FILE, Checkpoint, make_base
from pulsetrain.forwarder.memory_delivery import MemoryBroker, MemoryDelivery
from pulsetrain.forwarder.pump import Pump, confirmed_of
from pulsetrain.forwarder.tail import Tail, read_identity
from pulsetrain.journal.format import segment_path
from pulsetrain.journal.reader import JournalReader
from pulsetrain.journal.writer import JournalWriter
from pulsetrain_schemas import events
from tests.journals import points_logged, points_of, same_points, start_run, uncovered

OPERATIONS = ("min", "max", "mean", "first", "last", "best", "none", "copy")
GONE = 2**22 + 1  # beyond the largest pid


def fill(journal: JournalWriter, first: int, rows: int) -> None:
    """Rows of two shapes, texts, config and definitions, over several segments of 64 KiB."""
    for step in range(first, first + rows):
        journal.row(("loss", "acc"), (1.0 / (step + 1), math.nan if step % 7 == 0 else step), step, 1.76e9 + step)
        if step % 50 == 0:
            journal.text_row({"eval": step / 3}, {"note": json.dumps(f"at {step}")}, step, 1.76e9 + step)
            journal.event("config", {"config": {"lr": step, f"k{step}": 1}, "removed": [f"k{step - 50}"]}, 1.76e9)
        if step % 97 == 0:
            journal.event("console", {"stream": "stdout", "line": f"line {step}"}, 1.76e9 + step)


@pytest.fixture
def run(tmp_path):
    journal = start_run(tmp_path, pid=GONE, pid_created=1.0)
    journal.event("define_metric", {"name": "acc", "summary": ["mean", "max", "first"]}, 1.76e9)
    journal.event("define_metric", {"name": "lo*", "summary": ["min", "copy"]}, 1.76e9)
    journal.event("summary", {"summary": {"set": [1, {"by": "hand"}]}}, 1.76e9)
    fill(journal, 0, 4000)
    yield journal
    journal.close()


def pump_of(journal: Path, broker: MemoryBroker) -> tuple[Pump, MemoryDelivery]:
    identity = read_identity(journal)
    assert identity is not None
    delivery = MemoryDelivery(broker)
    return Pump(journal, identity, delivery, fold=SummaryFold()), delivery


def turn(pump: Pump, delivery: MemoryDelivery, *, alive: bool) -> None:
    pump.step(1.77e9, alive=alive)
    for ticket in delivery.poll().confirmed:
        pump.confirm(ticket)
    pump.save()


def drain(pump: Pump, delivery: MemoryDelivery, *, alive: bool) -> None:
    for _ in range(1000):
        turn(pump, delivery, alive=alive)
        if pump.done or (alive and pump.is_settled):
            pump.close()
            return
    raise AssertionError("the journal was never sent")


def taught(tail: Tail) -> tuple:
    tail.read_all()
    tail.close()
    summary = repr(sorted(tail.fold.values().items())) if tail.fold is not None else ""
    return (
        tail.counters,
        tail.last_time,
        tail.latest_time,
        tail.last_step,
        tail.config,
        tail.sequence,
        tail.position,
        summary,
    )


def remove_before(journal: Path, segment: int) -> None:
    for number in range(1, segment):
        segment_path(journal, number).unlink()


def test_reading_from_the_checkpoint_teaches_what_reading_from_the_start_does(run):
    pump, delivery = pump_of(run.directory, MemoryBroker())
    drain(pump, delivery, alive=True)
    found = Checkpoint.load(run.directory)
    assert found is not None
    assert found.position.segment > 2
    fill(run, 4000, 500)
    whole, quick = Tail(run.directory, SummaryFold(), whole=True), Tail(run.directory, SummaryFold())
    assert quick.position == found.position
    assert taught(quick) == taught(whole)


def test_what_the_removed_segments_held_is_known_and_the_rest_is_sent_once(run):
    broker = MemoryBroker()
    pump, delivery = pump_of(run.directory, broker)
    drain(pump, delivery, alive=True)
    everything = points_logged(run.directory)
    fill(run, 4000, 2500)
    everything = points_logged(run.directory)
    whole = taught(Tail(run.directory, SummaryFold(), whole=True))
    base = make_base(run.directory)
    assert base is not None
    remove_before(run.directory, base.position.segment)
    assert taught(Tail(run.directory, SummaryFold(), whole=True)) == whole
    counted = account.journal_account(run.directory)
    assert (counted.counters, counted.damage) == (whole[0], None)
    assert list(sending.find_journals([run.directory.parent])) == [run.directory]
    pump, delivery = pump_of(run.directory, broker)
    drain(pump, delivery, alive=False)
    batches = [events.decode(message.payload, events.MetricBatch) for message in broker.of("metrics")]
    assert uncovered([(b.origin.first_sequence, b.origin.last_sequence) for b in batches]) == []
    assert same_points([point for batch in batches for point in points_of(batch)], everything)
    end = events.decode(broker.of("runs")[-1].payload, events.RunEvent)
    assert (end.state, end.rows, end.points) == ("killed", whole[0].rows, whole[0].points)
    assert json.loads(end.summary["acc.max"]) == 6499.0


@pytest.mark.parametrize("harm", ["missing", "cut", "flipped", "newer", "empty"])
def test_a_checkpoint_that_is_not_whole_costs_time_alone(run, harm):
    pump, delivery = pump_of(run.directory, MemoryBroker())
    drain(pump, delivery, alive=True)
    path = run.directory / CHECKPOINT_FILE
    content = path.read_bytes()
    harmed = {
        "cut": content[: len(content) // 2],
        "flipped": content[:-9] + bytes([content[-9] ^ 1]) + content[-8:],
        "newer": content.replace(b'"version": 1', b'"version": 2'),
        "empty": b"",
    }
    path.unlink() if harm == "missing" else path.write_bytes(harmed[harm])
    assert Checkpoint.load(run.directory) is None
    tail = Tail(run.directory, SummaryFold())
    assert tail.position.segment == 1
    assert taught(tail) == taught(Tail(run.directory, SummaryFold(), whole=True))


def test_the_base_stands_in_where_the_checkpoint_is_lost(run):
    pump, delivery = pump_of(run.directory, MemoryBroker())
    drain(pump, delivery, alive=True)
    whole = taught(Tail(run.directory, SummaryFold(), whole=True))
    base = make_base(run.directory)
    assert base is not None
    remove_before(run.directory, base.position.segment)
    (run.directory / CHECKPOINT_FILE).unlink()
    (run.directory / CHECKPOINT_FILE).write_bytes(b"")  # as a loss of power may leave a newer one
    assert taught(Tail(run.directory, SummaryFold())) == whole
    assert read_identity(run.directory) == pump.identity
    (run.directory / BASE_FILE).unlink()
    with pytest.raises(ValueError, match="first segment is gone"):
        read_identity(run.directory)


def test_names_that_were_changed_in_removed_segments_are_known(tmp_path):
    journal = start_run(tmp_path, pid=GONE, pid_created=1.0, first_step=10)
    journal.event("update", {"name": "second", "tags": ["c"], "notes": None}, 1.76e9)
    journal.event("update", {"first_step": 4}, 1.76e9)
    fill(journal, 0, 4000)
    pump, delivery = pump_of(journal.directory, MemoryBroker())
    drain(pump, delivery, alive=True)
    remove_before(journal.directory, make_base(journal.directory).position.segment)
    tail = Tail(journal.directory)
    assert {name: tail.start[name] for name in ("name", "tags", "notes", "first_step")} == {
        "name": "second",
        "tags": ["c"],
        "notes": None,
        "first_step": 4,
    }
    assert read_identity(journal.directory) == pump.identity
    journal.close()


def test_a_checkpoint_that_is_replaced_leaves_the_base_as_it_was(run):
    pump, delivery = pump_of(run.directory, MemoryBroker())
    drain(pump, delivery, alive=True)
    base = make_base(run.directory)
    fill(run, 4000, 3000)
    pump, delivery = pump_of(run.directory, MemoryBroker())
    drain(pump, delivery, alive=True)
    newer = Checkpoint.load(run.directory)
    assert newer.position > base.position
    assert Checkpoint.decode((run.directory / BASE_FILE).read_bytes()) == base
    assert make_base(run.directory) == newer


def test_the_base_is_made_where_files_have_no_second_names(run, monkeypatch):
    pump, delivery = pump_of(run.directory, MemoryBroker())
    drain(pump, delivery, alive=True)

    def refuse(*_: object) -> None:
        raise OSError("no second names here")

    monkeypatch.setattr(checkpoint.os, "link", refuse)
    base = make_base(run.directory)
    assert Checkpoint.decode((run.directory / BASE_FILE).read_bytes()) == base


def test_a_checkpoint_is_written_only_when_kafka_has_all_before_it(run):
    broker = MemoryBroker()
    broker.away = True
    pump, delivery = pump_of(run.directory, broker)
    for _ in range(20):
        turn(pump, delivery, alive=True)
    assert pump.position.segment > 2
    assert Checkpoint.load(run.directory) is None
    delivery.interrupt(arrived=1)
    broker.away = False
    for ticket in delivery.poll().confirmed:
        pump.confirm(ticket)
    pump.rewind()
    pump.save()
    assert Checkpoint.load(run.directory) is None
    drain(pump, delivery, alive=True)
    assert Checkpoint.load(run.directory).position <= Acknowledged.load(run.directory).position


def test_an_older_acknowledgement_than_the_checkpoint_s_does_not_count(run):
    pump, delivery = pump_of(run.directory, MemoryBroker())
    drain(pump, delivery, alive=True)
    (run.directory / "ack.json").unlink()
    found = Checkpoint.load(run.directory)
    assert confirmed_of(run.directory) == found.acknowledged
    Acknowledged().save(run.directory)
    assert confirmed_of(run.directory) == found.acknowledged


def test_a_reader_whose_segments_are_removed_before_it_gets_there_goes_on_at_the_checkpoint(run):
    fold = SummaryFold()
    slow = Tail(run.directory, fold, whole=True)
    assert slow.read(4096)
    pump, delivery = pump_of(run.directory, MemoryBroker())
    drain(pump, delivery, alive=True)
    whole = taught(Tail(run.directory, SummaryFold(), whole=True))
    remove_before(run.directory, make_base(run.directory).position.segment)
    assert slow.read(4096)  # the segment that it has open is still there for it
    assert taught(slow) == whole


def test_a_reader_that_had_closed_its_segment_goes_on_at_the_checkpoint(run):
    early = Tail(run.directory, SummaryFold(), whole=True)
    assert early.read(4096)
    early.close()
    pump, delivery = pump_of(run.directory, MemoryBroker())
    drain(pump, delivery, alive=True)
    whole = taught(Tail(run.directory, SummaryFold(), whole=True))
    remove_before(run.directory, make_base(run.directory).position.segment)
    assert taught(early) == whole


def test_damage_is_not_passed_over_by_a_checkpoint_beyond_it(run):
    pump, delivery = pump_of(run.directory, MemoryBroker())
    drain(pump, delivery, alive=True)
    path = segment_path(run.directory, 2)
    content = bytearray(path.read_bytes())
    content[1000] ^= 1
    path.write_bytes(content)
    assert account.journal_account(run.directory).damage.segment == 2


def test_a_run_taken_for_killed_that_wrote_on_is_sent_to_its_true_end(run):
    broker = MemoryBroker()
    assert sending.send(run.directory, MemoryDelivery(broker)).state == "sent"
    assert sending.look(run.directory).state == "already sent"
    fill(run, 4000, 10)
    run.event("finish", {"state": "finished", "exit_code": 0}, 1.76e9)
    run.close()
    assert sending.look(run.directory).state == "to send"
    assert sending.send(run.directory, MemoryDelivery(broker)).state == "sent"
    assert sending.look(run.directory).state == "already sent"
    batches = [events.decode(message.payload, events.MetricBatch) for message in broker.of("metrics")]
    assert same_points([point for batch in batches for point in points_of(batch)], points_logged(run.directory))
    assert events.decode(broker.of("runs")[-1].payload, events.RunEvent).state == "finished"


@given(
    st.binary(max_size=60)
    | st.sampled_from([b"[" * 10_000, b"{}", b"null\n", b'{"version":1,"crc32":0}\n', b"[1]\n{}"])
)
def test_whatever_stands_in_the_file_is_a_checkpoint_or_a_value_error(content):
    with pytest.raises(ValueError):
        Checkpoint.decode(content)


@settings(deadline=None)
@given(st.data())
def test_a_fold_that_is_restored_goes_on_as_the_one_whose_state_it_has(tmp_path_factory, data):
    journal = start_run(tmp_path_factory.mktemp("fold"), segment_bytes=1 << 16)
    names = st.sampled_from(["a", "b", "ab", "c"])
    kinds = st.sampled_from(["row", "row", "row", "text", "define", "set", "unset"])
    for step in range(data.draw(st.integers(1, 40))):
        kind, name = data.draw(kinds), data.draw(names)
        if kind == "row":
            number = data.draw(st.floats(allow_nan=True, allow_infinity=True))
            journal.row((name, "a!"), (number, 1.5), step, 0.0)
        elif kind == "text":
            journal.text_row({name: 0.1}, {f"{name}t": '{"x": [1, null]}'}, step, 0.0)
        elif kind == "define":
            wanted = data.draw(
                st.lists(st.sampled_from(["min", "max", "mean", "first", "last", "best", "none", "copy"]))
            )
            glob = data.draw(st.sampled_from(["", "*"]))
            overwrite = data.draw(st.booleans())
            goal = data.draw(st.sampled_from([None, "maximize"]))
            definition = {"name": name + glob, "summary": wanted or None, "goal": goal, "overwrite": overwrite}
            journal.event("define_metric", definition)
        elif kind == "set":
            journal.event("summary", {"summary": {name: step}, "carried": data.draw(st.booleans())})
        else:
            journal.event("summary", {"removed": [name]})
    journal.close()
    with JournalReader(journal.directory) as reader:
        items = list(reader)
    cut = data.draw(st.integers(0, len(items)))
    straight, restored = SummaryFold(), SummaryFold()
    for item in items[:cut]:
        straight.feed(item)
    state = json.loads(json.dumps(straight.state()))
    for item in items[cut:]:
        straight.feed(item)
    restored.restore(state)
    for item in items[cut:]:
        restored.feed(item)
    assert repr(restored.values()) == repr(straight.values())
