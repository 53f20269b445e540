"""How long a report of a million points takes, from ClickHouse to the file, and how large it is."""

import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from pulsetrain_consumers.clickhouse import connect
from pulsetrain_consumers.reading.api import Api
from pulsetrain_consumers.reading.report.gather import gather
from pulsetrain_consumers.reading.report.render import render
from pulsetrain_consumers.reading.runs import resolve
from pulsetrain_schemas.addresses import ClickHouseAddress
from tests.bench.machine import describe, table
from tests.clickhouse_fixture import running_clickhouse
from tests.reading_rows import create_database, store_metric, store_run

SHAPES = ((1, 1, 1_000_000), (4, 10, 25_000), (20, 50, 1_000), (100, 20, 500))
"""Runs, metrics of each, points of each."""


def main() -> None:
    """Prints a line for each shape."""
    print(describe("pulsetrain", "chdb", "clickhouse-driver"), "\n")
    rows = []
    random = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as directory, running_clickhouse(Path(directory) / "server") as server:
        address = ClickHouseAddress(server.host, server.port, server.user, server.password, "bench_report")
        create_database(address)
        with connect(address) as client, Api(address.url()) as api:
            for runs, metrics, points in SHAPES:
                project = f"{runs}x{metrics}x{points}"
                for run in range(runs):
                    store_run(client, project, f"run-{run}", points=metrics * points, rows=points)
                    for metric in range(metrics):
                        values = random.normal(size=points).cumsum()
                        store_metric(client, project, f"run-{run}", f"group{metric % 5}/m{metric}", values)
                started = time.perf_counter()
                made = gather(api.database, resolve(api.database, [project]), title=project, now=datetime.now(UTC))
                gathered = time.perf_counter()
                page = render(made)
                seconds = time.perf_counter() - started
                rows.append(
                    (
                        f"{runs} x {metrics} x {points:,}",
                        f"{runs * metrics * points:,}",
                        f"{gathered - started:.2f} s",
                        f"{seconds:.2f} s",
                        f"{len(page) / 1e6:.2f} MB",
                    )
                )
    print(table(("runs x metrics x points", "points", "queries", "whole report", "file"), rows))


if __name__ == "__main__":
    main()
