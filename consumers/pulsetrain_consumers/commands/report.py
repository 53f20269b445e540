"""`pulsetrain report`: runs as one HTML file."""

from __future__ import annotations

import sys
import time
from datetime import datetime
from pathlib import Path

import click


@click.command()
@click.argument("targets", nargs=-1, required=True, metavar="PROJECT|RUN...")
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("report.html"),
    show_default=True,
    help="The file to write.",
)
@click.option("--title", help="The heading. Default: the projects' names.")
@click.option("--open", "open_", is_flag=True, help="Open it in the browser.")
@click.option(
    "--max-megabytes",
    type=click.FloatRange(min=0.5),
    default=4.0,
    show_default=True,
    help="About how large its data may get; curves are thinned to fit.",
)
def report(targets: tuple[str, ...], output: Path, title: str | None, open_: bool, max_megabytes: float) -> None:
    """Write one self-contained HTML file about projects and runs (project, run id, run name or project/id).

    It opens offline and asks nothing of any network: send it, archive it. Curves that are too long are thinned in a
    way that keeps every peak.
    """
    import webbrowser

    from pulsetrain_consumers.reading.database import Database, locate
    from pulsetrain_consumers.reading.output import Destination
    from pulsetrain_consumers.reading.report.gather import gather
    from pulsetrain_consumers.reading.report.render import render
    from pulsetrain_consumers.reading.runs import resolve

    started = time.monotonic()
    terminal = sys.stderr.isatty()

    def step(what: str) -> None:
        if terminal:
            click.echo(f"\r\033[K{what} …", nl=False, err=True)

    with Database(locate()) as database:
        step("looking for the runs")
        records = resolve(database, targets)
        heading = title or ", ".join(dict.fromkeys(record.project for record in records))
        made = gather(
            database, records, title=heading, now=datetime.now().astimezone(), size=int(max_megabytes * 1e6), step=step
        )
    step("writing")
    page = render(made).encode("utf-8", errors="replace")
    with Destination(output).open() as out:
        out.write(page)
    if terminal:
        click.echo("\r\033[K", nl=False, err=True)
    points = sum(curve.points for run in made.runs for curve in run.curves)
    click.echo(
        f"{output}: {len(records)} run{'' if len(records) == 1 else 's'}, {points:,} points, "
        f"{len(page) / 1e6:.1f} MB, {time.monotonic() - started:.1f} s"
    )
    if open_:
        webbrowser.open(output.absolute().as_uri())
