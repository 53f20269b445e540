"""The tables of a cluster with shards, as far as one server can have them: distributed over a single shard, itself."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pulsetrain_consumers.aggregator.backfill import backfill
from pulsetrain_consumers.clickhouse import Client, migrate
from pulsetrain_consumers.clickhouse.cluster import Home, home_of
from pulsetrain_consumers.retention import deletion
from pulsetrain_consumers.retention.policies import set_policy
from pulsetrain_schemas.cluster import SHARED, Shards, shard_database, unchanged
from pulsetrain_schemas.sql import identifier
from tests.clickhouse_cluster import CLUSTER
from tests.clickhouse_fixture import ClickHouse, running_clickhouse
from tests.grafana_files import FILES, queries
from tests.grafana_macros import Range, expanded, interpolated
from tests.integration.test_grafana_queries import CHOSEN
from tests.integration.test_rebuild import send_everything, settled
from tests.pipeline_rig import Pipeline

pytestmark = [pytest.mark.kafka, pytest.mark.clickhouse]


class ClusterClickHouse(ClickHouse):
    """A server that is the only one of a cluster."""

    module = "tests.clickhouse_cluster"


def made(client: Client, database: str, cluster: str | None) -> Shards:
    """As `make_database` for a cluster of shards, but without Keeper: nothing replicates."""
    for name in (shard_database(database), database):
        client.execute(f"CREATE DATABASE {identifier(name)}")
    return Shards(database, CLUSTER, stored=unchanged)


@pytest.fixture
def pipeline(tmp_path: Path, kafka_broker: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pipeline]:
    monkeypatch.setattr(migrate, "make_database", made)
    with running_clickhouse(tmp_path / "clickhouse", kind=ClusterClickHouse) as server:
        running = Pipeline(tmp_path, kafka_broker, server, "sharded")
        try:
            yield running
        finally:
            running.close()


def test_everything_is_stored_once_summed_up_shown_and_deleted_over_distributed_tables(pipeline: Pipeline) -> None:
    client = pipeline.client
    engines = dict(client.query("SELECT name, engine FROM system.tables WHERE database = 'sharded'").rows)
    local = {name for (name,) in client.query("SELECT name FROM system.tables WHERE database = 'sharded_shard'").rows}
    assert {name for name, engine in engines.items() if engine == "Distributed"} == local
    assert {name for name, engine in engines.items() if engine.endswith("MergeTree")} == set(SHARED)
    assert home_of(client) == Home("sharded_shard", CLUSTER)

    writer = pipeline.writer("--max-age", "0.05").wait_ready()
    send_everything(pipeline)
    settled(pipeline, letters=3)
    writer.kill()
    # What it had announced and not committed comes again, under the same tokens.
    pipeline.writer("--max-age", "0.05").wait_ready()
    send_everything(pipeline)
    pipeline.count("dead_letters", expected=6)
    settled(pipeline, letters=6)

    backfill(client, time.time, 2)
    assert client.query("SELECT sum(count) FROM metric_pyramid WHERE level = 0").one() == 2 * 160 + 8 * 80
    views = [name for name, engine in engines.items() if engine == "View"]
    assert len(views) > 10
    for view in views:
        client.query(f"SELECT * FROM {view} LIMIT 10")
    for path in FILES:
        for asked in queries(path):
            if asked.is_sql:
                client.query(expanded(interpolated(asked.text, CHOSEN), Range(0, 3600)))
    assert client.query("SELECT state, name FROM runs WHERE run_id = 'r1'").rows == [("finished", "first")]

    deletion.delete(client, [("p", "r1")], "a test", lambda _: None)
    assert deletion.held(client, [("p", "r1")]) == {}
    pipeline.count("metrics", expected=8 * 80)
    assert client.query("SELECT count() FROM sharded_shard.metrics").one() == 8 * 80
    set_policy(client, "p", {"runs": 1}, "a test", force=True)
    client.execute("OPTIMIZE TABLE sharded_shard.metrics FINAL")
    pipeline.count("metrics", expected=0)
