"""Long runs are read from the step pyramid, and come out as if they were read from their points."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import fields

import numpy as np
import pytest

from pulsetrain_consumers.aggregator.backfill import backfill
from pulsetrain_consumers.clickhouse import Client, connect
from pulsetrain_consumers.reading import curves, pyramid
from pulsetrain_consumers.reading.database import Database
from pulsetrain_consumers.reading.model import Curve, RunKey
from pulsetrain_schemas.addresses import ClickHouseAddress
from tests.clickhouse_fixture import ClickHouse
from tests.reading_rows import create_database, store_metric, store_run

pytestmark = pytest.mark.clickhouse

LONG: RunKey = ("p", "long")
RESUMED: RunKey = ("p", "resumed")
SHORT: RunKey = ("p", "short")
KEYS = [LONG, RESUMED, SHORT]
NEVER = 1 << 60


@pytest.fixture(scope="module")
def address(clickhouse_server: ClickHouse) -> ClickHouseAddress:
    """Runs whose aggregates are computed: one of two ranks, with all that is odd; one that went back; a short one."""
    server = clickhouse_server
    address = ClickHouseAddress(server.host, server.port, server.user, server.password, "reading_pyramid")
    create_database(address)
    random = np.random.default_rng(3)
    with connect(address) as client:
        for rank in (0, 1):
            values = random.normal(size=30_000)
            values[[100, 9_000 + rank, 20_000]] = np.nan, np.inf, -np.inf
            values[64 * 7 : 64 * 8] = np.nan
            store_metric(client, *LONG, "손실", values, rank=rank, seconds_per_step=0.01)
        store_metric(client, *LONG, "val/rare", random.normal(size=60), steps=np.arange(60) * 500)
        store_run(client, *LONG, points=60_060, rows=60_060)
        store_metric(client, *RESUMED, "loss", random.normal(size=9_000))
        store_metric(client, *RESUMED, "loss", random.normal(size=6_000), steps=np.arange(5_000, 11_000), attempt=1)
        store_run(client, *RESUMED)
        store_run(client, *RESUMED, attempt=1, first_step=5_000)
        store_metric(client, *SHORT, "loss", random.normal(size=300))
        store_run(client, *SHORT)
        backfill(client, time.time)
    return address


@pytest.fixture
def database(address: ClickHouseAddress) -> Iterator[Database]:
    with Database(address) as database:
        yield database


@pytest.fixture
def client(address: ClickHouseAddress) -> Iterator[Client]:
    with connect(address) as client:
        yield client


def same(found: Mapping[RunKey, list[Curve]], wanted: Mapping[RunKey, list[Curve]]) -> None:
    assert found.keys() == wanted.keys()
    for key, expected in wanted.items():
        assert [curve.metric for curve in found[key]] == [curve.metric for curve in expected]
        for one, other in zip(found[key], expected, strict=True):
            for name in (field.name for field in fields(Curve) if field.name not in ("metric", "lasts")):
                np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=1e-9, err_msg=f"{key} {name}")


@pytest.mark.parametrize("buckets", [10, 100, 235])
def test_curves_are_those_of_the_points_and_keep_every_extreme(database: Database, buckets: int) -> None:
    from_points = curves.curves(database, KEYS, buckets, long=NEVER)
    assert pyramid.summed_up(database, KEYS, 10_000) == {LONG: pyramid.WHOLE, RESUMED: pyramid.WHOLE}
    summed = curves.curves(database, KEYS, buckets, long=10_000)
    same(summed, from_points)
    (loss,) = summed[RESUMED]
    assert loss.points == 5_000 + 6_000, "what the later attempt replaced does not count"


def test_what_the_last_rank_logged_last_is_the_last_value(database: Database) -> None:
    """Of several ranks at one step any may be it, however it is read."""
    (loss,) = curves.curves(database, [RESUMED], 50, long=10_000)[RESUMED]
    (points,) = curves.curves(database, [RESUMED], 50, long=NEVER)[RESUMED]
    np.testing.assert_array_equal(loss.lasts, points.lasts)


def test_the_last_steps_of_a_run_that_are_not_summed_up_yet_are_read_from_the_points(
    database: Database, client: Client
) -> None:
    key = ("p", "behind")
    values = np.random.default_rng(4).normal(size=4_100)
    values[[3_500, 4_050]] = np.nan, np.inf
    store_metric(client, *key, "loss", values[:4_000])
    store_run(client, *key)
    assert pyramid.summed_up(database, [key], 1_000) == {}, "no aggregator has run"
    backfill(client, time.time)
    assert pyramid.summed_up(database, [key], 1_000) == {key: pyramid.WHOLE}
    store_metric(client, *key, "loss", values[4_000:], steps=np.arange(4_000, 4_100))
    store_metric(client, *key, "new", np.arange(30.0), steps=np.arange(4_000, 4_030))
    assert pyramid.summed_up(database, [key], 1_000) == {key: 3_072}
    # With 40 buckets, both grids have the same width.
    same(curves.curves(database, [key], 40, long=1_000), curves.curves(database, [key], 40, long=NEVER))
    store_metric(client, *key, "loss", np.arange(3.0), steps=np.arange(3), rank=1)
    assert pyramid.summed_up(database, [key], 1_000) == {}, "what came late is not summed up"
    (loss, _) = curves.curves(database, [key], 40, long=1_000)[key]
    assert loss.points == 4_103


def test_a_fork_is_read_from_the_points_for_a_part_of_them_is_its_parents(database: Database, client: Client) -> None:
    key = ("p", "fork")
    store_metric(client, *key, "loss", np.arange(3_000.0), steps=np.arange(1_000, 4_000))
    store_run(client, *key, first_step=1_000, inherited=[("short", 0, 1_000)])
    backfill(client, time.time)
    assert pyramid.summed_up(database, [key], 1_000) == {}


def test_sizes_are_those_of_the_points(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = sorted(curves.metric_sizes(database, KEYS).points.tolist())
    monkeypatch.setattr(pyramid, "LONG", 10_000)
    assert sorted(curves.metric_sizes(database, KEYS).points.tolist()) == wanted == [60, 300, 11_000, 60_000]
