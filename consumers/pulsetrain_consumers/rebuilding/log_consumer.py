"""The log up to given ends as a consumer of the runtime, without a group: so that a rebuild goes through the same loop.

What it commits it keeps itself; the loop's promise to store each batch once holds as in a writer.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError

from pulsetrain_consumers.runtime.broker import (
    Assigned,
    BrokerUnavailable,
    LogRange,
    Partition,
    Polled,
    Position,
    Record,
)
from pulsetrain_consumers.runtime.kafka import unpark
from pulsetrain_schemas.addresses import KafkaAddress

_ANSWER_MS = 10_000
_MIB = 1 << 20


class Log:
    """Kafka, asked for what a group has read and what there is to read. Belongs to one thread; `close` frees it."""

    def __init__(self, address: KafkaAddress, group: str, topics: Iterable[str]) -> None:
        """Connects. Raises BrokerUnavailable, also for a topic that there is not."""
        self._address = address
        try:
            self.client: Any = KafkaConsumer(
                client_id="pulsetrain-rebuild",
                group_id=group,
                enable_auto_commit=False,
                auto_offset_reset="none",
                allow_auto_create_topics=False,
                fetch_max_wait_ms=100,
                fetch_max_bytes=16 * _MIB,
                max_partition_fetch_bytes=4 * _MIB,
                bootstrap_timeout_ms=10_000,
                metrics_enabled=False,
                **address.client_config(),
            )
            names = [
                TopicPartition(topic, number)
                for topic in topics
                for number in sorted(self._known(self.client.partitions_for_topic(topic), topic))
            ]
            self.client.assign(names)
            self.client.pause(*names)
        except KafkaError as error:
            raise BrokerUnavailable(f"Kafka at {address} does not answer: {type(error).__name__}: {error}") from error
        self.partitions = tuple(Partition(name.topic, name.partition) for name in names)

    def _known(self, numbers: set[int] | None, topic: str) -> set[int]:
        if not numbers:
            raise BrokerUnavailable(f"Kafka at {self._address} has no topic {topic}: `pulsetrain topics` creates it")
        return numbers

    def ranges(self) -> dict[Partition, LogRange]:
        """What there is of each partition."""
        names = [name_of(partition) for partition in self.partitions]
        try:
            first = self.client.beginning_offsets(names, timeout_ms=_ANSWER_MS)
            end = self.client.end_offsets(names, timeout_ms=_ANSWER_MS)
        except KafkaError as error:
            raise BrokerUnavailable(f"Kafka at {self._address} does not say what it holds: {error!r}") from error
        return {
            partition: LogRange(first[name], end[name]) for partition, name in zip(self.partitions, names, strict=True)
        }

    def committed(self) -> dict[Partition, Position | None]:
        """What the group has committed for each partition."""
        found: dict[Partition, Position | None] = {}
        for partition in self.partitions:
            try:
                at = self.client.committed(name_of(partition), metadata=True, timeout_ms=_ANSWER_MS)
            except KafkaError as error:
                raise BrokerUnavailable(
                    f"Kafka at {self._address} does not say what is committed: {error!r}"
                ) from error
            found[partition] = None if at is None or at.offset < 0 else Position(at.offset, at.metadata or "")
        return found

    def topic_id(self, topic: str) -> str:
        """The id that the broker gave the topic."""
        return str(self.client._cluster.topic_id(topic))  # noqa: SLF001  the id is behind nothing public

    def close(self) -> None:
        self.client.close(autocommit=False, timeout_ms=2_000)


class LogConsumer:
    """Gives each partition up to its end, from where `positions` says or its beginning. See `broker.Consumer`."""

    def __init__(self, log: Log, ranges: Mapping[Partition, LogRange], positions: dict[Partition, Position]) -> None:
        """`ranges` say where each partition begins and is to end here; `positions`, what is committed, is kept."""
        self._log = log
        self._ranges = dict(ranges)
        self.positions = positions
        self._told = False
        self._sought: dict[Partition, int] = {}
        self._paused: set[Partition] = set()
        self._problem: str | None = None

    @property
    def read(self) -> int:
        """How many offsets have been read, of all partitions."""
        return sum(max(0, at - self._ranges[partition].first) for partition, at in self._sought.items())

    @property
    def at_end(self) -> bool:
        """Whether everything up to the ends has been given."""
        return self._told and all(
            self._sought.get(partition, -1) >= span.end for partition, span in self._ranges.items()
        )

    def poll(self, timeout: float) -> Polled:
        if not self._told:
            self._told = True
            return Polled([Assigned(frozenset(self._ranges))])
        try:
            unpark(self._log.client)
            found = self._log.client.poll(timeout_ms=int(timeout * 1000))
        except KafkaError as error:
            self._problem = f"{type(error).__name__}: {error}"
            return Polled()
        self._problem = None
        records: list[Record] = []
        for name, entries in found.items():
            partition = Partition(name.topic, name.partition)
            end = self._ranges[partition].end
            records += [
                Record(partition, entry.offset, entry.timestamp * 1000, entry.key, entry.value)
                for entry in entries
                if self._sought[partition] <= entry.offset < end
            ]
            self._sought[partition] = min(end, entries[-1].offset + 1)
            self._regulate(partition)
        return Polled((), records)

    def seek(self, partition: Partition, offset: int) -> None:
        self._log.client.seek(name_of(partition), offset)
        self._sought[partition] = offset
        self._regulate(partition)

    def pause(self, partitions: Iterable[Partition]) -> None:
        for partition in partitions:
            self._paused.add(partition)
            self._regulate(partition)

    def resume(self, partitions: Iterable[Partition]) -> None:
        for partition in partitions:
            self._paused.discard(partition)
            self._regulate(partition)

    def commit(self, positions: Mapping[Partition, Position]) -> None:
        self.positions.update(positions)

    def committed(self, partition: Partition) -> Position | None:
        return self.positions.get(partition)

    def log_range(self, partition: Partition) -> LogRange:
        return self._ranges[partition]

    def topic_id(self, topic: str) -> str | None:
        return self._log.topic_id(topic)

    def known_end(self, partition: Partition) -> int | None:
        return self._ranges[partition].end

    def problem(self) -> str | None:
        return self._problem

    def close(self) -> None:
        """The connection is the log's."""

    def _regulate(self, partition: Partition) -> None:
        at = self._sought.get(partition)
        if partition in self._paused or at is None or at >= self._ranges[partition].end:
            self._log.client.pause(name_of(partition))
        else:
            self._log.client.resume(name_of(partition))


def name_of(partition: Partition) -> TopicPartition:
    """A partition as kafka-python names it."""
    return TopicPartition(partition.topic, partition.number)
