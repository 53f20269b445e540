"""How far a partition has come, as the committed offset and the text beside it say; and where to go on from there.

Before a batch is stored, its range of offsets is committed as pending, at the offset where it starts; afterwards its
end is. Whoever reads a pending range stores exactly that range again, under the same token, and ClickHouse keeps one of
the two. This is the scheme that ClickPipes published (ClickHouse/clickhouse-docs, pull request 6457), with Kafka's
group coordinator in place of its state store.

A token must never stand for two different contents, or ClickHouse would drop the second in silence. So it names the id
of the topic, which changes when a topic is deleted and created again, and an era, drawn anew whenever a partition is
not read on from where this group's own commit left it: reset by hand, truncated, or read for the first time.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Self

from pulsetrain_consumers.runtime.broker import LogRange, Partition, Position

_VERSION = 1


@dataclass(frozen=True, slots=True)
class OffsetRange:
    """Offsets `first` to `last`, both included."""

    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Progress:
    """What is committed beside the offset."""

    topic_id: str
    era: str
    pending: OffsetRange | None = None

    def position(self, offset: int) -> Position:
        """The commit that says: everything before `offset` is stored, and nothing is pending."""
        return Position(offset, _text(replace(self, pending=None)))

    def pending_position(self, pending: OffsetRange) -> Position:
        """The commit that must stand before the range is stored."""
        return Position(pending.first, _text(replace(self, pending=pending)))

    def token(self, partition: Partition, stored: OffsetRange) -> str:
        """The deduplication token of a batch."""
        return f"{self.topic_id}:{partition.number}:{stored.first}-{stored.last}:{self.era}"

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Reads the text back; None for an empty one or for another's, as after a reset of offsets by hand."""
        try:
            found = json.loads(text)
            if found["v"] != _VERSION:
                return None
            pending = OffsetRange(*map(int, found["pending"])) if found["pending"] else None
            return cls(str(found["topic"]), str(found["era"]), pending)
        except (ValueError, KeyError, TypeError):
            return None


def _text(progress: Progress) -> str:
    pending = [progress.pending.first, progress.pending.last] if progress.pending else None
    return json.dumps({"v": _VERSION, "topic": progress.topic_id, "era": progress.era, "pending": pending})


@dataclass(frozen=True, slots=True)
class Start:
    """Where to read on: from `offset`, and first of all exactly up to `replay` where that is not None.

    `expired` offsets were never stored and are gone; `note` says what was unusual, for the log, and is empty otherwise.
    """

    offset: int
    progress: Progress
    replay: OffsetRange | None = None
    expired: int = 0
    note: str = ""


def start(committed: Position | None, log: LogRange, topic_id: str, new_era: Callable[[], str]) -> Start:
    """Decides where to read on, from what was committed and what of the log there is."""
    if committed is None:
        return Start(log.first, Progress(topic_id, new_era()))
    found = Progress.parse(committed.metadata)
    if found is None:
        offset = min(max(committed.offset, log.first), log.end)
        return Start(offset, Progress(topic_id, new_era()), note="the offset was set by someone else")
    if found.topic_id != topic_id:
        note = "the topic was deleted and created again; it is read from its start"
        return Start(log.first, Progress(topic_id, new_era()), note=note)
    needed = found.pending.last + 1 if found.pending else committed.offset
    if needed > log.end:
        # What was written since lies below the offset, so all is read again; the sink knows what it has already.
        note = f"the log was cut back to offset {log.end}, before offset {needed}; it is read from its start"
        return Start(log.first, Progress(topic_id, new_era()), note=note)
    expired = max(0, log.first - committed.offset)
    note = f"{expired} offsets expired before they were stored" if expired else ""
    if found.pending and found.pending.last >= log.first:
        # Where the front of the range has expired, the rest still goes under the token of the whole: if the whole was
        # stored before the crash, the rest is in there.
        return Start(max(found.pending.first, log.first), found, found.pending, expired, note)
    return Start(max(committed.offset, log.first), replace(found, pending=None), None, expired, note)
