"""What the monitor and the command rely on of the store of silences, held over ClickHouse and the one in memory."""

import json
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
from click.testing import CliRunner, Result

from pulsetrain_consumers.clickhouse import connect
from pulsetrain_consumers.commands.alerts import alerts
from pulsetrain_consumers.monitor.silences import ClickHouseSilences, MemorySilences, Silence, SilenceStore, lift
from pulsetrain_schemas.addresses import ClickHouseAddress
from tests.clickhouse_fixture import ClickHouse
from tests.reading_rows import create_database

T0 = 1_800_000_000.25
HOSTILE = Silence(
    "it's", "'; DROP TABLE silences; --", "%(after)s", "{x:String}\\", T0, T0 + 60, "warum\n?", "한국어", "a"
)


@pytest.fixture(scope="module")
def address(clickhouse_server: ClickHouse) -> ClickHouseAddress:
    server = clickhouse_server
    found = ClickHouseAddress(server.host, server.port, server.user, server.password, "silences_contract")
    create_database(found)
    return found


@pytest.fixture(params=["memory", pytest.param("clickhouse", marks=pytest.mark.clickhouse)])
def store(request: pytest.FixtureRequest) -> Iterator[SilenceStore]:
    if request.param == "memory":
        yield MemorySilences()
        return
    with connect(request.getfixturevalue("address")) as client:
        client.execute("TRUNCATE TABLE silences")
        yield ClickHouseSilences(client)


def test_what_is_saved_is_loaded_as_it_was_the_earliest_end_first(store: SilenceStore) -> None:
    assert list(store.load(T0)) == []
    later = Silence(kind="nan", starts=T0, ends=T0 + 90, silence_id="b")
    store.save(later, T0)
    store.save(HOSTILE, T0)
    assert list(store.load(T0)) == [HOSTILE, later]
    assert list(store.load(T0 + 60)) == [later]


def test_one_that_is_lifted_is_over_and_one_that_is_changed_counts_as_changed(store: SilenceStore) -> None:
    store.save(HOSTILE, T0)
    store.save(replace(HOSTILE, ends=T0 + 300), T0 + 1)
    assert [silence.ends for silence in store.load(T0 + 100)] == [T0 + 300]
    lift(store, HOSTILE, T0 + 200)
    assert list(store.load(T0 + 200)) == []
    assert [silence.ends for silence in store.load(T0 + 100)] == [T0 + 200]


def test_one_that_was_made_where_the_clock_is_ahead_can_be_lifted(store: SilenceStore) -> None:
    store.save(HOSTILE, HOSTILE.starts)
    lift(store, HOSTILE, T0 - 30)
    assert [silence.ends for silence in store.load(T0 - 60)] == [T0 - 30]


@pytest.mark.clickhouse
def test_the_command_makes_lists_and_lifts_silences(address: ClickHouseAddress) -> None:
    def run(*arguments: str) -> Result:
        return CliRunner().invoke(alerts, arguments, env={"PULSETRAIN_CLICKHOUSE": address.url()})

    with connect(address) as client:
        client.execute("TRUNCATE TABLE silences")
    assert run("silences").output == "no silences\n"
    made = run("silence", "--kind", "plateau", "--project", "toy-*", "--for", "2h", "--reason", "it's \x1b[31mred")
    assert made.exit_code == 0
    (listed,) = json.loads(run("silences", "--json").output)
    assert (listed["project"], listed["run"], listed["kind"], listed["subject"]) == ("toy-*", "*", "plateau", "*")
    assert made.output.startswith(f"{listed['silence_id']}: project toy-* kind plateau silent until ")
    shown = run("silences").output
    assert "it's" in shown
    assert "\x1b" not in shown
    with connect(address) as client:
        (found,) = ClickHouseSilences(client).load(time.time())
        assert found.ends is not None
        assert found.ends - found.starts == pytest.approx(7200)
        assert found.fits("toy-1", "r", "plateau", "loss", found.starts)
    assert run("lift", "nobody").exit_code == 1
    assert run("lift", listed["silence_id"]).output == f"lifted: {listed['silence_id']}\n"
    assert run("silences").output == "no silences\n"
    everything = run("silence", "--all", "--for", "1m")
    assert "everything silent until" in everything.output
    assert run("lift", "--all").exit_code == 0
    for wrong in (["silence", "--for", "2h"], ["silence", "--all", "--kind", "x", "--for", "2h"], ["lift"]):
        assert run(*wrong).exit_code == 2
    assert run("silence", "--run", "nobody", "--for", "2h").exit_code != 0
    assert run("--limit", "3").output == run("list").output == "no alerts\n"
