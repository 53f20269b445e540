"""Topics read without a group, from where one is told to, to the end and on: by whoever keeps its place itself."""

import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError

from pulsetrain_consumers.runtime.broker import Partition, Record
from pulsetrain_consumers.runtime.kafka import records
from pulsetrain_consumers.runtime.memory import MemoryBroker
from pulsetrain_schemas.addresses import KafkaAddress

log = logging.getLogger(__name__)

_MIB = 1 << 20
_ANSWER_MS = 5_000
_LOOK_SECONDS = 15.0


class Follower(Protocol):
    """All partitions of some topics. Belongs to one thread. Nothing raises for a broker that is away: see `problem`."""

    def begin(self, positions: Mapping[Partition, int], otherwise: float) -> bool:
        """Reads on at these offsets, and in partitions that are not named at what arrived from `otherwise` (seconds
        since the epoch) on. Where a partition holds an offset no more, or not yet, it is read from its beginning. False
        where the broker did not answer: to be asked again.
        """

    def poll(self, timeout: float) -> Sequence[Record]:
        """What came, in order within each partition."""

    def positions(self) -> dict[Partition, int]:
        """The next offset of each partition."""

    def ends(self) -> dict[Partition, int] | None:
        """The end of each partition now; None where the broker does not answer."""

    def problem(self) -> str | None:
        """Why the broker does not serve this at the moment; None where it does."""

    def close(self) -> None:
        """Frees the connection."""


class KafkaFollower:
    """See `Follower`. Partitions that a topic gets meanwhile are followed too, from their beginning."""

    def __init__(self, address: KafkaAddress, topics: Sequence[str], client_id: str) -> None:
        self._address = address
        self._topics = tuple(topics)
        self._client_id = client_id
        self._client: Any = None
        self._problem: str | None = f"not connected to {address} yet"
        self._next: dict[Partition, int] = {}
        self._topic_ids: dict[str, Any] = {}
        self._looked_at = 0.0

    def begin(self, positions: Mapping[Partition, int], otherwise: float) -> bool:
        try:
            client = self._connected()
            names = self._names(client)
            client.assign(names)
            missing = [name for name in names if Partition(name.topic, name.partition) not in positions]
            since = dict.fromkeys(missing, max(0, int(otherwise * 1000)))
            found = client.offsets_for_times(since, timeout_ms=_ANSWER_MS) if since else {}
            firsts = client.beginning_offsets(names, timeout_ms=_ANSWER_MS)
            ends = client.end_offsets(names, timeout_ms=_ANSWER_MS)
        except KafkaError as error:
            self._failed(error)
            return False
        for name in names:
            partition, first, end = Partition(name.topic, name.partition), int(firsts[name]), int(ends[name])
            at = positions.get(partition)
            if at is None:
                entry = found.get(name)
                at = end if entry is None else int(entry.offset)
            self._seek(client, partition, at if first <= at <= end else first)
        self._topic_ids = {topic: _topic_id(client, topic) for topic in self._topics}
        self._problem = None
        return True

    def poll(self, timeout: float) -> Sequence[Record]:
        if self._client is None:
            return ()
        try:
            self._look_for_partitions()
            fetched = self._client.poll(timeout_ms=int(timeout * 1000))
            recreated = self._begin_recreated()
        except KafkaError as error:
            self._problem = f"{self._address}: {type(error).__name__}: {error}"
            return ()
        if fetched:
            self._problem = None
        found: list[Record] = []
        for name, entries in fetched.items():
            if name.topic in recreated:
                continue
            partition = Partition(name.topic, name.partition)
            if entries[0].offset != self._next[partition]:
                log.warning("%s: reads on at offset %d, not %d", partition, entries[0].offset, self._next[partition])
            found += records(partition, entries)
            self._next[partition] = entries[-1].offset + 1
        return found

    def positions(self) -> dict[Partition, int]:
        return dict(self._next)

    def ends(self) -> dict[Partition, int] | None:
        if self._client is None:
            return None
        try:
            found = self._client.end_offsets([_name(partition) for partition in self._next], timeout_ms=_ANSWER_MS)
        except KafkaError as error:
            self._failed(error)
            return None
        self._problem = None
        return {Partition(name.topic, name.partition): int(end) for name, end in found.items()}

    def problem(self) -> str | None:
        return self._problem

    def close(self) -> None:
        if self._client is not None:
            self._client.close(autocommit=False, timeout_ms=2_000)
            self._client = None

    def _connected(self) -> Any:
        if self._client is None:
            self._client = KafkaConsumer(
                client_id=self._client_id,
                group_id=None,
                enable_auto_commit=False,
                auto_offset_reset="earliest",  # of what is gone, or whose topic was created again
                allow_auto_create_topics=False,
                fetch_max_wait_ms=100,
                fetch_max_bytes=16 * _MIB,
                max_partition_fetch_bytes=4 * _MIB,
                metadata_max_age_ms=int(_LOOK_SECONDS * 1000),
                reconnect_backoff_max_ms=500,
                bootstrap_timeout_ms=3_000,
                metrics_enabled=False,
                **self._address.client_config(),
            )
        return self._client

    def _names(self, client: Any) -> list[TopicPartition]:
        names: list[TopicPartition] = []
        for topic in self._topics:
            numbers = client.partitions_for_topic(topic)
            if not numbers:
                raise KafkaError(f"there is no topic {topic}: `pulsetrain topics` creates it")
            names += [TopicPartition(topic, number) for number in sorted(numbers)]
        return names

    def _look_for_partitions(self) -> None:
        now = time.monotonic()
        if now - self._looked_at < _LOOK_SECONDS:
            return
        self._looked_at = now
        names = self._names(self._client)
        new = [found for name in names if (found := Partition(name.topic, name.partition)) not in self._next]
        if new:
            self._client.assign(names)
            for partition, at in [*self._next.items(), *((partition, 0) for partition in new)]:
                self._seek(self._client, partition, at)

    def _begin_recreated(self) -> set[str]:
        """Begins with topics that were deleted and created again; which these are.

        kafka-python (3.0.12) goes on asking for the offset at which the former one was, and gets no answer to that.
        """
        now = {topic: _topic_id(self._client, topic) for topic in self._topics}
        recreated = {topic for topic, its in now.items() if its is not None and its != self._topic_ids.get(topic, its)}
        self._topic_ids.update((topic, its) for topic, its in now.items() if its is not None)
        for partition in [partition for partition in self._next if partition.topic in recreated]:
            log.warning("%s: the topic was deleted and created again", partition)
            self._seek(self._client, partition, 0)
        return recreated

    def _seek(self, client: Any, partition: Partition, offset: int) -> None:
        client.seek(_name(partition), offset)
        self._next[partition] = offset

    def _failed(self, error: KafkaError) -> None:
        self._problem = f"{self._address} does not answer: {type(error).__name__}: {error}"


class MemoryFollower:
    """See `Follower`, of a broker in memory. `max_records` bounds one poll."""

    def __init__(self, broker: MemoryBroker, topics: Sequence[str]) -> None:
        self.max_records = 500
        self._broker = broker
        self._topics = tuple(topics)
        self._next: dict[Partition, int] = {}

    def begin(self, positions: Mapping[Partition, int], otherwise: float) -> bool:
        if self._broker.away:
            return False
        for topic in self._topics:
            for partition in self._broker.topics[topic].logs:
                held = self._broker.log(partition)
                early = next((record.offset for record in held.records if record.time >= otherwise * 1e6), held.end)
                self._next[partition] = positions.get(partition, early)
                self._reset(partition)
        return True

    def poll(self, timeout: float) -> Sequence[Record]:
        del timeout
        records: list[Record] = []
        if self._broker.away:
            return records
        for partition in self._next:
            self._reset(partition)
            held, at = self._broker.log(partition), self._next[partition]
            found = held.records[at - held.first :][: self.max_records - len(records)]
            records += found
            self._next[partition] = at + len(found)
        return records

    def positions(self) -> dict[Partition, int]:
        return dict(self._next)

    def ends(self) -> dict[Partition, int] | None:
        return None if self._broker.away else {partition: self._broker.log(partition).end for partition in self._next}

    def problem(self) -> str | None:
        return "the broker is away" if self._broker.away else None

    def close(self) -> None:
        """Nothing to free."""

    def _reset(self, partition: Partition) -> None:
        held = self._broker.log(partition)
        if not held.first <= self._next[partition] <= held.end:
            self._next[partition] = held.first


def _topic_id(client: Any, topic: str) -> Any:
    return client._cluster.topic_id(topic)  # noqa: SLF001  the id is in the metadata, behind nothing public


def _name(partition: Partition) -> TopicPartition:
    return TopicPartition(partition.topic, partition.number)
