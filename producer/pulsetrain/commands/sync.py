"""`pulsetrain sync`: sends the runs that are on this machine and not yet, or not wholly, in Kafka; and cleans up."""

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pulsetrain_schemas import addresses
from pulsetrain_schemas.errors import UserError

if TYPE_CHECKING:
    from pulsetrain.forwarder.kafka_delivery import KafkaDelivery
    from pulsetrain.forwarder.sending import Report
    from pulsetrain.forwarder.watching import Watching

IDLE_SECONDS = 0.05
PROGRESS_SECONDS = 0.5


@click.command()
@click.argument("paths", nargs=-1, type=click.Path(exists=True, path_type=Path))
@click.option("--dry-run", is_flag=True, help="Say what would be sent or removed, and do nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON; with --watch, a line for each thing that happens.")
@click.option("--watch", is_flag=True, help="Go on until Ctrl-C: send what is added, and runs that appear.")
@click.option("--clean", is_flag=True, help="Send nothing: remove the journals that Kafka has.")
@click.option(
    "--older-than",
    metavar="TIME",
    help="With --clean: those that Kafka has had for longer than this, such as 7d, 12h, 0.  "
    "[default: PULSETRAIN_JOURNAL_RETENTION, else 7d]",
)
@click.option(
    "--patience",
    type=click.FloatRange(min=1),
    default=30.0,
    metavar="SECONDS",
    help="Give up after so long without a word from Kafka.  [default: 30; with --watch, never]",
)
def sync(
    paths: tuple[Path, ...],
    dry_run: bool,
    as_json: bool,
    watch: bool,
    clean: bool,
    older_than: str | None,
    patience: float,
) -> None:
    """Send offline and interrupted runs.

    PATHS are run folders, or folders of such; without any, PULSETRAIN_DIR (./pulsetrain) is searched. It may be broken
    off and repeated: what Kafka has confirmed is not sent again. What it has not confirmed is never removed.
    """
    if watch and (clean or dry_run):
        raise click.UsageError("--watch goes with neither --clean nor --dry-run")
    if older_than is not None and not clean:
        raise click.UsageError("--older-than says what --clean removes; give both")
    where = paths or (Path(addresses.environment("DIR") or "pulsetrain"),)
    if clean:
        _clean(where, older_than, dry_run=dry_run, as_json=as_json)
    elif watch:
        _watch(where, as_json=as_json)
    else:
        _sync(where, patience, dry_run=dry_run, as_json=as_json)


def _sync(where: Sequence[Path], patience: float, *, dry_run: bool, as_json: bool) -> None:
    from pulsetrain.forwarder import sending

    journals = list(sending.find_journals(where))
    if dry_run:
        reports = [sending.inspect(journal) for journal in journals]
    else:
        reports = _send(journals, patience, quiet=as_json)
    rows = [_row(report) for report in reports]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
    elif rows:
        click.echo("\n".join(_line(row) for row in rows))
    else:
        click.echo(f"no run is in {', '.join(map(str, where))}")
    if any(report.state == "unreadable" for report in reports):
        raise SystemExit(1)


def _send(journals: list[Path], patience: float, *, quiet: bool) -> list["Report"]:
    from pulsetrain.forwarder import sending
    from pulsetrain.forwarder.acknowledgement import Counters
    from pulsetrain_schemas.published import framing

    reports = [sending.look(journal) for journal in journals]
    if not any(report.state == "to send" for report in reports):
        return reports
    delivery = _delivery()
    framed = framing()
    reports = []
    shown = not quiet and sys.stderr.isatty()
    try:
        for number, journal in enumerate(journals, 1):

            def progress(counters: Counters, number: int = number) -> None:
                if shown:
                    text = f"journal {number} of {len(journals)}: {counters.rows:,} rows, {counters.points:,} points"
                    click.echo(f"\r\x1b[K{text}", nl=False, err=True)

            report = sending.send(journal, delivery, framing=framed, patience=patience, progress=progress)
            reports.append(report)
    except sending.NotDelivered as error:
        raise UserError(f"{error}. Nothing is lost: run pulsetrain sync again when Kafka is there") from error
    finally:
        if shown:
            click.echo("\r\x1b[K", nl=False, err=True)
        delivery.close(2.0)
    return reports


def _delivery() -> "KafkaDelivery":
    from pulsetrain.forwarder.kafka_delivery import KafkaDelivery
    from pulsetrain.forwarder.process import configure_logging

    configure_logging(quiet=True)
    try:
        if addresses.kafka() is None:
            raise UserError("no Kafka is known; set PULSETRAIN_KAFKA=host:port, or start a local one: pulsetrain up")
    except addresses.AddressError as error:
        raise UserError(str(error)) from error
    return KafkaDelivery(addresses.kafka)


def _watch(where: Sequence[Path], *, as_json: bool) -> None:
    from pulsetrain.forwarder.watching import Watching
    from pulsetrain_schemas.published import framing

    delivery = _delivery()
    shown = not as_json and sys.stderr.isatty()

    def tell(report: "Report") -> None:
        row = _row(report)
        if shown:
            click.echo("\r\x1b[K", nl=False, err=True)
        click.echo(json.dumps(row | {"time": time.time()}) if as_json else _line(row))
        sys.stdout.flush()

    watching = Watching(where, delivery, tell, framing=framing())
    try:
        _go_on(watching, shown=shown)
    except KeyboardInterrupt:
        pass
    finally:
        delivery.close(2.0)
        watching.close()
        if shown:
            click.echo("\r\x1b[K", nl=False, err=True)


def _go_on(watching: "Watching", *, shown: bool) -> None:
    """Until Ctrl-C."""
    line, shown_at = "", 0.0
    while True:
        if not watching.tick():
            time.sleep(IDLE_SECONDS)
        now = time.monotonic()
        if not shown or now - shown_at < PROGRESS_SECONDS:
            continue
        shown_at, progress = now, watching.progress
        text = f"{progress.rows:,} rows, {progress.points:,} points sent; {progress.open} journals are watched"
        text += f", {progress.waiting} wait" if progress.waiting else ""
        text += f"; Kafka is away: {progress.detail}" if progress.broker == "away" else ""
        if text != line:
            line = text
            click.echo(f"\r\x1b[K{text}", nl=False, err=True)


def _clean(where: Sequence[Path], older_than: str | None, *, dry_run: bool, as_json: bool) -> None:
    from pulsetrain.forwarder import cleaning
    from pulsetrain.journal import room

    try:
        age = room.retention() if older_than is None else room.parse_duration(older_than)
    except ValueError as error:
        raise UserError(str(error)) from error
    outcomes = cleaning.clean(where, age, dry_run=dry_run)
    freed = sum(outcome.bytes for outcome in outcomes if outcome.removed)
    if as_json:
        rows = [
            {
                "journal": str(outcome.journal),
                "removed": outcome.removed and not dry_run,
                "would_remove": outcome.removed,
                "bytes": outcome.bytes,
                "detail": outcome.detail,
            }
            for outcome in outcomes
        ]
        click.echo(json.dumps(rows, indent=2))
        return
    for outcome in outcomes:
        what = ("would be removed" if dry_run else "removed") if outcome.removed else f"stays: {outcome.detail}"
        run = outcome.journal.parent.name
        click.echo(f"{run:48} {outcome.journal.name[:8]} {room.size_text(outcome.bytes):>10}  {what}")
    if outcomes:
        click.echo(f"{room.size_text(freed)} {'would be freed' if dry_run else 'freed'}")
    else:
        click.echo(f"no run is in {', '.join(map(str, where))}")


def _row(report: "Report") -> dict[str, Any]:
    identity = report.identity
    return {
        "project": None if identity is None else identity.project,
        "run_id": None if identity is None else identity.run_id,
        "writer": report.journal.name,
        "role": None if identity is None else identity.role,
        "state": report.state,
        "rows": report.counters.rows,
        "points": report.counters.points,
        "texts": report.counters.texts,
        "journal": str(report.journal),
        "detail": report.detail,
    }


def _line(row: dict[str, Any]) -> str:
    run = f"{row['project']}/{row['run_id']}" if row["run_id"] else Path(row["journal"]).parent.name
    what = "samples of the machine" if row["role"] == "system" else "history"
    counts = f"{row['rows']:>10,} rows {row['points']:>12,} points"
    return f"{run:32} {what:22} {counts}  {row['state']}{': ' + row['detail'] if row['detail'] else ''}"
