"""The summary is the same however the rows are cut into blocks, and what a plain loop over all rows gives."""

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pulsetrain._run.summary import SummaryFold
from pulsetrain.journal.reader import Event, RowBlock, TextRow

OPERATIONS = ("min", "max", "mean", "first", "last", "best", "copy", "none")
values = st.floats(-1e6, 1e6) | st.sampled_from([math.nan, math.inf])
runs_of_rows = st.lists(
    st.tuples(
        st.sampled_from([("a",), ("b",), ("a", "b"), ("b", "a", "c")]), st.lists(values, min_size=3, max_size=12)
    ),
    max_size=8,
)


def naive(rows, operations, goal):
    """The summary of metric a, by a plain loop."""
    column = [row["a"] for row in rows if "a" in row]
    if not column:
        return {}
    numbers = [value for value in column if not math.isnan(value)]
    best = max if goal == "maximize" else min
    found = {"first": column[0], "last": column[-1]}
    if numbers:
        found |= {"min": min(numbers), "max": max(numbers), "best": best(numbers), "mean": sum(numbers) / len(numbers)}
    result = {f"a.{name}": found[name] for name in operations if name in found}
    if "none" in operations:
        result = {}
    if "copy" in operations:
        result["a"] = column[-1]
    return result


@given(
    blocks=runs_of_rows,
    operations=st.lists(st.sampled_from(OPERATIONS), min_size=1, max_size=4, unique=True),
    goal=st.sampled_from([None, "maximize", "minimize"]),
    data=st.data(),
)
def test_blocks_make_no_difference(blocks, operations, goal, data):
    fold = SummaryFold()
    fold.feed(Event(1, 0.0, "define_metric", {"name": "a", "summary": operations, "goal": goal}))
    rows = []
    for keys, flat in blocks:
        block = np.array(flat[: len(flat) // len(keys) * len(keys)]).reshape(-1, len(keys))
        rows += [dict(zip(keys, row, strict=True)) for row in block.tolist()]
        cut = data.draw(st.integers(0, len(block)))
        for part in (block[:cut], block[cut:]):
            steps = np.zeros(len(part), np.int64)
            fold.feed(RowBlock(keys, steps, steps, steps.astype(np.float64), part))
    got = {key: value for key, value in fold.values().items() if key.partition(".")[0] == "a"}
    expected = naive(rows, operations, goal)
    assert got.keys() == expected.keys()
    for key, value in expected.items():
        assert np.isclose(got[key], value, rtol=1e-9, equal_nan=True)
    others = {key: row[key] for row in rows for key in row if key != "a"}
    assert all(repr(fold.values()[key]) == repr(value) for key, value in others.items())


def test_what_was_set_by_hand_counts_until_it_is_logged_again():
    fold = SummaryFold()
    fold.feed(Event(1, 0.0, "define_metric", {"name": "a*", "summary": ["min"]}))
    fold.feed(TextRow(2, 0, 0.0, {"ab": 1.0, "x": 2.0}, {"note": '{"k": 1}'}))
    assert fold.values() == {"ab.min": 1.0, "x": 2.0, "note": {"k": 1}}
    fold.feed(Event(3, 0.0, "summary", {"summary": {"ab": 7, "x": "set"}}))
    assert fold.values() == {"ab": 7, "x": "set", "note": {"k": 1}}
    fold.feed(TextRow(4, 1, 0.0, {"ab": 3.0, "x": 4.0}, {}))
    assert fold.values() == {"ab": 3.0, "x": 4.0, "note": {"k": 1}}
    fold.feed(Event(5, 0.0, "summary", {"removed": ["x", "note"]}))
    assert fold.values() == {"ab": 3.0}
