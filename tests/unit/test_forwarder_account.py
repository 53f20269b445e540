"""The loss account: ranges, repeats, and what verify says of them."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from pulsetrain.commands import verify as command
from pulsetrain.forwarder import account, packing
from pulsetrain.forwarder.tail import read_identity
from pulsetrain.journal.reader import JournalReader, RowBlock, TextRow
from tests.journals import start_run

ranges = st.lists(st.tuples(st.integers(1, 40), st.integers(0, 10)).map(lambda r: (r[0], r[0] + r[1])), max_size=12)


@given(ranges)
def test_ranges_cover_what_their_sum_covers_in_whatever_order_they_come(given_ranges):
    covered = account.Covered()
    known: set[int] = set()
    for first, last in given_ranges:
        covered.add(first, last)
        known |= set(range(first, last + 1))
    every = np.arange(1, 60)
    assert {int(s) for s in every[covered.mask(every)]} == known
    missing = {s for first, last in covered.gaps for s in range(first, last + 1)}
    assert missing == set(range(1, max(known, default=0))) - known
    assert all(a[1] + 1 < b[0] for a, b in zip(covered.ranges, covered.ranges[1:], strict=False))


@pytest.fixture
def run(tmp_path):
    journal = start_run(tmp_path / "run-1")
    for step in range(100):
        journal.row(("a", "b"), (1.0, 2.0), step, 1.76e9)
        if step % 10 == 0:
            journal.text_row({"n": 1.0}, {"t": '"x"', "u": "[]"}, step, 1.76e9)
    journal.close()
    return journal.directory


def batches(journal, target):
    with JournalReader(journal) as reader:
        items = [item for item in reader if isinstance(item, RowBlock | TextRow)]
    return list(packing.metric_batches(read_identity(journal), 1, items, target))


def test_messages_that_overlap_are_counted_once(run):
    counted = account.KafkaAccount()
    for batch in [*batches(run, 500)[:5], *batches(run, 800)]:
        counted.add(batch)
    assert (counted.rows, counted.points, counted.texts) == (110, 210, 20)
    assert counted.repeated > 0
    assert counted.covered.gaps == []


def test_a_journal_is_counted_by_reading_it(run):
    found = account.journal_account(run)
    assert (found.counters.rows, found.counters.points, found.counters.texts) == (110, 210, 20)
    assert not found.complete
    assert found.damage is None


def reading_of(run, counted_batches, expired=False):
    counted = account.KafkaAccount()
    for batch in counted_batches:
        counted.add(batch)
    return lambda journals: account.KafkaReading({read_identity(run).writer: counted}, expired, 0)


def ask(run, monkeypatch, reading, *options):
    monkeypatch.setattr(command, "_kafka", reading)
    arguments = ["--dir", str(run.parent.parent), "--skip", "clickhouse", *options]
    return CliRunner().invoke(command.verify, arguments)


def test_verify_is_content_when_everything_is_there(run, monkeypatch):
    result = ask(run, monkeypatch, reading_of(run, batches(run, 500)))
    assert result.exit_code == 0
    assert "nothing is missing: 230 points of 1 journals" in result.output


def test_verify_says_what_is_missing_and_ends_with_one(run, monkeypatch):
    result = ask(run, monkeypatch, reading_of(run, batches(run, 500)[:-1]), "r1")
    assert result.exit_code == 1
    assert "are not in Kafka: not all is sent yet, `pulsetrain sync` sends it" in result.output


def test_what_retention_has_taken_from_kafka_is_no_loss(run, monkeypatch):
    result = ask(run, monkeypatch, reading_of(run, batches(run, 500)[1:], expired=True), "--json")
    assert result.exit_code == 0
    (row,) = json.loads(result.output)
    assert row["kafka"] is None
    assert row["journal"] == {"rows": 110, "points": 210, "texts": 20}


def test_verify_tells_an_unknown_run(run, monkeypatch):
    result = ask(run, monkeypatch, reading_of(run, []), "nobody")
    assert result.exit_code == 1
    assert "no journal of a run nobody" in str(result.exception)
