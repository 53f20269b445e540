"""The partitions that this consumer holds, and how far each of them is between Kafka and the store."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Generic

from pulsetrain_consumers.runtime.batching import Buffer, Limits
from pulsetrain_consumers.runtime.broker import Consumer, Partition, Position
from pulsetrain_consumers.runtime.progress import OffsetRange, Progress, Start, start
from pulsetrain_consumers.runtime.sink import Batch, M


@dataclass(slots=True, eq=False)
class Owned(Generic[M]):
    """One partition that is read. `next_offset` is the one expected next; `replay` is a range still to be repeated.

    `stored_end` is set between the moment in which a batch is stored and the commit that says so.
    """

    partition: Partition
    assignment: int
    progress: Progress
    next_offset: int
    replay: OffsetRange | None
    buffer: Buffer[M]
    stored_end: int | None = None
    stored_at: float = 0.0
    paused: bool = field(default=False)

    @property
    def replaying(self) -> bool:
        """Whether a range is to be repeated of which not all has been read: nothing may be cut before it is."""
        return self.replay is not None and self.next_offset <= self.replay.last

    def due(self, now: float) -> bool:
        if self.replay is not None:
            return not self.replaying
        return self.buffer.due(now)

    def cuttable(self) -> bool:
        return not self.replaying if self.replay is not None else len(self.buffer) > 0

    def cut(self, now: float) -> Batch[M]:
        """The next batch of this partition."""
        taken = self.buffer.cut_range(self.replay, now) if self.replay is not None else self.buffer.cut(now)
        self.replay = None
        return Batch(
            partition=self.partition,
            range=taken.range,
            token=self.progress.token(self.partition, taken.range),
            assignment=self.assignment,
            messages=taken.messages,
            rejected=taken.rejected,
            rows=taken.rows,
            payload_bytes=taken.payload_bytes,
        )

    def end_position(self) -> Position | None:
        """What is still to be committed of batches that are stored."""
        return None if self.stored_end is None else self.progress.position(self.stored_end)


class Ownership(Generic[M]):
    """Which partitions are assigned, and for which of them the place to read on from is known.

    Before the moment `locate_at`, on the clock that never goes back, nobody is to be asked for such places.
    """

    def __init__(self, consumer: Consumer, limits: Limits, new_era: Callable[[], str]) -> None:
        self._consumer = consumer
        self._limits = limits
        self._new_era = new_era
        self._owned: dict[Partition, Owned[M]] = {}
        self._unlocated: set[Partition] = set()
        self._assignments = 0
        self.locate_at = 0.0

    def __iter__(self) -> Iterator[Owned[M]]:
        return iter(self._owned.values())

    def __len__(self) -> int:
        return len(self._owned) + len(self._unlocated)

    def get(self, partition: Partition) -> Owned[M] | None:
        return self._owned.get(partition)

    def of(self, batch: Batch[M]) -> Owned[M] | None:
        """The partition of a batch, if it is still the same assignment."""
        owned = self._owned.get(batch.partition)
        return owned if owned is not None and owned.assignment == batch.assignment else None

    @property
    def unlocated(self) -> frozenset[Partition]:
        return frozenset(self._unlocated)

    def assign(self, partition: Partition) -> None:
        """The partition is ours; `locate` finds where to read on. What was known of it is forgotten."""
        self._owned.pop(partition, None)
        self._unlocated.add(partition)

    def revoke(self, partition: Partition) -> None:
        self._owned.pop(partition, None)
        self._unlocated.discard(partition)

    def recreated(self) -> list[Partition]:
        """Partitions whose topic is not the one that was read, but another of the same name."""
        known = {topic: self._consumer.topic_id(topic) for topic in {partition.topic for partition in self._owned}}
        return [
            owned.partition
            for owned in self
            if (now := known[owned.partition.topic]) is not None and now != owned.progress.topic_id
        ]

    def start_over(self) -> None:
        """Every partition is read again from what is committed."""
        for partition in list(self._owned):
            self.assign(partition)

    def locate(self, partition: Partition) -> Start | None:
        """Finds where to read on and goes there; None while the topic is not known. Raises BrokerUnavailable."""
        topic_id = self._consumer.topic_id(partition.topic)
        if topic_id is None:
            return None
        found = start(self._consumer.committed(partition), self._consumer.log_range(partition), topic_id, self._new_era)
        self._own(partition, found)
        return found

    def relocate(self, partition: Partition, offset: int) -> None:
        """Reads on from an offset that lies before what was read already: the log is not what it was."""
        topic_id = self._consumer.topic_id(partition.topic)
        known = self._owned[partition].progress.topic_id
        self._own(partition, Start(offset, Progress(topic_id or known, self._new_era())))

    def _own(self, partition: Partition, found: Start) -> None:
        self._consumer.seek(partition, found.offset)
        self._consumer.resume([partition])
        self._assignments += 1
        self._unlocated.discard(partition)
        self._owned[partition] = Owned(
            partition, self._assignments, found.progress, found.offset, found.replay, Buffer(self._limits)
        )
