"""`pulsetrain migrate`: brings ClickHouse to the schema that this version needs."""

import json
import os

import click

from pulsetrain_schemas import addresses
from pulsetrain_schemas.migrations import Migration, MigrationError


@click.command()
@click.option("--check", "only_check", is_flag=True, help="Change nothing; exit with 1 where migrations are missing.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def migrate(only_check: bool, as_json: bool) -> None:
    """Create or update the tables in ClickHouse.

    Migrations are numbered; each is applied once, and may not change afterwards. Safe to run twice at the same time.
    """
    from pulsetrain_consumers.clickhouse import ClickHouseError
    from pulsetrain_consumers.clickhouse import migrate as migrating

    try:
        address = addresses.clickhouse(os.environ)
        if address is None:
            raise click.ClickException("no ClickHouse is known: run `pulsetrain up`, or set PULSETRAIN_CLICKHOUSE")
        report = migrating.check(address) if only_check else migrating.migrate(address)
    except (addresses.AddressError, MigrationError, ClickHouseError) as error:
        raise click.ClickException(str(error)) from error

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
