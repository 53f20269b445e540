"""Attempts, rewinds and forks in ClickHouse's views, and by all that reads them, against a model of dictionaries."""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import count
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pulsetrain._run.attempts import Elsewhere, Known
from pulsetrain_consumers.clickhouse import Client, Dictionary, connect
from pulsetrain_consumers.reading import curves, lineage, terminal
from pulsetrain_consumers.reading.api import Api
from pulsetrain_consumers.writer.tables import dictionary
from pulsetrain_schemas.addresses import ClickHouseAddress
from tests.clickhouse_fixture import ClickHouse
from tests.reading_rows import STARTED, create_database, store_metric, store_run

pytestmark = pytest.mark.clickhouse

PROJECTS = count()
# Few steps, so that rewinds meet what was logged, and each other.
STEPS = 12


@pytest.fixture(scope="module")
def address(clickhouse_server: ClickHouse) -> ClickHouseAddress:
    server = clickhouse_server
    found = ClickHouseAddress(server.host, server.port, server.user, server.password, "attempts")
    create_database(found)
    return found


@pytest.fixture(scope="module")
def client(address: ClickHouseAddress) -> Iterator[Client]:
    with connect(address) as client:
        yield client


@pytest.fixture(scope="module")
def api(address: ClickHouseAddress) -> Iterator[Api]:
    with Api(address.url()) as api:
        yield api


@dataclass
class Model:
    """A run as one dictionary of step to value, which is all that a rewind or a fork has to know."""

    run_id: str
    shown: dict[int, float] = field(default_factory=dict)
    first_steps: list[int] = field(default_factory=list)
    inherited: list[dict[str, object]] = field(default_factory=list)

    def begin(self, first: int) -> int:
        """A new attempt from that step on; returns its number."""
        self.shown = {step: value for step, value in self.shown.items() if step < first}
        self.first_steps.append(first)
        return len(self.first_steps) - 1

    def fork(self, run_id: str, step: int) -> "Model":
        known = Known(
            self.run_id,
            dict(enumerate(self.first_steps)),
            elsewhere=[Elsewhere(0, None)],
            inherited={0: self.inherited} if self.inherited else {},
        )
        shown = {at: value for at, value in self.shown.items() if at <= step}
        return Model(run_id, shown, inherited=known.visible(step + 1))


def parts(inherited: list[dict[str, object]]) -> list[tuple[str, int, int]]:
    return [(str(part["run_id"]), int(str(part["attempt"])), int(str(part["below"]))) for part in inherited]


Begun = tuple[str, int, int, int, list[tuple[str, int, int]]]
"""Run, a number as its sequence, attempt, first step, what it inherits."""
Point = tuple[str, int, int, float]
"""Run, attempt, step, value."""


def store(client: Client, project: str, begun: list[Begun], points: list[Point]) -> None:
    """All starts with one insert, and all points with another."""
    start = int(STARTED.timestamp())
    rows = len(begun)
    told: list[list[Any]] = [list(column) for column in zip(*begun, strict=True)]
    client.insert(
        "run_events",
        {
            "project": Dictionary.constant(project, rows),
            "run_id": dictionary(told[0]),
            "writer": Dictionary.constant("w", rows),
            "sequence": np.array(told[1]) + 1,
            "kind": Dictionary.constant("start", rows),
            "ts": np.full(rows, start * 1_000_000),
            "attempt": np.array(told[2]),
            "attempt_started": np.full(rows, start * 1_000_000),
            "is_primary": np.ones(rows, bool),
            "state": ["running"] * rows,
            "first_step": told[3],
            **{
                f"inherited_{name}": [[part[place] for part in inherited] for inherited in told[4]]
                for place, name in enumerate(("runs", "attempts", "below"))
            },
        },
    )
    rows = len(points)
    if rows:
        logged: list[list[Any]] = [list(column) for column in zip(*points, strict=True)]
        client.insert(
            "metrics",
            {
                "project": Dictionary.constant(project, rows),
                "run_id": dictionary(logged[0]),
                "metric": Dictionary.constant("x", rows),
                "attempt": np.array(logged[1]),
                "step": np.array(logged[2]),
                "value": np.array(logged[3]),
                "writer": Dictionary.constant("w", rows),
                "sequence": np.arange(rows),
                "attempt_started": np.full(rows, start),
            },
        )


@st.composite
def histories(draw: st.DrawFn) -> list[tuple[str, int, int, list[int]]]:
    """(what, run, from step, steps logged): attempts of a run, or forks of one, each with the steps that it logs."""
    steps = []
    runs = 1
    for number in range(draw(st.integers(1, 7))):
        what = "attempt" if not number else draw(st.sampled_from(["attempt", "attempt", "fork"]))
        run = draw(st.integers(0, runs - 1))
        runs += what == "fork"
        first = draw(st.integers(0, STEPS)) if number else 0
        logged = draw(st.lists(st.integers(first, STEPS), max_size=6, unique=True))
        steps.append((what, run, first, logged))
    return steps


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(histories())
def test_what_is_shown_is_what_a_dictionary_would_hold(
    client: Client, api: Api, history: list[tuple[str, int, int, list[int]]]
):
    project = f"model-{next(PROJECTS)}"
    models = [Model("r0")]
    values = count()
    begun: list[Begun] = []
    points: list[Point] = []
    for number, (what, run, first, logged) in enumerate(history):
        model = models[run]
        if what == "fork":
            model = models[run].fork(f"r{len(models)}", first - 1)
            models.append(model)
        attempt = model.begin(first)
        begun.append((model.run_id, number, attempt, first, parts(model.inherited) if what == "fork" else []))
        logging = {step: float(next(values)) for step in logged}
        model.shown |= logging
        points += [(model.run_id, attempt, step, value) for step, value in logging.items()]
    store(client, project, begun, points)
    keys = [(project, model.run_id) for model in models if model.first_steps]
    told = client.query(f"SELECT run_id, step, value FROM latest_metrics WHERE project = '{project}'").rows
    drawn = curves.curves(api.database, keys, 1000)
    steps = lineage.last_steps(api.database, keys)
    for model in models:
        if not model.first_steps:
            continue
        expected = sorted(model.shown.items())
        assert sorted((step, value) for run_id, step, value in told if run_id == model.run_id) == expected
        run = api.run(f"{project}/{model.run_id}")
        shown = run.history(["x"])
        assert list(zip(shown["_step"].tolist(), shown["x"].tolist(), strict=True)) == expected
        assert run.last_step == steps.get((project, model.run_id)) == max(model.shown, default=None)
        found = drawn.get((project, model.run_id), [])
        assert [step for curve in found for step in curve.steps.tolist()] == [step for step, _ in expected]
        own = [one for one in run.attempts() if one.run_id == model.run_id]
        assert [one.first_step for one in own] == model.first_steps


def test_an_attempt_that_has_logged_nothing_replaces_what_it_is_to_replace(client: Client, api: Api):
    store_run(client, "quiet", "r")
    store_metric(client, "quiet", "r", "x", np.arange(10.0))
    store_run(client, "quiet", "r", attempt=1, first_step=4, state=None)
    assert api.run("quiet/r").history()["_step"].tolist() == [0, 1, 2, 3]
    # A lower step that comes late or out of order is one more point, and replaces nothing.
    store_metric(client, "quiet", "r", "x", np.array([1.0, 2.0]), steps=np.array([4, 1]), attempt=1)
    assert api.run("quiet/r").history()["_step"].tolist() == [0, 1, 1, 2, 3, 4]
    # The first attempt's data that come late stay replaced.
    store_metric(client, "quiet", "r", "y", np.arange(8.0))
    assert api.run("quiet/r").history(["y"])["y"].tolist() == [0, 1, 2, 3]
    assert len(api.run("quiet/r").history(all_attempts=True)["_step"]) == 12


def test_summary_and_config_are_those_of_the_latest_attempt_even_where_an_earlier_one_speaks_late(
    client: Client, api: Api
):
    late = STARTED + timedelta(hours=1)
    store_run(client, "late", "r", summary={"loss": 1, "gone": 1}, config={"lr": 1}, started=late)
    store_run(client, "late", "r", attempt=1, first_step=4, summary={"loss": 2}, config={"lr": 2})
    run = api.run("late/r")
    assert (run.summary, run.config, run.attempt) == ({"loss": 2}, {"lr": 2}, 1)


def test_the_read_side_tells_what_a_run_had_come_to_before_a_step(client: Client, api: Api):
    definition = {"name": "x", "summary": ["mean", "min", "max", "first", "last", "copy"], "step_metric": "epoch"}
    quiet = {"name": "y", "summary": ["min"]}
    environment = {"launch": "job-1"}
    store_run(
        client, "told", "r", name="a name", tags=["t"], config={"lr": 0.5}, environment=environment,
        summary={"x": 9, "x.mean": 4.5, "x.min": 0, "z": 1, "by hand": 2}, definitions={"x": definition, "y": quiet},
    )  # fmt: skip
    values = np.arange(10.0)
    values[2] = math.nan
    store_metric(client, "told", "r", "x", values)
    store_metric(client, "told", "r", "y", values, rank=1)
    store_run(client, "told", "r", rank=1, state=None)
    known = api.attempts("told", "r")
    assert known is not None
    assert (known["first_steps"], known["next_step"], known["is_heard"]) == ({0: 0}, 10, False)
    assert sorted(one["rank"] for one in known["members"]) == [0, 1]
    assert {one["launch"] for one in known["members"]} == {"job-1", None}
    whole = api.state_of("told", "r")
    assert whole is not None
    assert whole["operations"] == {"x": {"first": 0, "last": 9, "min": 0, "max": 9, "total": 43, "count": 9}}
    assert (whole["config"], whole["start"]["name"], whole["start"]["tags"]) == ({"lr": 0.5}, "a name", ["t"])
    assert whole["summary"] == {"x": 9, "z": 1, "by hand": 2}
    before = api.state_of("told", "r", rank=1, below=5)
    assert before is not None
    assert before["operations"] == {"y": {"first": 0, "last": 4, "min": 0, "max": 4, "total": 8, "count": 4}}
    assert before["summary"] == {"x": 4, "z": 1, "by hand": 2}
    assert sorted(one["name"] for one in before["definitions"]) == ["x", "y"]
    assert (api.attempts("told", "unknown"), api.state_of("told", "unknown")) == (None, None)


def test_show_says_that_there_were_attempts_and_where_a_fork_comes_from(client: Client, api: Api):
    store_run(client, "show", "r")
    store_run(client, "show", "r", attempt=1, first_step=1500)
    store_run(client, "show", "f", first_step=1001, inherited=[("r", 0, 1001)])
    said = []
    for name in ("r", "f"):
        run = api.run(f"show/{name}")
        said.append(lineage.facts(run.record, run.attempts()))
        view = terminal.RunView(run.record, [], [], [], [], run.attempts())
        assert len(json.loads(terminal.run_as_json(view))["attempts"]) == 2
    assert said == [{"attempts": "2, from step 0, 1,500; the latest is shown"}, {"fork of": "r, after step 1,000"}]
    assert (api.run("show/f").parent, api.run("show/r").parent) == (("r", 1000), None)


def test_a_filter_on_the_run_reaches_the_tables_behind_the_views(client: Client):
    for view in ("latest_metrics", "latest_texts", "rewinds", "inheritance", "run_lineage", "runs"):
        plan = "\n".join(
            str(line)
            for (line,) in client.query(
                f"EXPLAIN indexes = 1 SELECT * FROM {view} WHERE project = 'p' AND run_id = 'r' "
                + ("AND source_run_id IN ('r', 's')" if view.startswith("latest") else "")
            ).rows
        )
        reads = plan.split("ReadFromMergeTree")[1:]
        assert reads
        # Whoever looks for all forks reads by their index.
        for read in reads:
            assert any(sign in read for sign in ("run_id in", "run_id) in", "notEmpty(inherited_runs)")), (view, plan)
