"""What the runtime needs of Kafka, as a contract that has two implementations: `kafka` (the real one) and `memory`.

Rebalances come back from `poll`, in order, and not through callbacks: kafka-python calls its listeners on a thread of
its own, and what is told between two polls would otherwise meet half-done work.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol


class Partition(NamedTuple):
    """One partition of one topic, by the topic's name in Kafka. A tuple, for every record is looked up by it."""

    topic: str
    number: int

    def __str__(self) -> str:
        return f"{self.topic}[{self.number}]"


class Record(NamedTuple):
    """One message as Kafka holds it. `time` is in microseconds since the epoch, when the producer sent it.

    A tuple, for that is made in a third of the time of a frozen dataclass, and a flood of messages is a flood of these.
    """

    partition: Partition
    offset: int
    time: int
    key: bytes | None
    value: bytes | None


@dataclass(frozen=True, slots=True)
class Position:
    """A committed offset, the next one to read, and the text committed with it."""

    offset: int
    metadata: str = ""


@dataclass(frozen=True, slots=True)
class LogRange:
    """What of a partition there is: from `first` to before `end`."""

    first: int
    end: int


@dataclass(frozen=True, slots=True)
class Assigned:
    """These partitions are this consumer's from now on; they deliver nothing until `seek` has told from where."""

    partitions: frozenset[Partition]


@dataclass(frozen=True, slots=True)
class Revoked:
    """These partitions are another's, or nobody's: nothing about them may be committed any more."""

    partitions: frozenset[Partition]


@dataclass(frozen=True, slots=True)
class Polled:
    """What happened to the assignment, in order, and then the records that came, in order within each partition."""

    rebalances: Sequence[Assigned | Revoked] = ()
    records: Sequence[Record] = ()


class BrokerUnavailable(Exception):
    """Kafka did not answer, or not with what was asked for; the outcome is unknown. Try again with backoff."""


class CommitRefused(Exception):
    """The group has moved on: what was to be committed is no longer this consumer's to decide. Drop it, and poll."""


class MessageTooLarge(Exception):
    """The message is larger than its topic takes."""


class Consumer(Protocol):
    """A member of a consumer group, subscribed to topics. Belongs to one thread."""

    def poll(self, timeout: float) -> Polled:
        """Rebalances and records; waits up to `timeout` seconds for some. Never raises for a broker that is away."""

    def seek(self, partition: Partition, offset: int) -> None:
        """Delivers from `offset` on, for a partition that is assigned; a partition that is not is left alone."""

    def pause(self, partitions: Iterable[Partition]) -> None:
        """Delivers nothing of these until `resume`; membership of the group goes on. A rebalance forgets it."""

    def resume(self, partitions: Iterable[Partition]) -> None:
        """Ends `pause`."""

    def commit(self, positions: Mapping[Partition, Position]) -> None:
        """Commits all positions in one request. Raises CommitRefused, or BrokerUnavailable (perhaps committed)."""

    def committed(self, partition: Partition) -> Position | None:
        """What the group last committed for the partition. Raises BrokerUnavailable."""

    def log_range(self, partition: Partition) -> LogRange:
        """What of the partition there is now. Raises BrokerUnavailable."""

    def topic_id(self, topic: str) -> str | None:
        """The id that the broker gave this topic: another after it was deleted and created again. None: not known."""

    def known_end(self, partition: Partition) -> int | None:
        """The end of the partition as of the last fetch, without asking; None where there was none yet."""

    def problem(self) -> str | None:
        """Why the broker does not serve this consumer at the moment, for a person to read; None where it does."""

    def close(self) -> None:
        """Leaves the group."""


class Publisher(Protocol):
    """Writes messages to a topic. May be called from any thread."""

    def publish(self, topic: str, messages: Sequence[tuple[bytes | None, bytes]]) -> None:
        """Sends (key, value) pairs and returns once all of them are acknowledged by all replicas.

        Raises BrokerUnavailable (some may have arrived) or MessageTooLarge.
        """

    def close(self) -> None:
        """Frees the connection."""


class Clock(Protocol):
    """Time, passed in so that no test sleeps."""

    def now(self) -> float:
        """Seconds since the epoch."""

    def monotonic(self) -> float:
        """Seconds that never go back."""


class SystemClock:
    """The machine's time."""

    def now(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()
