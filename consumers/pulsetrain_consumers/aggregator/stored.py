"""How far the writers have come: an aggregate may be computed only from what they have stored.

They commit the end of a batch after its rows are in the tables, and its beginning, as pending, before. So what lies
before a committed offset is stored, or is a dead letter, or had been stored before.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from kafka import KafkaAdminClient, TopicPartition
from kafka.errors import KafkaError

from pulsetrain_consumers.runtime.broker import BrokerUnavailable, Partition, Position
from pulsetrain_consumers.runtime.progress import Progress
from pulsetrain_schemas.addresses import KafkaAddress

_ANSWER_MS = 5_000


class Stored(Protocol):
    """What the writers' group has committed. May be asked on any one thread."""

    def committed(self, partitions: Iterable[Partition]) -> Mapping[Partition, Position]:
        """What is committed for each partition; left out where nothing is. Raises BrokerUnavailable."""

    def close(self) -> None:
        """Frees the connection."""


class KafkaStored:
    """As Kafka tells it."""

    def __init__(self, address: KafkaAddress, group: str) -> None:
        self._address = address
        self._group = group
        self._admin: Any = None

    def committed(self, partitions: Iterable[Partition]) -> Mapping[Partition, Position]:
        names = [TopicPartition(partition.topic, partition.number) for partition in partitions]
        try:
            if self._admin is None:
                self._admin = KafkaAdminClient(
                    client_id="pulsetrain-aggregator-looks-at-writers",
                    bootstrap_timeout_ms=_ANSWER_MS,
                    request_timeout_ms=_ANSWER_MS,
                    **self._address.client_config(),
                )
            found = self._admin.list_group_offsets({self._group: names})[self._group]
        except (KafkaError, KeyError) as error:
            self.close()
            raise BrokerUnavailable(
                f"{self._address} did not say how far the group {self._group} has come: {type(error).__name__}"
            ) from error
        return {
            Partition(name.topic, name.partition): Position(at.offset, at.metadata or "")
            for name, at in found.items()
            if at.offset >= 0
        }

    def close(self) -> None:
        admin, self._admin = self._admin, None
        if admin is not None:
            admin.close()


def stored_up_to(position: Position | None, topic_id: str) -> int:
    """Up to which offset (not included) the writers have stored, of the topic with this id.

    What they have committed for another topic of the same name, deleted since, says nothing. Where the text beside the
    offset is not theirs, somebody has set it by hand, and it is what they will go on from.
    """
    if position is None:
        return 0
    progress = Progress.parse(position.metadata)
    return 0 if progress is not None and progress.topic_id != topic_id else position.offset
