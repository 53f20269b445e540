"""Runs as ClickHouse has them: listed, found by what a person calls them, and accounted for."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from pulsetrain_consumers.reading.database import Database
from pulsetrain_consumers.reading.errors import AmbiguousRun, UnknownRun, suggestion
from pulsetrain_consumers.reading.model import ConsoleLine, RunKey, RunRecord, WriterAccount

_RUNS = (
    "SELECT project, run_id, name, state, config, summary, tags, `group`, job_type, notes, host, git_commit, program, "
    "attempt, exit_code, created, finished, last_seen, duration, parent_run_id, parent_step FROM runs WHERE "
)
_NEWEST_FIRST = " ORDER BY created DESC, run_id"
_ACCOUNTS = (
    "SELECT project, run_id, writer, state, produced_rows, stored_rows, produced_points, stored_points, "
    "produced_texts, stored_texts FROM ingest WHERE "
)
_LISTED = 10
_NEAR = 10_000
"""How many of the latest runs are looked through for names like the one asked for."""


def list_runs(database: Database, project: str | None = None, keys: Sequence[RunKey] | None = None) -> list[RunRecord]:
    """The runs of a project, or those named, or all; the newest first."""
    condition, params = _condition(project, keys)
    result = database.query(_RUNS + condition + _NEWEST_FIRST, **params)
    return [_record(row) for row in result.rows]


def projects(database: Database) -> list[str]:
    """Every project that has a run, by name."""
    return [text(row[0]) for row in database.query("SELECT DISTINCT project FROM run_events ORDER BY project").rows]


def find_run(database: Database, wanted: str) -> RunRecord:
    """The run that is meant by an id, a name or project/id. Raises UnknownRun and AmbiguousRun."""
    found = matching(database, wanted)
    if not found:
        raise _unknown(database, wanted, "run")
    # An id, or project/id, says more than a name that another run may bear too.
    exact = [run for run in found if wanted in (run.run_id, f"{run.project}/{run.run_id}")]
    chosen = exact or found
    if len(chosen) > 1:
        shown = "\n".join(
            f"  {run.project}/{run.run_id}  {run.name}, {run.state}, created {_short(run.created)}"
            for run in chosen[:_LISTED]
        )
        more = "\n  …" if len(chosen) > _LISTED else ""
        raise AmbiguousRun(f"{len(chosen)} runs are called {wanted!r}; say which:\n{shown}{more}")
    return chosen[0]


def matching(database: Database, wanted: str) -> list[RunRecord]:
    """Every run with this id, name or project/id, the newest first."""
    result = database.query(
        _RUNS
        + "run_id = {wanted:String} OR name = {wanted:String} OR concat(project, '/', run_id) = {wanted:String}"
        + _NEWEST_FIRST,
        wanted=wanted,
    )
    return [_record(row) for row in result.rows]


def resolve(database: Database, targets: Sequence[str]) -> list[RunRecord]:
    """The runs that a list of projects and runs means, each once, oldest first within a target."""
    known = set(projects(database))
    found: dict[RunKey, RunRecord] = {}
    for target in targets:
        runs = list_runs(database, target) if target in known else matching(database, target)
        if not runs:
            raise _unknown(database, target, "project or run")
        for run in reversed(runs):
            found.setdefault(run.key, run)
    return list(found.values())


def accounts(
    database: Database, project: str | None = None, run_ids: Sequence[str] | None = None
) -> list[WriterAccount]:
    """What each writer produced and what of it is stored."""
    condition = "1" if project is None else "project = {project:String}"
    params: dict[str, Any] = {} if project is None else {"project": project}
    if run_ids is not None:
        condition += " AND run_id IN {run_ids:Array(String)}"
        params["run_ids"] = list(run_ids)
    result = database.query(
        _ACCOUNTS + condition + " ORDER BY project, run_id, writer",
        **params,
    )
    return [
        WriterAccount(text(row[0]), text(row[1]), text(row[2]), text(row[3]), *map(int, row[4:])) for row in result.rows
    ]


def console_tail(database: Database, keys: Sequence[RunKey], lines: int) -> dict[RunKey, list[ConsoleLine]]:
    """The last lines that each run printed, oldest first."""
    result = database.query(
        "SELECT project, run_id, ts, stream, rank, line FROM logs "
        "WHERE (project, run_id) IN {keys:Array(Tuple(String, String))} "
        "ORDER BY ts DESC, sequence DESC LIMIT {lines:UInt32} BY project, run_id",
        keys=list(keys),
        lines=lines,
    )
    tails: dict[RunKey, list[ConsoleLine]] = {}
    for project, run_id, ts, stream, rank, line in reversed(result.rows):
        tails.setdefault((text(project), text(run_id)), []).append(
            ConsoleLine(utc(ts), text(stream), int(rank), text(line))
        )
    return tails


def text(value: Any) -> str:
    """A String of ClickHouse: the driver hands over bytes where they are no UTF-8."""
    return value.decode("utf-8", errors="replace") if isinstance(value, bytes) else str(value)


def utc(moment: datetime) -> datetime:
    """A moment that knows that it is UTC."""
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment


def _unknown(database: Database, wanted: str, what: str) -> UnknownRun:
    rows = database.query(
        "SELECT project, run_id, name FROM runs ORDER BY created DESC LIMIT {near:UInt32}", near=_NEAR
    ).rows
    names = [text(name) for row in rows for name in (row[1], row[2], f"{text(row[0])}/{text(row[1])}")]
    known = [text(row[0]) for row in rows] + names if "project" in what else names
    if not rows:
        return UnknownRun(f"there is no {what} called {wanted!r}: nothing has been logged yet")
    return UnknownRun(f"there is no {what} called {wanted!r}.{suggestion(wanted, known)} `pulsetrain runs` lists them")


def _condition(project: str | None, keys: Sequence[RunKey] | None) -> tuple[str, dict[str, Any]]:
    if keys is not None:
        return "(project, run_id) IN {keys:Array(Tuple(String, String))}", {"keys": list(keys)}
    return ("1", {}) if project is None else ("project = {project:String}", {"project": project})


def _record(row: tuple[Any, ...]) -> RunRecord:
    project, run_id, name, state, config, summary, tags, group, job_type, notes, host, commit, program = row[:13]
    attempt, exit_code, created, finished, last_seen, duration, parent_run_id, parent_step = row[13:]
    return RunRecord(
        project=text(project),
        run_id=text(run_id),
        name=text(name),
        state=text(state),
        config=_json(config),
        summary=_json(summary),
        tags=tuple(text(tag) for tag in tags),
        group=text(group),
        job_type=text(job_type),
        notes=text(notes),
        host=text(host),
        git_commit=text(commit),
        program=text(program),
        attempt=int(attempt),
        exit_code=None if exit_code is None else int(exit_code),
        created=_moment(created),
        finished=_moment(finished),
        last_seen=_moment(last_seen),
        duration=None if duration is None else float(duration),
        parent_run_id=None if parent_run_id is None else text(parent_run_id),
        parent_step=None if parent_step is None else int(parent_step),
    )


def _json(value: Any) -> Mapping[str, Any]:
    try:
        read = json.loads(text(value))
    except ValueError:
        # A value that another client wrote without it being JSON: the run is shown without, not refused.
        return {}
    return read if isinstance(read, dict) else {}


def _moment(value: datetime | None) -> datetime | None:
    return None if value is None else utc(value)


def _short(moment: datetime | None) -> str:
    return "at an unknown time" if moment is None else moment.strftime("%Y-%m-%d %H:%M")
