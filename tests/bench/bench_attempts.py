"""What asking for the latest attempt's points costs, against the table alone: wall time, and the server's CPU time."""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil

from pulsetrain_consumers.clickhouse import Client, connect
from pulsetrain_consumers.reading.api import Api
from pulsetrain_schemas.addresses import ClickHouseAddress
from tests.bench.machine import describe, table
from tests.clickhouse_fixture import ClickHouse, running_clickhouse
from tests.reading_rows import create_database, store_metric, store_run

METRICS, STEPS = 10, 1_000_000
FIRST_STEPS = (0, 400_000, 700_000)
OTHER_RUNS = 50
BEST_OF = 3


def fill(client: Client) -> None:
    """A run of three attempts, each of which logged a tenth more than was kept, a fork of it, and other runs."""
    random = np.random.default_rng(0)
    ends = (*FIRST_STEPS[1:], STEPS)
    for attempt, (first, end) in enumerate(zip(FIRST_STEPS, ends, strict=True)):
        steps = np.arange(first, min(end + STEPS // 10, STEPS))
        for metric in range(METRICS):
            values = random.normal(size=len(steps))
            store_metric(client, "p", "big", f"m{metric}", values, steps=steps, attempt=attempt)
        store_run(client, "p", "big", attempt=attempt, first_step=first)
    below = STEPS // 2
    store_run(client, "p", "fork", first_step=below, inherited=[("big", 0, FIRST_STEPS[1]), ("big", 1, below)])
    for run in range(OTHER_RUNS):
        store_metric(client, "p", f"other-{run}", "m0", random.normal(size=METRICS * STEPS // OTHER_RUNS))
        store_run(client, "p", f"other-{run}")


def measured(server: ClickHouse, ask: Callable[[], object]) -> tuple[str, str]:
    """Wall and CPU time of the best of some."""
    assert server.process is not None
    process = psutil.Process(server.process.pid)
    best = (float("inf"), 0.0)
    for _ in range(BEST_OF):
        before, began = process.cpu_times(), time.perf_counter()
        ask()
        wall, after = time.perf_counter() - began, process.cpu_times()
        best = min(best, (wall, after.user + after.system - before.user - before.system))
    return f"{best[0] * 1e3:,.0f} ms", f"{best[1] * 1e3:,.0f} ms"


def main() -> None:
    """Prints a line for each question."""
    print(describe("pulsetrain", "chdb", "clickhouse-driver"), "\n")
    select = "SELECT count(), sum(value), max(step) FROM "
    with tempfile.TemporaryDirectory() as directory, running_clickhouse(Path(directory) / "server") as server:
        address = ClickHouseAddress(server.host, server.port, server.user, server.password, "bench_attempts")
        create_database(address)
        with connect(address) as client, Api(address.url()) as api:
            fill(client)
            asked = [
                (run, view, f"{view} WHERE project = 'p' AND run_id = '{run}'{more}")
                for run, more in (
                    ("big", ""),
                    ("big", " AND metric = 'm3'"),
                    ("other-7", ""),
                    ("fork", " AND source_run_id IN ('fork', 'big')"),
                )
                for view in (("latest_metrics",) if run == "fork" else ("metrics", "latest_metrics"))
            ]
            rows = []
            for _, _, rest in asked:
                ((points, *_),) = client.query(select + rest).rows
                rows.append((rest.partition(" WHERE ")[0], rest.partition("run_id = ")[2], f"{points:,}"))
                rows[-1] += measured(server, lambda rest=rest: client.query(select + rest))
            run = api.run("p/big")
            rows.append(("Api", "run.history(['m3'])", f"{STEPS:,}", *measured(server, lambda: run.history(["m3"]))))
    print(table(("from", "run", "points", "wall", "CPU"), rows))


if __name__ == "__main__":
    main()
