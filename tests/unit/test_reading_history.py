"""Points of a run become columns, and none is lost on the way."""

import numpy as np

from pulsetrain_consumers.reading.history import pivot, thin
from pulsetrain_consumers.reading.sparkline import sparkline


def points(*rows: tuple[str, int, int, float]) -> dict[str, np.ndarray]:
    names, ranks, steps, values = zip(*rows, strict=True)
    return {
        "metric": np.array(names, dtype=object),
        "rank": np.array(ranks, dtype=np.uint32),
        "step": np.array(steps),
        "time": np.arange(len(rows)) * 1_000_000,
        "value": np.array(values),
    }


def test_metrics_of_one_step_share_a_row():
    columns = pivot(points(("a", 0, 0, 1.0), ("a", 0, 1, 2.0), ("b", 0, 1, 20.0)))
    assert columns["_step"].tolist() == [0, 1]
    assert columns["a"].tolist() == [1.0, 2.0]
    np.testing.assert_array_equal(columns["b"], [np.nan, 20.0])
    assert columns["_timestamp"].tolist() == [0.0, 1.0]


def test_a_step_that_was_logged_twice_has_two_rows():
    columns = pivot(points(("a", 0, 5, 1.0), ("a", 0, 5, 2.0), ("a", 1, 5, 3.0), ("b", 0, 5, 9.0)))
    assert columns["_rank"].tolist() == [0, 0, 1]
    assert columns["a"].tolist() == [1.0, 2.0, 3.0]
    np.testing.assert_array_equal(columns["b"], [9.0, np.nan, np.nan])


def test_a_metric_that_was_asked_for_and_never_logged_is_nan():
    columns = pivot(points(("a", 0, 0, 1.0)), ["zz", "a"])
    assert list(columns) == ["_rank", "_step", "_timestamp", "zz", "a"]
    assert np.isnan(columns["zz"]).all()


def test_no_points_make_empty_columns():
    empty = {name: np.empty(0) for name in ("metric", "rank", "step", "time", "value")}
    assert {name: len(column) for name, column in pivot(empty, ["a"]).items()} == {
        "_rank": 0,
        "_step": 0,
        "_timestamp": 0,
        "a": 0,
    }


def test_thinning_takes_means_over_equal_shares():
    columns = {name: np.arange(10) for name in ("_rank", "_step", "_timestamp")} | {"a": np.arange(10.0)}
    thinned = thin(columns, 5)
    assert thinned["_step"].tolist() == [0, 2, 4, 6, 8]
    assert thinned["a"].tolist() == [0.5, 2.5, 4.5, 6.5, 8.5]


def test_a_sparkline_is_a_line_and_marks_what_is_no_number():
    assert sparkline(np.array([0.0, 0.9, 2.0, np.nan]), 4) == "▁▄█×"
    assert sparkline(np.full(100, 3.0), 10) == "▁" * 10
    assert sparkline(np.array([])) == ""
