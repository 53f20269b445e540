"""Every query of every dashboard, as Grafana would send it, on a stack that has something for each: none may fail, and
none may be empty.
"""

from collections.abc import Iterator

import pytest

from tests.grafana_files import FILES, Asked, queries, rule_queries
from tests.grafana_macros import Range, expanded, interpolated
from tests.grafana_stack import PROJECT, RUNS, filled_stack
from tests.stack_fixture import Stack

pytestmark = [pytest.mark.stack, pytest.mark.timeout(300)]

CHOSEN = {
    "project": [PROJECT],
    "projects": ["$__all"],
    "run": list(RUNS),
    "metric": ["train/loss"],
    "goal": ["max"],
    "scale": ["linear"],
    "smoothing": ["5"],
    "host": ["$__all"],
    "price": ["2.5"],
}
ASKED = [asked for path in FILES for asked in queries(path)] + list(rule_queries())


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Stack, Range]]:
    with filled_stack(tmp_path_factory.mktemp("grafana")) as filled:
        yield filled


@pytest.mark.parametrize("asked", ASKED, ids=str)
def test_every_query_gives_rows(filled: tuple[Stack, Range], asked: Asked) -> None:
    stack, over = filled
    found = stack.sql(expanded(interpolated(asked.sql, CHOSEN), over))
    assert found
    assert any(value is not None for row in found for value in row)


def test_the_numbers_are_what_was_logged(filled: tuple[Stack, Range]) -> None:
    stack, over = filled

    def asked(dashboard: str, begins: str) -> list[tuple]:
        (one,) = [it for it in ASKED if it.dashboard == dashboard and begins in it.by]
        return stack.sql(expanded(interpolated(one.sql, {**CHOSEN, "smoothing": ["1"]}), over))

    by_step = {(step, run): mean for step, run, mean in asked("compare", "2 ${metric} A")}
    assert by_step[0, "lr=0.1"] == 1.0
    assert by_step[4, "lr=0.2"] == pytest.approx(0.2)
    assert max(step for step, _ in by_step) == 99, "what is not finite has no place on a curve"
    runs = {row[1]: row for row in asked("runs", " Runs A")}
    assert {runs["slow"][0], runs["fast"][0]} == {"lr=0.1", "lr=0.2"}
    assert runs["slow"][3] == 1.0, "the best by the goal"
    assert {row[0]: row[1] for row in asked("run", "Configuration")}.keys() == {"layers", "lr"}
    assert [row[:1] for row in asked("pipeline", "Missing")] == [(0,)]
