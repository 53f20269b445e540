"""What is known of a run that may be resumed: from the journals on this machine, else from the read side."""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Earlier:
    """The latest attempt of a run."""

    run_id: str
    attempt: int
    last_step: int | None
    """The highest step that was logged; None where nothing was."""
    running: bool
    """Whether a process of that attempt still runs."""
    exit_code: int | None
    """None where it did not come to an end by itself."""
    config: Mapping[str, Any] = field(default_factory=dict)
    summary: Mapping[str, Any] = field(default_factory=dict)
    start: Mapping[str, Any] = field(default_factory=dict)
    """Its start record: name, tags and the like."""


def find(directory: Path, project: str, run_id: str) -> Earlier | None:
    """The run by its id: in the run folders of this directory, else through the read side where that is installed."""
    journals = list(_journals(directory, project, run_id))
    return _latest(journals) if journals else _from_read_side(project, run_id)


def local(directory: Path, project: str, run_id: str) -> Earlier | None:
    """The run by its id, as far as this directory knows it."""
    journals = list(_journals(directory, project, run_id))
    return _latest(journals) if journals else None


def last_unfinished(directory: Path, project: str) -> Earlier | None:
    """The run of this project that was started last, if it broke off: what resume="auto" goes on with."""
    journals = sorted(_journals(directory, project, None), key=lambda found: found[1]["attempt_started"])
    if not journals:
        return None
    run_id = journals[-1][1]["run_id"]
    latest = _latest([found for found in journals if found[1]["run_id"] == run_id])
    return None if latest.running or latest.exit_code == 0 else latest


Found = tuple[Path, dict[str, Any]]


def _journals(directory: Path, project: str, run_id: str | None) -> Iterator[Found]:
    """The journals of runs, with their start records."""
    from pulsetrain.forwarder.tail import read_start
    from pulsetrain.journal.reader import Event

    for run in directory.glob("*run-*"):
        if run_id is not None and not run.name.endswith(f"-{run_id}"):
            continue
        for journal in run.iterdir():
            try:
                start = read_start(journal) if journal.is_dir() else None
            except ValueError:
                continue
            if isinstance(start, Event):
                start = start.data if start.kind == "start" else None
            if not isinstance(start, Mapping) or start.get("role") != "run":
                continue
            if start.get("project") == project and (run_id is None or start.get("run_id") == run_id):
                yield journal, dict(start)


def _latest(journals: list[Found]) -> Earlier:
    from pulsetrain._run.summary import SummaryFold
    from pulsetrain.forwarder.tail import Tail

    ordered = sorted(journals, key=lambda found: (found[1]["attempt"], found[1]["attempt_started"]))
    latest = ordered[-1][1]["attempt"]
    summary: dict[str, Any] = {}
    config: dict[str, Any] = {}
    last_step: int | None = None
    exit_code: int | None = None
    start: dict[str, Any] = {}
    running = False
    for journal, data in ordered:
        if data["attempt"] != latest:
            continue
        fold = SummaryFold()
        tail = Tail(journal, fold)
        tail.read_all()
        tail.close()
        summary.update(fold.values())
        config.update(tail.config)
        if tail.last_step is not None:
            last_step = tail.last_step if last_step is None else max(last_step, tail.last_step)
        if data.get("primary"):
            start, exit_code = data, None if tail.finish is None else tail.finish.get("exit_code")
        running = running or (tail.finish is None and _runs(data))
    if last_step is None and latest and (earlier := [found for found in ordered if found[1]["attempt"] < latest]):
        last_step = _latest(earlier).last_step
    return Earlier(ordered[-1][1]["run_id"], latest, last_step, running, exit_code, config, summary, start)


def _runs(start: Mapping[str, Any]) -> bool:
    from pulsetrain.forwarder.liveness import TOLERANCE, created

    since = created(int(start["pid"]))
    return since is not None and abs(since - float(start["pid_created"])) <= TOLERANCE


def _from_read_side(project: str, run_id: str) -> Earlier | None:
    from importlib.metadata import entry_points

    for point in entry_points(group="pulsetrain.api", name="Api"):
        # Not installed, no database known, no such run: then nothing is known of it.
        with contextlib.suppress(Exception):
            run = point.load()().run(f"{project}/{run_id}")
            start = {name: getattr(run, name) for name in ("name", "notes", "tags", "group", "job_type")}
            return Earlier(run_id, run.attempt, run.last_step, False, None, run.config, run.summary, start)
    return None
