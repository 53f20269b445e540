"""Asks ClickHouse for all that a report shows, in as many buckets a curve as the report's size allows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime

from pulsetrain_consumers.reading import curves as reading_curves
from pulsetrain_consumers.reading import lineage
from pulsetrain_consumers.reading.alerts import list_alerts
from pulsetrain_consumers.reading.database import Database
from pulsetrain_consumers.reading.model import AlertRecord, RunRecord, WriterAccount
from pulsetrain_consumers.reading.report.model import Report, ReportRun
from pulsetrain_consumers.reading.runs import accounts, console_tail

DEFAULT_BYTES = 4_000_000
"""What a report's data may take; the page itself adds about a hundred thousand."""

_BUCKET_BYTES = 30  # as text in the page: mean, least and greatest of a bucket, where these are, a share of the axis
_SHARE_OF_CURVES = 0.8
_CONSOLE_LINES = 20_000
_MOST_ALERTS = 1_000
_NO_STEP: Callable[[str], None] = lambda _: None  # noqa: E731  (an absent listener)


def gather(
    database: Database,
    records: Sequence[RunRecord],
    *,
    title: str,
    now: datetime,
    size: int = DEFAULT_BYTES,
    step: Callable[[str], None] = _NO_STEP,
) -> Report:
    """A report of the runs. `step` is told what is being read, for a person who waits."""
    keys = [record.key for record in records]
    if not keys:
        return Report(title, now)
    step("counting points")
    sizes = reading_curves.metric_sizes(database, keys)
    step(f"reading {int(sizes.points.sum()):,} points of {len(sizes.points):,} curves")
    curves = reading_curves.curves(database, keys, sizes.buckets(int(size * _SHARE_OF_CURVES) // _BUCKET_BYTES))
    step("reading the hardware's samples")
    sizes = reading_curves.telemetry_sizes(database, keys)
    budget = int(size * (1 - _SHARE_OF_CURVES)) // _BUCKET_BYTES
    telemetry = reading_curves.telemetry(database, keys, sizes.buckets(budget, most=1_000))
    step("reading the consoles")
    consoles = console_tail(database, keys, max(20, min(500, _CONSOLE_LINES // len(keys))))
    step("adding up the loss account")
    account: dict[tuple[str, str], list[WriterAccount]] = {}
    for project in {project for project, _ in keys}:
        for entry in accounts(database, project, [run_id for owner, run_id in keys if owner == project]):
            account.setdefault((entry.project, entry.run_id), []).append(entry)
    attempts = lineage.attempts(database, keys)
    alerts: dict[tuple[str, str], list[AlertRecord]] = {}
    listed = list_alerts(database, keys, limit=_MOST_ALERTS + 1)
    for alert in listed[:_MOST_ALERTS]:
        if alert.fired is not None:
            alerts.setdefault((alert.project, alert.run_id), []).append(alert)
    return Report(
        title,
        now,
        [
            ReportRun(
                record,
                curves.get(record.key, ()),
                telemetry.get(record.key, ()),
                consoles.get(record.key, ()),
                account.get(record.key, ()),
                attempts.get(record.key, ()),
                alerts.get(record.key, ()),
            )
            for record in records
        ],
        more_alerts=len(listed) > _MOST_ALERTS,
    )
