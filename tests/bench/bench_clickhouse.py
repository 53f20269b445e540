"""How fast the embedded ClickHouse server takes and gives rows of the real `metrics` table, and what memory it needs.

    python -m tests.bench.bench_clickhouse [--rows N]

The peer is the engine in process, without server and client: what it makes of the same kind of rows.
"""

import argparse
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from clickhouse_driver import Client

from pulsetrain_schemas.migrations import load
from tests.bench.machine import describe, quantile, table
from tests.clickhouse_fixture import ClickHouse, running_clickhouse

BLOCK_SIZES = (10_000, 50_000, 100_000, 250_000, 500_000)
RUNS, METRICS = 4, 10
MICROSECOND = 1_000_000
STARTED = 1_795_450_000


def columns(rows: int, first: int) -> list[Any]:
    """`rows` points of four runs with ten metrics each, as the writer hands them to clickhouse-driver."""
    number = np.arange(first, first + rows)
    runs = np.array([f"run{n}" for n in range(RUNS)], dtype=object)
    metrics = np.array([f"metric_{n}" for n in range(METRICS)], dtype=object)
    writers = np.array([f"{n:032x}" for n in range(RUNS)], dtype=object)
    row, run = number // METRICS, number // METRICS % RUNS
    return [
        np.full(rows, "bench", dtype=object),
        runs[run],
        metrics[number % METRICS],
        np.zeros(rows, np.uint32),
        row // RUNS,
        (STARTED * MICROSECOND + row * 1000).astype("datetime64[us]"),
        np.random.default_rng(4).normal(size=rows),
        np.ones(rows, np.uint32),
        writers[run],
        (row // RUNS).astype(np.uint64),
        np.full(rows, STARTED, "datetime64[s]"),
    ]


def connect(server: ClickHouse, **options: Any) -> Client:
    return server.client("bench", settings={"use_numpy": True}, **options)


def inserts(server: ClickHouse, block: int, rows: int, writers: int = 1, compression: bool = False) -> float:
    """Rows a second, by so many connections at once, each in blocks of `block` rows."""
    batches = [columns(block, first) for first in range(0, max(block, min(rows, 1_000_000)), block)]
    each = max(1, rows // block // writers)

    def write() -> None:
        client = connect(server, compression=compression)
        for number in range(each):
            client.execute("INSERT INTO metrics VALUES", batches[number % len(batches)], columnar=True)
        client.disconnect()

    threads = [threading.Thread(target=write) for _ in range(writers)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return each * block * writers / (time.perf_counter() - began)


def engine_alone(rows: int, block: int) -> float:
    """Rows a second of the engine in this process, fed with the same blocks as bytes."""
    from pulsetrain_local.clickhouse.blocks import Column
    from pulsetrain_local.clickhouse.engine import Engine

    with tempfile.TemporaryDirectory() as directory:
        engine = Engine(Path(directory) / "engine", {})
        connection = engine.connect()
        for statement in load()[0].statements:
            connection.query(statement)
        prepared = connection.query(
            "SELECT 'bench'::LowCardinality(String) AS project,"
            " concat('run', toString(intDiv(number, 10) % 4))::LowCardinality(String) AS run_id,"
            " concat('metric_', toString(number % 10))::LowCardinality(String) AS metric,"
            " 0::UInt32 AS rank, intDiv(number, 40)::Int64 AS step, now64(6, 'UTC') AS ts, randNormal(0, 1) AS value,"
            " 1::UInt32 AS attempt,"
            " concat('writer', toString(intDiv(number, 10) % 4))::LowCardinality(String) AS writer,"
            " intDiv(number, 40)::UInt64 AS sequence, now('UTC') AS attempt_started"
            f" FROM numbers({block}) SETTINGS max_block_size = {block}"
        )
        described = connection.query("DESCRIBE TABLE metrics", "TSVRaw").decode().splitlines()
        columns = [Column(*line.split("\t")[:2]) for line in described]
        path = Path(directory) / "block"
        path.write_bytes(prepared)
        began = time.perf_counter()
        for _ in range(rows // block):
            connection.insert("INSERT INTO metrics", columns, str(path))
        seconds = time.perf_counter() - began
        connection.close()
        engine.close()
    return rows / seconds


def selects(server: ClickHouse, compression: bool) -> float:
    client = connect(server, compression=compression)
    began = time.perf_counter()
    step, _value = client.execute("SELECT step, value FROM metrics LIMIT 5000000", columnar=True)
    seconds = time.perf_counter() - began
    client.disconnect()
    return len(step) / seconds


def latencies(server: ClickHouse, sql: str, count: int = 300) -> list[float]:
    client = server.client("bench")
    taken = []
    for _ in range(count):
        began = time.perf_counter()
        client.execute(sql)
        taken.append(time.perf_counter() - began)
    client.disconnect()
    return taken


def main() -> int:
    arguments = argparse.ArgumentParser(prog="python -m tests.bench.bench_clickhouse", description=__doc__)
    arguments.add_argument("--rows", type=int, default=3_000_000, help="rows a measurement")
    rows = arguments.parse_args().rows
    print(describe("chdb", "chdb-core", "clickhouse-driver", "numpy", "lz4"))
    results = []
    with (
        tempfile.TemporaryDirectory() as directory,
        running_clickhouse(Path(directory) / "server", "--log-level", "warning") as server,
    ):
        setup = server.client()
        setup.execute("CREATE DATABASE bench")
        setup.execute("USE bench")
        for statement in load()[0].statements:
            setup.execute(statement)
        results.append(("RSS of the idle server", f"{server.memory() / 2**20:.0f} MiB"))
        inserts(server, 100_000, 500_000)
        for block in BLOCK_SIZES:
            setup.execute("TRUNCATE TABLE metrics")
            results.append((f"insert, {block:,} rows a block", f"{inserts(server, block, rows):,.0f} rows/s"))
        for writers, compression in ((2, False), (1, True)):
            setup.execute("TRUNCATE TABLE metrics")
            speed = inserts(server, 100_000, rows, writers, compression)
            what = f"insert, 100,000 rows a block, {writers} connection(s), {'LZ4' if compression else 'uncompressed'}"
            results.append((what, f"{speed:,.0f} rows/s"))
        for compression in (False, True):
            speed = selects(server, compression)
            results.append((f"select of 2 columns, {'LZ4' if compression else 'uncompressed'}", f"{speed:,.0f} rows/s"))
        for sql in ("SELECT 1", "SELECT count() FROM metrics", "SELECT * FROM metrics LIMIT 10"):
            taken = latencies(server, sql)
            middle, late = quantile(taken, 0.5) * 1000, quantile(taken, 0.99) * 1000
            results.append((f"`{sql}`", f"{middle:.2f} ms median, {late:.2f} ms p99"))
        results.append(("RSS of the server after all that", f"{server.memory() / 2**20:.0f} MiB"))
        setup.disconnect()
    results.append(("peer: the engine in process, 100,000 rows a block", f"{engine_alone(rows, 100_000):,.0f} rows/s"))
    print(table(("what", "figure"), results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
