"""`pulsetrain alerts`: what the monitor, rules and run.alert() said."""

from __future__ import annotations

import sys

import click


@click.command()
@click.argument("targets", nargs=-1, metavar="[PROJECT|RUN]...")
@click.option(
    "--state", type=click.Choice(["pending", "firing", "resolved"]), help="Only alerts that are in this state now."
)
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True, help="Show at most so many.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def alerts(targets: tuple[str, ...], state: str | None, limit: int, as_json: bool) -> None:
    """List the alerts of projects and runs, or all: what fires first, then the newest.

    \b
      pulsetrain alerts
      pulsetrain alerts digits --state firing
    """
    from pulsetrain_consumers.reading import terminal
    from pulsetrain_consumers.reading.alerts import list_alerts
    from pulsetrain_consumers.reading.database import Database, locate
    from pulsetrain_consumers.reading.runs import resolve

    with Database(locate()) as database:
        keys = [run.key for run in resolve(database, targets)] if targets else None
        found = list_alerts(database, keys, state=state, limit=limit)
    if as_json:
        click.echo(terminal.alerts_as_json(found))
    else:
        terminal.print_alerts(found, sys.stdout)
