"""`pulsetrain runs`: a table of runs."""

from __future__ import annotations

import sys

import click


@click.command()
@click.argument("project", required=False)
@click.option(
    "--sort",
    metavar="KEY",
    help="By a field, a summary or a config key; -KEY for the highest first. Default: the newest first.",
)
@click.option(
    "--filter",
    "filters",
    multiple=True,
    metavar="CONDITION",
    help="KEY=VALUE, or with != < <= > >= or ~ (a regular expression). May come several times.",
)
@click.option(
    "--column",
    "-c",
    "columns",
    multiple=True,
    metavar="KEY",
    help="A summary or config key to show. Default: summary keys that runs share.",
)
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True, help="Show at most so many runs.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with the whole config and summary.")
def runs(
    project: str | None, sort: str | None, filters: tuple[str, ...], columns: tuple[str, ...], limit: int, as_json: bool
) -> None:
    """List the runs of PROJECT, or of all projects.

    \b
      pulsetrain runs digits --sort -val/accuracy --filter state=finished --filter "config.lr>=0.01"
    """
    from pulsetrain_consumers.reading import terminal
    from pulsetrain_consumers.reading.database import Database, locate
    from pulsetrain_consumers.reading.errors import UnknownRun, suggestion
    from pulsetrain_consumers.reading.lineage import last_steps
    from pulsetrain_consumers.reading.runs import list_runs, projects
    from pulsetrain_consumers.reading.selection import parse_condition, select

    where = [parse_condition(text) for text in filters]
    with Database(locate()) as database:
        found = list_runs(database, project)
        if project is not None and not found:
            known = projects(database)
            if project not in known:
                raise UnknownRun(f"there is no project called {project!r}.{suggestion(project, known)}")
        chosen = select(found, where, sort)
        shown = chosen[:limit]
        steps = last_steps(database, [run.key for run in shown])
    if as_json:
        click.echo(terminal.runs_as_json(shown, steps))
        return
    terminal.print_runs(shown, steps, columns, sys.stdout, with_project=project is None)
    if len(chosen) > len(shown):
        click.echo(f"{len(chosen) - len(shown):,} more with --limit {len(chosen)}", err=True)
