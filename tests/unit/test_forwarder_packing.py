"""Packing: what goes in comes out, and ranges are adjacent."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pulsetrain.forwarder import packing
from pulsetrain.forwarder.tail import Identity
from pulsetrain.journal.reader import Event, RowBlock, TextRow
from pulsetrain_schemas import events
from tests.journals import STARTED, points_of, same_points, texts_of

IDENTITY = Identity("p", "r", "w", 0, 0, STARTED, "box", True, "run", False, 1, 0.0, True)

keys = st.lists(st.text(max_size=8), min_size=0, max_size=5, unique=True).map(tuple)
numbers = st.floats(allow_nan=True, allow_infinity=True)


@st.composite
def journals(draw):
    """Items with ascending sequences and holes between them, as other records leave."""
    items, sequence = [], 0
    for shape in draw(st.lists(keys, max_size=6)):
        sequence += draw(st.integers(1, 4))
        if draw(st.booleans()):
            count = draw(st.integers(1, 40))
            values = draw(st.lists(numbers, min_size=count * len(shape), max_size=count * len(shape)))
            items.append(
                RowBlock(
                    shape,
                    np.arange(sequence, sequence + count),
                    np.array(draw(st.lists(st.integers(-(2**62), 2**62), min_size=count, max_size=count))),
                    np.full(count, 1.76e9),
                    np.array(values, np.float64).reshape(count, len(shape)),
                )
            )
            sequence += count - 1
        else:
            texts = draw(st.dictionaries(st.text(max_size=5), st.text(max_size=20), max_size=3))
            row = dict.fromkeys(shape, draw(numbers))
            items.append(TextRow(sequence, draw(st.integers(-9, 9)), 1.76e9, row, texts))
    return items


def expected(items):
    points, texts = [], []
    for item in items:
        if isinstance(item, RowBlock):
            for sequence, step, row in zip(item.sequences, item.steps, item.values, strict=True):
                points += [(int(sequence), int(step), k, float(v)) for k, v in zip(item.keys, row, strict=True)]
        else:
            points += [(item.sequence, item.step, k, v) for k, v in item.numbers.items()]
            texts += [(item.sequence, k, v) for k, v in item.texts.items()]
    return points, texts


@given(journals(), st.integers(60, 2000))
@settings(max_examples=200, deadline=None)
def test_what_is_packed_and_decoded_is_what_was_logged_in_adjacent_ranges(items, target):
    messages = [events.encode(batch) for batch in packing.metric_batches(IDENTITY, 1, items, target)]
    batches = [events.decode(message, events.MetricBatch) for message in messages]
    points, texts = expected(items)
    assert same_points([p for batch in batches for p in points_of(batch)], points)
    assert [t for batch in batches for t in texts_of(batch)] == texts
    reached = 0
    for batch in batches:
        assert batch.origin.first_sequence == reached + 1
        reached = batch.origin.last_sequence
    if items:
        assert reached == (items[-1].sequence if isinstance(items[-1], TextRow) else items[-1].sequences[-1])


def test_messages_are_cut_near_their_target_and_one_large_row_goes_alone():
    block = RowBlock(
        tuple(f"k{i}" for i in range(100)),
        np.arange(1, 1001),
        np.arange(1000),
        np.full(1000, 1.76e9),
        np.ones((1000, 100)),
    )
    sizes = [len(events.encode(batch)) for batch in packing.metric_batches(IDENTITY, 1, [block], 100_000)]
    assert len(sizes) == 9
    assert max(sizes) < 110_000
    assert len(list(packing.metric_batches(IDENTITY, 1, [block], 10))) == 1000


def test_times_keep_their_microseconds():
    block = RowBlock(("k",), np.array([1]), np.array([0]), np.array([1760000000.123457]), np.ones((1, 1)))
    (batch,) = packing.metric_batches(IDENTITY, 1, [block])
    assert batch.row_times.tolist() == [1_760_000_000_123_457]


def test_a_text_that_no_message_could_hold_is_cut_and_stays_json():
    import json

    row = TextRow(1, 0, 1.76e9, {}, {"page": json.dumps("é" * 2_000_000)})
    (batch,) = packing.metric_batches(IDENTITY, 1, [row])
    text = json.loads(batch.text_values[0])
    assert len(batch.text_values[0]) < 4 << 20
    assert "cut: " in text


def test_series_of_gpus_and_of_the_host_are_told_apart():
    block = RowBlock(
        ("cpu_percent", "gpu/3/GPU-abc/power_watts", "gpu/odd"),
        np.array([2, 3]),
        np.array([0, 0]),
        np.array([1.76e9, 1.76e9]),
        np.ones((2, 3)),
    )
    (batch,) = packing.system_batches(IDENTITY, 1, [block])
    decoded = events.decode(events.encode(batch), events.SystemBatch)
    assert list(decoded.series_metrics) == ["cpu_percent", "power_watts", "gpu/odd"]
    assert list(decoded.series_gpus) == ["", "GPU-abc", ""]
    assert decoded.series_gpu_indexes.tolist() == [-1, 3, -1]
    assert decoded.host == "box"
    assert events.message_key(batch) == b"box"


def test_console_lines_become_log_batches_with_adjacent_ranges():
    lines = [
        Event(2 + 3 * i, 1.76e9 + i, "console", {"stream": ("stdout", "stderr")[i % 2], "line": "x" * 50})
        for i in range(10)
    ]
    batches = [
        events.decode(events.encode(batch), events.LogBatch) for batch in packing.log_batches(IDENTITY, 1, lines, 200)
    ]
    assert [(b.origin.first_sequence, b.origin.last_sequence) for b in batches][:2] == [(1, 8), (9, 17)]
    assert [int(s) for b in batches for s in b.row_streams] == [1, 2] * 5
    assert sum(len(b.lines) for b in batches) == 10
