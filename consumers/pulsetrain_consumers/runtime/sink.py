"""What a service brings to the runtime: how to read a message, and how to store batches of them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, Protocol, TypeVar

from pulsetrain_consumers.runtime.broker import Partition, Record
from pulsetrain_consumers.runtime.progress import OffsetRange

M = TypeVar("M")


class Unprocessable(Exception):
    """A message that can never be stored. `reason` is one of undecodable, unknown_schema, invalid, refused."""

    def __init__(self, reason: str, error: str) -> None:
        super().__init__(reason, error)
        self.reason = reason
        self.error = error


class StoreUnavailable(Exception):
    """The store cannot take the batches now; they are to be given again, unchanged. The text says why."""


class Rejected(NamedTuple):
    """A record that goes to the dead letters, and why."""

    record: Record
    reason: str
    error: str


@dataclass(frozen=True, slots=True, eq=False)
class Message(Generic[M]):
    """A decoded record. `rows` is how many rows it may become, for the size of batches."""

    record: Record
    body: M
    rows: int


@dataclass(slots=True, eq=False)
class Batch(Generic[M]):
    """A range of offsets of one partition: the unit that is stored once.

    `assignment` changes whenever the partition comes to this consumer anew; what was remembered about the partition
    under another one may be out of date. `abandoned` is set when the partition goes away while the batch is stored.
    """

    partition: Partition
    range: OffsetRange
    token: str
    assignment: int
    messages: list[Message[M]]
    rejected: list[Rejected]
    rows: int
    payload_bytes: int
    abandoned: bool = field(default=False)


class Sink(Protocol[M]):
    """Stores messages. `decode` is called on the loop's thread, `store` on the storing thread, one call at a time."""

    def decode(self, record: Record) -> Message[M]:
        """Reads a record. Raises Unprocessable; StoreUnavailable where that cannot be told now (no schema registry)."""

    def store(self, batches: Sequence[Batch[M]]) -> Sequence[Rejected]:
        """Stores batches, each under its token, and returns once they are safe; what it refused, message by message.

        Called again with the same batches after StoreUnavailable, and by another process after a crash: equal batches
        must become equal rows. Abandoned batches may be left out.
        """

    def check(self) -> None:
        """Returns when the store can be reached. Raises StoreUnavailable."""
