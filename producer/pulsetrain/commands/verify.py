"""`pulsetrain verify`: the loss account, journal against Kafka against ClickHouse."""

import json
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pulsetrain_schemas import addresses
from pulsetrain_schemas.errors import UserError

if TYPE_CHECKING:
    from pulsetrain.forwarder.account import JournalAccount, KafkaReading

COUNTS = ("rows", "points", "texts")
Counts = Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Line:
    """One journal, and what the other two have of it; None where they were not asked, or Kafka has dropped its
    oldest.
    """

    account: "JournalAccount"
    logged: Counts
    kafka: Counts | None
    stored: Counts | None

    def missing(self, place: Counts | None) -> int:
        """Points and texts that are not there."""
        if place is None:
            return 0
        return sum(max(self.logged[name] - place[name], 0) for name in ("points", "texts"))

    @property
    def damaged(self) -> bool:
        damage = self.account.damage
        return damage is not None and not damage.torn

    @property
    def is_whole(self) -> bool:
        return not self.missing(self.kafka) and not self.missing(self.stored) and not self.damaged


@click.command()
@click.argument("runs", nargs=-1, metavar="[RUN]...")
@click.option(
    "--dir", "directory", type=click.Path(path_type=Path), help="Where the journals are.  [default: PULSETRAIN_DIR]"
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--skip", multiple=True, type=click.Choice(["kafka", "clickhouse"]), help="Leave a place out.")
@click.option(
    "--wait",
    type=click.FloatRange(min=0),
    default=10.0,
    metavar="SECONDS",
    help="Give what is on its way so long to be stored.  [default: 10]",
)
def verify(runs: tuple[str, ...], directory: Path | None, as_json: bool, skip: tuple[str, ...], wait: float) -> None:
    """Count what the journals of this machine hold, and what of it is in Kafka and in ClickHouse.

    RUN is a run id, project/id, or a run folder; without any, all runs count, those among them that were removed once
    Kafka had them. Ends with 1 where anything is missing.
    """
    folder = directory or Path(addresses.environment("DIR") or "pulsetrain")
    journals = _journals(runs, folder)
    if not journals:
        what = f"run {', '.join(runs)}" if runs else "run"
        raise UserError(f"no journal of a {what} is in {folder}; say with --dir where the journals are")
    reading = None if "kafka" in skip else _kafka(journals)
    lines = _lines(journals, reading, None)
    if "clickhouse" not in skip:
        lines = _stored(journals, reading, wait)
    if as_json:
        click.echo(json.dumps([_row(line) for line in lines], indent=2))
    else:
        click.echo(_table(lines))
        click.echo(_verdict(lines, reading))
    if not all(line.is_whole for line in lines):
        raise SystemExit(1)


def _journals(runs: Sequence[str], folder: Path) -> list["JournalAccount"]:
    from pulsetrain.forwarder.account import journal_account, removed_accounts
    from pulsetrain.forwarder.sending import find_journals

    paths = [Path(run).resolve() for run in runs if Path(run).is_dir()]
    names = {run.rstrip("/") for run in runs if not Path(run).is_dir()}
    accounts: dict[str, JournalAccount] = {}
    searched = paths if paths and not names else [*paths, folder]
    for journal in find_journals(searched):
        try:
            account = journal_account(journal)
        except ValueError as error:
            click.echo(f"{journal} is left out: {error}", err=True)
            continue
        if account is not None and _is_meant(account, runs, paths, names):
            accounts[str(journal)] = account
    there = {account.identity.writer for account in accounts.values()}
    for directory in dict.fromkeys([*searched, *(path.parent for path in paths)]):
        for account in removed_accounts(directory.resolve()):
            # One that is there as well was being removed just now, or is a copy.
            if account.identity.writer not in there and _is_meant(account, runs, paths, names):
                accounts[str(account.journal)] = account
    return list(accounts.values())


def _is_meant(account: "JournalAccount", runs: Sequence[str], paths: Sequence[Path], names: Collection[str]) -> bool:
    """Whether it is of one of these runs, or below one of these paths; all are meant where none is named."""
    identity, journal = account.identity, account.journal
    known = {identity.run_id, f"{identity.project}/{identity.run_id}", journal.parent.name}
    return (
        not runs
        or any(path in journal.parents or path == journal for path in paths)
        or not known.isdisjoint(names)
        or any(Path(name).name == journal.parent.name for name in names)
    )


def _kafka(journals: Sequence["JournalAccount"]) -> "KafkaReading":
    from kafka.errors import KafkaError

    from pulsetrain.forwarder.account import kafka_account
    from pulsetrain.forwarder.process import configure_logging
    from pulsetrain_schemas.published import framing

    configure_logging(quiet=True)
    try:
        address = addresses.kafka()
    except addresses.AddressError as error:
        raise UserError(str(error)) from error
    if address is None:
        raise UserError("no Kafka is known; set PULSETRAIN_KAFKA=host:port, run pulsetrain up, or give --skip kafka")
    try:
        return kafka_account([account.identity for account in journals], address.client_config(), framing(patience=0))
    except (KafkaError, OSError) as error:
        raise UserError(f"Kafka at {address} cannot be read: {error}; is it up? --skip kafka leaves it out") from error


def _stored(journals: Sequence["JournalAccount"], reading: "KafkaReading | None", wait: float) -> list[Line]:
    """The lines with what ClickHouse has, asked again for a while as long as something is missing there."""
    deadline = time.monotonic() + wait
    with _api() as api:
        while True:
            lines = _lines(journals, reading, _ask(api, journals))
            if not any(line.missing(line.stored) for line in lines) or time.monotonic() > deadline:
                return lines
            time.sleep(0.2)


def _api() -> Any:
    for point in entry_points(group="pulsetrain.api", name="Api"):
        try:
            return point.load()()
        except ImportError as error:
            raise UserError(
                f"ClickHouse cannot be read without {error.name}: pip install 'pulsetrain[consumers]', "
                "or give --skip clickhouse"
            ) from error
    raise UserError("ClickHouse cannot be read: pip install 'pulsetrain[consumers]', or give --skip clickhouse")


def _ask(api: Any, journals: Sequence["JournalAccount"]) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for project in sorted({account.identity.project for account in journals}):
        runs = sorted({a.identity.run_id for a in journals if a.identity.project == project})
        for account in api.account(project, runs):
            found[account.writer] = {
                "rows": account.stored_rows,
                "points": account.stored_points,
                "texts": account.stored_texts,
            }
    return found


def _lines(
    journals: Sequence["JournalAccount"],
    reading: "KafkaReading | None",
    stored: Mapping[str, Counts] | None,
) -> list[Line]:
    nothing = dict.fromkeys(COUNTS, 0)
    lines = []
    for account in journals:
        writer = account.identity.writer
        logged = {name: getattr(account.counters, name) for name in COUNTS}
        kafka = None
        if reading is not None:
            kafka = {name: getattr(reading.writers[writer], name) for name in COUNTS}
            if (reading.expired and reading.writers[writer].covered.gaps) or (reading.expired and not kafka["rows"]):
                kafka = None  # retention has taken the beginning: what is left says nothing of a loss
        lines.append(Line(account, logged, kafka, None if stored is None else stored.get(writer, nothing)))
    return lines


def _row(line: Line) -> dict[str, Any]:
    identity, damage = line.account.identity, line.account.damage
    return {
        "project": identity.project,
        "run_id": identity.run_id,
        "writer": identity.writer,
        "role": identity.role,
        "journal": dict(line.logged),
        "kafka": None if line.kafka is None else dict(line.kafka),
        "clickhouse": None if line.stored is None else dict(line.stored),
        "missing_in_kafka": line.missing(line.kafka),
        "missing_in_clickhouse": line.missing(line.stored),
        "acknowledged": line.account.complete,
        "removed": line.account.removed,
        "damage": None if damage is None else damage.reason,
        "path": str(line.account.journal),
    }


def _table(lines: Sequence[Line]) -> str:
    header = ("run", "writer", "what", "logged", "Kafka", "ClickHouse", "missing")
    rows = [header, *(_cells(line) for line in lines)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    shown = []
    for row in rows:
        cells = [row[i].ljust(widths[i]) if i < 3 else row[i].rjust(widths[i]) for i in range(len(header))]
        shown.append("  ".join(cells).rstrip())
    return "\n".join(shown)


def _cells(line: Line) -> tuple[str, ...]:
    identity = line.account.identity
    missing = max(line.missing(line.kafka), line.missing(line.stored))
    return (
        f"{identity.project}/{identity.run_id}",
        identity.writer[:8],
        ("machine" if identity.role == "system" else "history") + ("" if line.account.removed is None else ", removed"),
        *(_points(counts) for counts in (line.logged, line.kafka, line.stored)),
        f"{missing:,}",
    )


def _points(counts: Counts | None) -> str:
    if counts is None:
        return "-"
    return f"{counts['points']:,}" + (f" + {counts['texts']:,} texts" if counts["texts"] else "")


def _verdict(lines: Sequence[Line], reading: "KafkaReading | None") -> str:
    points = sum(line.logged["points"] + line.logged["texts"] for line in lines)
    said = list(_complaints(lines))
    if reading is not None and reading.undecodable:
        said.append(f"{reading.undecodable:,} messages of these runs in Kafka could not be decoded")
    if not said:
        removed = sum(line.account.removed is not None for line in lines)
        gone = f"; {removed} of them Kafka had confirmed and they were removed since" if removed else ""
        return f"nothing is missing: {points:,} points of {len(lines)} journals are where they should be{gone}"
    return "\n".join(said)


def _complaints(lines: Sequence[Line]) -> Iterator[str]:
    for line in lines:
        name = f"{line.account.identity.run_id}, writer {line.account.identity.writer[:8]}"
        in_kafka, in_tables = line.missing(line.kafka), line.missing(line.stored)
        if in_kafka:
            hint = "" if line.account.complete else ": not all is sent yet, `pulsetrain sync` sends it"
            yield f"{name}: {in_kafka:,} of {line.logged['points'] + line.logged['texts']:,} are not in Kafka{hint}"
        if in_tables > in_kafka:
            yield f"{name}: {in_tables:,} are not in ClickHouse: does the writer run? `pulsetrain status` says"
        damage = line.account.damage
        if line.damaged and damage is not None:
            yield (
                f"{name}: the journal is damaged at byte {damage.offset} of segment {damage.segment} "
                f"({damage.reason}); {damage.bytes_left:,} bytes from there on cannot be read"
            )
