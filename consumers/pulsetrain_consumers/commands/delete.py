"""`pulsetrain delete`: takes runs, or a whole project, out of ClickHouse for ever."""

from __future__ import annotations

import json
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pulsetrain_schemas.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pulsetrain_consumers.reading.database import Database
    from pulsetrain_consumers.reading.model import RunRecord
    from pulsetrain_consumers.retention.deletion import Deleted, Progress

_SHOWN = 10


@click.command()
@click.argument("targets", nargs=-1, required=True, metavar="RUN|PROJECT...")
@click.option(
    "--export",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    help="First copy all that goes into this new folder, a Parquet file for each table.",
)
@click.option("--force", is_flag=True, help="Also runs that are still going on: what they log from here on is lost.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@click.option("--dry-run", is_flag=True, help="Say what would go, and delete nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def delete(targets: tuple[str, ...], folder: Path | None, force: bool, yes: bool, dry_run: bool, as_json: bool) -> None:
    """Delete runs for ever, or all runs of a project.

    \b
      pulsetrain delete digits/5cwgxtuv --export ./5cwgxtuv
      pulsetrain delete digits --dry-run

    RUN is an id, a name, or project/id. The command ends when ClickHouse has nothing of them any more, and says until
    when Kafka has their messages. What comes of them later, from a machine that was away or by a replay, is not stored.
    Journals in the folders of the training jobs are left alone.
    """
    from pulsetrain_consumers.clickhouse import ClickHouseError, connect
    from pulsetrain_consumers.commands.actor import actor
    from pulsetrain_consumers.reading.database import Database, locate
    from pulsetrain_consumers.retention import copies, deletion

    address = locate()
    with Database(address) as database, connect(address, timeout=3600.0, client_name="pulsetrain delete") as client:
        runs = _meant(database, targets)
        keys = [run.key for run in runs]
        try:
            rows = deletion.held(client, keys)
            _announce(runs, rows, as_json)
            _refuse_running(runs, force)
            if dry_run:
                _tell(as_json, {"runs": _names(runs), "rows": rows, "deleted": False}, ["nothing was deleted"])
                return
            if not yes:
                if not sys.stdin.isatty():
                    raise UserError("nobody is there to be asked whether to delete them: give --yes")
                click.confirm(f"Delete {_counted(len(runs))} for ever?", abort=True, err=True)
            with _Shown(quiet=as_json) as shown:
                if folder is not None:
                    copies.copy(database, keys, rows, folder, shown.copying)
                done = deletion.delete(client, keys, actor(), shown.deleting)
        except ClickHouseError as error:
            raise UserError(
                f"{error}. What was asked for before that is done; begin again whenever you like"
            ) from error
        except KeyboardInterrupt:
            click.echo(
                "broken off: what ClickHouse was asked for is done all the same; begin again to see it through",
                err=True,
            )
            raise
    kafka = _until_when_kafka_has_them()
    told = {
        "runs": _names(runs),
        "rows": dict(done.rows),
        "deleted": True,
        "seconds": round(done.seconds, 3),
        "off_the_disk": _moment(done.parts_stay_seconds),
        "in_kafka_until": kafka,
        "copy": None if folder is None else str(folder),
    }
    _tell(as_json, told, _lines(runs, done, kafka, folder))


def _meant(database: Database, targets: Sequence[str]) -> list[RunRecord]:
    """The runs that are meant, each once. Raises UserError where a target could mean more than one thing."""
    from pulsetrain_consumers.reading.runs import find_run, list_runs, matching, projects

    known = set(projects(database))
    found: dict[tuple[str, str], RunRecord] = {}
    for target in targets:
        if target not in known:
            runs = [find_run(database, target)]
        elif others := matching(database, target):
            raise UserError(
                f"{target} is a project, and a run is called so too: say {others[0].project}/{others[0].run_id}, or "
                "the project's runs one by one"
            )
        else:
            runs = list_runs(database, target)
        found.update({run.key: run for run in runs})
    return list(found.values())


def _announce(runs: Sequence[RunRecord], rows: Mapping[str, int], as_json: bool) -> None:
    if as_json:
        return
    for run in runs[:_SHOWN]:
        click.echo(f"  {run.project}/{run.run_id}  {run.name}, {run.state}", err=True)
    if len(runs) > _SHOWN:
        click.echo(f"  and {len(runs) - _SHOWN:,} more", err=True)
    named = ", ".join(f"{table} {count:,}" for table, count in sorted(rows.items(), key=lambda entry: -entry[1]))
    click.echo(f"{_counted(len(runs))}; rows: {named or 'none'}", err=True)


def _refuse_running(runs: Sequence[RunRecord], force: bool) -> None:
    running = [f"{run.project}/{run.run_id}" for run in runs if run.state == "running"]
    if running and not force:
        raise UserError(
            f"{', '.join(running[:_SHOWN])}{' …' if len(running) > _SHOWN else ''} "
            f"{'is' if len(running) == 1 else 'are'} running: `pulsetrain stop` ends a run; --force deletes it all the "
            "same, and what it logs from here on is lost"
        )


def _lines(runs: Sequence[RunRecord], done: Deleted, kafka: Mapping[str, str | None], folder: Path | None) -> list[str]:
    lines = [] if folder is None else [f"copied to {folder}"]
    lines.append(
        f"gone: {_counted(len(runs))}, {sum(done.rows.values()):,} rows of {len(done.rows)} tables, "
        f"in {done.seconds:.1f} s"
    )
    if done.parts_stay_seconds:
        lines.append(f"  off ClickHouse's disk by {_moment(done.parts_stay_seconds)}")
    for_ever = [topic for topic, until in kafka.items() if until is None]
    dated = [until for until in kafka.values() if until is not None]
    if dated:
        lines.append(f"  in Kafka until {max(dated)} at the latest, by the retention of the topics")
    if for_ever:
        lines.append(f"  in Kafka for ever: {', '.join(for_ever)}, until the topic is given a retention")
    return lines


def _until_when_kafka_has_them() -> dict[str, str | None]:
    """By topic the day on which its retention has taken every message that is in it now; None for never."""
    from pulsetrain_consumers.writer.sink import WRITER_TOPICS
    from pulsetrain_schemas.topics import by_kafka_name

    now = datetime.now(UTC)
    topics = {name: by_kafka_name(name) for name in WRITER_TOPICS}
    return {
        name: None if topic.retention is None else f"{now + topic.retention:%Y-%m-%d}"
        for name, topic in topics.items()
        if topic is not None
    }


def _names(runs: Sequence[RunRecord]) -> list[str]:
    return [f"{run.project}/{run.run_id}" for run in runs]


def _counted(count: int) -> str:
    return f"{count:,} run" + ("" if count == 1 else "s")


def _moment(seconds: int) -> str:
    return f"{datetime.now(UTC) + timedelta(seconds=seconds):%Y-%m-%d %H:%M} UTC"


def _tell(as_json: bool, told: Mapping[str, Any], lines: Sequence[str]) -> None:
    click.echo(json.dumps(told, indent=2, ensure_ascii=False) if as_json else "\n".join(lines))


class _Shown:
    """Shows how far it is, on standard error: a line on a terminal that changes, else one every few seconds."""

    _LINE_SECONDS = 5.0

    def __init__(self, *, quiet: bool) -> None:
        from rich.console import Console

        self._terminal = sys.stderr.isatty() and not quiet
        self._quiet = quiet
        self._status = Console(stderr=True).status("") if self._terminal else None
        self._said_at = time.monotonic()

    def __enter__(self) -> _Shown:
        if self._status is not None:
            self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._status is not None:
            self._status.stop()

    def copying(self, table: str, rows: int) -> None:
        """The copy of a table begins."""
        self._say(f"copying {table}, {rows:,} rows")

    def deleting(self, progress: Progress) -> None:
        """Mutations are under way."""
        self._say(f"deleting: {progress.done} of {progress.total} tables, {progress.parts:,} parts to go")

    def _say(self, text: str) -> None:
        if self._status is not None:
            self._status.update(text)
        elif not self._quiet and time.monotonic() - self._said_at > self._LINE_SECONDS:
            self._said_at = time.monotonic()
            click.echo(f"  {text}", err=True)
