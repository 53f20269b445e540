"""A checkpoint: all that a journal has taught up to a position, so that nobody need read what lies before that.

It stands beside `ack.json` as `checkpoint.json`, written when Kafka has confirmed everything before its position.
A forwarder that takes a journal over begins there. Segments before it may be removed: what stands for them then is a
second, synced copy, `base.json`, since without one of the two nobody would know whose journal the rest is.

A reader that finds neither, or none that is whole and of a version that it knows, begins with the first segment.
"""

import json
import os
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pulsetrain.forwarder.acknowledgement import Acknowledged
from pulsetrain.forwarder.durability import sync_path
from pulsetrain.forwarder.places import write_atomically
from pulsetrain.journal.format import Position

CHECKPOINT_FILE = "checkpoint.json"
BASE_FILE = "base.json"
VERSION = 1


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What is known at `acknowledged.position`, everything before which is in Kafka."""

    acknowledged: Acknowledged
    start: Mapping[str, Any]
    """The data of the journal's start record."""
    last_time: float
    """When the last record was written, in seconds since the epoch."""
    latest_time: float
    """The latest time of all records."""
    last_step: int | None
    """The highest step of the rows; None where there are none."""
    config: Mapping[str, Any]
    summary: Mapping[str, Any] | None
    """The state of the fold that makes the summary; None where nobody folded."""

    @property
    def position(self) -> Position:
        return self.acknowledged.position

    def encode(self) -> bytes:
        """A line with version and checksum, and a line with the content."""
        content = json.dumps(
            {
                "acknowledged": self.acknowledged.document(),
                "start": dict(self.start),
                "last_time": self.last_time,
                "latest_time": self.latest_time,
                "last_step": self.last_step,
                "config": dict(self.config),
                "summary": None if self.summary is None else dict(self.summary),
            },
            separators=(",", ":"),
        ).encode()
        return json.dumps({"version": VERSION, "crc32": zlib.crc32(content)}).encode() + b"\n" + content

    @classmethod
    def decode(cls, data: bytes) -> "Checkpoint":
        """Reads it back; ValueError where it is damaged, or of a version that this release does not know."""
        head, _, content = data.partition(b"\n")
        try:
            told = json.loads(head)
            if told["version"] != VERSION:
                raise ValueError(f"it has version {told['version']}, this release reads version {VERSION}")
            if told["crc32"] != zlib.crc32(content):
                raise ValueError("it does not match its checksum")
            found = json.loads(content)
            return cls(
                Acknowledged.of(found["acknowledged"]),
                found["start"],
                float(found["last_time"]),
                float(found.get("latest_time", found["last_time"])),
                found["last_step"],
                found["config"],
                found["summary"],
            )
        except (KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"it is not understood: {error!r}") from None

    @classmethod
    def load(cls, journal: Path, *names: str) -> "Checkpoint | None":
        """The newest that is whole, or the one in a file of this name; None where there is none."""
        for name in names or (CHECKPOINT_FILE, BASE_FILE):
            try:
                return cls.decode((journal / name).read_bytes())
            except (FileNotFoundError, NotADirectoryError, ValueError):
                continue
        return None

    def save(self, journal: Path) -> None:
        """Replaces `checkpoint.json` whole. It is not synced: the segments that it spares reading are still there."""
        write_atomically(journal / CHECKPOINT_FILE, self.encode())


def make_base(journal: Path) -> Checkpoint | None:
    """Makes the checkpoint of now outlast a loss of power, as `base.json`; segments before it may be removed then.

    It takes no room on the disk: the file gets a second name, and a newer checkpoint replaces the first alone.
    """
    try:
        checkpoint = Checkpoint.decode((journal / CHECKPOINT_FILE).read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    draft = journal / f".{BASE_FILE}.{os.getpid()}"
    draft.unlink(missing_ok=True)
    try:
        os.link(journal / CHECKPOINT_FILE, draft)
        checkpoint = Checkpoint.decode(draft.read_bytes())  # it may have been replaced meanwhile, by a newer one
    except OSError:  # a filesystem without second names
        draft.write_bytes(checkpoint.encode())
    try:
        sync_path(draft)
        draft.replace(journal / BASE_FILE)
    finally:
        draft.unlink(missing_ok=True)
    sync_path(journal)
    return checkpoint
