"""What reading gives back: runs, curves, samples of the hardware, console lines and accounts, as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

RunKey = tuple[str, str]
"""Project and run id: what names a run."""


@dataclass(frozen=True, slots=True)
class RunRecord:
    """One row of the `runs` view, its JSON read. `duration` is in seconds."""

    project: str
    run_id: str
    name: str = ""
    state: str = "unknown"
    config: Mapping[str, Any] = field(default_factory=dict)
    summary: Mapping[str, Any] = field(default_factory=dict)
    tags: tuple[str, ...] = ()
    group: str = ""
    job_type: str = ""
    notes: str = ""
    host: str = ""
    git_commit: str = ""
    program: str = ""
    attempt: int = 0
    exit_code: int | None = None
    created: datetime | None = None
    finished: datetime | None = None
    last_seen: datetime | None = None
    duration: float | None = None
    parent_run_id: str | None = None
    """The run that this one is a fork of."""
    parent_step: int | None = None
    """The last step that it has from there."""

    @property
    def key(self) -> RunKey:
        """What names the run."""
        return self.project, self.run_id

    @property
    def label(self) -> str:
        """The name a person gave, or else the id."""
        return self.name or self.run_id


@dataclass(frozen=True, slots=True)
class Attempt:
    """A part of what a run shows: of one attempt of one run (a fork's parents are others) the steps under `below`.

    `started` and `first_step` are known of the run's own attempts; `below` is None where nothing replaced the end.
    """

    run_id: str
    attempt: int
    started: datetime | None = None
    first_step: int | None = None
    below: int | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """One metric of one run in buckets of adjacent steps, in the order of the steps.

    All arrays have one entry a bucket. `means`, `lows` and `highs` are over the finite values alone, NaN where a bucket
    has none; `low_steps` and `high_steps` say where the extremes are. A bucket is one step wide where that many fit.
    """

    metric: str
    steps: NDArray[np.int64]
    times: NDArray[np.float64]
    counts: NDArray[np.int64]
    means: NDArray[np.float64]
    lows: NDArray[np.float64]
    highs: NDArray[np.float64]
    low_steps: NDArray[np.int64]
    high_steps: NDArray[np.int64]
    lasts: NDArray[np.float64]
    last_steps: NDArray[np.int64]
    nans: NDArray[np.int64]
    positive_infinities: NDArray[np.int64]
    negative_infinities: NDArray[np.int64]

    @property
    def exact(self) -> bool:
        """Whether every bucket holds one point, so that nothing was left out."""
        return bool((self.counts == 1).all())

    @property
    def points(self) -> int:
        """How many points were logged."""
        return int(self.counts.sum())


@dataclass(frozen=True, slots=True, eq=False)
class Telemetry:
    """One hardware metric of one run, in buckets of adjacent times. `times` are seconds since the epoch.

    `gpu` is the UUID of the GPU and `gpu_index` its number on the host; empty and -1 for a metric of the host.
    """

    host: str
    gpu: str
    gpu_index: int
    metric: str
    times: NDArray[np.float64]
    counts: NDArray[np.int64]
    means: NDArray[np.float64]
    lows: NDArray[np.float64]
    highs: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class ConsoleLine:
    """A line that a run printed; `stream` is stdout or stderr."""

    time: datetime
    stream: str
    rank: int
    line: str


@dataclass(frozen=True, slots=True)
class WriterAccount:
    """What one writer (a process that logs) says it produced, against what the tables hold."""

    project: str
    run_id: str
    writer: str
    state: str
    produced_rows: int
    stored_rows: int
    produced_points: int
    stored_points: int
    produced_texts: int
    stored_texts: int

    @property
    def missing(self) -> int:
        """Points and texts that were produced and are not stored (yet)."""
        return max(0, self.produced_points - self.stored_points) + max(0, self.produced_texts - self.stored_texts)


@dataclass(frozen=True, slots=True)
class AlertRecord:
    """An alert as it is now. `fired` is None for one that was never more than pending, `resolved` while it goes on.

    `text` is what was seen last while it went on, `ending` what ended it; empty until then.
    """

    project: str
    run_id: str
    alert_id: str
    kind: str
    subject: str
    state: str
    severity: str
    title: str
    text: str
    started: datetime
    fired: datetime | None
    resolved: datetime | None
    ending: str
    source: str
    step: int | None
    value: float | None
    rank: int | None
    host: str
    gpu: str
    silenced: bool
    labels: Mapping[str, str]
