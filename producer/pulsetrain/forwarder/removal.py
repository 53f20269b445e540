"""Takes journals off the disk that Kafka has, so that whatever moment this is broken off at, the next look goes on.

What is removed leaves a line in the ledger of the directory of runs, on the disk before anything goes. Then the folder
of the journal gets a name by which nobody takes it for one, and then its files go. Nothing that Kafka has not
confirmed, that is damaged, or that somebody sends, is touched.
"""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

from pulsetrain.forwarder.checkpoint import BASE_FILE, Checkpoint, make_base
from pulsetrain.forwarder.ledger import Removed, write_down
from pulsetrain.forwarder.ownership import Ownership
from pulsetrain.forwarder.pump import confirmed_of
from pulsetrain.forwarder.tail import Tail, read_identity
from pulsetrain.journal.format import segment_path
from pulsetrain.journal.writer import OUT_OF_SPACE

TRASH_PREFIX = ".removed-"
OWNED = "a forwarder, or a sync, has it"


class Kept(Exception):
    """Why a journal stays where it is."""


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
            write_down(journal.parent.parent, entry)
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
        write_down(journal.parent.parent, entry)
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
    launch = tail.start.get("environment", {}).get("launch")
    start = {**tail.start, "environment": {} if launch is None else {"launch": launch}}
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
