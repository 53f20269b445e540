"""`pulsetrain stop` and `pulsetrain signal`: a word to the processes of a run, wherever they are."""

from __future__ import annotations

import os
import time
import uuid

import click

from pulsetrain_consumers.commands.actor import actor
from pulsetrain_consumers.reading.model import RunRecord

ENDING = ("stop", "kill")
_POLL_SECONDS = 0.2


@click.command()
@click.argument("run")
@click.option("--reason", default="", metavar="TEXT", help="Said in the run's console.")
@click.option("--wait", "patience", type=click.FloatRange(0), default=60, show_default=True, help="Seconds to wait.")
def stop(run: str, reason: str, patience: float) -> None:
    """Stop RUN (an id, a name, or project/id) in order: its program is interrupted, as by Ctrl-C.

    A script that listens (`run.on_signal("stop", callback)`) is called instead. `pulsetrain signal RUN kill` ends a
    program that does not stop.
    """
    _tell(run, "stop", reason, patience)


@click.command()
@click.argument("run")
@click.argument("action", metavar="ACTION")
@click.option("--reason", default="", metavar="TEXT", help="Given to the script.")
@click.option("--wait", "patience", type=click.FloatRange(0), default=60, show_default=True, help="Seconds to wait.")
def signal(run: str, action: str, reason: str, patience: float) -> None:
    """Send RUN an ACTION: checkpoint, stop, kill, or a word of your own that its script listens for.

    \b
      checkpoint   calls what the script gave to run.on_signal("checkpoint", callback)
      stop         the same, or interrupts the program as Ctrl-C does
      kill         SIGTERM to its processes, and SIGKILL after ten seconds
    """
    _tell(run, action, reason, patience)


def _tell(wanted: str, action: str, reason: str, patience: float) -> None:
    from pulsetrain_consumers.reading.database import Database, locate
    from pulsetrain_consumers.reading.runs import find_run, list_runs
    from pulsetrain_consumers.runtime.broker import BrokerUnavailable
    from pulsetrain_consumers.runtime.kafka import KafkaPublisher
    from pulsetrain_schemas import addresses, events
    from pulsetrain_schemas.published import framing
    from pulsetrain_schemas.topics import TOPICS

    kafka = addresses.kafka(os.environ)
    if kafka is None:
        raise click.ClickException(
            "no local stack is up and PULSETRAIN_KAFKA is not set: runs are told by way of Kafka"
        )
    with Database(locate()) as database:
        record = find_run(database, wanted)
        if record.state != "running":
            raise click.ClickException(
                f"run {record.label} ({record.run_id}) is {record.state}: nobody is there to hear"
            )
        command = events.Command(
            project=record.project,
            run_id=record.run_id,
            command_id=uuid.uuid4().hex,
            action=action,
            time=int(time.time() * 1e6),
            actor=actor(),
            attempt=record.attempt,
            text=reason,
        )
        publisher = KafkaPublisher(kafka)
        try:
            message = (events.message_key(command), events.encode(command, framing()))
            publisher.publish(TOPICS["control"].kafka_name, [message])
        except BrokerUnavailable as error:
            raise click.ClickException(f"the run was not told: {error}") from error
        finally:
            publisher.close()
        click.echo(f"run {record.label} ({record.run_id}) was sent {action}", err=True)
        if action not in ENDING:
            return

        def ended() -> RunRecord | None:
            (now,) = list_runs(database, keys=[record.key])
            return now if now.state != "running" else None

        deadline = time.monotonic() + patience
        while (now := ended()) is None:
            if time.monotonic() >= deadline:
                hint = "" if action == "kill" else f"; `pulsetrain signal {record.run_id} kill` ends it at once"
                raise click.ClickException(f"it goes on after {patience:g} s{hint}")
            time.sleep(_POLL_SECONDS)
        click.echo(f"it is {now.state}", err=True)
