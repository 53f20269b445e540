"""What was removed of a directory of runs: a line for each journal, in `removed.jsonl`.

By it `pulsetrain verify` goes on comparing with the tables what is no longer there, and a run that is resumed knows its
attempts and its last step.
"""

import contextlib
import errno
import fcntl
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pulsetrain.forwarder.acknowledgement import Counters
from pulsetrain.forwarder.durability import sync_path
from pulsetrain.forwarder.tail import Identity

LEDGER_FILE = "removed.jsonl"


@dataclass(frozen=True, slots=True)
class Removed:
    """A line of the ledger."""

    folder: str
    """The name of the run's folder."""
    identity: Identity
    start: dict[str, Any]
    """The data of the start record, and of the environment which launch of the job it was."""
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


def write_down(directory: Path, entry: Removed) -> None:
    """Appends the line, and has it outlast a loss of power. OSError where there is no room for it."""
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
            raise OSError(errno.ENOSPC, "no room for the ledger", str(path))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    if not size:
        sync_path(directory)
