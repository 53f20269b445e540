"""The values of single metrics in a batch, as lists that are short enough for plain Python."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pulsetrain_schemas.events import MetricBatch

# Of a metric with more values in a message every n-th is taken, from the first on.
MOST = 32


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
    whole: list[bool] = [True] * len(keys)
    if not finite.all():
        whole = np.logical_and.reduce(finite, axis=0).tolist()
    row_times, row_steps = batch.row_times, batch.row_steps
    if rows > MOST:
        stride = -(-rows // MOST)
        block, row_times, row_steps = block[::stride], row_times[::stride], row_steps[::stride]
    times, steps = (np.asarray(row_times) / 1e6).tolist(), np.asarray(row_steps).tolist()
    return [Column(values, times, steps, fine) for values, fine in zip(block.T.tolist(), whole, strict=True)]


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
        values = np.asarray(batch.values)[points]
        whole = bool(np.isfinite(values).all())
        stride = max(1, -(-len(points) // MOST))
        rows = point_rows[points[::stride]]
        found.append(Column(values[::stride].tolist(), times[rows].tolist(), steps[rows].tolist(), whole))
    return found
