"""What a report shows, as plain values: gathered in `gather`, written down in `payload`, dressed in `render`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from pulsetrain_consumers.reading.model import (
    AlertRecord,
    Attempt,
    ConsoleLine,
    Curve,
    RunRecord,
    Telemetry,
    WriterAccount,
)


@dataclass(frozen=True, slots=True)
class ReportRun:
    """One run with all that the report shows of it."""

    record: RunRecord
    curves: Sequence[Curve] = ()
    telemetry: Sequence[Telemetry] = ()
    console: Sequence[ConsoleLine] = ()
    accounts: Sequence[WriterAccount] = ()
    attempts: Sequence[Attempt] = ()
    alerts: Sequence[AlertRecord] = ()
    """Those that fired: what fires still first, then the newest."""


@dataclass(frozen=True, slots=True)
class Report:
    """A whole report. `generated` is aware of its time zone, `more_alerts` says that there are older ones."""

    title: str
    generated: datetime
    runs: Sequence[ReportRun] = field(default_factory=tuple)
    more_alerts: bool = False
