"""The read side against the embedded server: the Api, the commands and the report's queries."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from pulsetrain_consumers.clickhouse import connect
from pulsetrain_consumers.commands.report import report
from pulsetrain_consumers.commands.runs import runs
from pulsetrain_consumers.commands.show import show
from pulsetrain_consumers.commands.sql import sql
from pulsetrain_consumers.reading import curves
from pulsetrain_consumers.reading.api import Api
from pulsetrain_consumers.reading.errors import AmbiguousRun, NotReachable, QueryError, UnknownRun
from pulsetrain_schemas.addresses import ClickHouseAddress
from pulsetrain_schemas.errors import UserError
from tests.clickhouse_fixture import ClickHouse
from tests.reading_rows import create_database, store_lines, store_metric, store_run, store_system

pytestmark = pytest.mark.clickhouse

HOSTILE = "a'b\\c\"`;--\n\t한글 {x:String} %(y)s <script>"
SPIKE_STEP, SPIKE = 777_777, 98765.4321


@pytest.fixture(scope="module")
def address(clickhouse_server: ClickHouse) -> ClickHouseAddress:
    """A database with a run of a million points, some of a hostile name, and one that was resumed further back."""
    server = clickhouse_server
    address = ClickHouseAddress(server.host, server.port, server.user, server.password, "reading")
    create_database(address)
    with connect(address) as client:
        values = np.random.default_rng(1).normal(size=1_000_000)
        values[SPIKE_STEP] = SPIKE
        store_metric(client, "big", "million", "train/loss", values, seconds_per_step=0.001)
        store_run(client, "big", "million", points=1_000_000, rows=1_000_000)

        odd = np.array([1.0, np.nan, np.inf, -np.inf, 2.0])
        store_metric(client, HOSTILE, HOSTILE, HOSTILE, odd)
        store_metric(client, HOSTILE, HOSTILE, "b", np.arange(5.0))
        store_system(client, HOSTILE, HOSTILE, "cpu_percent", np.linspace(0, 100, 30))
        store_system(client, HOSTILE, HOSTILE, "utilization_percent", np.full(30, 50.0), gpu=0)
        store_lines(client, HOSTILE, HOSTILE, ["one", HOSTILE, "three"])
        store_run(
            client,
            HOSTILE,
            HOSTILE,
            name=HOSTILE,
            config={HOSTILE: HOSTILE, "lr": 0.1},
            summary={"best": 1.5},
            tags=[HOSTILE],
            points=11,
            rows=10,
        )

        store_metric(client, "twice", "resumed", "loss", np.arange(10.0))
        store_metric(client, "twice", "resumed", "loss", -np.arange(5, 12.0), steps=np.arange(5, 12), attempt=1)
        store_run(client, "twice", "resumed", name="same", config={"lr": 0.5})
        store_run(client, "twice", "resumed", attempt=1, first_step=5, config={"lr": 0.5})
        store_run(client, "twice", "other", name="same", state="failed", config={"lr": 0.1})
    return address


@pytest.fixture
def api(address: ClickHouseAddress) -> Iterator[Api]:
    with Api(address.url()) as api:
        yield api


@pytest.fixture
def environment(address: ClickHouseAddress, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PULSETRAIN_CLICKHOUSE", address.url())


def test_a_hostile_value_reaches_the_query_as_it_is(api: Api):
    assert api.sql("SELECT {v:String}", {"v": HOSTILE}).rows == [(HOSTILE,)]
    assert api.sql("SELECT {v:Array(String)}", {"v": [HOSTILE, "\0"]}).rows == [([HOSTILE, "\0"],)]


def test_a_run_with_hostile_names_is_found_and_whole(api: Api):
    (run,) = api.runs(HOSTILE)
    assert (run.project, run.id, run.name, run.tags) == (HOSTILE, HOSTILE, HOSTILE, [HOSTILE])
    assert run.config == {HOSTILE: HOSTILE, "lr": 0.1}
    assert run.summary == {"best": 1.5}
    history = run.history()
    assert set(history) == {"_rank", "_step", "_timestamp", HOSTILE, "b"}
    np.testing.assert_array_equal(history[HOSTILE], [1.0, np.nan, np.inf, -np.inf, 2.0])
    assert [line.line for line in run.console(2)] == [HOSTILE, "three"]
    assert list(history.to_pandas().columns) == list(history)


def test_history_is_at_full_resolution_unless_samples_are_asked_for(api: Api):
    run = api.run("big/million")
    full = run.history(["train/loss"])
    assert len(full["train/loss"]) == 1_000_000
    assert full["train/loss"][SPIKE_STEP] == SPIKE
    assert len(run.history(["train/loss"], samples=500)["_step"]) == 500


def test_the_latest_attempt_counts_where_a_run_went_back(api: Api):
    run = api.run("resumed")
    assert run.history()["loss"].tolist() == [0, 1, 2, 3, 4, -5, -6, -7, -8, -9, -10, -11]
    assert len(run.history(all_attempts=True)["loss"]) == 17


def test_the_hardware_is_read_under_wandbs_keys_in_its_units_or_by_the_names_of_the_table(api: Api):
    run = api.run(f"{HOSTILE}/{HOSTILE}")
    whole = run.history(stream="system")
    assert "_step" not in whole
    assert len(set(map(len, whole.values()))) == 1
    keys = [key for key in whole if not key.startswith("_")]
    assert keys
    for key in keys:
        assert key.startswith("system.")
        one = run.history([key, "system.nothing"], stream="system")
        there = ~np.isnan(whole[key])
        assert np.array_equal(one[key][~np.isnan(one[key])], whole[key][there])
        assert np.isnan(one["system.nothing"]).all()
    assert len(run.history(stream="system", samples=2)["_timestamp"]) == 2


def test_runs_are_filtered_and_ordered(api: Api):
    assert [run.id for run in api.runs("twice", order="-lr")] == ["resumed", "other"]
    assert [run.id for run in api.runs("twice", {"config.lr": {"$lt": 0.2}})] == ["other"]


def test_the_account_says_what_is_stored(api: Api):
    (account,) = api.account("big", ["million"])
    assert (account.produced_points, account.stored_points, account.missing) == (1_000_000, 1_000_000, 0)


def test_an_unknown_run_is_met_with_a_guess(api: Api):
    with pytest.raises(UnknownRun, match="Did you mean million"):
        api.run("milion")
    with pytest.raises(AmbiguousRun, match="twice/resumed"):
        api.run("same")


def test_a_wrong_query_is_told_with_its_place(api: Api):
    with pytest.raises(QueryError) as error:
        api.sql("SELECT 1,\n  2 FROM numbers(3) WHERE )")
    assert error.value.line == 2
    assert "^" in str(error.value)
    assert "DB::Exception" not in str(error.value)
    with pytest.raises(QueryError, match="UNKNOWN_TABLE"):
        api.sql("SELECT * FROM nothing_here")


def test_no_server_and_no_address_are_told():
    with pytest.raises(NotReachable, match="pulsetrain up"):
        Api()
    with pytest.raises(NotReachable, match=r"127\.0\.0\.1:1"):
        Api("clickhouse://u:secret@127.0.0.1:1/x").runs()


def test_a_spike_in_a_million_points_is_kept_with_its_value_and_step(api: Api):
    (curve,) = curves.curves(api.database, [("big", "million")], 1000)[("big", "million")]
    assert len(curve.steps) <= 1000
    assert curve.points == 1_000_000
    assert curve.highs.max() == SPIKE
    assert curve.high_steps[curve.highs.argmax()] == SPIKE_STEP
    assert curve.lasts[-1] == api.sql("SELECT value FROM metrics WHERE run_id = 'million' AND step = 999999").rows[0][0]


def test_nan_and_infinities_are_counted_and_take_no_part_in_extremes(api: Api):
    found = curves.curves(api.database, [(HOSTILE, HOSTILE)], 2)[(HOSTILE, HOSTILE)]
    curve = next(curve for curve in found if curve.metric == HOSTILE)
    odd = (curve.nans.sum(), curve.positive_infinities.sum(), curve.negative_infinities.sum())
    assert odd == (1, 1, 1)
    assert (np.nanmin(curve.lows), np.nanmax(curve.highs)) == (1.0, 2.0)
    series = curves.telemetry(api.database, [(HOSTILE, HOSTILE)], 10)[(HOSTILE, HOSTILE)]
    assert [(one.metric, one.gpu_index, int(one.counts.sum())) for one in series] == [
        ("cpu_percent", -1, 30),
        ("utilization_percent", 0, 30),
    ]


@pytest.mark.usefixtures("environment")
class TestCommands:
    """The commands, called as click does."""

    def run(self, command, *arguments: str, fails: type[UserError] | None = None, **options) -> str:
        result = CliRunner().invoke(command, arguments, **options)
        if fails:
            assert isinstance(result.exception, fails), result.output
            return str(result.exception)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == 0, result.output
        return result.output

    def test_sql_in_a_pipe_is_csv(self):
        query = "select run_id, count() as points from metrics where project = 'twice' group by run_id"
        assert self.run(sql, query) == "run_id,points\nresumed,17\n"

    def test_sql_reads_stdin_and_files_and_takes_parameters(self, tmp_path: Path):
        assert self.run(sql, "-", input="select 1 as one") == "one\n1\n"
        file = tmp_path / "q.sql"
        file.write_text("select {name:String} as v, {n:UInt8} + 1 as m;")
        text = self.run(sql, "-f", str(file), "-p", f"name={HOSTILE}", "-p", "n=41", "--format", "json")
        assert json.loads(text) == [{"v": HOSTILE, "m": 42}]

    def test_sql_writes_every_row_of_a_large_result(self, tmp_path: Path):
        out = tmp_path / "x.parquet"
        self.run(sql, "select step, value from metrics where run_id = 'million'", "-o", str(out))
        table = pq.read_table(out)
        assert table.num_rows == 1_000_000
        assert [path.name for path in tmp_path.iterdir()] == ["x.parquet"]

    def test_sql_stops_at_max_rows(self):
        text = self.run(sql, "select number from numbers(1000000000)", "--max-rows", "3")
        assert text.startswith("number\n0\n1\n2\n")
        assert "more" in text

    def test_sql_says_what_is_wrong(self, tmp_path: Path):
        assert "Syntax error" in self.run(sql, "selec 1", fails=QueryError)
        assert "one statement" in self.run(sql, "select 1; select 2", fails=UserError)
        assert "no query" in self.run(sql, " -- nothing", fails=UserError)
        assert "sends no data" in self.run(sql, "insert into metrics values (1)", fails=UserError)
        assert "cannot be read" in self.run(sql, "-f", str(tmp_path / "none.sql"), fails=UserError)
        assert "not clear" in self.run(sql, "select 1", "-o", str(tmp_path / "x.what"), fails=UserError)
        self.run(sql, "selec 1", "-o", str(tmp_path / "x.csv"), fails=QueryError)
        assert list(tmp_path.iterdir()) == []

    def test_runs_lists_sorts_and_filters(self):
        listed = json.loads(self.run(runs, "twice", "--sort", "lr", "--json"))
        assert [run["id"] for run in listed] == ["other", "resumed"]
        assert listed[1]["last_step"] == 11
        assert "failed" in self.run(runs, "twice", "--filter", "state=failed")
        assert "no project called 'twic'. Did you mean twice" in self.run(runs, "twic", fails=UnknownRun)

    def test_show_tells_all_of_a_run(self):
        text = self.run(show, "million")
        assert "1,000,000 values logged by 1 writer, 1,000,000 stored: nothing is missing" in text
        assert "train/loss" in text
        data = json.loads(self.run(show, "million", "--json"))
        assert (data["metrics"]["train/loss"]["max"], data["metrics"]["train/loss"]["max_step"]) == (SPIKE, SPIKE_STEP)
        assert "\x1b" not in self.run(show, HOSTILE)

    def test_a_report_of_a_million_points_is_under_five_megabytes_and_has_the_spike(self, tmp_path: Path):
        out = tmp_path / "r.html"
        self.run(report, "big", HOSTILE, "-o", str(out))
        page = out.read_text()
        assert len(page) < 5_000_000
        data = json.loads(page.split('id="report-data">')[1].split("</script>")[0])
        assert [SPIKE, SPIKE_STEP] in [curve.get("high") for curve in data["curves"]]
        assert {run["id"] for run in data["runs"]} == {"million", HOSTILE}
        assert "no project or run called 'bi'" in self.run(report, "bi", "-o", str(out), fails=UnknownRun)
