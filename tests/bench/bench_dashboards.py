"""How long every query of every dashboard takes: python -m tests.bench.bench_dashboards [--runs N]

The tables are filled with runs of half a million points each (50 metrics, 10,000 steps, one a second), a GPU sampled
every second beside each, config, heartbeats and alerts; their aggregates are made as the aggregator does. Then each
query of each panel and variable is asked as Grafana would, at its dashboard's own time range, five times. Queries that
a panel repeats by metric are asked for one. Ten runs are chosen where several may be.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

from pulsetrain_consumers.aggregator.backfill import backfill
from pulsetrain_consumers.clickhouse import Client, connect
from pulsetrain_consumers.clickhouse.migrate import migrate
from pulsetrain_schemas.addresses import ClickHouseAddress
from tests.bench.machine import describe, table
from tests.clickhouse_fixture import running_clickhouse
from tests.grafana_files import FILES, loaded, queries
from tests.grafana_macros import Range, expanded, interpolated

METRICS, STEPS, HOSTS, KEYS = 50, 10_000, 25, 40
WIDTH = 1_000  # pixels of a panel: the interval is the time range by it, as Grafana has it

# Of each run %(run)s, which began %(began)s seconds since the epoch.
_FILL = {
    "metrics": f"""
        INSERT INTO metrics (project, run_id, metric, rank, step, ts, value, attempt, writer, sequence, attempt_started)
        SELECT 'bench', concat('run-', toString(%(run)s)),
            if(m = 0, 'train/loss', if(m = 1, 'pulsetrain/forward_seconds', concat('metric_', toString(m)))),
            0, at, toDateTime64(%(began)s + at, 6, 'UTC'), 1 / (1 + at) + rand() / 4e10, 0,
            concat('w-', toString(%(run)s)), at + 1, toDateTime(%(began)s, 'UTC')
        FROM (SELECT modulo(number, {METRICS}) AS m, intDiv(number, {METRICS}) AS at FROM numbers({METRICS * STEPS}))
    """,
    "system": f"""
        INSERT INTO system
            (host, gpu, gpu_index, metric, ts, value, project, run_id, rank, writer, sequence, attempt_started)
        SELECT concat('node-', toString(modulo(%(run)s, {HOSTS}))), if(is_gpu, concat('GPU-', toString(%(run)s)), ''),
            if(is_gpu, intDiv(%(run)s, {HOSTS}), -1), metric, toDateTime64(%(began)s + second, 6, 'UTC'),
            rand() / 4.3e7, 'bench', concat('run-', toString(%(run)s)), 0, concat('s-', toString(%(run)s)), second + 1,
            toDateTime(%(began)s, 'UTC')
        FROM (SELECT number AS second FROM numbers({STEPS})) AS seconds
        ARRAY JOIN
            [true, true, true, false, false] AS is_gpu,
            ['utilization_percent', 'power_watts', 'memory_percent', 'cpu_percent', 'memory_percent'] AS metric
    """,
    "run_events": f"""
        INSERT INTO run_events
            (project, run_id, writer, sequence, kind, ts, attempt, attempt_started, rank, is_primary, name, state,
             points)
        SELECT 'bench', concat('run-', toString(%(run)s)), concat('w-', toString(%(run)s)), number,
            multiIf(number = 0, 'start', number = {STEPS // 10}, 'finish', 'heartbeat'),
            toDateTime64(%(began)s + 10 * number, 6, 'UTC'), 0, toDateTime64(%(began)s, 6, 'UTC'), 0, true,
            if(number = 0, concat('name of ', toString(%(run)s)), NULL), if(number = {STEPS // 10}, 'finished', NULL),
            number * {10 * METRICS}
        FROM numbers({STEPS // 10 + 1})
    """,
    "run_values": f"""
        INSERT INTO run_values
            (project, run_id, section, key, value, attempt, rank, ts, writer, sequence, attempt_started)
        SELECT 'bench', concat('run-', toString(%(run)s)), section, key, value, 0, 0, toDateTime64(%(began)s, 6, 'UTC'),
            concat('w-', toString(%(run)s)), number, toDateTime64(%(began)s, 6, 'UTC')
        FROM
        (
            SELECT number, number - {2 * KEYS} + 1 AS place,
                if(number < {KEYS}, 'config', if(number < {2 * KEYS}, 'summary', 'environment')) AS section,
                if(place > 0, ['host', 'user'][place], concat('key_', toString(number))) AS key,
                concat('"node-', toString(modulo(%(run)s, {HOSTS})), '"') AS host,
                if(place > 0, [host, '"somebody"'][place], toString(modulo(%(run)s * number, 7))) AS value
            FROM numbers({2 * KEYS + 2})
        )
    """,
    "stored_batches": f"""
        INSERT INTO stored_batches
        SELECT 'pulsetrain.metrics', 'bench', concat('run-', toString(%(run)s)), concat('w-', toString(%(run)s)),
            number * 10 + 1, number * 10 + 10, modulo(%(run)s, 4), number * 200 + %(run)s, {10 * METRICS},
            toDateTime64(%(began)s + 10 * number, 6, 'UTC'), toDateTime64(%(began)s + 10 * number + 9, 6, 'UTC'),
            toDateTime64(%(began)s + 10 * number + 10, 6, 'UTC')
        FROM numbers({STEPS // 10})
    """,
    "alert_events": """
        INSERT INTO alert_events
            (project, run_id, alert_id, sequence, kind, subject, state, severity, title, text, ts, started, source,
             silenced)
        SELECT 'bench', concat('run-', toString(%(run)s)), concat('a-', toString(number)), 0, 'nan', 'train/loss',
            'firing', 'critical', 'Not a number', 'it is', toDateTime64(%(began)s + 100 + number, 6, 'UTC'),
            toDateTime64(%(began)s + 99 + number, 6, 'UTC'), 'monitor', false
        FROM numbers(10)
    """,
}
_RANGES = {"now-1h": 3600, "now-6h": 6 * 3600, "now-24h": 86_400, "now-7d": 7 * 86_400}


def fill(client: Client, runs: int, now: int) -> None:
    """Runs that began one after another within six hours, and end at the latest now."""
    for run in range(runs):
        began = now - STEPS - (runs - run) * (6 * 3600 - STEPS) // runs
        for statement in _FILL.values():
            client.execute(statement, {"run": run, "began": began})
    backfill(client, time.time)


def main() -> None:
    """Prints the machine, then the figures, the slowest first."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=40, help="of half a million points each; 200 make 100 million")
    options = parser.parse_args()
    print(describe("chdb"))
    with tempfile.TemporaryDirectory() as name, running_clickhouse(Path(name) / "clickhouse") as server:
        address = ClickHouseAddress(server.host, server.port, server.user, server.password, "dashboards")
        migrate(address)
        with connect(address, timeout=600.0) as client:
            began, now = time.monotonic(), int(time.time())
            fill(client, options.runs, now)
            points, samples = (client.query(f"SELECT count() FROM {what}").one() for what in ("metrics", "system"))
            print(
                f"\n{points:,} points and {samples:,} samples, filled in {time.monotonic() - began:.0f} s\n", flush=True
            )
            rows = sorted(_asked(client, options.runs, now), key=lambda row: -row[2])
    print(f"{len(rows)} queries, median {statistics.median(row[2] for row in rows):.0f} ms")
    shown = [(board, by, f"{median:.0f}", f"{worst:.0f}") for board, by, median, worst in rows]
    print(table(("dashboard", "panel", "median ms", "max ms"), shown))


def _asked(client: Client, runs: int, now: int) -> list[tuple[str, str, float, float]]:
    chosen = {
        "project": ["bench"],
        "projects": ["$__all"],
        "metric": ["train/loss"],
        "goal": ["min"],
        "scale": ["linear"],
        "smoothing": ["20"],
        "host": ["$__all"],
        "price": ["2"],
    }
    found = []
    for path in FILES:
        seconds = _RANGES[loaded(path)["time"]["from"]]
        over = Range(now - seconds, now, seconds / WIDTH)
        several = [f"run-{runs - 1 - i}" for i in range(10 if path.stem == "compare" else 1)]
        for asked in (it for it in queries(path) if it.is_sql):
            sql = expanded(interpolated(asked.text, {**chosen, "run": several}), over)
            took = []
            for _ in range(6):
                began = time.monotonic()
                client.query(sql)
                took.append(1e3 * (time.monotonic() - began))
            found.append((asked.dashboard, asked.by, statistics.median(took[1:]), max(took)))
    return found


if __name__ == "__main__":
    main()
