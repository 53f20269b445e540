"""Messages of one partition, waiting to become a batch."""

from collections import deque
from dataclasses import dataclass
from typing import Generic

from pulsetrain_consumers.runtime.broker import Record
from pulsetrain_consumers.runtime.progress import OffsetRange
from pulsetrain_consumers.runtime.sink import M, Message, Rejected


@dataclass(frozen=True, slots=True)
class Limits:
    """When a batch is full, and how old its first message may grow before it is cut though it is not.

    `rows` stays under ClickHouse's min_insert_block_size_rows (1,048,449), with room for one message more, so that an
    insert is one block. The total bounds what all partitions together may hold before they are paused.
    """

    rows: int = 500_000
    payload_bytes: int = 24 << 20
    messages: int = 4_000
    max_age: float = 0.25
    total_rows: int = 1_500_000
    total_bytes: int = 64 << 20


@dataclass(slots=True, eq=False)
class _Entry(Generic[M]):
    offset: int
    size: int
    message: Message[M] | None
    rejected: Rejected | None

    @property
    def rows(self) -> int:
        return self.message.rows if self.message else 0


@dataclass(frozen=True, slots=True, eq=False)
class Cut(Generic[M]):
    """What was taken out of a buffer: adjacent messages, and the offsets that they span."""

    range: OffsetRange
    messages: list[Message[M]]
    rejected: list[Rejected]
    rows: int
    payload_bytes: int


class Buffer(Generic[M]):
    """Messages in the order of their offsets; counts rows and bytes, and knows since when the first one waits."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._entries: deque[_Entry[M]] = deque()
        self.rows = 0
        self.payload_bytes = 0
        self.since: float | None = None

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, record: Record, message: Message[M] | None, rejected: Rejected | None, now: float) -> None:
        size = len(record.value or b"") + len(record.key or b"")
        entry = _Entry(record.offset, size, message, rejected)
        self._entries.append(entry)
        self.rows += entry.rows
        self.payload_bytes += size
        if self.since is None:
            self.since = now

    @property
    def full(self) -> bool:
        limits = self._limits
        return (
            self.rows >= limits.rows
            or self.payload_bytes >= limits.payload_bytes
            or len(self._entries) >= limits.messages
        )

    def due(self, now: float) -> bool:
        return self.full or (self.since is not None and now - self.since >= self._limits.max_age)

    def cut(self, now: float) -> Cut[M]:
        """Takes as many messages as make one batch, at least one. The rest has waited since `now`."""
        taken: list[_Entry[M]] = []
        rows = size = 0
        limits = self._limits
        while self._entries and len(taken) < limits.messages:
            entry = self._entries[0]
            if taken and (rows + entry.rows > limits.rows or size + entry.size > limits.payload_bytes):
                break
            taken.append(self._entries.popleft())
            rows += entry.rows
            size += entry.size
        return self._took(taken, OffsetRange(taken[0].offset, taken[-1].offset), now)

    def cut_range(self, wanted: OffsetRange, now: float) -> Cut[M]:
        """Takes exactly the messages of a range, however large: what was announced before a crash decides it."""
        taken: list[_Entry[M]] = []
        while self._entries and self._entries[0].offset <= wanted.last:
            taken.append(self._entries.popleft())
        return self._took(taken, wanted, now)

    def _took(self, taken: list[_Entry[M]], span: OffsetRange, now: float) -> Cut[M]:
        rows = sum(entry.rows for entry in taken)
        size = sum(entry.size for entry in taken)
        self.rows -= rows
        self.payload_bytes -= size
        self.since = now if self._entries else None
        return Cut(
            span,
            [entry.message for entry in taken if entry.message],
            [entry.rejected for entry in taken if entry.rejected],
            rows,
            size,
        )
