"""What the hardware did during a run, as columns: a row a sample, under W&B's keys where it has one.

A key is W&B's (`system.gpu.0.gpu`, in its unit) or `system.` and the name in the table (`system.load_1m`,
`system.gpu.0.sm_active_percent`), which any metric has.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pulsetrain_consumers.reading.database import Database
from pulsetrain_consumers.reading.history import History, pivot, thin
from pulsetrain_consumers.reading.model import RunKey
from pulsetrain_schemas import system_metrics

_PREFIX, _GPU = "system.", "system.gpu."
_SAMPLES = """
SELECT
    if(gpu_index < 0, concat('system.', metric), concat('system.gpu.', toString(gpu_index), '.', metric)) AS metric,
    rank,
    toUnixTimestamp64Micro(ts) AS step,
    step AS time,
    value
FROM system AS s
WHERE (project, run_id) IN {keys:Array(Tuple(String, String))}
    AND ({all:Bool} OR (s.metric, gpu_index) IN {wanted:Array(Tuple(String, Int32))})
    AND NOT startsWith(gpu, 'MIG-')  -- an instance has the number of its GPU
ORDER BY metric, rank, ts, writer, sequence
"""


def system_history(
    database: Database, run: RunKey, keys: Sequence[str] | None = None, samples: int | None = None
) -> History:
    """The samples of a run; of `keys` those that there are. With `samples`, at most so many rows of means."""
    wanted = [_name(key) for key in keys or ()]
    points = database.arrays(
        _SAMPLES,
        keys=[run],
        all=keys is None,
        wanted=[(name, -1 if index is None else index) for name, index in wanted] or [("", -1)],
    )
    found = pivot(points)
    del found["_step"]
    columns: dict[str, Any] = {name: found.pop(name) for name in ("_rank", "_timestamp")}
    for name, values in found.items():
        key, factor = _shown(name)
        columns[key] = values * factor
    for key in keys or ():
        if key not in columns:
            ours = _column(*_name(key))
            columns[key] = found[ours] if ours in found else np.full(len(columns["_rank"]), np.nan)
    if keys is not None:
        columns = {key: columns[key] for key in ("_rank", "_timestamp", *keys)}
    return History(columns if samples is None else thin(columns, samples))


def _name(key: str) -> tuple[str, int | None]:
    """The metric and the GPU that a key means."""
    known = system_metrics.from_wandb_key(key)
    if known is not None:
        return known
    if key.startswith(_GPU):
        index, _, name = key.removeprefix(_GPU).partition(".")
        if index.isdecimal():
            return name, int(index)
    return key.removeprefix(_PREFIX), None


def _column(name: str, index: int | None) -> str:
    return f"{_PREFIX}{name}" if index is None else f"{_GPU}{index}.{name}"


def _shown(column: str) -> tuple[str, float]:
    """W&B's key for a column, and what its unit asks for; else the column as it is."""
    name, index = _name(column)
    metric = system_metrics.find(name, gpu=index is not None)
    key = system_metrics.wandb_key(name, index)
    return (column, 1.0) if metric is None or key is None else (key, metric.wandb_factor)
