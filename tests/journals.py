"""Journals for tests of what reads them: a run's first record, rows of several shapes, and an account of what is in
one."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from pulsetrain.forwarder.liveness import created
from pulsetrain.journal.reader import Event, JournalReader, RowBlock, TextRow
from pulsetrain.journal.writer import JournalWriter
from pulsetrain_schemas import events

STARTED = 1_760_000_000_000_000


def start_run(directory: Path, writer: str = "a" * 32, **changes: Any) -> JournalWriter:
    """A journal in a folder of its own below `directory`, with its start record, of this process unless told
    otherwise."""
    journal = JournalWriter(directory / writer, writer=writer, segment_bytes=changes.pop("segment_bytes", 64 << 10))
    start = {
        "project": "p",
        "run_id": "r1",
        "writer": writer,
        "rank": 0,
        "attempt": 0,
        "attempt_started": STARTED,
        "primary": True,
        "role": "run",
        "pid": os.getpid(),
        "pid_created": created(os.getpid()),
        "host": "box",
        "mode": "online",
        "name": "first",
        "notes": None,
        "tags": ["a", "b"],
        "group": None,
        "job_type": None,
        "environment": {"python": "3.11"},
    }
    journal.event("start", start | changes, STARTED / 1e6)
    return journal


def points_logged(journal: Path) -> list[tuple[int, int, str, float]]:
    """Every (sequence, step, key, number) in the journal, in order."""
    found = []
    with JournalReader(journal) as reader:
        for item in reader:
            if isinstance(item, RowBlock):
                for sequence, step, row in zip(item.sequences, item.steps, item.values, strict=True):
                    found += [(int(sequence), int(step), key, float(v)) for key, v in zip(item.keys, row, strict=True)]
            elif isinstance(item, TextRow):
                found += [(item.sequence, item.step, key, value) for key, value in item.numbers.items()]
    return found


def texts_logged(journal: Path) -> list[tuple[int, str, str]]:
    """Every (sequence, key, JSON) in the journal."""
    with JournalReader(journal) as reader:
        return [(item.sequence, k, v) for item in reader if isinstance(item, TextRow) for k, v in item.texts.items()]


def records(journal: Path, kind: str) -> list[Event]:
    """The events of one kind in the journal."""
    with JournalReader(journal) as reader:
        return [item for item in reader if isinstance(item, Event) and item.kind == kind]


def points_of(batch: events.MetricBatch) -> list[tuple[int, int, str, float]]:
    """Every (sequence, step, key, number) of a batch, in order."""
    rows, keys = batch.point_rows, batch.point_keys
    return [
        (int(batch.row_sequences[row]), int(batch.row_steps[row]), batch.keys[key], float(value))
        for row, key, value in zip(rows, keys, batch.values, strict=True)
    ]


def texts_of(batch: events.MetricBatch) -> list[tuple[int, str, str]]:
    """Every (sequence, key, JSON) of a batch."""
    return [
        (int(batch.row_sequences[row]), batch.keys[key], text)
        for row, key, text in zip(batch.text_rows, batch.text_keys, batch.text_values, strict=True)
    ]


def uncovered(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The gaps that these ranges leave from 1 to their highest end, in whatever order they came."""
    gaps, reached = [], 0
    for first, last in sorted(ranges):
        if first > reached + 1:
            gaps.append((reached + 1, first - 1))
        reached = max(reached, last)
    return gaps


def same_points(ours: list[tuple[int, int, str, float]], theirs: list[tuple[int, int, str, float]]) -> bool:
    """Whether both are the same, NaN being equal to itself."""
    numbers = np.array([p[3] for p in ours]), np.array([p[3] for p in theirs])
    return [p[:3] for p in ours] == [p[:3] for p in theirs] and np.array_equal(*numbers, equal_nan=True)
