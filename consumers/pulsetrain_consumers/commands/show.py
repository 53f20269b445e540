"""`pulsetrain show`: one run, on one screen."""

from __future__ import annotations

import sys

import click

from pulsetrain_consumers.reading.model import Curve


@click.command()
@click.argument("run")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option(
    "--lines", type=click.IntRange(min=0), default=10, show_default=True, help="So many of the last console lines."
)
@click.option("--metric", "wanted", metavar="TEXT", help="Only metrics with this in their name.")
def show(run: str, as_json: bool, lines: int, wanted: str | None) -> None:
    """Show RUN (an id, a name, or project/id): config, summary, curves, hardware, console and loss account."""
    from pulsetrain_consumers.reading import curves, lineage, terminal
    from pulsetrain_consumers.reading.alerts import list_alerts
    from pulsetrain_consumers.reading.database import Database, locate
    from pulsetrain_consumers.reading.runs import accounts, console_tail, find_run

    with Database(locate()) as database:
        record = find_run(database, run)
        found: list[Curve] = curves.curves(database, [record.key], terminal.CURVE_BUCKETS).get(record.key, [])
        shown = terminal.RunView(
            record=record,
            curves=[curve for curve in found if wanted is None or wanted.lower() in curve.metric.lower()],
            telemetry=curves.telemetry(database, [record.key], terminal.CURVE_BUCKETS).get(record.key, []),
            console=console_tail(database, [record.key], lines).get(record.key, []) if lines else [],
            accounts=accounts(database, record.project, [record.run_id]),
            attempts=lineage.attempts(database, [record.key]).get(record.key, []),
            alerts=list_alerts(database, [record.key]),
        )
    if as_json:
        click.echo(terminal.run_as_json(shown))
    else:
        terminal.print_run(shown, sys.stdout)
