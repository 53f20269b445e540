"""The aggregator as people run it: processes between a real broker and ClickHouse, killed and started again."""

import random
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest

from pulsetrain_schemas.topics import TOPICS
from tests.aggregate_reckoning import Point, expected_pyramid, points_of, same
from tests.aggregator_rig import attempt_event, metric_batch, system_batch
from tests.clickhouse_fixture import ClickHouse
from tests.pipeline_rig import Pipeline, WriterProcess, running_pipeline
from tests.waiting import wait_for

pytestmark = [pytest.mark.kafka, pytest.mark.clickhouse]


class AggregatorProcess(WriterProcess):
    """`pulsetrain consumer aggregator`, as a process."""

    def __init__(self, pipeline: Pipeline, number: int, options: Sequence[str] = ()) -> None:
        self.port_file = pipeline.directory / f"aggregator-{number}.port"
        self.log_file = pipeline.directory / f"aggregator-{number}.log"
        fixed = ["--port-file", str(self.port_file), "--session-timeout", "6"]
        with self.log_file.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "pulsetrain.commands", "consumer", "aggregator", *fixed, *options],
                env=pipeline.env,
                stdout=log,
                stderr=log,
            )


@pytest.fixture
def pipeline(tmp_path: Path, clickhouse_server: ClickHouse) -> Iterator[Pipeline]:
    with running_pipeline(tmp_path, clickhouse_server, f"aggregator_{uuid4().hex[:8]}") as made:
        yield made


def settled(pipeline: Pipeline, points: set[Point], timeout: float = 60) -> None:
    """Returns when the pyramid is what the points come to."""
    wanted = expected_pyramid(points)

    def counted() -> bool:
        found = pipeline.client.query("SELECT count(), sum(count) FROM metric_pyramid").rows[0]
        return found == (len(wanted), 6 * len(points))

    wait_for(counted, timeout, "the whole pyramid", 0.25)
    for row in pipeline.client.query("SELECT * FROM metric_pyramid").dicts():
        key = (row["project"], row["run_id"], row["level"], row["metric"], row["rank"], row["bucket"])
        same(row, wanted[key], key)


def test_aggregators_that_are_killed_and_started_again_leave_no_gap(pipeline: Pipeline) -> None:
    dice, generator = random.Random(7), np.random.default_rng(7)
    pipeline.writer("--max-age", "0.05").wait_ready()
    workers = [AggregatorProcess(pipeline, number, ["--max-age", "0.3"]) for number in range(2)]
    pipeline.writers.extend(workers)
    for worker in workers:
        worker.wait_ready()
    points: set[Point] = set()
    first = dict.fromkeys(range(4), 1)
    for turn in range(24):
        run = dice.randrange(4)
        count = dice.randrange(20, 400)
        steps = range(first[run] - 1, first[run] - 1 + count)
        values = {name: [float(value) for value in generator.normal(size=count)] for name in ("loss", "acc")}
        batch = metric_batch(f"w{run}", first[run], steps, values, run_id=f"r{run}")
        first[run] += count
        points.update(points_of(batch))
        for _ in range(dice.choice([1, 1, 2])):
            pipeline.send(batch, partition=run)
        pipeline.sent()
        if turn % 8 == 3:
            workers[0].kill()
            workers[0] = AggregatorProcess(pipeline, turn + 10, ["--max-age", "0.3"])
            pipeline.writers.append(workers[0])
    pipeline.send(system_batch("s", 1, range(30), {("g", "power_watts"): [float(n) for n in range(30)]}))
    pipeline.sent()
    settled(pipeline, points)
    pipeline.count("system_rollups WHERE seconds = 60 AND count = 30", expected=1)
    assert [worker.wait_ready().stop(20) for worker in workers] == [0, 0]

    for table in ("metric_buckets", "system_10s", "system_1m", "system_1h"):
        pipeline.client.execute(f"TRUNCATE TABLE {table}")
    done = subprocess.run(
        [sys.executable, "-m", "pulsetrain.commands", "consumer", "aggregator", "--backfill"],
        env=pipeline.env,
        check=True,
        capture_output=True,
        text=True,
    )
    assert "the aggregates of 4 runs and 1 hosts are computed" in done.stdout
    settled(pipeline, points, 1)


def test_a_run_that_ends_does_not_wait_until_a_batch_is_old(pipeline: Pipeline) -> None:
    pipeline.writer("--max-age", "0.05").wait_ready()
    worker = AggregatorProcess(pipeline, 0, ["--max-age", "600"]).wait_ready()
    pipeline.writers.append(worker)
    batch = metric_batch("w", 1, range(100), {"loss": [1.0] * 100})
    pipeline.send(batch)
    pipeline.sent()
    metrics = TOPICS["metrics"].kafka_name
    wait_for(lambda: worker.metric('messages_total{topic="' + metrics) == 1, 30, "the message to be read")
    pipeline.send(attempt_event("r1", 0, None, kind="finish"))
    pipeline.sent()
    settled(pipeline, set(points_of(batch)), 20)
