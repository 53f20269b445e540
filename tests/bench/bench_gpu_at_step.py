"""How fast the views are that join metrics and hardware: python -m tests.bench.bench_gpu_at_step [--runs N]

The tables are filled with runs of a million points each (20 metrics, 50,000 steps, ten a second) and two GPUs sampled
every second; then one run is asked about, as a dashboard does. Each figure is the median of five.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

from pulsetrain_consumers.clickhouse import Client, connect
from pulsetrain_consumers.clickhouse.migrate import migrate
from pulsetrain_schemas.addresses import ClickHouseAddress
from tests.bench.machine import describe, table
from tests.clickhouse_fixture import running_clickhouse

POINTS = 1_000_000
METRICS = 20
STEPS = POINTS // METRICS
SECONDS = STEPS // 10
_METRICS = f"""
INSERT INTO metrics (project, run_id, metric, rank, step, ts, value, attempt, writer, sequence, attempt_started)
SELECT 'bench', concat('run-', toString(%(run)s)), concat('metric_', toString(modulo(number, {METRICS}))), 0,
    intDiv(number, {METRICS}) AS at, toDateTime64('2026-11-01 00:00:00', 6, 'UTC') + toIntervalMillisecond(at * 100),
    rand() / 4e9, 0, concat('w-', toString(%(run)s)), at + 1, toDateTime('2026-11-01 00:00:00', 'UTC')
FROM numbers({POINTS})
"""
_SYSTEM = f"""
INSERT INTO system (host, gpu, gpu_index, metric, ts, value, project, run_id, rank, writer, sequence, attempt_started)
SELECT concat('node-', toString(modulo(%(run)s, 8))), concat('GPU-', toString(modulo(%(run)s, 8)), '-', toString(g)),
    g, m,
    toDateTime64('2026-11-01 00:00:00', 6, 'UTC') + toIntervalSecond(second), rand() / 4e7, 'bench',
    concat('run-', toString(%(run)s)), 0, concat('s-', toString(%(run)s)), second + 1,
    toDateTime('2026-11-01 00:00:00', 'UTC')
FROM (SELECT number AS second FROM numbers({SECONDS})) AS seconds
ARRAY JOIN [0, 1] AS g
ARRAY JOIN ['utilization_percent', 'memory_used_bytes', 'power_watts', 'temperature_celsius', 'sm_clock_mhz'] AS m
"""
ONE_RUN = "project = 'bench' AND run_id = 'run-7'"
QUESTIONS = {
    "gpu_at_step: a metric of a run, every row": (
        f"SELECT step, value, gpu_index, utilization_percent, power_watts FROM gpu_at_step "
        f"WHERE {ONE_RUN} AND metric = 'metric_3' FORMAT Null"
    ),
    "gpu_at_step: utilisation by thousand steps": (
        f"SELECT intDiv(step, 1000) AS at, avg(utilization_percent) FROM gpu_at_step "
        f"WHERE {ONE_RUN} AND metric = 'metric_3' GROUP BY at FORMAT Null"
    ),
    "step_at_sample: a GPU of a run, every row": (
        f"SELECT ts, value, step FROM step_at_sample "
        f"WHERE {ONE_RUN} AND gpu_index = 0 AND metric = 'power_watts' FORMAT Null"
    ),
    "step_at_sample: steps at which the GPU was hot": (
        f"SELECT DISTINCT step FROM step_at_sample "
        f"WHERE {ONE_RUN} AND metric = 'temperature_celsius' AND value > 85 FORMAT Null"
    ),
}


def fill(client: Client, runs: int) -> None:
    """A million points a run, and the samples beside them."""
    for run in range(runs):
        for statement in (_METRICS, _SYSTEM):
            client.execute(statement, {"run": run})


def median_of_five(client: Client, question: str) -> float:
    took = []
    for _ in range(6):
        began = time.monotonic()
        client.execute(question)
        took.append(time.monotonic() - began)
    return statistics.median(took[1:])


def main() -> None:
    """Prints the machine, then the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=20, help="of a million points each")
    options = parser.parse_args()
    print(describe("chdb"))
    with tempfile.TemporaryDirectory() as name, running_clickhouse(Path(name) / "clickhouse") as server:
        address = ClickHouseAddress(server.host, server.port, server.user, server.password, "views")
        migrate(address)
        with connect(address, timeout=600.0) as client:
            began = time.monotonic()
            fill(client, options.runs)
            counts = [client.query(f"SELECT count() FROM {what}").one() for what in ("metrics", "system")]
            print(f"\n{counts[0]:,} points and {counts[1]:,} samples, filled in {time.monotonic() - began:.0f} s\n")
            rows = [(what, f"{median_of_five(client, sql):.3f} s") for what, sql in QUESTIONS.items()]
    print(table(("one run of a million points", "median of five"), rows))


if __name__ == "__main__":
    main()
