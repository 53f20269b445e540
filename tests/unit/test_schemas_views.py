"""The migrations and the views on the real engine, in-process, over rows as the writer stores them.

Each test has a project of its own in one database: the engine is one per process.
"""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from pulsetrain_schemas import migrations

chdb = pytest.importorskip("chdb")


class Start:
    """An hour before the test that is running: the views compare with the time of the server."""

    time = datetime(1970, 1, 1, tzinfo=UTC)


@pytest.fixture(autouse=True)
def _started() -> None:
    Start.time = datetime.now(UTC) - timedelta(hours=1)


def at(seconds: float) -> str:
    """A time that many seconds after the start, as ClickHouse reads it."""
    return (Start.time + timedelta(seconds=seconds)).strftime("%Y-%m-%d %H:%M:%S.%f")


class Engine:
    """The engine with the migrations applied; inserts rows and gives rows back."""

    def __init__(self, path: Path) -> None:
        self._connection = chdb.connect(str(path))
        self._connection.query("CREATE DATABASE pulsetrain")
        self._connection.query("USE pulsetrain")
        for migration in migrations.load():
            for statement in migration.statements:
                self._connection.query(statement)

    def rows(self, query: str) -> list[dict[str, Any]]:
        text = str(self._connection.query(query, "JSONEachRow"))
        return [json.loads(line) for line in text.splitlines() if line]

    def text(self, query: str) -> str:
        return str(self._connection.query(query, "TSVRaw"))

    def insert(self, table: str, **row: Any) -> None:
        self._connection.query(f"INSERT INTO {table} FORMAT JSONEachRow {json.dumps(row)}")

    def event(self, project: str, kind: str, seconds: float, sequence: int, **row: Any) -> None:
        fields = {
            "project": project, "run_id": "r", "writer": "w", "kind": kind, "ts": at(seconds), "sequence": sequence,
            "attempt": 0, "attempt_started": at(0), "rank": 0, "is_primary": True,
        }  # fmt: skip
        self.insert("run_events", **(fields | row))

    def value(self, project: str, section: str, key: str, value: str | None, seconds: float, **row: Any) -> None:
        fields = {
            "project": project, "run_id": "r", "section": section, "key": key, "value": value, "ts": at(seconds),
            "sequence": 1, "writer": "w", "attempt_started": at(0),
        }  # fmt: skip
        self.insert("run_values", **(fields | row))

    def point(self, project: str, step: int, seconds: float, value: float = 0.5, **row: Any) -> None:
        fields = {
            "project": project, "run_id": "r", "metric": "loss", "rank": 0, "step": step, "ts": at(seconds),
            "value": value, "attempt": 0, "writer": "w", "sequence": step + 1, "attempt_started": at(0)[:19],
        }  # fmt: skip
        self.insert("metrics", **(fields | row))

    def sample(self, project: str, gpu: str, metric: str, seconds: float, value: float, **row: Any) -> None:
        fields = {
            "host": "h", "gpu": gpu, "gpu_index": 0, "metric": metric, "ts": at(seconds), "value": value,
            "project": project, "run_id": "r", "rank": 0, "writer": "s", "sequence": int(seconds * 10) + 1,
            "attempt_started": at(0)[:19],
        }  # fmt: skip
        self.insert("system", **(fields | row))


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    opened = Engine(tmp_path_factory.mktemp("engine"))
    yield opened
    opened._connection.close()


@pytest.fixture
def project(request: pytest.FixtureRequest) -> str:
    return request.node.name


def run(engine: Engine, project: str) -> dict[str, Any]:
    [row] = engine.rows(f"SELECT * FROM runs WHERE project = '{project}'")
    return row


def test_a_run_that_was_heard_lately_is_running_and_not_finished(engine: Engine, project: str):
    engine.event(project, "start", 0, 1, state="running", name="first")
    engine.event(project, "heartbeat", 3600, 2)
    row = run(engine, project)
    assert (row["state"], row["finished"], row["exit_code"], row["name"]) == ("running", None, None, "first")
    assert (row["created"], row["last_seen"], row["duration"]) == (at(0), at(3600), 3600)


def test_a_running_run_that_fell_silent_for_five_minutes_has_crashed(engine: Engine, project: str):
    engine.event(project, "start", 0, 1, state="running")
    engine.event(project, "heartbeat", 3600 - 200, 2)
    assert run(engine, project)["state"] == "running"
    engine.event(project + "2", "start", 0, 1, state="running")
    engine.event(project + "2", "heartbeat", 3600 - 301, 2)
    assert run(engine, project + "2")["state"] == "crashed"
    assert run(engine, project + "2")["finished"] is None


@pytest.mark.parametrize(("state", "exit_code"), [("finished", 0), ("failed", 1), ("killed", None)])
def test_a_run_has_the_state_and_exit_code_that_its_end_told(
    engine: Engine, project: str, state: str, exit_code: int | None
):
    engine.event(project, "start", 0, 1, state="running", notes="n", tags=["a"], tags_set=True, job_type="train")
    engine.event(project, "update", 5, 2, run_group="g")
    engine.event(project, "finish", 10, 3, state=state, exit_code=exit_code)
    row = run(engine, project)
    assert (row["state"], row["exit_code"], row["finished"], row["duration"]) == (state, exit_code, at(10), 10)
    assert (row["notes"], row["tags"], row["group"], row["job_type"]) == ("n", ["a"], "g", "train")


def test_what_an_event_leaves_null_stays_as_it_was_and_tags_may_become_empty(engine: Engine, project: str):
    engine.event(project, "start", 0, 1, state="running", name="old", notes="kept", tags=["a", "b"], tags_set=True)
    engine.event(project, "update", 5, 2, name="new")
    assert (run(engine, project)["name"], run(engine, project)["tags"]) == ("new", ["a", "b"])
    engine.event(project, "update", 6, 3, tags=[], tags_set=True)
    assert (run(engine, project)["notes"], run(engine, project)["tags"]) == ("kept", [])


def test_a_run_without_a_name_is_called_by_its_id(engine: Engine, project: str):
    engine.event(project, "start", 0, 1, state="running")
    assert run(engine, project)["name"] == "r"


def test_events_that_are_stored_twice_change_nothing(engine: Engine, project: str):
    for _ in range(2):
        engine.event(project, "start", 0, 1, state="running")
        engine.event(project, "finish", 10, 2, state="finished", exit_code=0)
        engine.value(project, "config", "lr", "0.1", 0)
    assert (run(engine, project)["state"], run(engine, project)["config"]) == ("finished", '{"lr":0.1}')


def test_a_forked_child_and_a_higher_rank_do_not_say_how_the_run_ended(engine: Engine, project: str):
    engine.event(project, "start", 0, 1, state="running")
    engine.event(project, "heartbeat", 3600, 2)
    engine.event(project, "finish", 10, 1, writer="child", state="failed", exit_code=1, is_primary=False)
    engine.event(project, "finish", 11, 1, writer="rank1", state="failed", exit_code=1, rank=1)
    assert run(engine, project)["state"] == "running"


def test_a_resumed_run_is_running_again_and_its_pause_is_no_duration(engine: Engine, project: str):
    engine.event(project, "start", 0, 1, state="running")
    engine.event(project, "finish", 10, 2, state="failed", exit_code=1)
    again = {"attempt": 1, "attempt_started": at(3590), "writer": "w2"}
    engine.event(project, "start", 3590, 1, state="running", **again)
    row = run(engine, project)
    assert (row["state"], row["attempt"], row["exit_code"], row["finished"]) == ("running", 1, None, None)
    engine.event(project, "finish", 3595, 2, state="finished", exit_code=0, **again)
    row = run(engine, project)
    assert (row["state"], row["exit_code"], row["created"], row["finished"]) == ("finished", 0, at(0), at(3595))
    assert row["duration"] == 15


def test_config_and_summary_are_json_of_the_latest_values_without_removed_keys(engine: Engine, project: str):
    engine.event(project, "start", 0, 1, state="running")
    engine.value(project, "config", "lr", "0.1", 0)
    engine.value(project, "config", "lr", "0.2", 1)
    engine.value(project, "config", 'odd "key"\\/\n', '{"a": [1, null]}', 0)
    engine.value(project, "config", "gone", "1", 0)
    engine.value(project, "config", "gone", None, 1)
    engine.value(project, "config", "back", None, 0)
    engine.value(project, "config", "back", "null", 1)
    engine.value(project, "summary", "acc", "0.5", 3, sequence=8, writer="other")
    engine.value(project, "summary", "acc", "0.9", 3, sequence=9)
    engine.value(project, "environment", "host", '"node-1"', 0)
    engine.value(project, "environment", "git_commit", "null", 0)
    engine.value(project, "environment", "program", '"a \\"b\\".py"', 0)
    row = run(engine, project)
    assert json.loads(row["config"]) == {"lr": 0.2, 'odd "key"\\/\n': {"a": [1, None]}, "back": None}
    assert json.loads(row["summary"]) == {"acc": 0.9}
    assert (row["host"], row["git_commit"], row["program"]) == ("node-1", "", 'a "b".py')


def test_a_run_without_values_has_empty_json(engine: Engine, project: str):
    engine.event(project, "start", 0, 1, state="running")
    assert (run(engine, project)["config"], run(engine, project)["summary"]) == ("{}", "{}")


def test_merges_keep_the_latest_value_of_a_key(engine: Engine, project: str):
    engine.event(project, "start", 0, 1, state="running")
    for second in (2, 3, 1):
        engine.value(project, "summary", "step", str(second), second, sequence=second)
    engine.text("OPTIMIZE TABLE run_values FINAL")
    assert run(engine, project)["summary"] == '{"step":3}'
    assert engine.text(f"SELECT count() FROM run_values WHERE project = '{project}'").strip() == "1"


def test_times_are_of_microseconds_in_utc_and_only_the_end_may_be_missing(engine: Engine):
    types = dict(line.split("\t")[:2] for line in engine.text("DESCRIBE runs").splitlines())
    assert types["created"] == types["last_seen"] == "DateTime64(6, 'UTC')"
    assert types["finished"] == "Nullable(DateTime64(6, 'UTC'))"
    assert (types["state"], types["config"], types["tags"]) == ("String", "String", "Array(String)")


def test_the_loss_account_counts_what_each_writer_told_against_what_is_stored(engine: Engine, project: str):
    engine.event(project, "start", 0, 1, state="running")
    engine.event(project, "finish", 10, 2, state="finished", rows=3, points=5, texts=1)
    engine.event(project, "finish", 10, 1, writer="child", state="finished", rows=1, points=1, is_primary=False)
    for step in range(2):
        engine.point(project, step, step)
        engine.point(project, step, step, metric="accuracy")
    engine.insert(
        "texts", project=project, run_id="r", key="note", step=2, ts=at(2), value='"x"', writer="w", sequence=3
    )
    engine.insert(
        "stored_batches", topic="pulsetrain.metrics", project=project, run_id="r", writer="w", first_sequence=1,
        last_sequence=3, first_ts=at(0), last_ts=at(2), stored_at=at(2.5), rows=5,
    )  # fmt: skip
    rows = engine.rows(f"SELECT * FROM ingest WHERE project = '{project}' ORDER BY writer")
    child, writer = rows
    assert (child["writer"], child["produced_points"], child["stored_points"], child["missing"]) == ("child", 1, 0, 1)
    assert {name: writer[name] for name in writer if name.startswith(("produced", "stored"))} == {
        "produced_rows": 3, "produced_points": 5, "produced_texts": 1,
        "stored_rows": 3, "stored_points": 4, "stored_texts": 1,
    }  # fmt: skip
    assert (writer["missing"], writer["state"], writer["latency"], writer["latency_max"]) == (1, "finished", 2.5, 2.5)


def test_the_loss_account_shows_more_stored_than_logged_as_a_negative_number(engine: Engine, project: str):
    engine.event(project, "finish", 0, 1, state="finished", rows=1, points=1)
    engine.point(project, 0, 0)
    engine.point(project, 1, 0)
    [row] = engine.rows(f"SELECT missing FROM ingest WHERE project = '{project}'")
    assert row["missing"] == -1


def test_a_point_stands_beside_the_latest_sample_of_every_gpu_of_its_run_and_rank(engine: Engine, project: str):
    for second in (0, 9.5, 10.5):
        engine.sample(project, "A", "utilization_percent", second, second)
        engine.sample(project, "A", "power_watts", second, 100 + second)
    engine.sample(project, "B", "utilization_percent", 10.4, 77, gpu_index=1)
    engine.sample(project, "C", "utilization_percent", 10, 5, rank=1)
    engine.sample(project, "", "cpu_percent", 10, 5, gpu_index=-1)
    engine.point(project, 0, 10.4)
    engine.point(project, 1, 10.5, rank=1)
    rows = engine.rows(f"SELECT * FROM gpu_at_step WHERE project = '{project}' AND run_id = 'r' ORDER BY step, gpu")
    assert [(row["step"], row["gpu"], row["gpu_index"], row["utilization_percent"]) for row in rows] == [
        (0, "A", 0, 9.5),
        (0, "B", 1, 77),
        (1, "C", 0, 5),
    ]
    assert (rows[0]["power_watts"], rows[0]["memory_used_bytes"], rows[0]["sample_ts"]) == (109.5, None, at(9.5))


def test_a_sample_stands_beside_the_step_that_its_run_and_rank_had_come_to(engine: Engine, project: str):
    for second in (0, 10, 10.6, 60):
        engine.sample(project, "A", "utilization_percent", second, second)
    engine.sample(project, "", "cpu_percent", 10, 5, gpu_index=-1)
    engine.sample(project, "B", "utilization_percent", 60, 7, rank=1)
    for step, second in ((3, 5), (4, 10.2), (5, 10.3)):
        engine.point(project, step, second)
        engine.point(project, step, second, metric="acc")
    engine.point(project, 9, 50, rank=1)
    found = engine.rows(
        f"SELECT * FROM step_at_sample WHERE project = '{project}' AND run_id = 'r' ORDER BY rank, metric, ts"
    )
    told = [(row["metric"], row["gpu"], row["value"], row["step"]) for row in found]
    assert told == [
        ("cpu_percent", "", 5, 3),
        *(("utilization_percent", "A", value, step) for value, step in ((0, None), (10, 3), (10.6, 5), (60, 5))),
        ("utilization_percent", "B", 7, 9),
    ]
    assert [row["step_ts"] for row in found if row["value"] in (0, 10)] == [None, at(5)]


def test_a_sample_stands_beside_the_step_of_the_latest_attempt(engine: Engine, project: str):
    for attempt, first in enumerate((0, 2)):
        engine.event(project, "start", attempt * 10, 1, attempt=attempt, first_step=first, writer=f"w{attempt}")
        for step in range(first, 4):
            second = attempt * 10 + step
            engine.point(project, step, second, value=attempt, attempt=attempt, writer=f"w{attempt}")
    for second in (5, 12.5):
        engine.sample(project, "A", "utilization_percent", second, second)
    rows = engine.rows(f"SELECT value, step FROM step_at_sample WHERE project = '{project}' ORDER BY ts")
    assert [(row["value"], row["step"]) for row in rows] == [(5, 1), (12.5, 2)], "3 was replaced"


def test_gpus_stand_beside_what_the_latest_attempt_logged(engine: Engine, project: str):
    engine.sample(project, "A", "utilization_percent", 0, 50)
    for attempt, first in enumerate((0, 2)):
        engine.event(project, "start", attempt, 1, attempt=attempt, first_step=first, writer=f"w{attempt}")
        for step in range(first, 4):
            engine.point(project, step, 1 + attempt, value=attempt, attempt=attempt, writer=f"w{attempt}")
    rows = engine.rows(f"SELECT step, value FROM gpu_at_step WHERE project = '{project}' ORDER BY step")
    assert [(row["step"], row["value"]) for row in rows] == [(0, 0), (1, 0), (2, 1), (3, 1)]


def test_an_update_tells_that_an_attempt_begins_earlier_than_its_start_said(engine: Engine, project: str):
    for step in range(6):
        engine.point(project, step, step)
    engine.event(project, "start", 0, 1, first_step=0)
    engine.event(project, "start", 9, 1, attempt=1, first_step=6, writer="w1")
    assert len(engine.rows(f"SELECT step FROM latest_metrics WHERE project = '{project}'")) == 6
    engine.event(project, "update", 10, 2, attempt=1, first_step=3, writer="w1")
    rows = engine.rows(f"SELECT step FROM latest_metrics WHERE project = '{project}' ORDER BY step")
    assert [row["step"] for row in rows] == [0, 1, 2]


def test_texts_are_shown_as_numbers_are(engine: Engine, project: str):
    for attempt, first in enumerate((0, 1)):
        engine.event(project, "start", attempt, 1, attempt=attempt, first_step=first, writer=f"w{attempt}")
        for step in range(first, 2):
            engine.insert(
                "texts", project=project, run_id="r", key="note", step=step, ts=at(0), value=str(attempt),
                writer=f"w{attempt}", sequence=step + 1, attempt=attempt,
            )  # fmt: skip
    engine.event(
        project, "start", 5, 1, run_id="fork", first_step=1, inherited_runs=["r"], inherited_attempts=[0],
        inherited_below=[1], parent_run_id="r", parent_step=0,
    )  # fmt: skip
    rows = engine.rows(
        f"SELECT run_id, step, value FROM latest_texts WHERE project = '{project}' ORDER BY run_id, step"
    )
    assert [(row["run_id"], row["step"], row["value"]) for row in rows] == [
        ("fork", 0, "0"),
        ("r", 0, "0"),
        ("r", 1, "1"),
    ]
    [fork] = engine.rows(f"SELECT parent_run_id, parent_step FROM runs WHERE project = '{project}' AND run_id = 'fork'")
    assert fork == {"parent_run_id": "r", "parent_step": 0}


def test_a_point_before_the_first_sample_or_long_after_the_last_has_none(engine: Engine, project: str):
    engine.sample(project, "A", "utilization_percent", 15, 50)
    for step, second in enumerate((14.9, 15, 24.9, 25.1, 500)):
        engine.point(project, step, second)
    rows = engine.rows(f"SELECT * FROM gpu_at_step WHERE project = '{project}' ORDER BY step")
    assert [row["utilization_percent"] for row in rows] == [None, 50, 50, None, None]
    assert [row["sample_ts"] for row in rows] == [None, at(15), at(15), None, None]


def test_a_filter_on_run_and_metric_reaches_both_tables_of_gpu_at_step(engine: Engine):
    plan = engine.text(
        "EXPLAIN indexes = 1 SELECT value FROM gpu_at_step WHERE project = 'p' AND run_id = 'r' AND metric = 'loss'"
    )
    prewhere = [line for line in plan.splitlines() if "Condition:" in line and "run_id in" in line]
    assert len(prewhere) >= 3, plan
    assert any("metric in ['loss', 'loss']" in line for line in prewhere), plan


def test_a_filter_on_the_run_reaches_both_tables_of_step_at_sample(engine: Engine):
    plan = engine.text("EXPLAIN indexes = 1 SELECT value FROM step_at_sample WHERE project = 'p' AND run_id = 'r'")
    reached = [line for line in plan.splitlines() if "Condition:" in line and "run_id in" in line]
    assert len(reached) >= 2, plan


def test_where_an_attempt_goes_back_the_earlier_attempts_rows_from_there_on_are_left_out(engine: Engine, project: str):
    for attempt, steps in enumerate((range(10), range(5, 8), range(7, 9))):
        engine.event(project, "start", attempt, 1, attempt=attempt, first_step=steps[0], writer=f"w{attempt}")
        for step in steps:
            engine.point(project, step, step, value=attempt, attempt=attempt, writer=f"w{attempt}")
    rows = engine.rows(f"SELECT step, attempt FROM latest_metrics WHERE project = '{project}' ORDER BY step")
    assert [(row["step"], row["attempt"]) for row in rows] == [
        *((step, 0) for step in range(5)),
        *((step, 1) for step in (5, 6)),
        *((step, 2) for step in (7, 8)),
    ]


def test_a_run_that_was_never_resumed_has_all_its_rows_in_latest_metrics(engine: Engine, project: str):
    for step in (3, 1, 1, 2):
        engine.point(project, step, step, sequence=step * 10)
    columns = [line.split("\t")[:2] for line in engine.text("DESCRIBE latest_metrics").splitlines()]
    stored = [line.split("\t")[:2] for line in engine.text("DESCRIBE metrics").splitlines()]
    assert columns == [*stored, ["source_run_id", "LowCardinality(String)"]]
    stored = engine.text(f"SELECT count() FROM metrics WHERE project = '{project}'")
    assert engine.text(f"SELECT count() FROM latest_metrics WHERE project = '{project}'") == stored
