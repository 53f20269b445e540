"""Journals as files that tests damage: one with every kind of record in several segments, and what it holds."""

import math
from pathlib import Path
from typing import Any

from pulsetrain.journal.format import START, Position, segment_path
from pulsetrain.journal.reader import Damage, Item, JournalReader, RowBlock, TextRow
from pulsetrain.journal.writer import JournalWriter

WRITER = "0123456789abcdef" * 2
SEGMENT_BYTES = 4096
Record = tuple[Any, ...]
"""One record, comparable: its sequence first, numbers as text so that NaN is equal to itself."""


def flat(items: list[Item]) -> list[Record]:
    """Records one by one."""
    records: list[Record] = []
    for item in items:
        if isinstance(item, RowBlock):
            for i, sequence in enumerate(item.sequences.tolist()):
                values = tuple(repr(value) for value in item.values[i].tolist())
                records.append((sequence, int(item.steps[i]), repr(float(item.times[i])), item.keys, values))
        elif isinstance(item, TextRow):
            records.append((item.sequence, item.step, repr(item.time), repr(item.numbers), repr(item.texts)))
        else:
            records.append((item.sequence, repr(item.time), item.kind, repr(item.data)))
    return records


def read_all(directory: Path, max_bytes: int = 1 << 20, position: Position = START) -> Any:
    """The records from a position on, and the closed reader."""
    with JournalReader(directory, position) as reader:
        items: list[Item] = []
        while more := reader.read(max_bytes):
            items += more
    return flat(items), reader


def varied(directory: Path, writer: str = WRITER, rounds: int = 19) -> JournalWriter:
    """Rows of several shapes in turn and in a run, texts, events, in segments of 4 KiB; open still."""
    journal = JournalWriter(directory, writer=writer, segment_bytes=SEGMENT_BYTES)
    journal.event("start", {"project": "숫자", "tags": ["a", "b"], "environment": {"python": "3.11"}}, 1.0)
    for step in range(rounds):
        journal.row(("loss", "정확도"), (0.5 * step, math.nan), step, 2.0 + step)
        if step % 2:
            journal.row(("val",), (-math.inf,), step, 2.0 + step)
        if step % 5 == 0:
            journal.row((), (), step, 3.0)
            journal.text_row({"x": 1.0, "y": -0.0}, {"t": '"é, 한국어"'}, step, 3.0)
        if step % 7 == 0:
            journal.event("config", {"config": {"model": {"layers": [1, {"deep": [None, True]}]}}}, 4.0)
        for _ in range(3):
            journal.row(("a", "b", "c"), (step, True, 1e-300), -step, 5.0)
    journal.event("finish", {"state": "finished", "exit_code": 0}, 6.0, last=True)
    return journal


def contents(directory: Path) -> dict[int, bytes]:
    """The bytes of each segment, by its number."""
    return {int(path.stem): path.read_bytes() for path in directory.glob("*.journal")}


def lay_out(directory: Path, segments: dict[int, bytes]) -> None:
    """Makes these the segments of a journal, in place of those there."""
    directory.mkdir(parents=True, exist_ok=True)
    for path in directory.glob("*.journal"):
        path.unlink()
    for number, data in segments.items():
        segment_path(directory, number).write_bytes(data)


def check_account(damage: Damage | None, reader: JournalReader, segments: dict[int, bytes]) -> None:
    """Holds what a reader says that it left against the files."""
    place = reader.position
    behind = segments.get(place.segment, b"")[place.offset :].rstrip(b"\0")
    later = [data for number, data in segments.items() if number > place.segment and data[64:72].strip(b"\0")]
    if damage is None:
        assert not later
        return
    assert (damage.segment, damage.offset) == place
    assert damage.reason
    assert damage.bytes_left in (len(behind) + sum(map(len, later)), sum(map(len, later)))
    assert not (damage.torn and later)
