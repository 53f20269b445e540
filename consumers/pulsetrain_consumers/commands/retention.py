"""`pulsetrain retention`: for how long the data of each project is kept."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from pulsetrain_schemas.errors import UserError

if TYPE_CHECKING:
    from pulsetrain_consumers.clickhouse import Client
    from pulsetrain_consumers.retention.policies import Policy

FOREVER = "forever"


def _days(_context: click.Context, _option: click.Parameter, value: str | None) -> int | str | None:
    """A number of days, `90` or `90d`, or `forever`."""
    if value is None or value == FOREVER:
        return value
    digits = value.removesuffix("d")
    if not digits.isdecimal() or not 0 < int(digits) <= 36_500:
        raise click.BadParameter(f"{value!r} is neither a number of days, such as 90, nor {FOREVER}")
    return int(digits)


@click.group(invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def retention(context: click.Context, as_json: bool) -> None:
    """Show for how long the data of each project is kept, and set it.

    \b
      pulsetrain retention set digits --runs 365 --samples 30 --logs 90
      pulsetrain retention set --other-projects --runs 730
      pulsetrain retention set digits --runs forever
      pulsetrain retention

    Without a policy everything is kept. ClickHouse takes away what is past its time by itself, within some hours.
    """
    if context.invoked_subcommand is not None:
        return
    from pulsetrain_consumers.retention.policies import policies

    with _client() as client:
        found = policies(client)
    if as_json:
        click.echo(json.dumps([{**asdict(it), "set_at": it.set_at.isoformat()} for it in found], ensure_ascii=False))
    else:
        _print(found)


@retention.command("set")
@click.argument("project", required=False)
@click.option("--other-projects", is_flag=True, help="For all projects that have no policy of their own.")
@click.option("--runs", metavar="DAYS", callback=_days, help="Days after its attempt began that all of a run is kept.")
@click.option(
    "--samples", metavar="DAYS", callback=_days, help="Days that samples of the hardware are kept; sums of them stay."
)
@click.option("--logs", metavar="DAYS", callback=_days, help="Days that lines of the console are kept.")
@click.option("--force", is_flag=True, help="Also where runs have taken nearly as long as they would be kept.")
def set_(
    project: str | None,
    other_projects: bool,
    runs: int | str | None,
    samples: int | str | None,
    logs: int | str | None,
    force: bool,
) -> None:
    """Keep data of PROJECT for so many days, or `forever`."""
    from pulsetrain_consumers.commands.actor import actor
    from pulsetrain_consumers.retention.policies import OTHER_PROJECTS, policies, set_policy

    if (project is None) != other_projects:
        raise UserError("name a project, or give --other-projects")
    given = {"runs": runs, "samples": samples, "logs": logs}
    days = {kind: None if value == FOREVER else int(value) for kind, value in given.items() if value is not None}
    if not days:
        raise UserError("say what is to be kept for how long: --runs, --samples, --logs, in days")
    with _client() as client:
        set_policy(client, OTHER_PROJECTS if project is None else project, days, actor(), force=force)
        found = policies(client)
    _print(found)


@contextmanager
def _client() -> Iterator[Client]:
    from pulsetrain_consumers.clickhouse import ClickHouseError, connect
    from pulsetrain_consumers.reading.database import locate

    try:
        with connect(locate(), timeout=600.0, client_name="pulsetrain retention") as client:
            yield client
    except ClickHouseError as error:
        raise UserError(f"{error}") from error


def _print(found: list[Policy]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from pulsetrain_consumers.retention.policies import OTHER_PROJECTS
    from pulsetrain_consumers.retention.tables import KINDS

    kept = {(it.project, it.kind): it.days for it in found}
    table = Table("project", *KINDS, box=None)
    for project in sorted({it.project for it in found} - {OTHER_PROJECTS}):
        table.add_row(
            escape(project), *(_words(kept.get((project, kind), kept.get((OTHER_PROJECTS, kind)))) for kind in KINDS)
        )
    table.add_row("all others", *(_words(kept.get((OTHER_PROJECTS, kind))) for kind in KINDS))
    Console(file=sys.stdout).print(table)


def _words(days: int | None) -> str:
    return "for ever" if days is None else f"{days} days"
