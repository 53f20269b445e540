"""Puts runs straight into ClickHouse's tables, as the writer would have, for the tests of what reads them."""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pulsetrain_consumers.clickhouse import Client, Dictionary, connect
from pulsetrain_schemas import migrations
from pulsetrain_schemas.addresses import ClickHouseAddress

STARTED = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
_MICROSECONDS = 1_000_000


def create_database(address: ClickHouseAddress) -> None:
    """The database of the address, new, with its tables and views."""
    with connect(address, database="default") as client:
        client.execute(f"DROP DATABASE IF EXISTS `{address.database}`")
        client.execute(f"CREATE DATABASE `{address.database}`")
    with connect(address) as client:
        for migration in migrations.load():
            for statement in migration.statements:
                client.execute(statement)


def store_metric(
    client: Client,
    project: str,
    run_id: str,
    metric: str,
    values: NDArray[np.float64],
    *,
    steps: NDArray[np.int64] | None = None,
    rank: int = 0,
    attempt: int = 0,
    started: datetime = STARTED,
    seconds_per_step: float = 0.05,
) -> None:
    """A curve; the n-th point has sequence n."""
    rows = len(values)
    steps = np.arange(rows) if steps is None else steps
    start = int(started.timestamp() * _MICROSECONDS)
    client.insert(
        "metrics",
        {
            "project": Dictionary.constant(project, rows),
            "run_id": Dictionary.constant(run_id, rows),
            "metric": Dictionary.constant(metric, rows),
            "rank": np.full(rows, rank),
            "step": steps,
            "ts": start + (np.arange(rows) * seconds_per_step * _MICROSECONDS).astype(np.int64),
            "value": values,
            "attempt": np.full(rows, attempt),
            "writer": Dictionary.constant(f"w-{run_id}-{rank}-{attempt}", rows),
            "sequence": np.arange(1, rows + 1),
            "attempt_started": np.full(rows, start // _MICROSECONDS),
        },
    )


def store_system(
    client: Client,
    project: str,
    run_id: str,
    metric: str,
    values: NDArray[np.float64],
    *,
    gpu: int = -1,
    started: datetime = STARTED,
) -> None:
    """A series of hardware samples, one a second."""
    rows = len(values)
    start = int(started.timestamp() * _MICROSECONDS)
    client.insert(
        "system",
        {
            "host": Dictionary.constant("node-1", rows),
            "gpu": Dictionary.constant(f"GPU-{gpu}" if gpu >= 0 else "", rows),
            "gpu_index": np.full(rows, gpu),
            "metric": Dictionary.constant(metric, rows),
            "ts": start + np.arange(rows) * _MICROSECONDS,
            "value": values,
            "project": Dictionary.constant(project, rows),
            "run_id": Dictionary.constant(run_id, rows),
            "rank": np.zeros(rows, dtype=int),
            "writer": Dictionary.constant(f"s-{run_id}", rows),
            "sequence": np.arange(1, rows + 1),
            "attempt_started": np.full(rows, start // _MICROSECONDS),
        },
    )


def store_lines(
    client: Client,
    project: str,
    run_id: str,
    lines: Sequence[str],
    *,
    stream: str = "stdout",
    started: datetime = STARTED,
) -> None:
    """What the run printed, a line a second."""
    rows = len(lines)
    start = int(started.timestamp() * _MICROSECONDS)
    client.insert(
        "logs",
        {
            "project": Dictionary.constant(project, rows),
            "run_id": Dictionary.constant(run_id, rows),
            "rank": np.zeros(rows, dtype=int),
            "ts": start + np.arange(rows) * _MICROSECONDS,
            "stream": Dictionary.constant(stream, rows),
            "line": list(lines),
            "attempt": np.zeros(rows, dtype=int),
            "writer": Dictionary.constant(f"w-{run_id}-0-0", rows),
            "sequence": np.arange(1, rows + 1),
            "attempt_started": np.full(rows, start // _MICROSECONDS),
        },
    )


def store_run(
    client: Client,
    project: str,
    run_id: str,
    *,
    name: str | None = None,
    state: str | None = "finished",
    tags: Sequence[str] = (),
    config: Mapping[str, Any] | None = None,
    summary: Mapping[str, Any] | None = None,
    points: int = 0,
    rows: int = 0,
    seconds: float = 60.0,
    started: datetime = STARTED,
    attempt: int = 0,
    first_step: int = 0,
    inherited: Sequence[tuple[str, int, int]] = (),
    rank: int = 0,
    definitions: Mapping[str, Any] | None = None,
    environment: Mapping[str, Any] | None = None,
) -> None:
    """What one writer told of the run: a start and, with a state, a finish that counts what was logged.

    Where something is `inherited`, it is a fork of the run of the last entry, up to where that ends.
    """
    start = int(started.timestamp() * _MICROSECONDS)
    kinds = ["start"] + (["finish"] if state else [])
    count = len(kinds)
    client.insert(
        "run_events",
        {
            "project": Dictionary.constant(project, count),
            "run_id": Dictionary.constant(run_id, count),
            "writer": Dictionary.constant(f"w-{run_id}-{rank}-{attempt}", count),
            "sequence": np.array([1, rows + 2])[:count],
            "kind": Dictionary(np.arange(count, dtype=np.uint8), kinds),
            "ts": np.array([start, start + int(seconds * _MICROSECONDS)])[:count],
            "attempt": np.full(count, attempt),
            "attempt_started": np.full(count, start),
            "rank": np.full(count, rank),
            "is_primary": np.full(count, not rank),
            "first_step": [first_step, None][:count],
            "parent_run_id": [inherited[-1][0] if inherited else None, None][:count],
            "parent_step": [inherited[-1][2] - 1 if inherited else None, None][:count],
            "inherited_runs": [[run for run, _, _ in inherited], []][:count],
            "inherited_attempts": [[number for _, number, _ in inherited], []][:count],
            "inherited_below": [[below for _, _, below in inherited], []][:count],
            "name": [name, None][:count],
            "notes": [None] * count,
            "tags": [list(tags), []][:count],
            "tags_set": np.array([bool(tags), False])[:count],
            "run_group": [None] * count,
            "job_type": [None] * count,
            "state": ["running", state][:count],
            "exit_code": [None, 0 if state == "finished" else 1][:count],
            "rows": np.array([0, rows])[:count],
            "points": np.array([0, points])[:count],
            "texts": np.zeros(count, dtype=int),
        },
    )
    values = [("config", key, value) for key, value in (config or {}).items()] + [
        ("summary", key, value) for key, value in (summary or {}).items()
    ]
    values += [("environment", "host", "node-1"), ("environment", "program", "train.py")]
    values += [("environment", key, value) for key, value in (environment or {}).items()]
    values += [("definition", key, value) for key, value in (definitions or {}).items()]
    numbers = [
        float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
        for _, _, value in values
    ]
    count = len(values)
    sections = ["config", "summary", "environment", "definition"]
    client.insert(
        "run_values",
        {
            "project": Dictionary.constant(project, count),
            "run_id": Dictionary.constant(run_id, count),
            "section": Dictionary(
                np.array([sections.index(section) for section, _, _ in values], dtype=np.uint8), sections
            ),
            "key": [key for _, key, _ in values],
            "value": [json.dumps(value) for _, _, value in values],
            "number": numbers,
            "attempt": np.full(count, attempt),
            "rank": np.full(count, rank),
            "ts": np.full(count, start),
            "writer": Dictionary.constant(f"w-{run_id}-{rank}-{attempt}", count),
            "sequence": np.ones(count, dtype=int),
            "attempt_started": np.full(count, start),
        },
    )
