"""Kafka in memory, for tests: topics, consumer groups with generations, committed offsets.

One contract suite holds it to the same behaviour as the real one. Nothing happens by itself: a member that is to leave
its group is thrown out with `expel`, records expire with `expire`, the broker is away while `away` is set.
"""

import itertools
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from pulsetrain_consumers.runtime.broker import (
    Assigned,
    BrokerUnavailable,
    Clock,
    CommitRefused,
    LogRange,
    MessageTooLarge,
    Partition,
    Polled,
    Position,
    Record,
    Revoked,
    SystemClock,
)


@dataclass(slots=True)
class _Log:
    first: int = 0
    records: list[Record] = field(default_factory=list)

    @property
    def end(self) -> int:
        return self.first + len(self.records)


@dataclass(slots=True)
class _Topic:
    id: str
    logs: dict[Partition, _Log]
    max_message_bytes: int


@dataclass(slots=True)
class _Group:
    generation: int = 0
    members: dict[int, "MemoryConsumer"] = field(default_factory=dict)
    assignment: dict[int, frozenset[Partition]] = field(default_factory=dict)
    committed: dict[Partition, Position] = field(default_factory=dict)


class MemoryBroker:
    """A broker. It is its own publisher, and makes consumers with `consumer`."""

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock if clock is not None else SystemClock()
        self.topics: dict[str, _Topic] = {}
        self._groups: dict[str, _Group] = {}
        self._members = itertools.count()
        self.away = False

    def create_topic(self, name: str, partitions: int, max_message_bytes: int = 8 << 20) -> None:
        logs = {Partition(name, number): _Log() for number in range(partitions)}
        self.topics[name] = _Topic(str(uuid.uuid4()), logs, max_message_bytes)

    def delete_topic(self, name: str) -> None:
        """Deletes a topic; what groups have committed for it stays, as it does for a while in Kafka."""
        del self.topics[name]

    def append(self, partition: Partition, value: bytes | None, key: bytes | None = None) -> int:
        """Adds a message to a partition of the caller's choice; its offset."""
        log = self.log(partition)
        offset = log.end
        log.records.append(Record(partition, offset, int(self._clock.now() * 1e6), key, value))
        return offset

    def publish(self, topic: str, messages: Sequence[tuple[bytes | None, bytes]]) -> None:
        self.answer()
        found = self.topics[topic]
        if any(len(value) + len(key or b"") > found.max_message_bytes for key, value in messages):
            raise MessageTooLarge(f"a message is larger than {topic} takes ({found.max_message_bytes} bytes)")
        partitions = sorted(found.logs)
        for key, value in messages:
            self.append(partitions[sum(key or b"") % len(partitions)], value, key)

    def records(self, topic: str) -> list[Record]:
        """Everything in a topic, partition by partition."""
        return [record for _, log in sorted(self.topics[topic].logs.items()) for record in log.records]

    def expire(self, partition: Partition, first: int) -> None:
        """Deletes everything before offset `first`."""
        log = self.log(partition)
        del log.records[: first - log.first]
        log.first = first

    def cut_back(self, partition: Partition, end: int) -> None:
        """Loses everything from offset `end` on, as an unclean election does."""
        log = self.log(partition)
        del log.records[end - log.first :]

    def group_position(self, group: str, partition: Partition) -> Position | None:
        return self._groups[group].committed.get(partition)

    def set_group_position(self, group: str, partition: Partition, position: Position) -> None:
        """What an operator does who resets offsets by hand."""
        self._groups[group].committed[partition] = position

    def consumer(self, group: str, topics: Sequence[str]) -> "MemoryConsumer":
        """A new member of the group."""
        found = self._groups.setdefault(group, _Group())
        member = MemoryConsumer(self, found, next(self._members), topics)
        found.members[member.number] = member
        self.rebalance(found)
        return member

    def expel(self, consumer: "MemoryConsumer") -> None:
        """Throws a member out, as the broker does with one that is silent; it learns so when it polls next."""
        for group in self._groups.values():
            if group.members.pop(consumer.number, None) is not None:
                self.rebalance(group)

    def members(self) -> list["MemoryConsumer"]:
        """The members of all groups."""
        return [member for group in self._groups.values() for member in group.members.values()]

    def close(self) -> None:
        """Nothing to free: publishers and consumers of this broker share its memory."""

    def rebalance(self, group: _Group) -> None:
        """Begins a new generation: deals all partitions out to the members in turn."""
        group.generation += 1
        group.assignment = {number: frozenset() for number in group.members}
        wanted = sorted({topic for member in group.members.values() for topic in member.topics} & set(self.topics))
        partitions = [partition for topic in wanted for partition in sorted(self.topics[topic].logs)]
        for partition, number in zip(partitions, itertools.cycle(sorted(group.members)), strict=False):
            group.assignment[number] |= {partition}

    def log(self, partition: Partition) -> _Log:
        """What a partition holds. Raises BrokerUnavailable where there is no such partition."""
        try:
            return self.topics[partition.topic].logs[partition]
        except KeyError:
            raise BrokerUnavailable(f"there is no {partition}") from None

    def answer(self) -> None:
        """Raises BrokerUnavailable while the broker is away."""
        if self.away:
            raise BrokerUnavailable("the broker is away")


class MemoryConsumer:
    """A member of a group of a MemoryBroker. `max_records` bounds one poll."""

    def __init__(self, broker: MemoryBroker, group: _Group, number: int, topics: Sequence[str]) -> None:
        self.number = number
        self.topics = tuple(topics)
        self.max_records = 500
        self._broker = broker
        self._group = group
        self._generation = -1
        self._assigned: frozenset[Partition] = frozenset()
        self._positions: dict[Partition, int] = {}
        self._paused: set[Partition] = set()

    def poll(self, timeout: float) -> Polled:
        del timeout  # nothing arrives while a test waits
        if self._broker.away:
            return Polled()
        rebalances = self._join()
        return Polled(rebalances, self._fetch())

    def seek(self, partition: Partition, offset: int) -> None:
        if partition in self._assigned:
            self._positions[partition] = offset

    def pause(self, partitions: Iterable[Partition]) -> None:
        self._paused |= set(partitions) & self._assigned

    def resume(self, partitions: Iterable[Partition]) -> None:
        self._paused -= set(partitions)

    def commit(self, positions: Mapping[Partition, Position]) -> None:
        self._broker.answer()
        if self._generation != self._group.generation or self.number not in self._group.members:
            raise CommitRefused("the group is at another generation")
        self._group.committed.update(positions)

    def committed(self, partition: Partition) -> Position | None:
        self._broker.answer()
        return self._group.committed.get(partition)

    def log_range(self, partition: Partition) -> LogRange:
        self._broker.answer()
        log = self._broker.log(partition)
        return LogRange(log.first, log.end)

    def topic_id(self, topic: str) -> str | None:
        found = self._broker.topics.get(topic)
        return None if found is None else found.id

    def known_end(self, partition: Partition) -> int | None:
        return self._broker.log(partition).end if partition in self._positions else None

    def problem(self) -> str | None:
        return "the broker is away" if self._broker.away else None

    def close(self) -> None:
        self._broker.expel(self)

    def _join(self) -> list[Assigned | Revoked]:
        if self.number not in self._group.members:
            # Thrown out: joins anew, as kafka-python does when it polls.
            self._group.members[self.number] = self
            self._broker.rebalance(self._group)
        if self._generation == self._group.generation:
            return []
        self._generation = self._group.generation
        rebalances: list[Assigned | Revoked] = [Revoked(self._assigned)] if self._assigned else []
        self._assigned = self._group.assignment[self.number]
        self._positions = {}
        self._paused = set()
        return [*rebalances, Assigned(self._assigned)]

    def _fetch(self) -> list[Record]:
        records: list[Record] = []
        for partition, position in self._positions.items():
            if partition in self._paused or partition.topic not in self._broker.topics:
                continue
            log = self._broker.log(partition)
            if not log.first <= position <= log.end:
                position = log.first
            found = log.records[position - log.first :][: self.max_records - len(records)]
            records += found
            self._positions[partition] = position + len(found)
        return records
