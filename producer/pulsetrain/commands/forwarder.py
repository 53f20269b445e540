"""`pulsetrain forwarder`: runs the forwarder in the foreground, or says how it does."""

import json
import os
import time
from typing import Any

import click

from pulsetrain_schemas import addresses


@click.group(invoke_without_command=True)
@click.option("--once", is_flag=True, help="Send what is there now, then leave.")
@click.option(
    "--idle-exit",
    type=click.FloatRange(min=0),
    default=30.0,
    metavar="SECONDS",
    help="Leave after so long without a run.  [default: 30]",
)
@click.pass_context
def forwarder(context: click.Context, once: bool, idle_exit: float) -> None:
    """Run the process that carries journals to Kafka, in the foreground.

    Training processes start one by themselves; this is for watching one at work, and for supervisors. Ctrl-C and
    SIGTERM have it send what it can within seconds and leave.

    It removes journals that Kafka has had for PULSETRAIN_JOURNAL_RETENTION (7d), and sooner where those of a directory
    come near to PULSETRAIN_JOURNAL_MAX_BYTES (20GiB, or a quarter of the disk).
    """
    if context.invoked_subcommand is not None:
        return
    from pulsetrain.forwarder.process import configure_logging, serve

    configure_logging()
    if not serve(addresses.home(), dict(os.environ), idle_exit=idle_exit, once=once):
        raise click.ClickException("a forwarder for this home and this Kafka runs already: pulsetrain forwarder status")


@forwarder.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def status(as_json: bool) -> None:
    """Say whether the forwarder of this home and this Kafka runs, and what it says of the broker."""
    from pulsetrain.forwarder import spawn
    from pulsetrain.forwarder.places import Place, destination, read_json
    from pulsetrain.journal.room import size_text

    place = Place.of(addresses.home(), destination())
    running = spawn.is_running(place)
    awaited = not running and spawn.is_awaited(place)
    waiting = sum(1 for _ in place.registrations())
    said: dict[str, Any] = (read_json(place.status) or {}) if running else {}
    if as_json:
        document = {"running": running, "awaited": awaited, "registered": waiting, "log": str(place.log), **said}
        click.echo(json.dumps(document, indent=2))
        return
    if not running:
        click.echo(f"no forwarder runs; {waiting} journals wait for one")
        if awaited:
            click.echo(f"one is about to start; if it does not stay, its log says why: {place.log}")
        return
    age = time.time() - float(said.get("updated", 0))
    click.echo(f"forwarder {said.get('pid')}: Kafka is {said.get('broker')}: {said.get('detail')}")
    click.echo(f"{said.get('journals')} journals to send, {said.get('live')} runs live, said {age:.0f} s ago")
    if said.get("journal_limit"):
        taken, limit = size_text(said["journal_bytes"]), size_text(said["journal_limit"])
        click.echo(said.get("notice") or f"the journals take {taken} of the {limit} that they may")
    click.echo(f"log: {place.log}")
