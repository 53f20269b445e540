"""The commands of the local stack: up, down, status and doctor."""

import json
import os
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click

from pulsetrain_local.home import Home, read_json
from pulsetrain_schemas import addresses

_PORT = click.IntRange(1, 65535)


def _home() -> Home:
    return Home(addresses.home(os.environ))


@click.command()
@click.option(
    "--detach", "-d", is_flag=True, help="Return when all is ready; the stack stays up until `pulsetrain down`."
)
@click.option("--timeout", type=click.FloatRange(min=1), default=90, show_default=True, help="Seconds to get ready in.")
@click.option("--kafka-port", type=_PORT, help="Where Kafka listens. Default: a free port, kept for the next time.")
@click.option("--clickhouse-port", type=_PORT, help="Where ClickHouse's native protocol listens.")
@click.option("--clickhouse-http-port", type=_PORT, help="Where ClickHouse's HTTP interface listens.")
@click.option("--metrics-port", type=_PORT, help="Where the writer shows its metrics and health.")
def up(
    detach: bool,
    timeout: float,
    kafka_port: int | None,
    clickhouse_port: int | None,
    clickhouse_http_port: int | None,
    metrics_port: int | None,
) -> None:
    """Start the local stack: Kafka, ClickHouse, and the services that fill it.

    Grafana and Prometheus too, where they are found: in PULSETRAIN_GRAFANA_HOME and PULSETRAIN_PROMETHEUS_HOME, else on
    the PATH; "off" starts none.

    Without --detach it runs until Ctrl-C. PULSETRAIN_KAFKA and PULSETRAIN_CLICKHOUSE, where they are set, are used
    instead of starting those services.
    """
    from pulsetrain_local import launch
    from pulsetrain_local.progress import DownloadProgress
    from pulsetrain_local.stack import WantedPorts

    home = _home()
    wanted = WantedPorts(kafka_port, clickhouse_port, clickhouse_http_port, metrics_port)
    try:
        home.create()
        if home.has_supervisor():
            _say_already_up(home, launch.wait_until_up(home, timeout))
            return
        progress = _Announced(home, stays=not detach)
        click.echo(f"starting the local stack in {home.root}", err=True)
        if detach:
            launch.prepare_kafka(DownloadProgress(), os.environ)
            launch.run_detached(home, wanted, timeout, progress)
        elif not launch.run_stack(home, wanted, timeout, progress, DownloadProgress(), os.environ):
            _say_already_up(home, launch.wait_until_up(home, timeout))
    except launch.FAILURES as error:
        raise click.ClickException(str(error)) from error
    except OSError as error:
        raise click.ClickException(
            f"the stack's files cannot be kept in {home.root}: {error.strerror or error}"
            + (f" ({error.filename})" if error.filename else "")
            + "; choose another place with PULSETRAIN_HOME"
        ) from error
    except KeyboardInterrupt:
        raise click.ClickException("interrupted; nothing was left running") from None


@click.command()
def down() -> None:
    """Stop the local stack. Its data stays where it is, for the next `pulsetrain up`."""
    from pulsetrain_local import launch

    home = _home()
    if launch.take_down(home):
        click.echo("the local stack is down")
    else:
        click.echo(f"no local stack is up in {home.root}")


@click.command()
@click.option("--json", "as_json", is_flag=True, help="For programs; it holds the addresses with their passwords.")
def status(as_json: bool) -> None:
    """Show the local stack: every service, and how to reach it. Exit code 3 when the stack is not up."""
    from pulsetrain_local.forwarders import forwarders

    home = _home()
    alive = home.has_supervisor()
    running = addresses.running_stack(home.root) if alive else None
    said = read_json(home.supervisor) if alive else {}
    state = "up" if running is not None else "starting" if alive else "down"
    services: list[dict[str, Any]] = [
        {key: entry.get(key) for key in ("name", "pid", "state", "address")} for entry in said.get("services", ())
    ]
    services += [entry.to_json() for entry in forwarders(home.root)]
    environment = running["environment"] if running is not None else {"PULSETRAIN_HOME": str(home.root)}
    if as_json:
        shown = {"state": state, "home": str(home.root), "pid": said.get("pid"), "services": services}
        click.echo(json.dumps({**shown, "environment": environment}, indent=2))
    else:
        _show_status(home, state, said.get("pid"), services, environment)
    if state == "down":
        sys.exit(3)


@click.command()
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def doctor(as_json: bool) -> None:
    """Check everything that the pipeline needs on this machine, and say what to do where something is wrong.

    Exit code 1 when there is a problem.
    """
    from pulsetrain_local.doctor import Verdict, examine

    findings = examine(_home(), os.environ)
    if as_json:
        click.echo(json.dumps([finding.to_json() for finding in findings], indent=2))
    else:
        marks = {Verdict.OK: ("ok", "green"), Verdict.PROBLEM: ("problem", "red"), Verdict.UNKNOWN: ("-", None)}
        for finding in findings:
            word, colour = marks[finding.verdict]
            click.echo(f"{click.style(f'{word:<8}', fg=colour)} {finding.subject:<12} {finding.detail}")
            if finding.remedy:
                click.echo(f"{'':<21} → {finding.remedy}")
    if any(finding.verdict is Verdict.PROBLEM for finding in findings):
        sys.exit(1)


class _Announced:
    """The lines of a start, and after them where everything is and what to do next."""

    def __init__(self, home: Home, *, stays: bool) -> None:
        from pulsetrain_local.progress import StartProgress

        self._lines = StartProgress()
        self._home = home
        self._stays = stays
        self.starting = self._lines.starting
        self.ready = self._lines.ready
        self.ended = self._lines.ended
        self.stopping = self._lines.stopping

    def all_ready(self, seconds: float) -> None:
        click.echo(f"ready in {seconds:.1f} s", err=True)
        _say_where(self._home)
        click.echo("\nTraining scripts on this machine find it by themselves. Then:")
        click.echo("  pulsetrain runs                                        the runs, newest first")
        click.echo('  pulsetrain sql "select * from metrics limit 10"        every point, in SQL')
        end = "Ctrl-C stops it." if self._stays else "`pulsetrain down` stops it, `pulsetrain status` shows it."
        click.echo(f"\n{end}")


def _say_already_up(home: Home, ready: bool) -> None:
    if not ready:
        raise click.ClickException(f"a stack of {home.root} is being started by another process and is not ready yet")
    click.echo("the local stack is already up")
    _say_where(home)


def _say_where(home: Home) -> None:
    running = addresses.running_stack(home.root)
    if running is None:
        return
    environment = running["environment"]
    click.echo(f"  home        {home.root}")
    click.echo(f"  Kafka       {environment['PULSETRAIN_KAFKA']}")
    click.echo(f"  ClickHouse  {_without_password(environment['PULSETRAIN_CLICKHOUSE'])}")
    if over_http := environment.get("PULSETRAIN_CLICKHOUSE_HTTP"):
        click.echo(f"              {over_http} (the same over HTTP)")
    if prometheus := environment.get("PULSETRAIN_PROMETHEUS"):
        click.echo(f"  Prometheus  {prometheus}")
    if grafana := environment.get("PULSETRAIN_GRAFANA"):
        address = addresses.GrafanaAddress.parse(grafana)
        click.echo(f"  Grafana     {address} (user {address.user}, password in {home.grafana_password_file})")


def _without_password(url: str) -> str:
    """An address as it may be shown."""
    if url.startswith("clickhouse"):
        return str(addresses.ClickHouseAddress.parse(url))
    parts = urlsplit(url)
    return url.replace(f":{parts.password}@", ":***@") if parts.password else url


def _show_status(
    home: Home, state: str, pid: int | None, services: list[dict[str, Any]], environment: dict[str, str]
) -> None:
    click.echo(f"the local stack in {home.root} is {state}" + (f" (supervisor: process {pid})" if pid else ""))
    for entry in services:
        process = f"process {entry['pid']}" if entry["pid"] else ""
        click.echo(f"  {entry['name']:<16} {entry['state'] or '':<12} {process:<16} {entry['address'] or ''}".rstrip())
    if state == "up":
        click.echo("")
        for name, value in environment.items():
            click.echo(f"  {name}={_without_password(value)}")
    logs = home.logs
    if logs.is_dir() and any(Path(logs).iterdir()):
        click.echo(f"  logs: {logs}")
