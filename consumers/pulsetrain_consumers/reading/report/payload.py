"""Writes a report's data down as JSON, small: arrays as base64 of 32-bit floats, regular ones as start and stride.

A curve whose buckets hold one point each is one array; otherwise it carries the extremes of every bucket and how far
into the bucket they are. Curves of one run that share their steps and times (metrics of the same log() calls) share one
axis. The extremes and the last value of a whole curve are written in full precision beside the arrays.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Set as AbstractSet
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pulsetrain_consumers.reading import lineage
from pulsetrain_consumers.reading.model import AlertRecord, ConsoleLine, Curve, RunRecord, Telemetry
from pulsetrain_consumers.reading.report.model import Report, ReportRun

FORMAT = 1
MAX_VALUE_CHARACTERS = 2_000
"""A longer config or summary value is cut, and says so: the report is for looking at."""

Json = dict[str, Any] | list[Any] | str | int | float | bool | None


def payload(report: Report) -> dict[str, Any]:
    """The report as a JSON-ready dict; `assets/data.js` is its reader."""
    axes = _Axes()
    metrics: dict[str, int] = {}
    curves = [
        _curve(
            curve, run_index, metrics.setdefault(curve.metric, len(metrics)), axes.add(curve, run_index, _origin(run))
        )
        for run_index, run in enumerate(report.runs)
        for curve in run.curves
        if len(curve.steps)
    ]
    telemetry = [
        _telemetry(series, run_index, _origin(run))
        for run_index, run in enumerate(report.runs)
        for series in run.telemetry
        if len(series.times)
    ]
    return {
        "format": FORMAT,
        "title": report.title,
        "generated": report.generated.timestamp(),
        "runs": [_run(run) for run in report.runs],
        "metrics": list(metrics),
        "axes": axes.written,
        "curves": curves,
        "telemetry": telemetry,
        "alerts": [
            _alert(alert, run_index, _last_step(run), metrics.keys() | {series.metric for series in run.telemetry})
            for run_index, run in enumerate(report.runs)
            for alert in run.alerts
        ],
        "more_alerts": report.more_alerts,
    }


def dump(data: dict[str, Any]) -> str:
    """JSON that may stand inside a <script> element: nothing in it can end the element or begin another."""
    text = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def number_array(values: NDArray[Any]) -> Json:
    """Regular integers as `[start, stride, count]`; others as base64, little-endian.

    Floats are 32 bits wide unless that would lose them. Integers are kept exactly: as an offset from the least in 8, 16
    or 32 bits, or as doubles beyond that.
    """
    if values.dtype.kind == "f":
        return {"f4": _base64(values.astype("<f4"))} if _fits_single(values) else {"f8": _base64(values.astype("<f8"))}
    if len(values) == 1:
        return [int(values[0]), 0, 1]
    gaps = np.diff(values)
    if (gaps == gaps[0]).all():
        return [int(values[0]), int(gaps[0]), len(values)]
    start = int(values.min())
    offsets = values - start
    extent = int(offsets.max())
    for name, limit in (("u1", 1 << 8), ("u2", 1 << 16), ("u4", 1 << 32)):
        if 0 <= extent < limit:
            return {name: _base64(offsets.astype(f"<{name}")), "from": start}
    return {"f8": _base64(values.astype("<f8"))}


def json_value(value: Any) -> Json:
    """A value of a config or summary with what JSON cannot say written as text, and what is very long cut."""
    match value:
        case bool() | int() | None:
            # Beyond 2**53 a browser would round it.
            return str(value) if isinstance(value, int) and abs(value) > 1 << 53 else value
        case float():
            return value if math.isfinite(value) else {"number": _special(value)}
        case str():
            return (
                value
                if len(value) <= MAX_VALUE_CHARACTERS
                else f"{value[:MAX_VALUE_CHARACTERS]}… ({len(value):,} characters)"
            )
        case _:
            text = json.dumps(value, ensure_ascii=False, default=str)
            return {"json": json_value(text)}


class _Axes:
    """The distinct axes (steps and times of buckets) of the report's curves, each written once."""

    def __init__(self) -> None:
        self.written: list[dict[str, Json]] = []
        self._known: dict[tuple[int, bytes, bytes], int] = {}

    def add(self, curve: Curve, run_index: int, origin: float) -> int:
        times = (curve.times - origin).astype("<f4")
        identity = (run_index, curve.steps.tobytes(), times.tobytes())
        if identity not in self._known:
            self._known[identity] = len(self.written)
            self.written.append({"steps": number_array(curve.steps), "times": number_array(times)})
        return self._known[identity]


def _curve(curve: Curve, run_index: int, metric_index: int, axis: int) -> dict[str, Any]:
    written: dict[str, Any] = {
        "run": run_index,
        "metric": metric_index,
        "axis": axis,
        "y": number_array(curve.means),
        "points": curve.points,
    }
    finite = np.flatnonzero(~np.isnan(curve.lows))
    if len(finite):
        low, high = finite[curve.lows[finite].argmin()], finite[curve.highs[finite].argmax()]
        written["low"] = [float(curve.lows[low]), int(curve.low_steps[low])]
        written["high"] = [float(curve.highs[high]), int(curve.high_steps[high])]
    final = int(curve.last_steps.argmax())
    last = float(curve.lasts[final])
    written["last"] = [last if math.isfinite(last) else _special(last), int(curve.last_steps[final])]
    if not curve.exact:
        written |= {
            "lows": number_array(curve.lows),
            "highs": number_array(curve.highs),
            "counts": number_array(curve.counts),
            "low_steps": number_array(curve.low_steps - curve.steps),
            "high_steps": number_array(curve.high_steps - curve.steps),
        }
    strange = np.flatnonzero(curve.nans + curve.positive_infinities + curve.negative_infinities)
    if len(strange):
        written["strange"] = [
            [int(i), int(curve.nans[i]), int(curve.positive_infinities[i]), int(curve.negative_infinities[i])]
            for i in strange
        ]
    return written


def _telemetry(series: Telemetry, run_index: int, origin: float) -> dict[str, Any]:
    written: dict[str, Any] = {
        "run": run_index,
        "host": series.host,
        "gpu": series.gpu,
        "gpu_index": series.gpu_index,
        "metric": series.metric,
        "times": number_array(series.times - origin),
        "y": number_array(series.means),
    }
    if not (series.counts == 1).all():
        written |= {"lows": number_array(series.lows), "highs": number_array(series.highs)}
    return written


def _alert(alert: AlertRecord, run_index: int, last_step: int | None, metrics: AbstractSet[str]) -> dict[str, Any]:
    # The monitor may hear of a crash before it has the last rows.
    step = last_step if alert.kind == "crashed" and alert.resolved is None else alert.step
    # A rule's subject is NAME: SERIES, and both may have colons.
    about = alert.subject.split(": ") if alert.kind == "rule" else [alert.subject]
    found = (metric for i in range(len(about)) if (metric := ": ".join(about[i:])) in metrics)
    return {
        "run": run_index,
        "kind": alert.kind,
        "metric": next(found, None),
        "state": alert.state,
        "severity": alert.severity,
        "title": json_value(alert.title),
        "text": json_value(alert.text),
        "step": json_value(step),
        "started": alert.started.timestamp(),
        "resolved": _seconds(alert.resolved),
        "ending": json_value(alert.ending),
        "silenced": alert.silenced,
    }


def _last_step(run: ReportRun) -> int | None:
    return max((int(curve.last_steps.max()) for curve in run.curves if len(curve.last_steps)), default=None)


def _run(run: ReportRun) -> dict[str, Any]:
    record = run.record
    return {
        "project": record.project,
        "id": record.run_id,
        "name": record.label,
        "state": record.state,
        "tags": list(record.tags),
        "group": record.group,
        "job_type": record.job_type,
        "notes": record.notes,
        "host": record.host,
        "git_commit": record.git_commit,
        "program": record.program,
        "lineage": lineage.facts(record, run.attempts),
        "exit_code": record.exit_code,
        "created": _seconds(record.created),
        "finished": _seconds(record.finished),
        "origin": _origin(run),
        "duration": record.duration,
        # Pairs, not an object: a key may be called __proto__.
        "config": _pairs(record),
        "summary": [[key, json_value(value)] for key, value in record.summary.items()],
        "console": [_line(line) for line in run.console],
        "account": _account(run.accounts),
    }


def _pairs(record: RunRecord) -> list[list[Json]]:
    return [[key, json_value(value)] for key, value in record.config.items()]


def _line(line: ConsoleLine) -> list[Json]:
    return [line.time.timestamp(), line.stream, line.rank, json_value(line.line)]


def _account(accounts: Any) -> dict[str, int] | None:
    if not accounts:
        return None
    return {
        "writers": len(accounts),
        "produced": sum(a.produced_points + a.produced_texts for a in accounts),
        "stored": sum(a.stored_points + a.stored_texts for a in accounts),
        "missing": sum(a.missing for a in accounts),
    }


def _origin(run: ReportRun) -> float:
    """The moment, in seconds since the epoch, from which the run's times are counted."""
    if run.record.created is not None:
        return run.record.created.timestamp()
    first = [float(curve.times[0]) for curve in run.curves if len(curve.times)]
    return min(first, default=0.0)


def _seconds(moment: datetime | None) -> float | None:
    return None if moment is None else moment.timestamp()


def _special(value: float) -> str:
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _fits_single(values: NDArray[Any]) -> bool:
    """Whether no value would become infinite or lose digits to denormal numbers in 32 bits."""
    sizes = np.abs(values[np.isfinite(values) & (values != 0)])
    limits = np.finfo(np.float32)
    return not len(sizes) or bool(sizes.max() <= limits.max and sizes.min() >= limits.tiny)


def _base64(values: NDArray[Any]) -> str:
    return base64.b64encode(values.tobytes()).decode("ascii")
