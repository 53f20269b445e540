"""Of a message with many values a few are looked at, and yet no two that are no numbers are missed."""

import math

import numpy as np
import pytest

from pulsetrain_consumers.monitor.detectors.metric_columns import MOST, MOST_ODD, Column, columns
from pulsetrain_consumers.monitor.watch import RunWatch
from pulsetrain_schemas.events import MetricBatch, Origin

NAN = math.nan


def batch(values: list[float], *, several_shapes: bool = False) -> MetricBatch:
    """Rows of a loss; with `several_shapes` each second row has another metric too."""
    rows = len(values)
    numbers = np.arange(rows)
    shapes = numbers % 2 if several_shapes else np.zeros(rows, np.int64)
    given = [[value, 1.0] if shape else [value] for value, shape in zip(values, shapes.tolist(), strict=True)]
    return MetricBatch(
        origin=Origin("p", "r", "w", 0, 0, 0, 1, rows),
        keys=("loss", "lr"),
        shape_lengths=np.array([1, 2]) if several_shapes else np.array([1]),
        shape_keys=np.array([0, 0, 1]) if several_shapes else np.array([0]),
        row_sequences=numbers + 1,
        row_steps=numbers,
        row_times=numbers * 1_000,
        row_shapes=shapes,
        values=np.array([value for row in given for value in row]),
    )


@pytest.fixture(params=[False, True], ids=["one shape", "several shapes"])
def several(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def loss(values: list[float], several: bool) -> Column:
    (column,) = columns(batch(values, several_shapes=several), [0])
    return column


def test_of_many_finite_values_each_nth_is_taken(several: bool) -> None:
    column = loss([2.0] * 1_000, several)
    assert column.whole
    assert 16 < len(column.values) <= MOST
    assert column.steps == [32 * number for number in range(len(column.values))]


def test_all_that_are_no_numbers_are_taken_with_what_follows_them(several: bool) -> None:
    values = [2.0] * 1_000
    values[501] = values[502] = NAN
    values[701] = math.inf
    column = loss(values, several)
    assert not column.whole
    assert {501, 502, 503, 701, 702} <= set(column.steps)
    assert column.steps == sorted(column.steps)
    assert len(column.values) < 50


def test_a_message_that_is_all_nan_is_looked_at_in_part(several: bool) -> None:
    column = loss([NAN] * 20_000, several)
    assert len(column.values) == MOST_ODD
    assert column.steps[-1] == 19_999


@pytest.mark.parametrize("place", [61, 500, 998])
def test_two_nans_anywhere_in_a_message_are_an_alert_and_one_is_none(place: int, several: bool) -> None:
    values = [2.0] * 1_000
    values[place] = NAN
    watch = RunWatch("p", "r")
    assert watch.metrics(batch(values, several_shapes=several)) == []
    values[place + 1] = NAN
    (found,) = RunWatch("p", "r").metrics(batch(values, several_shapes=several))
    assert (found.kind, found.present, found.step) == ("nan", True, place + 1)


def test_two_nans_with_a_number_between_them_are_none(several: bool) -> None:
    values = [2.0] * 1_000
    values[500] = values[502] = NAN
    assert RunWatch("p", "r").metrics(batch(values, several_shapes=several)) == []
