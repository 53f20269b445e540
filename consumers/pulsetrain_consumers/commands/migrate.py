"""`pulsetrain migrate`: brings ClickHouse to the schema that this version needs; fills its tables anew from Kafka."""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from pulsetrain_schemas import addresses
from pulsetrain_schemas.addresses import ClickHouseAddress
from pulsetrain_schemas.migrations import Migration, MigrationError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.progress import Progress

    from pulsetrain_consumers.rebuilding.checksums import Checksum
    from pulsetrain_consumers.rebuilding.rebuild import Outcome, Plan, Services

_LINE_SECONDS = 5.0


@click.command()
@click.option("--check", "only_check", is_flag=True, help="Change nothing; exit with 1 where migrations are missing.")
@click.option("--cluster", metavar="NAME", help="Make the database on all servers of this cluster of ClickHouse.")
@click.option("--checksum", is_flag=True, help="Print rows and a checksum of each table that is filled from Kafka.")
@click.option("--rebuild", "anew", is_flag=True, help="Fill these tables anew from Kafka.")
@click.option("--force", is_flag=True, help="With --rebuild: also where Kafka no longer has all that the tables have.")
@click.option("-y", "--yes", is_flag=True, help="With --rebuild: do not ask.")
@click.option("--group", default="pulsetrain-writer", show_default=True, help="The writers' consumer group.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def migrate(
    only_check: bool,
    cluster: str | None,
    checksum: bool,
    anew: bool,
    force: bool,
    yes: bool,
    group: str,
    as_json: bool,
) -> None:
    """Create or update the tables in ClickHouse.

    Migrations are numbered; each is applied once, and may not change afterwards. Safe to run twice at the same time.

    \b
      pulsetrain migrate --cluster main the same tables on a cluster of ClickHouse (the first time)
      pulsetrain migrate --checksum     what the tables hold, as a number each
      pulsetrain migrate --rebuild      the same tables, from the log

    --rebuild fills new tables beside the present ones, from the beginning of every topic to where the writers are,
    and then has them change places. People go on reading and writers go on writing; for a moment at the end these
    wait. Until then nothing is changed: break it off whenever you like. It needs room for a second copy. The checksums
    of before and after are the same, unless the tables had been damaged, or a newer version stores what an older one
    could not.
    """
    from pulsetrain_consumers.clickhouse import ClickHouseError
    from pulsetrain_consumers.runtime.broker import BrokerUnavailable

    if sum((only_check, checksum, anew)) > 1:
        raise click.UsageError("--check, --checksum and --rebuild are three different things: give one")
    if cluster is not None and (only_check or checksum or anew):
        raise click.UsageError("--cluster says where the database is made: it goes with none of the others")
    try:
        address = addresses.clickhouse(os.environ)
        if address is None:
            raise click.ClickException("no ClickHouse is known: run `pulsetrain up`, or set PULSETRAIN_CLICKHOUSE")
        if checksum:
            _print_checksums(address, as_json)
        elif anew:
            _rebuild(address, group, force=force, yes=yes, as_json=as_json)
        else:
            _migrate(address, cluster, only_check=only_check, as_json=as_json)
    except (addresses.AddressError, MigrationError, ClickHouseError, BrokerUnavailable) as error:
        raise click.ClickException(str(error)) from error


def _migrate(address: ClickHouseAddress, cluster: str | None, *, only_check: bool, as_json: bool) -> None:
    from pulsetrain_consumers.clickhouse import migrate as migrating

    report = migrating.check(address) if only_check else migrating.migrate(address, cluster=cluster)
    if as_json:
        names = {name: [str(entry) for entry in getattr(report, name)] for name in ("already", "applied", "missing")}
        click.echo(json.dumps({"database": report.database, **names}))
    else:
        _say("applied", report.applied)
        _say("missing", report.missing)
        if not report.applied and not report.missing:
            click.echo(f"database {report.database} is up to date ({len(report.already)} migrations)")
    if report.missing:
        raise SystemExit(1)


def _say(what: str, found: tuple[Migration, ...]) -> None:
    for migration in found:
        click.echo(f"{what}: {migration}")


def _print_checksums(address: ClickHouseAddress, as_json: bool) -> None:
    from pulsetrain_consumers.clickhouse import connect
    from pulsetrain_consumers.rebuilding.checksums import checksums

    with connect(address) as client:
        found = checksums(client)
    if as_json:
        click.echo(json.dumps([asdict(one) for one in found], indent=2))
        return
    for one in found:
        click.echo(f"{one.table:20} {one.rows:>15,}  {one.hash}")


def _rebuild(address: ClickHouseAddress, group: str, *, force: bool, yes: bool, as_json: bool) -> None:
    import socket

    from pulsetrain_consumers.clickhouse.migrate import migrate as apply_migrations
    from pulsetrain_consumers.rebuilding import rebuild as rebuilding
    from pulsetrain_schemas.published import framing

    kafka = addresses.kafka(os.environ)
    if kafka is None:
        raise click.ClickException("no Kafka is known: run `pulsetrain up`, or set PULSETRAIN_KAFKA=host:port")
    apply_migrations(address)
    holder = f"process {os.getpid()} on {socket.gethostname()}"
    services = rebuilding.Services(kafka, address, framing(), group, holder)
    plan = rebuilding.plan(services)
    if not as_json:
        _print_plan(plan, services)
    if plan.expired and not force:
        raise click.ClickException(
            "Kafka no longer has the beginning of what these runs logged, and the tables would lose it: "
            f"{rebuilding.named(plan.expired)}; --force rebuilds without it"
        )
    if not yes:
        if not sys.stdin.isatty():
            raise click.ClickException("nobody is there to be asked whether to go on: give --yes")
        click.confirm("Go on?", abort=True, err=True)
    try:
        with _Shown(quiet=as_json) as shown:
            outcome = rebuilding.rebuild(services, shown, force=force)
    except KeyboardInterrupt:
        click.echo("broken off: the tables hold what they held; begin again whenever you like", err=True)
        raise
    if as_json:
        click.echo(json.dumps(asdict(outcome), indent=2))
    else:
        _print_outcome(outcome)


def _print_plan(plan: Plan, services: Services) -> None:
    click.echo(
        f"{plan.messages:,} messages of {services.kafka} are read again into new tables beside those of the database "
        f"{services.clickhouse.database} ({plan.rows:,} rows, {plan.bytes_on_disk / 2**20:,.0f} MiB), which then take "
        "their place.",
        err=True,
    )
    if plan.letters_expired:
        click.echo(
            f"{plan.letters_expired:,} dead letters have expired from their topic: the table will not have them.",
            err=True,
        )


def _print_outcome(outcome: Outcome) -> None:
    click.echo(f"{'table':20} {'rows before':>15} {'rows now':>15}  checksum")
    for before, after in zip(outcome.before, outcome.after, strict=True):
        click.echo(f"{after.table:20} {before.rows:>15,} {after.rows:>15,}  {_compared(before, after)}")
    if outcome.between:
        click.echo(f"{outcome.between:,} messages more were stored and not committed: the writers store them again now")
    click.echo(
        f"{outcome.messages:,} messages in {outcome.seconds:.1f} s; the writers waited for {outcome.held_seconds:.1f} s"
    )


def _compared(before: Checksum, after: Checksum) -> str:
    return f"{after.hash} as before" if before == after else f"{after.hash}, was {before.hash}"


class _Shown:
    """Shows how far a rebuild is: a bar on a terminal, else a line every few seconds, on standard error."""

    def __init__(self, *, quiet: bool) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._quiet = quiet
        self._terminal = sys.stderr.isatty() and not quiet
        columns: Sequence[Any] = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        self._bar: Progress = Progress(
            *columns, console=Console(stderr=True), transient=True, disable=not self._terminal
        )
        self._task = self._bar.add_task("", total=None)
        self._said_at = time.monotonic()

    def __enter__(self) -> _Shown:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def phase(self, text: str) -> None:
        self._bar.update(self._task, description=text, total=None)
        if not self._terminal and not self._quiet:
            click.echo(text, err=True)

    def copied(self, messages: int, total: int, problem: str | None) -> None:
        self._bar.update(self._task, completed=messages, total=total)
        if self._terminal or self._quiet or time.monotonic() - self._said_at < _LINE_SECONDS:
            return
        self._said_at = time.monotonic()
        click.echo(f"  {messages:,} of {total:,}" + (f"; waiting: {problem}" if problem else ""), err=True)
