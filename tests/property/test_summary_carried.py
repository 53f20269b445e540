"""A summary that is carried from attempt to attempt is the summary of all rows in one."""

import json
import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pulsetrain._run.definitions import Definition
from pulsetrain._run.summary import SummaryFold
from pulsetrain.journal.reader import Event, Item, RowBlock, TextRow

KEYS = ("all", "best", "plain", "copied")
DEFINITIONS = [
    Definition("all", summary=("min", "max", "mean", "first", "last")),
    Definition("best", summary=("best",), goal="maximize"),
    Definition("copied", summary=("max", "copy")),
]
# Sums of such numbers are exact, in whatever order.
VALUES = st.integers(-1000, 1000).map(float) | st.sampled_from([math.nan, math.inf])


def defining() -> list[Item]:
    return [Event(0, 0.0, "define_metric", one.to_event(overwrite=True)) for one in DEFINITIONS]


def row(step: int, key: str, value: float) -> RowBlock:
    return RowBlock((key,), np.array([1]), np.array([step]), np.array([0.0]), np.array([[value]]))


def items() -> st.SearchStrategy[list[Item]]:
    rows = st.builds(row, st.integers(0, 9), st.sampled_from(KEYS), VALUES)
    texts = st.builds(lambda step: TextRow(1, step, 0.0, {}, {"text": json.dumps(f"at {step}")}), st.integers(0, 9))
    by_hand = st.builds(
        lambda key, value: Event(1, 0.0, "summary", {"summary": {key: value}}), st.sampled_from(["hand"]), st.integers()
    )
    return st.lists(rows | texts | by_hand, max_size=12)


def folded(fold: SummaryFold, found: list[Item]) -> SummaryFold:
    for item in found:
        fold.feed(item)
    return fold


def carry(fold: SummaryFold) -> list[Item]:
    """What the next attempt's journal begins with, by way of JSON as it goes."""
    definitions = [Event(0, 0.0, "define_metric", data) for data in fold.definitions()]
    return [*definitions, Event(0, 0.0, "summary", json.loads(json.dumps(fold.carried())))]


def shown(fold: SummaryFold) -> str:
    return json.dumps(fold.values(), sort_keys=True)


@given(st.lists(items(), min_size=1, max_size=4))
def test_attempts_that_go_on_fold_to_what_one_would(attempts: list[list[Item]]):
    whole = folded(SummaryFold(), defining())
    fold = folded(SummaryFold(), defining())
    for attempt in attempts:
        folded(whole, attempt)
        fold = folded(folded(SummaryFold(), carry(fold)), attempt)
        assert shown(fold) == shown(whole)
        restored = SummaryFold()
        restored.restore(json.loads(json.dumps(fold.state())))
        assert shown(restored) == shown(whole)


@given(items(), items(), st.integers(0, 10))
def test_a_rewind_folds_to_what_the_kept_rows_alone_would(before: list[Item], after: list[Item], below: int):
    kept = folded(SummaryFold(), defining())
    beyond = False
    for item in before:
        if isinstance(item, Event):
            if not beyond:
                kept.feed(item)
            continue
        beyond = (item.step if isinstance(item, TextRow) else int(item.steps[0])) >= below
        if not beyond:
            kept.feed(item)
    cut = folded(folded(SummaryFold(below), defining()), before)
    assert shown(cut) == shown(kept)
    assert shown(folded(folded(SummaryFold(), carry(cut)), after)) == shown(folded(kept, after))


@given(items(), items(), items())
def test_a_base_that_is_made_anew_takes_the_place_of_the_first(one: list[Item], other: list[Item], own: list[Item]):
    first, second = (folded(folded(SummaryFold(), defining()), found) for found in (one, other))
    late = folded(SummaryFold(), [*carry(first), *own, *carry(second)])
    assert shown(late) == shown(folded(SummaryFold(), [*carry(second), *own]))
