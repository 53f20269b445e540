"""`pulsetrain alerts`: what the monitor, rules and run.alert() said; and silences, so that nobody is told of some."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from glob import escape
from typing import TYPE_CHECKING, Any

import click

from pulsetrain_consumers.commands.actor import actor

if TYPE_CHECKING:
    from pulsetrain_consumers.monitor.silences import Silence, SilenceStore

_PATTERNS = ("project", "run", "kind", "subject")


class _Alerts(click.Group):
    """A group that lists where no command of its own is named: `pulsetrain alerts digits`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args or (args[0] not in self.commands and args[0] not in ctx.help_option_names):
            args = ["list", *args]
        return super().parse_args(ctx, args)


@click.group(cls=_Alerts)
def alerts() -> None:
    """List alerts, and silence some.

    \b
      pulsetrain alerts                            what fires first, then the newest
      pulsetrain alerts digits --state firing      of a project or a run; `pulsetrain alerts list --help` says more
      pulsetrain alerts silence --run RUN --for 2h
    """


@alerts.command("list")
@click.argument("targets", nargs=-1, metavar="[PROJECT|RUN]...")
@click.option(
    "--state", type=click.Choice(["pending", "firing", "resolved"]), help="Only alerts that are in this state now."
)
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True, help="Show at most so many.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_command(targets: tuple[str, ...], state: str | None, limit: int, as_json: bool) -> None:
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


@alerts.command()
@click.option("--project", metavar="PATTERN", help="Of projects; * stands for anything here and below.")
@click.option("--run", metavar="RUN", help="Of one run: an id, a name, or project/id.")
@click.option("--kind", metavar="PATTERN", help="Of a kind: nan, stall, rule … as in `pulsetrain alerts --json`.")
@click.option("--subject", metavar="PATTERN", help="About a metric, a rank, a GPU, a host; 'NAME: *' for a rule.")
@click.option("--all", "everything", is_flag=True, help="All alerts.")
@click.option("--for", "length", required=True, metavar="TIME", help="How long: 30m, 2h, 7d.")
@click.option("--reason", default="", metavar="TEXT", help="For those who wonder why it is silent.")
def silence(
    project: str | None,
    run: str | None,
    kind: str | None,
    subject: str | None,
    everything: bool,
    length: str,
    reason: str,
) -> None:
    """Tell nobody of some alerts for a while. They are recorded all the same.

    \b
      pulsetrain alerts silence --run lucky-fox-7 --for 2h --reason "new data"
      pulsetrain alerts silence --project 'toy-*' --kind plateau --for 7d

    What is given must fit together. An alert that still fires when its silence is over is told then.
    """
    from pulsetrain_consumers.monitor.silences import Silence
    from pulsetrain_schemas.alert_rules import seconds

    if everything == any(given for given in (project, run, kind, subject)):
        raise click.UsageError("say what is silent: --project, --run, --kind or --subject, or several; or --all")
    lasts = seconds(length, "--for")
    if not lasts:
        raise click.UsageError("--for is how long it is silent, as in 30m or 2h")
    patterns = {"project": project, "kind": kind, "subject": subject}
    if run is not None:
        if project is not None:
            raise click.UsageError("--run says the project too: a run is meant by its id, its name, or project/id")
        patterns |= _patterns_of_run(run)
    now = time.time()
    made = Silence(
        **{name: pattern for name, pattern in patterns.items() if pattern},
        starts=now,
        ends=now + lasts,
        reason=reason,
        actor=actor(),
    )
    with _Store() as store:
        store.save(made, now)
    click.echo(f"{made.silence_id}: {_what(made)} silent until {_shown(made.ends)}")


@alerts.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def silences(as_json: bool) -> None:
    """List the silences that are not over. Those of monitor.yaml stand there."""
    with _Store() as store:
        found = store.load(time.time())
    if as_json:
        click.echo(json.dumps([_document(one) for one in found], indent=2))
        return
    for one in found:
        why = " ".join(part for part in (f"by {one.actor}" if one.actor else "", one.reason) if part)
        click.echo(f"{one.silence_id}  until {_shown(one.ends)}  {_what(one)}  {_harmless(why)}".rstrip())
    if not found:
        click.echo("no silences")


@alerts.command()
@click.argument("wanted", nargs=-1, metavar="SILENCE...")
@click.option("--all", "everything", is_flag=True, help="All of them.")
def lift(wanted: tuple[str, ...], everything: bool) -> None:
    """End silences now, by their ids. What fires is told then."""
    from pulsetrain_consumers.monitor.silences import lift as lift_one

    if everything == bool(wanted):
        raise click.UsageError("say which, by the ids that `pulsetrain alerts silences` shows; or --all")
    now = time.time()
    with _Store() as store:
        found = {one.silence_id: one for one in store.load(now)}
        unknown = [name for name in wanted if name not in found]
        if unknown:
            raise click.ClickException(f"there is no silence {', '.join(unknown)} that is not over")
        chosen = list(found) if everything else list(dict.fromkeys(wanted))
        for name in chosen:
            lift_one(store, found[name], now)
    click.echo(f"lifted: {', '.join(chosen) or 'none'}")


class _Store:
    """The silences of the database that is asked; what is wrong with that is said to a person."""

    def __enter__(self) -> SilenceStore:
        from pulsetrain_consumers.clickhouse import connect
        from pulsetrain_consumers.monitor.silences import ClickHouseSilences
        from pulsetrain_consumers.reading.database import locate

        self._client = connect(locate(), client_name="pulsetrain alerts")
        return ClickHouseSilences(self._client)

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        from pulsetrain_consumers.runtime.sink import StoreUnavailable

        self._client.close()
        if isinstance(error, StoreUnavailable):
            raise click.ClickException(f"the silences cannot be reached: {error}") from error


def _patterns_of_run(wanted: str) -> dict[str, str | None]:
    from pulsetrain_consumers.reading.database import Database, locate
    from pulsetrain_consumers.reading.runs import find_run

    with Database(locate()) as database:
        record = find_run(database, wanted)
    return {"project": escape(record.project), "run": escape(record.run_id)}


def _what(one: Silence) -> str:
    named: Sequence[tuple[str, str]] = [(name, getattr(one, name)) for name in _PATTERNS]
    return _harmless(" ".join(f"{name} {pattern}" for name, pattern in named if pattern != "*")) or "everything"


def _shown(at: float | None) -> str:
    return "" if at is None else f"{datetime.fromtimestamp(at).astimezone():%Y-%m-%d %H:%M:%S}"


def _document(one: Silence) -> dict[str, Any]:
    named: dict[str, Any] = {"silence_id": one.silence_id, **{name: getattr(one, name) for name in _PATTERNS}}
    times = (("starts", one.starts), ("ends", one.ends or 0.0))
    named |= {name: datetime.fromtimestamp(at, UTC).isoformat() for name, at in times}
    return {**named, "reason": one.reason, "actor": one.actor}


def _harmless(text: str) -> str:
    from pulsetrain_consumers.reading.formats.table import harmless

    return harmless(" ".join(text.split()))
