"""The values of single metrics in a batch, as lists that are short enough for plain Python."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pulsetrain_schemas.events import MetricBatch

# Of a metric with more values in a message every n-th is taken, from the first on.
MOST = 32
# As long as there are values that are no numbers, so many at most.
MOST_ODD = 1_024


@dataclass(frozen=True, slots=True)
class Column:
    """Values of one metric with their times (seconds) and steps; `whole` says that all in the message are finite."""

    values: list[float]
    times: list[float]
    steps: list[int]
    whole: bool


def columns(batch: MetricBatch, keys: Sequence[int]) -> list[Column]:
    """The column of each of the keys, given as indexes into `batch.keys`; without values where it has none."""
    shape = _only_shape(batch)
    if shape is None or not set(keys).issubset(shape):
        return _of_several_shapes(batch, keys)
    rows = len(batch.row_times)
    block = batch.values.reshape(rows, len(shape))[:, [shape.index(key) for key in keys]]
    finite = np.isfinite(block)
    if not finite.all():
        times, steps = np.asarray(batch.row_times) / 1e6, np.asarray(batch.row_steps)
        return [_column(values, times, steps, fine) for values, fine in zip(block.T, finite.T, strict=True)]
    row_times, row_steps = batch.row_times, batch.row_steps
    if rows > MOST:
        stride = -(-rows // MOST)
        block, row_times, row_steps = block[::stride], row_times[::stride], row_steps[::stride]
    all_times, all_steps = (np.asarray(row_times) / 1e6).tolist(), np.asarray(row_steps).tolist()
    return [Column(values, all_times, all_steps, True) for values in block.T.tolist()]


def _column(
    values: NDArray[np.float64], times: NDArray[np.float64], steps: NDArray[np.integer[Any]], finite: NDArray[np.bool_]
) -> Column:
    """Every n-th of the values, and all that are no numbers, each with what follows it: two in a row must show."""
    count = len(values)
    whole = bool(finite.all())
    keep = np.zeros(count, bool)
    keep[:: max(1, -(-count // MOST))] = True
    keep |= ~finite
    keep[1:] |= ~finite[:-1]
    chosen = np.flatnonzero(keep)
    if len(chosen) > MOST_ODD:
        chosen = np.concatenate([chosen[: MOST_ODD // 2], chosen[-MOST_ODD // 2 :]])
    return Column(values[chosen].tolist(), times[chosen].tolist(), steps[chosen].tolist(), whole)


def _only_shape(batch: MetricBatch) -> list[int] | None:
    """The keys of every row, where all rows have the same."""
    keys: list[int] = np.asarray(batch.shape_keys).tolist()
    if len(batch.shape_lengths) == 1:
        return keys
    used = set(np.asarray(batch.row_shapes).tolist())
    if len(used) > 1:
        return None
    lengths = np.asarray(batch.shape_lengths).tolist()
    shape = used.pop()
    begin = sum(lengths[:shape])
    return keys[begin : begin + lengths[shape]]


def _of_several_shapes(batch: MetricBatch, keys: Sequence[int]) -> list[Column]:
    point_rows, point_keys = batch.point_rows, batch.point_keys
    times, steps = np.asarray(batch.row_times) / 1e6, np.asarray(batch.row_steps)
    found = []
    present = set(point_keys.tolist()) if len(point_keys) < 4096 else set(keys)
    for key in keys:
        if key not in present:
            found.append(Column([], [], [], True))
            continue
        points = np.flatnonzero(point_keys == key)
        values, rows = np.asarray(batch.values)[points], point_rows[points]
        found.append(_column(values, times[rows], steps[rows], np.isfinite(values)))
    return found
