"""`pulsetrain sync`: sends the runs that are on this machine and not yet, or not wholly, in Kafka."""

import json
import sys
from pathlib import Path
from typing import Any

import click

from pulsetrain_schemas import addresses
from pulsetrain_schemas.errors import UserError


@click.command()
@click.argument("paths", nargs=-1, type=click.Path(exists=True, path_type=Path))
@click.option("--dry-run", is_flag=True, help="Say what would be sent, and send nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option(
    "--patience",
    type=click.FloatRange(min=1),
    default=30.0,
    metavar="SECONDS",
    help="Give up after so long without a word from Kafka.  [default: 30]",
)
def sync(paths: tuple[Path, ...], dry_run: bool, as_json: bool, patience: float) -> None:
    """Send offline and interrupted runs.

    PATHS are run folders, or folders of such; without any, PULSETRAIN_DIR (./pulsetrain) is searched. It may be broken
    off and repeated: what Kafka has confirmed is not sent again.
    """
    from pulsetrain.forwarder import sending

    where = paths or (Path(addresses.environment("DIR") or "pulsetrain"),)
    journals = list(sending.find_journals(where))
    if dry_run:
        reports = [sending.inspect(journal) for journal in journals]
    else:
        reports = _send(journals, patience, quiet=as_json)
    rows = [_row(report) for report in reports]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
    elif rows:
        click.echo(_table(rows))
    else:
        click.echo(f"no run is in {', '.join(map(str, where))}")
    if any(report.state == "unreadable" for report in reports):
        raise SystemExit(1)


def _send(journals: list[Path], patience: float, *, quiet: bool) -> list[Any]:
    from pulsetrain.forwarder import sending
    from pulsetrain.forwarder.acknowledgement import Counters
    from pulsetrain.forwarder.kafka_delivery import KafkaDelivery
    from pulsetrain.forwarder.process import configure_logging
    from pulsetrain_schemas.published import framing

    configure_logging(quiet=True)
    if not any(sending.inspect(journal).state == "to send" for journal in journals):
        return [sending.inspect(journal) for journal in journals]
    try:
        if addresses.kafka() is None:
            raise UserError("no Kafka is known; set PULSETRAIN_KAFKA=host:port, or start a local one: pulsetrain up")
    except addresses.AddressError as error:
        raise UserError(str(error)) from error
    delivery = KafkaDelivery(addresses.kafka)
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


def _row(report: Any) -> dict[str, Any]:
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


def _table(rows: list[dict[str, Any]]) -> str:
    lines = []
    for row in rows:
        run = f"{row['project']}/{row['run_id']}" if row["run_id"] else Path(row["journal"]).parent.name
        what = "samples of the machine" if row["role"] == "system" else "history"
        counts = f"{row['rows']:>10,} rows {row['points']:>12,} points"
        lines.append(f"{run:32} {what:22} {counts}  {row['state']}{': ' + row['detail'] if row['detail'] else ''}")
    return "\n".join(lines)
