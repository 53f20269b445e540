"""Filters and orders of runs."""

import pytest

from pulsetrain_consumers.reading.model import RunRecord
from pulsetrain_consumers.reading.selection import SelectionError, conditions, parse_condition, select

RUNS = [
    RunRecord("p", "a", "first", "finished", {"lr": 0.1}, {"val/acc": 0.8}, ("base",)),
    RunRecord("p", "b", "second", "failed", {"lr": 0.01}, {"val/acc": float("nan")}, ("base", "x")),
    RunRecord("p", "c", "third", "finished", {"lr": 0.001}, {"val/acc": 0.9}),
    RunRecord("p", "d", "fourth", "finished", {}, {}),
]


def chosen(*texts: str, order: str | None = None) -> str:
    return "".join(run.run_id for run in select(RUNS, [parse_condition(text) for text in texts], order))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("state=finished", "acd"),
        ("state!=finished", "b"),
        ("lr>=0.01", "ab"),
        ("config.lr<0.01", "c"),
        ("summary.val/acc>0.85", "c"),
        ("tag=x", "b"),
        ("name~^(first|third)$", "ac"),
        ("nothing=1", ""),
    ],
)
def test_a_condition_chooses_the_runs_it_holds_for(text, expected):
    assert chosen(text) == expected


def test_runs_without_a_number_come_last_whichever_way_runs_are_sorted():
    assert chosen(order="val/acc") == "acbd"
    assert chosen(order="-val/acc") == "cabd"


def test_filters_in_the_form_of_wandb_mean_the_same():
    assert [r.run_id for r in select(RUNS, conditions({"state": "finished", "config.lr": {"$gte": 0.01}}))] == ["a"]


def test_what_is_not_understood_is_said():
    with pytest.raises(SelectionError, match="not understood"):
        parse_condition("lr")
    with pytest.raises(SelectionError, match="no regular expression"):
        parse_condition("name~(")
    with pytest.raises(SelectionError, match="no run has 'los'"):
        select(RUNS, order="los")
    with pytest.raises(SelectionError, match=r"\$near"):
        conditions({"a": {"$near": 1}})
