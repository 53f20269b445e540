"""The history of a run as columns: a row a step (a row a call, where a step was logged again), at full resolution."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pulsetrain_consumers.reading.database import Database
from pulsetrain_consumers.reading.lineage import sources
from pulsetrain_consumers.reading.model import RunKey

if TYPE_CHECKING:
    import pandas as pd

INDEX = ("_rank", "_step", "_timestamp")

_LATEST = """
SELECT toString(metric) AS metric, rank, step, toUnixTimestamp64Micro(ts) AS time, value
FROM latest_metrics
WHERE (project, run_id) IN {keys:Array(Tuple(String, String))}
    AND (project, source_run_id) IN {sources:Array(Tuple(String, String))}
    AND (metric IN {metrics:Array(String)} OR {all:Bool})
ORDER BY metric, rank, step, writer, sequence
"""
_ALL = """
SELECT toString(metric) AS metric, rank, step, toUnixTimestamp64Micro(ts) AS time, value
FROM metrics
WHERE (project, run_id) IN {keys:Array(Tuple(String, String))} AND (metric IN {metrics:Array(String)} OR {all:Bool})
ORDER BY metric, rank, step, writer, sequence
"""


class History(Mapping[str, NDArray[Any]]):
    """Columns of equal length by name: `_rank`, `_step`, `_timestamp` (seconds since the epoch), then the metrics.

    What the hardware did has no `_step`. A metric is NaN in the rows that it was not logged in. Rows are in the order
    of rank and step.
    """

    def __init__(self, columns: Mapping[str, NDArray[Any]]) -> None:
        self._columns = dict(columns)

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self._columns[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns)

    def __len__(self) -> int:
        return len(self._columns)

    def __repr__(self) -> str:
        return f"History({len(self['_timestamp'])} rows: {', '.join(self)})"

    def to_pandas(self) -> pd.DataFrame:
        """The same as a pandas DataFrame."""
        import pandas as pd

        return pd.DataFrame(self._columns)


def history(
    database: Database,
    run: RunKey,
    metrics: Sequence[str] | None = None,
    samples: int | None = None,
    *,
    all_attempts: bool = False,
) -> History:
    """The points of a run. With `samples`, at most so many rows, each the mean of adjacent steps of a rank.

    Where a resumed run went back, the latest attempt counts, and a fork begins with its parent's points; with
    `all_attempts`, all that the run logged itself counts, and nothing else.
    """
    shown: dict[str, Any] = {"keys": [run]} if all_attempts else {"keys": [run], "sources": sources(database, [run])}
    points = database.arrays(
        _ALL if all_attempts else _LATEST, **shown, metrics=list(metrics or ()), all=metrics is None
    )
    columns = pivot(points, metrics)
    return History(columns if samples is None else thin(columns, samples))


def pivot(points: Mapping[str, NDArray[Any]], metrics: Sequence[str] | None = None) -> dict[str, NDArray[Any]]:
    """Columns from points sorted by metric, rank and step.

    The n-th point of a metric at one rank and step goes into the n-th row of these, so that no point is lost.
    """
    rows = len(points["metric"])
    if not rows:
        empty: dict[str, NDArray[Any]] = {
            "_rank": np.empty(0, np.int64),
            "_step": np.empty(0, np.int64),
            "_timestamp": np.empty(0),
        }
        return empty | {name: np.empty(0) for name in metrics or ()}
    names, metric = np.unique(points["metric"].astype(str), return_inverse=True)
    rank, step = points["rank"].astype(np.int64), points["step"].astype(np.int64)
    repeated = np.zeros(rows, dtype=bool)
    repeated[1:] = (metric[1:] == metric[:-1]) & (rank[1:] == rank[:-1]) & (step[1:] == step[:-1])
    starts = np.flatnonzero(~repeated)
    occurrence = np.arange(rows) - np.repeat(starts, np.diff([*starts, rows]))
    order = np.lexsort((occurrence, step, rank))
    changed = np.zeros(rows, dtype=np.int64)
    for key in (rank, step, occurrence):
        changed[1:] |= key[order][1:] != key[order][:-1]
    row = np.empty(rows, dtype=np.int64)
    row[order] = np.cumsum(changed)
    count = int(row.max()) + 1
    columns: dict[str, NDArray[Any]] = {"_rank": np.empty(count, np.int64), "_step": np.empty(count, np.int64)}
    columns["_rank"][row], columns["_step"][row] = rank, step
    time = np.full(count, np.iinfo(np.int64).max)
    np.minimum.at(time, row, points["time"].astype(np.int64))
    columns["_timestamp"] = time / 1e6
    for number, name in enumerate(names):
        mine = metric == number
        columns[str(name)] = np.full(count, np.nan)
        columns[str(name)][row[mine]] = points["value"][mine]
    wanted = metrics if metrics is not None else [str(name) for name in names]
    missing = np.full(count, np.nan)
    return {name: columns[name] for name in INDEX} | {name: columns.get(name, missing) for name in wanted}


def thin(columns: Mapping[str, NDArray[Any]], samples: int) -> dict[str, NDArray[Any]]:
    """At most `samples` rows: each the mean over an equal share of the rows, at the step and time of the first."""
    rows = len(columns["_timestamp"])
    if rows <= samples:
        return dict(columns)
    group = np.arange(rows) * samples // rows
    first = np.searchsorted(group, np.arange(samples))
    thinned = {name: columns[name][first] for name in INDEX if name in columns}
    for name in columns:
        if name not in INDEX:
            there = ~np.isnan(columns[name])
            count = np.bincount(group[there], minlength=samples)
            total = np.bincount(group[there], weights=columns[name][there], minlength=samples)
            thinned[name] = np.divide(total, count, out=np.full(samples, np.nan), where=count > 0)
    return thinned
