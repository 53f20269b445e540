"""`pulsetrain grafana`: our dashboards in a Grafana that runs already."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import click

from pulsetrain_schemas import addresses
from pulsetrain_schemas.errors import UserError

if TYPE_CHECKING:
    from pulsetrain_schemas.addresses import GrafanaAddress


@click.group()
def grafana() -> None:
    """Put the dashboards into a Grafana that runs already, compare, and link.

    \b
    It is where PULSETRAIN_GRAFANA says, or the local stack's:
      export PULSETRAIN_GRAFANA=http://TOKEN@grafana.example:3000
      pulsetrain grafana push --clickhouse clickhouse://grafana:PASSWORD@clickhouse.example:9000/pulsetrain
      pulsetrain grafana diff
      pulsetrain grafana link digits/5cwgxtuv digits/1631fib9

    The token is that of a service account; to make the data source it has to be an admin's. A Grafana of your own that
    starts from files needs none of this: docs/grafana.md.
    """


@grafana.command()
@click.option(
    "--clickhouse", metavar="URL", help="Where Grafana reaches ClickHouse: makes the data source, or changes it."
)
@click.option("--prometheus", metavar="URL", help="Where Grafana reaches Prometheus; without one, one dashboard less.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def push(clickhouse: str | None, prometheus: str | None, as_json: bool) -> None:
    """Put all dashboards into the folder Pulsetrain, over what is there."""
    from pulsetrain_local.grafana_remote import Sources

    remote, dashboards = _remote()
    if prometheus is not None and not prometheus.startswith(("http://", "https://")):
        raise UserError("--prometheus: it is http://HOST:9090")
    sources = Sources(None if clickhouse is None else _clickhouse(clickhouse), prometheus)
    done = []
    for title in remote.push(dashboards, sources):
        done.append(title)
        if not as_json:
            click.echo(f"saved {title}")
    if as_json:
        click.echo(json.dumps({"grafana": str(_address()), "saved": done}, indent=2))
    else:
        click.echo(f"{len(done)} dashboards: {_address()}/dashboards/f/pulsetrain")
        for left_out in (str(one["title"]) for one in dashboards.values() if one["title"] not in done):
            click.echo(f"left out {left_out}: Grafana has no Prometheus to ask (--prometheus http://HOST:9090)")


@grafana.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def diff(as_json: bool) -> None:
    """Show how the dashboards there differ from ours. Exit code 1 where one does, or is missing."""
    remote, dashboards = _remote()
    found = list(remote.differences(remote.shown(dashboards)))
    if as_json:
        told = [{"uid": it.uid, "title": it.title, "state": it.state, "diff": list(it.lines)} for it in found]
        click.echo(json.dumps(told, indent=2, ensure_ascii=False))
    else:
        for it in found:
            click.echo(f"{it.state:<8} {it.title}")
            for line in it.lines:
                click.secho(line, fg={"+": "green", "-": "red"}.get(line[:1]))
    if any(it.state != "same" for it in found):
        sys.exit(1)


@grafana.command()
@click.argument("runs", nargs=-1, required=True, metavar="PROJECT/RUN...")
def link(runs: tuple[str, ...]) -> None:
    """Print the address of a run's dashboard, or of the one that compares several of a project."""
    from pulsetrain_local.grafana_remote import run_address

    parted = [run.rpartition("/") for run in runs]
    if any(not project or not run for project, _, run in parted):
        raise UserError("a run is PROJECT/RUN, as `pulsetrain alerts` and `pulsetrain runs --json` have it")
    projects = {project for project, _, _ in parted}
    if len(projects) > 1:
        raise UserError(f"runs of one project can be compared, and these are of {len(projects)}")
    click.echo(run_address(_address(), projects.pop(), tuple(run for _, _, run in parted)))


def _remote() -> tuple[Any, dict[str, dict[str, Any]]]:
    from pulsetrain_local.grafana import shipped
    from pulsetrain_local.grafana_remote import RemoteGrafana, shipped_dashboards

    return RemoteGrafana(_address()), shipped_dashboards(shipped() / "dashboards")


def _address() -> GrafanaAddress:
    try:
        found = addresses.grafana()
    except addresses.AddressError as error:
        raise UserError(f"PULSETRAIN_GRAFANA is no address: {error}") from None
    if found is None:
        raise UserError(
            "there is no Grafana to talk to: set PULSETRAIN_GRAFANA to http://TOKEN@HOST:3000, or start the local "
            "stack with one (docs/grafana.md)"
        )
    return found


def _clickhouse(url: str) -> addresses.ClickHouseAddress:
    try:
        return addresses.ClickHouseAddress.parse(url)
    except addresses.AddressError as error:
        raise UserError(f"--clickhouse: {error}") from None
