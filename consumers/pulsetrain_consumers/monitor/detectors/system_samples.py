"""The columns of a batch of hardware samples, as one sample for each GPU and one dictionary for the host."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pulsetrain_consumers.monitor.detectors.gpu import POWER, SW_POWER_CAP, THERMAL, Sample
from pulsetrain_schemas.events import SystemBatch

_LATEST = {"memory_used_bytes", "memory_total_bytes", "ecc_uncorrected_errors", "xid_errors", "xid_last"}


@dataclass(slots=True)
class Summary:
    """What a batch comes to: GPUs by UUID with their index, the host's own means, and the time of the last row."""

    time: float
    gpus: dict[str, tuple[int, Sample]] = field(default_factory=dict)
    host: dict[str, float] = field(default_factory=dict)


def summary(batch: SystemBatch) -> Summary | None:
    """Means over the batch (the last value of counters and of memory); None for a batch without rows."""
    rows = len(batch.row_times)
    if not rows:
        return None
    count = len(batch.series_metrics)
    values = np.asarray(batch.values)
    if len(batch.shape_lengths) == 1 and len(batch.shape_keys) == count:
        matrix = values.reshape(rows, count)
        order = np.asarray(batch.shape_keys)
        last = np.empty(count)
        means = np.empty(count)
        last[order], means[order] = matrix[-1], matrix.mean(axis=0)
        present = np.ones(count, np.int64)
        points = None
    else:
        points = batch.point_keys
        present = np.bincount(points, minlength=count)
        means = np.bincount(points, values, count) / np.maximum(present, 1)
        last = np.zeros(count)
        last[points] = values
    time = float(batch.row_times[-1]) / 1e6
    gpus: dict[str, tuple[int, dict[str, float]]] = {}
    host: dict[str, float] = {}
    found = zip(batch.series_metrics, batch.series_gpus, batch.series_gpu_indexes, strict=True)
    for series, ((metric, gpu, index), mean, latest, there) in enumerate(
        zip(found, means.tolist(), last.tolist(), present.tolist(), strict=True)
    ):
        if not there or mean != mean:
            continue
        if not gpu:
            host[metric] = mean
            continue
        into = gpus.setdefault(gpu, (int(index), {}))[1]
        if metric == "throttle_reasons":
            if mean:
                reasons = _column(batch, series, values, points, rows).tolist()
                for name, mask in (("thermal", THERMAL), ("power_brake", POWER), ("power_cap", SW_POWER_CAP)):
                    into[name] = sum(reason & mask != 0 for reason in reasons) / len(reasons)
        else:
            into[metric] = latest if metric in _LATEST else mean
    made = {gpu: (index, _sample(time, it)) for gpu, (index, it) in gpus.items()}
    return Summary(time, made, host)


def _column(
    batch: SystemBatch, series: int, values: NDArray[np.float64], points: NDArray[np.int64] | None, rows: int
) -> NDArray[np.int64]:
    if points is not None:
        picked: NDArray[np.int64] = values[points == series].astype(np.int64)
        return picked
    place = int(np.flatnonzero(np.asarray(batch.shape_keys) == series)[0])
    column: NDArray[np.int64] = values.reshape(rows, -1)[:, place].astype(np.int64)
    return column


def _sample(time: float, it: dict[str, float]) -> Sample:
    last = it.get("xid_last")
    return Sample(
        time=time,
        utilisation=it.get("utilization_percent"),
        power=it.get("power_watts"),
        temperature=it.get("temperature_celsius"),
        clock=it.get("sm_clock_mhz"),
        memory_used=it.get("memory_used_bytes"),
        memory_total=it.get("memory_total_bytes"),
        thermal=it.get("thermal", 0.0),
        power_brake=it.get("power_brake", 0.0),
        power_cap=it.get("power_cap", 0.0),
        errors=it.get("ecc_uncorrected_errors"),
        xids=it.get("xid_errors"),
        last_xid=None if last is None else int(last),
    )
