"""Every query of every dashboard, as Grafana would send it, on a stack that has something for each: none may fail, and
none may be empty.
"""

from collections.abc import Iterator

import pytest

from tests.grafana_files import FILES, Asked, queries, rule_queries
from tests.grafana_macros import Range, expanded, expanded_promql, interpolated
from tests.grafana_stack import PROJECT, RUNS, filled_stack
from tests.prometheus import PROMETHEUS, asked_of_prometheus, with_prometheus
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
ALL = [asked for path in FILES for asked in queries(path)]
ASKED = [asked for asked in ALL if asked.is_sql] + list(rule_queries())
MEASURED = [asked for asked in ALL if not asked.is_sql]


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Stack, Range]]:
    with filled_stack(tmp_path_factory.mktemp("grafana"), **with_prometheus()) as filled:
        yield filled


@pytest.mark.parametrize("asked", ASKED, ids=str)
def test_every_query_gives_rows(filled: tuple[Stack, Range], asked: Asked) -> None:
    stack, over = filled
    found = stack.sql(expanded(interpolated(asked.text, CHOSEN), over))
    assert found
    assert any(value is not None for row in found for value in row)


@pytest.mark.skipif(PROMETHEUS is None, reason="no prometheus is installed")
@pytest.mark.parametrize("asked", MEASURED, ids=str)
def test_every_expression_gives_a_line(filled: tuple[Stack, Range], asked: Asked) -> None:
    stack, over = filled
    lines = asked_of_prometheus(stack, expanded_promql(asked.text, over), over)
    assert lines
    assert any(value != "NaN" for line in lines for _, value in line["values"])


@pytest.mark.skipif(PROMETHEUS is None, reason="no prometheus is installed")
def test_prometheus_reaches_every_service_and_nothing_is_firing_but_the_dead_letter(
    filled: tuple[Stack, Range],
) -> None:
    stack, over = filled
    up = {line["metric"]["job"]: line["values"][-1][1] for line in asked_of_prometheus(stack, "up", over)}
    assert up == {f"pulsetrain-{name}": "1" for name in ("writer", "monitor", "aggregator")}
    firing = asked_of_prometheus(stack, 'ALERTS{alertstate="firing"}', over)
    assert {line["metric"]["alertname"] for line in firing} <= {"PulsetrainDeadLetters"}


def test_the_numbers_are_what_was_logged(filled: tuple[Stack, Range]) -> None:
    stack, over = filled

    def asked(dashboard: str, begins: str) -> list[tuple]:
        (one,) = [it for it in ASKED if it.dashboard == dashboard and begins in it.by]
        return stack.sql(expanded(interpolated(one.text, {**CHOSEN, "smoothing": ["1"]}), over))

    by_step = {(step, run): mean for step, run, mean in asked("compare", "2 ${metric} A")}
    assert by_step[0, "lr=0.1"] == 1.0
    assert by_step[4, "lr=0.2"] == pytest.approx(0.2)
    assert max(step for step, _ in by_step) == 99, "what is not finite has no place on a curve"
    runs = {row[1]: row for row in asked("runs", " Runs A")}
    assert {runs["slow"][0], runs["fast"][0]} == {"lr=0.1", "lr=0.2"}
    assert 0 < runs["slow"][3] <= 1, "the progress, by max_steps"
    assert runs["slow"][4] == 1.0, "the best by the goal"
    curves = dict(asked("runs", " Runs B"))
    assert curves.keys() == {"slow", "fast"}, "of those that have the metric"
    for curve in curves.values():
        assert curve.startswith("█")
        assert curve.endswith("▁")
        assert len(curve) <= 20
    assert {row[0]: row[1] for row in asked("run", "Configuration")}.keys() == {"layers", "lr", "max_steps"}
    assert [row[:1] for row in asked("pipeline", "Missing")] == [(0,)]
