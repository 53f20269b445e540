"""Aggregates are what numpy makes of the same points, whatever came twice, late or out of order, and whoever died."""

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from pulsetrain_consumers.aggregator.backfill import backfill
from pulsetrain_consumers.aggregator.changes import Changes, MetricSeries, Run, changes_of
from pulsetrain_consumers.aggregator.store import ClickHouseAggregates
from pulsetrain_consumers.clickhouse.migrate import migrate
from pulsetrain_consumers.runtime.broker import Partition
from pulsetrain_schemas import events
from pulsetrain_schemas.addresses import ClickHouseAddress
from pulsetrain_schemas.topics import TOPICS
from tests.aggregator_rig import (
    SAMPLED,
    AggregatorRig,
    attempt_event,
    metric_batch,
    system_batch,
)
from tests.clickhouse_fixture import ClickHouse
from tests.writer_rig import Crash

pytestmark = pytest.mark.clickhouse

TABLES = ("metric_buckets", "rank_steps", "system_10s", "system_1m", "system_1h")


@pytest.fixture
def rig(clickhouse_server: ClickHouse, request: pytest.FixtureRequest) -> Iterator[AggregatorRig]:
    name = f"aggregates_{abs(hash(request.node.name)):x}"
    server = clickhouse_server
    address = ClickHouseAddress(server.host, server.port, server.user, server.password, name)
    migrate(address)
    made = AggregatorRig(address)
    yield made
    made.client.execute(f"DROP DATABASE `{name}`")
    made.close()


def raw(rig: AggregatorRig) -> dict[str, list[str]]:
    """All rows of the aggregates as merging leaves them, versions included, in text; sums without their last digits."""
    found = {}
    for table in TABLES:
        sketch = ", hex(sketch) AS sketch" if table.startswith("system") else ""
        rows = rig.client.query(f"SELECT * REPLACE (round(sum, 6) AS sum{sketch}) FROM {table} FINAL").rows
        found[table] = sorted(map(repr, rows))
    return found


def numbers(random_: np.random.Generator, count: int) -> list[float]:
    """Values as training has them: finite, and now and then not."""
    values = random_.normal(size=count)
    odd = random_.random(count)
    values[odd < 0.05] = np.nan
    values[(odd >= 0.05) & (odd < 0.08)] = np.inf
    values[(odd >= 0.08) & (odd < 0.1)] = -np.inf
    return [float(value) for value in values]


def test_a_long_curve_is_the_same_at_every_level(rig: AggregatorRig) -> None:
    generator = np.random.default_rng(1)
    steps = [*range(-70, 3000), 40_000, 300_000, 5_000_000]
    rig.send(metric_batch("w", 1, steps, {"loss": numbers(generator, len(steps))}))
    aggregator = rig.aggregator()
    rig.aggregate(aggregator)
    rig.check()
    [row] = rig.client.query(
        "SELECT sum(count), max(bucket) FROM metric_pyramid WHERE level = 5 AND run_id = 'r1' AND metric = 'loss'"
    ).rows
    assert row == (len(steps), 2)


def test_two_runs_on_one_host_count_their_gpu_once_and_their_processes_apart(rig: AggregatorRig) -> None:
    generator = np.random.default_rng(2)
    series = [("gpu-1", "power_watts"), ("", "cpu_percent"), ("", "process_cpu_percent")]
    seconds = [second * 0.9 for second in range(200)]
    for number, run_id in enumerate(("r1", "r2")):
        values = {name: [abs(value) * 100 for value in numbers(generator, 200)] for name in series}
        rig.send(system_batch(f"s{number}", 1, [second + number * 0.3 for second in seconds], values, run_id=run_id))
    rig.aggregate(rig.aggregator())
    rig.check()
    found = rig.client.query(
        "SELECT metric, uniqExact(run_id), count() FROM system_rollups WHERE seconds = 60 AND host = 'h1' "
        "GROUP BY metric ORDER BY metric"
    ).rows
    minutes = len({int(SAMPLED / 1e6 + second + 0.3 * n) // 60 for second in seconds for n in (0, 1)})
    assert found == [
        ("cpu_percent", 1, minutes), ("power_watts", 1, minutes), ("process_cpu_percent", 2, 2 * minutes)
    ]  # fmt: skip


def test_samples_of_long_ago_reach_the_rollups_whose_shorter_ones_have_expired(rig: AggregatorRig) -> None:
    long_ago = SAMPLED - 200 * 86_400 * 1_000_000
    rig.send(system_batch("s", 1, [0, 1, 2], {("", "cpu_percent"): [1.0, 2.0, 3.0]}, started=long_ago))
    aggregator = rig.aggregator()
    rig.aggregate(aggregator)
    for table in ("system_10s", "system_1m"):
        rig.client.execute(f"TRUNCATE TABLE {table}")
    rig.send(system_batch("s", 4, [3, 4], {("", "cpu_percent"): [4.0, 5.0]}, started=long_ago))
    rig.aggregate(aggregator)
    [row] = rig.client.query("SELECT count, min, max, mean FROM system_rollups WHERE seconds = 3600").rows
    assert row == (5, 1.0, 5.0, 3.0)


def test_a_later_attempt_takes_the_place_of_what_it_goes_back_over(rig: AggregatorRig) -> None:
    generator = np.random.default_rng(3)
    aggregator = rig.aggregator()
    for rank in (0, 1):
        rig.send(metric_batch(f"w{rank}", 1, range(400), {"loss": numbers(generator, 400)}, rank=rank))
    rig.aggregate(aggregator)
    rig.check()
    rig.send(attempt_event("r1", 1, 150))
    rig.aggregate(aggregator)
    rig.check()
    assert rig.client.query("SELECT max(last_step) FROM metric_pyramid WHERE level = 0").one() == 149
    rig.send(metric_batch("w0", 401, range(400, 420), {"loss": numbers(generator, 20)}))
    for rank in (0, 1):
        values = {"loss": numbers(generator, 30)}
        rig.send(metric_batch(f"v{rank}", 1, range(150, 180), values, rank=rank, attempt=1))
    rig.aggregate(aggregator)
    rig.check()
    rig.send(attempt_event("r1", 1, 100, kind="update", sequence=2))
    rig.aggregate(aggregator)
    rig.check()


def test_an_attempt_that_begins_while_buckets_are_computed_is_not_missed(
    rig: AggregatorRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another aggregator has the partition of the run's events, and looks for buckets before they are there."""
    generator = np.random.default_rng(8)
    for rank in (0, 1):
        rig.send(metric_batch(f"w{rank}", 1, range(400), {"loss": numbers(generator, 400)}, rank=rank))
    rig.write()
    here, other = ClickHouseAggregates(rig.client, rig.now), ClickHouseAggregates(rig.client, rig.now)
    buckets = {MetricSeries(Run("p", "r1"), rank, ("loss",)): set(range(7)) for rank in (0, 1)}
    attempt = attempt_event("r1", 1, 150)
    execute = rig.client.execute
    begun: list[bool] = []

    def meanwhile(statement: str, *arguments: Any) -> None:
        if not begun and "INSERT INTO metric_buckets" in statement:
            begun.append(True)
            rig.send(attempt)
            rig.write()
            other.recompute(changes_of(attempt))
        execute(statement, *arguments)

    monkeypatch.setattr(rig.client, "execute", meanwhile)
    here.recompute(Changes(metrics=buckets))
    assert begun
    rig.check_pyramid()
    rig.check_ranks()


def test_a_run_with_more_buckets_than_a_statement_is_about_goes_back_in_several(rig: AggregatorRig) -> None:
    generator = np.random.default_rng(9)
    rig.buckets = 3
    aggregator = rig.aggregator()
    rig.send(metric_batch("w", 1, range(700), {"loss": numbers(generator, 700), "acc": numbers(generator, 700)}))
    rig.aggregate(aggregator)
    rig.send(attempt_event("r1", 1, 100))
    rig.aggregate(aggregator)
    rig.check()
    rounds = "SELECT max(marks) FROM (SELECT count() AS marks FROM metric_changes GROUP BY round)"
    assert rig.client.query(rounds).one() <= 4


def test_what_is_computed_again_is_the_same_row_with_the_same_version(rig: AggregatorRig) -> None:
    generator = np.random.default_rng(4)
    batch = metric_batch("w", 1, range(1000), {"loss": numbers(generator, 1000), "acc": numbers(generator, 1000)})
    other = metric_batch("x", 1, range(500), {"loss": numbers(generator, 500)}, rank=1)
    samples = system_batch("s", 1, range(100), {("g", "power_watts"): [float(n) for n in range(100)]})
    for event in (batch, other, samples):
        rig.send(event)
    aggregator = rig.aggregator()
    rig.aggregate(aggregator)
    before = raw(rig)
    assert all(before.values())
    for event in (samples, other, batch):
        rig.send(event)
    rig.aggregate(aggregator)
    backfill(rig.client, rig.now, 1)
    assert raw(rig) == before


def test_who_knew_less_and_comes_late_changes_nothing(rig: AggregatorRig) -> None:
    generator = np.random.default_rng(5)
    aggregator = rig.aggregator()
    for rank in (0, 1):
        rig.send(metric_batch(f"w{rank}", 1, range(0, 500, 2), {"loss": numbers(generator, 250)}, rank=rank))
    rig.send(system_batch("s", 1, range(0, 100, 2), {("g", "power_watts"): [float(n) for n in range(50)]}))
    rig.aggregate(aggregator)
    for table in TABLES:
        rig.client.execute(f"CREATE TABLE old_{table} ENGINE = Memory AS SELECT * FROM {table} FINAL")
    for rank in (0, 1):
        rig.send(metric_batch(f"w{rank}", 251, range(1, 501, 2), {"loss": numbers(generator, 250)}, rank=rank))
    rig.send(system_batch("s", 51, range(1, 101, 2), {("g", "power_watts"): [float(n) for n in range(50)]}))
    rig.send(attempt_event("r1", 1, 450))
    rig.aggregate(aggregator)
    rig.check()
    for table in TABLES:
        rig.client.execute(f"INSERT INTO {table} SELECT * FROM old_{table}")
    rig.check()


def test_the_history_of_before_the_aggregator_is_filled_in_by_a_backfill(rig: AggregatorRig) -> None:
    generator = np.random.default_rng(6)
    for rank in (0, 1):
        rig.send(metric_batch(f"w{rank}", 1, range(-10, 700), {"loss": numbers(generator, 710)}, rank=rank))
    rig.send(metric_batch("u", 1, [5, 5_000_000], {"lr": [0.1, 0.2]}, run_id="r'2"))
    rig.send(attempt_event("r1", 1, 600))
    rig.send(system_batch("s", 1, range(100), {("g", "power_watts"): [float(n) for n in range(100)]}))
    rig.write()
    assert rig.client.query("SELECT count() FROM metrics").one() == 1422
    assert backfill(rig.client, rig.now, 1) == (2, 1)
    rig.check()


def test_nothing_is_computed_before_the_writers_have_stored_it(rig: AggregatorRig) -> None:
    rig.send(metric_batch("w", 1, range(100), {"loss": [1.0] * 100}))
    waited = []

    def pause(seconds: float) -> None:
        waited.append(seconds)
        rig.clock.time += seconds

    rig.pause = pause  # type: ignore[method-assign]
    aggregator = rig.aggregator()
    rig.aggregate(aggregator, 6)
    assert waited
    assert "the writers have stored" in aggregator.health.ready()[1]
    assert rig.client.query("SELECT count() FROM metric_buckets").one() == 0
    rig.write()
    rig.aggregate(aggregator)
    assert aggregator.health.ready()[0]
    rig.check()


def test_what_cannot_be_read_is_passed_over_and_put_aside_by_the_writers_alone(rig: AggregatorRig) -> None:
    metrics = Partition(TOPICS["metrics"].kafka_name, 0)
    rig.broker.append(metrics, b"garbage")
    rig.broker.append(metrics, None)
    rig.send(metric_batch("w", 1, range(100), {"loss": [1.0] * 100}))
    rig.aggregate(rig.aggregator())
    rig.check()
    assert len(rig.broker.records(TOPICS["dead_letters"].kafka_name)) >= 1
    assert {
        letter.consumer_group
        for record in rig.broker.records(TOPICS["dead_letters"].kafka_name)
        for letter in [events.decode(record.value or b"", events.DeadLetter)]
    } == {"pulsetrain-writer"}


class Story:
    """What a few runs log, in messages of random sizes, some of them twice and with other boundaries."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)
        self.generator = np.random.default_rng(seed)
        self.events: list[tuple[Any, int]] = []
        for run, run_id in enumerate(("r0", "r1")):
            for rank in range(2 + run):
                self._curve(run_id, rank, 0, 0, run)
            if run:
                self.events.append((attempt_event(run_id, 1, 90), 0))
                self._curve(run_id, 0, 1, 90, run)
                self._curve(run_id, 1, 1, 95, run)
                self.events.append((attempt_event(run_id, 1, 85, kind="update", sequence=2), 0))
                self.events.append((attempt_event(run_id, 1, None, kind="finish", sequence=3), 0))
        for run, host in ((0, "h0"), (1, "h0"), (0, "h1")):
            self._samples(run, host)
        # Late and out of order: every message finds its own place.
        self.dice.shuffle(self.events)
        self.events += self.dice.sample(self.events, 6)

    def _curve(self, run_id: str, rank: int, attempt: int, begin: int, partition: int) -> None:
        names = ["loss", "lr"] if rank == 0 else ["loss"]
        steps = [begin + self.dice.randrange(-3, 700) for _ in range(160)]
        first = 0
        while first < len(steps):
            size = self.dice.randrange(1, 60)
            some = steps[first : first + size]
            values = {name: numbers(self.generator, len(some)) for name in names}
            writer = f"w-{run_id}-{rank}-{attempt}"
            batch = metric_batch(writer, first + 1, some, values, run_id=run_id, rank=rank, attempt=attempt)
            self.events.append((batch, partition))
            first += size

    def _samples(self, run: int, host: str) -> None:
        names = [("g0", "power_watts"), ("", "cpu_percent"), ("", "process_threads")]
        for first in range(0, 120, 40):
            seconds = [first * 30 + self.dice.random() * 1200 for _ in range(40)]
            values = {name: [abs(value) * 50 + 1 for value in numbers(self.generator, 40)] for name in names}
            batch = system_batch(f"s-{run}-{host}", first + 1, seconds, values, host=host, run_id=f"r{run}")
            self.events.append((batch, 0))


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_any_interleaving_of_messages_deaths_and_rebalances_comes_to_the_same(rig: AggregatorRig, seed: int) -> None:
    story = Story(seed)
    dice = story.dice
    rig.buckets = dice.choice([50, 100_000])
    alive = [rig.aggregator()]
    deaths = 0
    waiting = list(story.events)
    while waiting:
        for _ in range(dice.randrange(1, 14)):
            if waiting:
                rig.send(*waiting.pop())
        if dice.random() < 0.5:
            rig.write(dice.randrange(1, 4))
        if len(alive) < 2 and dice.random() < 0.5:
            alive.append(rig.aggregator())
        worker = dice.choice(alive)
        if dice.random() < 0.5:
            worker.faults.remaining = dice.randrange(0, 25)
        if dice.random() < 0.2:
            rig.broker.expel(worker.member)  # taken for dead, and it goes on
        try:
            rig.aggregate(worker, 4)
        except Crash:
            deaths += 1
            alive.remove(worker)
            rig.broker.expel(worker.member)
            alive = alive or [rig.aggregator()]
    for worker in alive:
        worker.faults.remaining = None
    for _ in range(3):
        for worker in alive:
            rig.aggregate(worker, 4)
    rig.check()
    assert deaths
    before = raw(rig)
    backfill(rig.client, rig.now, 1)
    assert raw(rig) == before
