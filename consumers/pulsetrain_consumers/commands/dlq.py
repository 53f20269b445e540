"""`pulsetrain dlq`: the messages that were put aside, for a person to look at, send again or drop."""

from __future__ import annotations

import json
import re
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from pulsetrain_consumers.commands.actor import actor
from pulsetrain_schemas.errors import UserError

if TYPE_CHECKING:
    from pulsetrain_consumers.dead_letters.catalogue import Entry, LetterId, Selection
    from pulsetrain_consumers.dead_letters.topic import LetterTopic
    from pulsetrain_consumers.reading.database import Database

_NOTED_SECONDS = 15.0
_AGE = re.compile(r"(\d+(?:\.\d+)?)([smhdw])")
_DONE = {"replay": "replayed", "drop": "dropped"}
_UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}


@click.group()
def dlq() -> None:
    """Look at the messages that could not be stored; send them again, or drop them.

    A message that cannot be decoded, or that ClickHouse refuses, stops nothing: it goes to the topic
    pulsetrain.dead_letters, whole, with the reason and where it came from, and waits there for a person. A letter is
    named by where its message was: topic/partition/offset, as in metrics/3/1042.

    \b
      undecodable     the bytes are no message of ours, or a damaged one
      unknown_schema  written by a version, or with a registry, that the writer does not know: upgrade it, then replay
      refused         ClickHouse does not take a value of it; `show` has its words
      invalid         it contradicts itself

    \b
      pulsetrain dlq list                              what waits, by reason
      pulsetrain dlq show metrics/3/1042               one of them, decoded as far as it can be
      pulsetrain dlq replay --reason unknown_schema    put the cause right first
      pulsetrain dlq drop --topic logs --since 2h
    """


def _narrowed(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say which letters are meant."""
    from functools import reduce

    options = (
        click.option("--reason", type=click.Choice(["undecodable", "unknown_schema", "invalid", "refused"])),
        click.option("--topic", help="Only messages of this topic: metrics, runs, system, logs."),
        click.option(
            "--since", metavar="TIME", help="Only what was put aside since: 30m, 2h, 7d, or 2026-01-31T12:00."
        ),
    )
    return reduce(lambda decorated, option: option(decorated), reversed(options), command)


_as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_yes = click.option("-y", "--yes", is_flag=True, help="Do not ask.")
_all = click.option("--all", "everything", is_flag=True, help="Mean everything that waits.")


@dlq.command("list")
@_narrowed
@click.option(
    "--state",
    type=click.Choice(["waiting", "replayed", "dropped", "any"]),
    default="waiting",
    show_default=True,
    help="What became of them.",
)
@click.option("--limit", type=click.IntRange(0, 10_000), default=20, show_default=True, help="Show so many letters.")
@_as_json
def list_(reason: str | None, topic: str | None, since: str | None, state: str, limit: int, as_json: bool) -> None:
    """Count the letters by reason, and show the newest of them.

    Letters are read from ClickHouse (the view dead_letters, for `pulsetrain sql` too), where a writer puts them.
    """
    from pulsetrain_consumers.dead_letters import catalogue, terminal

    with _database() as database:
        chosen = _selection((), reason, topic, since, None if state == "any" else state)
        kinds = catalogue.kinds(database, chosen)
        shown = catalogue.newest(database, chosen, limit) if kinds and limit else []
    if as_json:
        click.echo(terminal.list_as_json(kinds, shown))
    else:
        terminal.print_list(kinds, shown, sys.stdout, state)


@dlq.command()
@click.argument("letters", nargs=-1, required=True, metavar="LETTER...")
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the payload of the one letter into a file, as it is; - is stdout.",
)
@_as_json
def show(letters: tuple[str, ...], output: Path | None, as_json: bool) -> None:
    """Show all about a LETTER: why it is here, and what is in it.

    The payload is read from Kafka and decoded by the schema that it names, up to the place where it breaks; where Kafka
    is away or has dropped it, its beginning is shown as ClickHouse has it. Control characters are shown, not obeyed.
    """
    from pulsetrain_consumers.dead_letters import catalogue, terminal
    from pulsetrain_consumers.dead_letters.preview import preview
    from pulsetrain_consumers.dead_letters.topic import KafkaSilent, PayloadGone
    from pulsetrain_schemas.published import framing

    if output is not None and len(letters) != 1:
        raise UserError("-o writes one payload: name one letter")
    views, reading = [], framing(patience=0)
    with _database() as database, _letter_topic() as topic:
        for entry in catalogue.require(database, [catalogue.LetterId.parse(letter) for letter in letters]):
            note = None
            try:
                payload = topic.payload(entry)
            except (KafkaSilent, PayloadGone) as error:
                if output is not None:
                    raise UserError(str(error)) from error
                payload = entry.payload_start
                note = f"{error}; shown are the first {len(payload)} bytes, which ClickHouse has"
            if output is not None:
                _write(output, payload)
                return
            before = catalogue.replayed_before(database, entry)
            views.append(terminal.View(entry, preview(payload, reading), before, note))
    if as_json:
        click.echo(terminal.views_as_json(views))
    else:
        terminal.print_views(views, sys.stdout)


@dlq.command()
@click.argument("letters", nargs=-1, metavar="[LETTER]...")
@_narrowed
@_all
@click.option("--again", is_flag=True, help="Also those that were replayed or dropped before; needs LETTERs.")
@click.option("--dry-run", is_flag=True, help="Say what would be sent, and send nothing.")
@_yes
@_as_json
def replay(
    letters: tuple[str, ...],
    reason: str | None,
    topic: str | None,
    since: str | None,
    everything: bool,
    again: bool,
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Send messages again, as they were, to the topic and the partition that they were in.

    Name LETTERs, or say which with --reason, --topic and --since, or --all. Put right first what kept them from being
    stored: a newer writer, a schema in the registry, a column in ClickHouse. A message that fails again is put aside
    again, as a new letter; one that was stored meanwhile is recognised by its sequences and not stored twice. So it
    does no harm to break off and begin again, or to replay what needed no replay.
    """
    chosen = _chosen(letters, reason, topic, since, everything, again)
    _act("replay", chosen, dry_run=dry_run, yes=yes or bool(letters), as_json=as_json)


@dlq.command()
@click.argument("letters", nargs=-1, metavar="[LETTER]...")
@_narrowed
@_all
@click.option("--dry-run", is_flag=True, help="Say what would be dropped, and drop nothing.")
@_yes
@_as_json
def drop(
    letters: tuple[str, ...],
    reason: str | None,
    topic: str | None,
    since: str | None,
    everything: bool,
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Mark messages as not wanted: they wait no longer.

    Name LETTERs, or say which with --reason, --topic and --since, or --all. Nothing is deleted: `list --state dropped`
    has them, and `replay --again` sends one all the same, until Kafka's retention of the dead letters (30 days) ends.
    """
    chosen = _chosen(letters, reason, topic, since, everything, again=False)
    _act("drop", chosen, dry_run=dry_run, yes=yes or bool(letters), as_json=as_json)


def _act(what: Literal["replay", "drop"], selection: Selection, *, dry_run: bool, yes: bool, as_json: bool) -> None:
    """Replays or drops, with what must be said before and after."""
    from pulsetrain_consumers.dead_letters import catalogue, terminal
    from pulsetrain_consumers.dead_letters.topic import Outcome

    done = _DONE[what]
    with _database() as database, _letter_topic() as topic:
        settled = _settled(database, selection)
        if not as_json:
            for entry in settled:
                again = "; --again sends it once more" if what == "replay" else ""
                by = terminal.safe(entry.resolved_by)
                click.echo(f"{entry.id} was {entry.state} already, by {by}{again}", err=True)
            terminal.print_kinds(catalogue.kinds(database, selection), sys.stderr)
        total = catalogue.count(database, selection)
        if dry_run:
            _say({what: total, "dry_run": True}, f"{total:,} letters would be {done}", as_json)
            return
        if not total:
            _say({done: 0, "left": [], "noted": True}, f"nothing to {what}", as_json)
            return
        _confirm(f"{what} {total:,} letter{'' if total == 1 else 's'}?", yes)
        last: deque[Entry] = deque(maxlen=1)
        entries = _following(catalogue.each(database, selection), last)
        with terminal.progress(total, sys.stderr) as advance:
            steps = topic.replay(entries) if what == "replay" else topic.drop(entries)
            outcome = Outcome()
            for outcome in steps:
                advance(outcome.done + len(outcome.gone))
        noted = not outcome.done or _noted(database, last[0], {entry.id for entry, _ in outcome.gone})
    for entry, why in outcome.gone if not as_json else ():
        click.echo(f"{entry.id} was left: {terminal.safe(why)}", err=True)
    late = "" if noted else "; no writer has noted it in ClickHouse yet: does one run? `pulsetrain status` says"
    left = [{"letter": str(entry.id), "why": why} for entry, why in outcome.gone]
    _say({done: outcome.done, "left": left, "noted": noted}, f"{outcome.done:,} {done}{late}", as_json)
    if outcome.gone:
        raise SystemExit(1)


def _settled(database: Database, selection: Selection) -> list[Entry]:
    """Of the letters that were named those that wait no longer, and so are left alone. Raises UnknownLetter."""
    from pulsetrain_consumers.dead_letters import catalogue

    named = catalogue.require(database, selection.ids) if selection.ids else []
    return [entry for entry in named if selection.state is not None and entry.state != selection.state]


def _following(entries: Iterator[Entry], last: deque[Entry]) -> Iterator[Entry]:
    """The entries; the one that came last is in `last`."""
    for entry in entries:
        last.append(entry)
        yield entry


def _noted(database: Database, last: Entry, gone: set[LetterId]) -> bool:
    """Waits until the writer has stored what was done about the last letter: then a second call finds nothing to do."""
    from pulsetrain_consumers.dead_letters.catalogue import Selection, count

    if last.id in gone:
        return True
    deadline = time.monotonic() + _NOTED_SECONDS
    while count(database, Selection(ids=(last.id,), state=last.state)) and last.state == "waiting":
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def _say(facts: dict[str, Any], text: str, as_json: bool) -> None:
    click.echo(json.dumps(facts) if as_json else text)


def _confirm(question: str, yes: bool) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise UserError(f"{question} Nobody is there to answer: give --yes, or --dry-run to see first what is meant")
    click.confirm(question, abort=True, err=True)


def _chosen(
    letters: Sequence[str], reason: str | None, topic: str | None, since: str | None, everything: bool, again: bool
) -> Selection:
    if again and not letters:
        raise UserError("--again is for letters that are named one by one")
    selection = _selection(letters, reason, topic, since, None if again else "waiting")
    if selection.is_narrowed == everything:
        raise UserError(
            "--all means everything that waits: it goes with nothing else"
            if everything
            else "which letters? Name some, as `pulsetrain dlq list` does, or give --reason, --topic, --since or --all"
        )
    return selection


def _selection(
    letters: Sequence[str], reason: str | None, topic: str | None, since: str | None, state: str | None
) -> Selection:
    from pulsetrain_consumers.dead_letters.catalogue import LetterId, Selection
    from pulsetrain_schemas.topics import TOPICS

    return Selection(
        ids=tuple(dict.fromkeys(LetterId.parse(letter) for letter in letters)),
        state=state,
        reason=reason,
        topic=TOPICS[topic].kafka_name if topic is not None and topic in TOPICS else topic,
        since=None if since is None else _moment(since),
    )


def _moment(text: str) -> datetime:
    age = _AGE.fullmatch(text)
    if age:
        return datetime.now(UTC) - timedelta(seconds=float(age[1]) * _UNITS[age[2]])
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise UserError(f"--since {text!r} is no time: write 30m, 2h, 7d, or 2026-01-31T12:00") from error
    return moment.astimezone(UTC)


def _database() -> Database:
    from pulsetrain_consumers.reading.database import Database, locate

    return Database(locate())


def _letter_topic() -> LetterTopic:
    import os

    from pulsetrain_consumers.dead_letters.topic import LetterTopic
    from pulsetrain_schemas import addresses
    from pulsetrain_schemas.published import framing

    try:
        address = addresses.kafka(os.environ)
    except addresses.AddressError as error:
        raise UserError(str(error)) from error
    if address is None:
        raise UserError("no Kafka is known: run `pulsetrain up`, or set PULSETRAIN_KAFKA=host:port")
    return LetterTopic(address, framing(patience=0), actor())


def _write(path: Path, payload: bytes) -> None:
    if str(path) == "-":
        sys.stdout.buffer.write(payload)
        return
    try:
        path.write_bytes(payload)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from error
