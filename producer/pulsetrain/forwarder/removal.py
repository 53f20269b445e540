"""Takes journals off the disk that Kafka has, so that whatever moment this is broken off at, the next look goes on.

What is removed leaves a line in `removed.jsonl` in the directory of the runs: whose it was and what it counted, so that
`pulsetrain verify` goes on comparing it with the tables, and a run that is resumed knows its last step. The line is on
the disk before anything goes. Then the journal's folder gets a name by which nobody takes it for a journal, and then
its files go. Nothing that Kafka has not confirmed, that is damaged, or that somebody sends, is touched.
"""

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pulsetrain.forwarder.acknowledgement import Counters
from pulsetrain.forwarder.checkpoint import BASE_FILE, Checkpoint, make_base
from pulsetrain.forwarder.durability import sync_path
from pulsetrain.forwarder.ownership import Ownership
from pulsetrain.forwarder.pump import confirmed_of
from pulsetrain.forwarder.tail import Identity, Tail, read_identity
from pulsetrain.journal.format import segment_path
from pulsetrain.journal.writer import OUT_OF_SPACE

LEDGER_FILE = "removed.jsonl"
TRASH_PREFIX = ".removed-"
OWNED = "a forwarder, or a sync, has it"


class Kept(Exception):
    """Why a journal stays where it is."""


@dataclass(frozen=True, slots=True)
class Removed:
    """A line of the ledger."""

    folder: str
    """The name of the run's folder."""
    identity: Identity
    start: dict[str, Any]
    """The data of the start record, without the environment."""
    counters: Counters
    sequence: int
    last_step: int | None
    exit_code: int | None
    """None where the run did not come to an end by itself."""
    time: float
    """When it was removed, in seconds since the epoch."""

    def encode(self) -> bytes:
        """The line, its end included."""
        document = {
            "version": 1,
            "folder": self.folder,
            "start": self.start,
            "rows": self.counters.rows,
            "points": self.counters.points,
            "texts": self.counters.texts,
            "sequence": self.sequence,
            "last_step": self.last_step,
            "exit_code": self.exit_code,
            "time": self.time,
        }
        return json.dumps(document, separators=(",", ":")).encode() + b"\n"

    @classmethod
    def decode(cls, line: bytes) -> "Removed":
        """Reads it back; ValueError where it is not whole."""
        try:
            found = json.loads(line)
            return cls(
                str(found["folder"]),
                Identity.of_start(found["start"]),
                found["start"],
                Counters(int(found["rows"]), int(found["points"]), int(found["texts"])),
                int(found["sequence"]),
                found["last_step"],
                found["exit_code"],
                float(found["time"]),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"the line is not understood: {error!r}") from None


def removed(directory: Path) -> dict[str, Removed]:
    """By writer, what was removed from this directory of runs. A line that is not whole is passed over."""
    try:
        lines = (directory / LEDGER_FILE).read_bytes().splitlines()
    except (FileNotFoundError, NotADirectoryError):
        return {}
    found = {}
    for line in lines:
        with contextlib.suppress(ValueError):
            entry = Removed.decode(line)
            found[entry.identity.writer] = entry
    return found


def remove(journal: Path, now: float | None = None) -> Removed:
    """Removes a journal that Kafka has wholly, and the run's folder when nothing else is in it.

    Kept says why it stays. OSError where it cannot be removed; then as much of it is there as a next try needs.
    """
    ownership = Ownership.take(journal)
    if ownership is None:
        raise Kept(OWNED)
    try:
        entry = check(journal, now)
        try:
            _write_down(journal.parent.parent, entry)
            written = True
        except OSError as error:
            if error.errno not in OUT_OF_SPACE:
                raise
            written = False  # what is removed now makes the room for it
        trash = journal.with_name(TRASH_PREFIX + journal.name)
        journal.rename(trash)
    finally:
        ownership.release()
    discard(trash)
    if not written:
        _write_down(journal.parent.parent, entry)
    return entry


def check(journal: Path, now: float | None = None) -> Removed:
    """What the ledger would say of it; Kept where it must not be removed."""
    try:
        identity = read_identity(journal)
    except ValueError as error:
        raise Kept(str(error)) from None
    if identity is None:
        raise Kept("it has no record")
    acknowledged = confirmed_of(journal)
    if not acknowledged.complete:
        raise Kept("not all of it is in Kafka")
    tail = Tail(journal)
    tail.read_all()
    tail.close()
    if tail.damage is not None and not tail.damage.torn:
        raise Kept(f"it is damaged: {tail.damage.reason}")
    start = {key: value for key, value in tail.start.items() if key != "environment"}
    exit_code = None if tail.finish is None else tail.finish.get("exit_code")
    return Removed(
        journal.parent.name,
        identity,
        start,
        acknowledged.counters,
        acknowledged.sequence,
        tail.last_step,
        exit_code,
        time.time() if now is None else now,
    )


def remove_empty(journal: Path) -> None:
    """Removes a journal without a record: its process died before the run began. Kept where it has one."""
    ownership = Ownership.take(journal)
    if ownership is None:
        raise Kept(OWNED)
    try:
        if read_identity(journal) is not None:
            raise Kept("it has records")
        trash = journal.with_name(TRASH_PREFIX + journal.name)
        journal.rename(trash)
    finally:
        ownership.release()
    discard(trash)


def remove_segments(journal: Path, before: int) -> Iterator[int]:
    """Removes, oldest first, the segments before number `before` that a checkpoint stands for; gives each number.

    The checkpoint outlasts a loss of power before the first of them goes. A reader that has one open reads it to its
    end, and goes on at the checkpoint.
    """
    checkpoint = Checkpoint.load(journal)
    if checkpoint is None:
        return
    before = min(before, checkpoint.position.segment)
    numbers = sorted(int(path.stem) for path in journal.glob("*.journal") if path.stem.isdecimal())
    if not any(number < before for number in numbers):
        return
    base = Checkpoint.load(journal, BASE_FILE)
    if base is None or base.position.segment < before:
        base = make_base(journal)
    for number in numbers:
        if base is not None and number < min(before, base.position.segment):
            segment_path(journal, number).unlink(missing_ok=True)
            yield number


def discard(trash: Path) -> None:
    """Deletes what is left of a journal that was removed, and the run's folder when nothing else is in it."""
    with contextlib.suppress(FileNotFoundError):  # another process is at it
        for path in sorted(trash.iterdir()):
            path.unlink(missing_ok=True)
        trash.rmdir()
    run = trash.parent
    for folder in (run / "files", run):
        with contextlib.suppress(OSError):  # something of the person's is in it
            folder.rmdir()


def _write_down(directory: Path, entry: Removed) -> None:
    """Appends the line, once, and has it outlast a loss of power."""
    path = directory / LEDGER_FILE
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        size = os.fstat(descriptor).st_size
        line = entry.encode()
        if size and os.pread(descriptor, 1, size - 1) != b"\n":
            line = b"\n" + line  # a full disk has cut the last one short
        if os.write(descriptor, line) != len(line):
            os.ftruncate(descriptor, size)
            raise OSError(28, "no room for the ledger", str(path))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    if not size:
        sync_path(directory)
