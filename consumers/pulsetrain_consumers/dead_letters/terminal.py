"""Letters on a terminal, and as JSON. What a message held is shown and never obeyed."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, TextIO

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from pulsetrain_consumers.dead_letters.catalogue import Entry, Kind
from pulsetrain_consumers.dead_letters.preview import Preview
from pulsetrain_consumers.reading.formats.base import as_json
from pulsetrain_consumers.reading.formats.table import harmless
from pulsetrain_schemas.topics import PREFIX

_PLAIN_WIDTH = 200
_ERROR_CHARACTERS = 120


@dataclass(frozen=True, slots=True)
class View:
    """What `show` shows of a letter. `note` says why its payload is not whole."""

    entry: Entry
    preview: Preview
    before: Sequence[Entry]
    note: str | None


def safe(text: str) -> str:
    """The text in one line that no terminal obeys."""
    return harmless(text).replace("\n", "\\n").replace("\t", "\\t")


def print_list(kinds: Sequence[Kind], shown: Sequence[Entry], out: TextIO, state: str) -> None:
    """The count by reason, then the letters."""
    if not kinds:
        out.write("no letters\n" if state == "any" else f"no letters are {state}\n")
        return
    print_kinds(kinds, out)
    if not shown:
        return
    total = sum(kind.letters for kind in kinds)
    table = _table("letter", "put aside", "reason", "state", "bytes", "key", "error")
    for entry in shown:
        table.add_row(
            Text(safe(str(entry.id)), style="bold"),
            _time(entry.put_aside),
            Text(safe(entry.reason)),
            Text(safe(entry.state)),
            Text("" if entry.payload_bytes is None else f"{entry.payload_bytes:,}"),
            Text(safe(_key(entry.key) or "")),
            Text(_short(entry.error)),
        )
    console = _console(out)
    console.print(table)
    if total > len(shown):
        console.print(Text(f"the newest {len(shown):,} of {total:,}; --limit shows more, --reason and --topic fewer"))


def print_kinds(kinds: Sequence[Kind], out: TextIO) -> None:
    """How many letters there are of each kind."""
    if not kinds:
        return
    table = _table("reason", "topic", "state", "letters", "oldest", "newest", "such as")
    for kind in kinds:
        table.add_row(
            Text(safe(kind.reason)),
            Text(safe(kind.topic.removeprefix(PREFIX))),
            Text(safe(kind.state)),
            Text(f"{kind.letters:,}"),
            _time(kind.oldest),
            _time(kind.newest),
            Text(_short(kind.error)),
        )
    _console(out).print(table)


def list_as_json(kinds: Sequence[Kind], shown: Sequence[Entry]) -> str:
    """One object: the total, the kinds, the letters."""
    return _dump(
        {
            "total": sum(kind.letters for kind in kinds),
            "kinds": [asdict(kind) for kind in kinds],
            "letters": [_facts(entry) for entry in shown],
        }
    )


def print_views(views: Sequence[View], out: TextIO) -> None:
    """All about each letter."""
    console = _console(out)
    for number, view in enumerate(views):
        if number:
            console.print()
        _print_view(view, console)


def views_as_json(views: Sequence[View]) -> str:
    """An array of objects."""
    return _dump(
        [
            _facts(view.entry)
            | {
                "payload": asdict(view.preview),
                "note": view.note,
                "replayed_before": [str(entry.id) for entry in view.before],
            }
            for view in views
        ]
    )


@contextmanager
def progress(total: int, out: TextIO) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal, for what takes longer than a moment; nothing elsewhere."""
    console = Console(file=out)
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("letters"), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not out.isatty()) as bar:
        task = bar.add_task("", total=total)
        yield lambda done: bar.update(task, completed=done)


def _print_view(view: View, console: Console) -> None:
    entry, preview = view.entry, view.preview
    console.print(Text.assemble((safe(str(entry.id)), "bold"), "  ", (safe(entry.state), "cyan")))
    pairs = {
        "reason": safe(entry.reason),
        "error": harmless(entry.error),
        "put aside": f"{_moment(entry.put_aside)} by {safe(entry.consumer_group)}",
        "sent": "" if entry.record_time is None else _moment(entry.record_time),
        "key": safe(_key(entry.key) or ""),
        "topic id": safe(entry.topic_id),
        entry.state: "" if entry.resolved is None else f"{_moment(entry.resolved)} by {safe(entry.resolved_by)}",
        "replayed before": ", ".join(safe(str(one.id)) for one in view.before),
        "payload": "nothing" if not preview.size else f"{preview.size:,} bytes",
        "note": safe(view.note or ""),
        "schema": "" if preview.schema is None else f"{preview.schema}, fingerprint {preview.fingerprint}",
        "problem": safe(preview.problem or ""),
        "text": harmless(preview.text or ""),
        "hex": preview.hex or "",
    }
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    for name, text in pairs.items():
        if text:
            table.add_row(Text(name), Text(text))
    for name, value in (preview.fields or {}).items():
        shown = value if isinstance(value, str) else json.dumps(as_json(value), ensure_ascii=False)
        table.add_row(Text(f"  {safe(name)}"), Text(harmless(shown)))
    console.print(table)


def _facts(entry: Entry) -> dict[str, Any]:
    return {
        "letter": str(entry.id),
        "topic": entry.id.topic,
        "partition": entry.id.partition,
        "offset": entry.id.offset,
        "topic_id": entry.topic_id,
        "state": entry.state,
        "reason": entry.reason,
        "error": entry.error,
        "put_aside": entry.put_aside,
        "record_time": entry.record_time,
        "resolved": entry.resolved,
        "resolved_by": entry.resolved_by,
        "consumer_group": entry.consumer_group,
        "key": _key(entry.key),
        "payload_bytes": entry.payload_bytes,
    }


def _key(key: bytes | None) -> str | None:
    return None if key is None else key.decode("utf-8", "backslashreplace")


def _short(text: str) -> str:
    shown = safe(text)
    return shown if len(shown) <= _ERROR_CHARACTERS else shown[: _ERROR_CHARACTERS - 1] + "…"


def _moment(moment: datetime) -> str:
    return moment.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def _time(moment: datetime) -> Text:
    return Text(_moment(moment), style="dim")


def _table(*names: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
    for name in names:
        table.add_column(name, justify="right" if name in ("letters", "bytes") else "left", overflow="fold")
    return table


def _dump(value: Any) -> str:
    return json.dumps(as_json(value), ensure_ascii=False, indent=2)


def _console(out: TextIO) -> Console:
    return Console(file=out, highlight=False, width=None if out.isatty() else _PLAIN_WIDTH)
