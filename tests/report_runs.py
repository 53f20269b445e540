"""Runs made of nothing, for the tests of the report: no database is asked."""

from datetime import UTC, datetime, timedelta

import numpy as np
from numpy.typing import NDArray

from pulsetrain_consumers.reading.model import AlertRecord, ConsoleLine, Curve, RunRecord, Telemetry, WriterAccount
from pulsetrain_consumers.reading.report.model import Report, ReportRun

CREATED = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


def curve(metric: str, values: NDArray[np.float64], *, width: int = 1, spike: float = 0.0) -> Curve:
    """A curve of `values` as the means of buckets of `width` steps; with a spike in the middle bucket."""
    count = len(values)
    steps = np.arange(count) * width
    finite = np.isfinite(values)
    highs = np.where(finite, values, np.nan)
    highs[count // 2] += spike
    return Curve(
        metric=metric,
        steps=steps,
        times=CREATED.timestamp() + steps * 0.1,
        counts=np.full(count, width),
        means=np.where(finite, values, np.nan),
        lows=np.where(finite, values, np.nan),
        highs=highs,
        low_steps=steps,
        high_steps=steps + width - 1,
        lasts=values,
        last_steps=steps + width - 1,
        nans=np.isnan(values).astype(np.int64),
        positive_infinities=(values == np.inf).astype(np.int64),
        negative_infinities=(values == -np.inf).astype(np.int64),
    )


def run(number: int, curves: list[Curve], *, text: str = "run", lines: tuple[str, ...] = ("hello",)) -> ReportRun:
    """A run whose names and values all hold `text`."""
    record = RunRecord(
        project=text,
        run_id=f"{text}-{number}",
        name=f"{text} {number}",
        state="finished",
        config={"lr": 10.0**-number, f"key {text}": text, "shared": [1, text]},
        summary={"val/accuracy": 0.9 + number / 100, "val/loss": 0.5 - number / 100, f"sum {text}": text},
        tags=(text,),
        notes=text,
        host=text,
        program=text,
        created=CREATED + timedelta(minutes=number),
        duration=60.0,
    )
    times = CREATED.timestamp() + np.arange(60.0)
    values = 50 + np.sin(np.arange(60) / 5) * 20
    ones = np.ones(60, dtype=np.int64)
    hardware = [
        Telemetry("node", "", -1, "cpu_percent", times, ones, values, values, values),
        Telemetry("node", f"GPU {text}", 0, "utilization_percent", times, ones, values, values, values),
    ]
    console = [ConsoleLine(CREATED, "stdout", 0, line) for line in lines]
    points = sum(one.points for one in curves)
    return ReportRun(
        record, curves, hardware, console, [WriterAccount(text, text, "w", "finished", 1, 1, points, points, 0, 0)]
    )


def alert(
    kind: str, subject: str, *, text: str = "it is so", step: int | None = None, lasted: float = 0
) -> AlertRecord:
    """An alert about `subject`, which fires still where it `lasted` no time."""
    began = CREATED + timedelta(seconds=20)
    return AlertRecord(
        project="p",
        run_id="r",
        alert_id=f"{kind} {subject}",
        kind=kind,
        subject=subject,
        state="resolved" if lasted else "firing",
        severity="critical",
        title=f"{kind}: {subject}",
        text=text,
        started=began,
        fired=began,
        resolved=began + timedelta(seconds=lasted) if lasted else None,
        ending="the run has ended" if lasted else "",
        source="monitor",
        step=step,
        value=None,
        rank=None,
        host="",
        gpu="",
        silenced=False,
        labels={},
    )


def report(*runs: ReportRun, title: str = "report") -> Report:
    """A report of the runs."""
    return Report(title, CREATED, runs)
