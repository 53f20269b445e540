"""A monitor's place in its group: whether it is the one that works, and the alerts that it is to send on.

The group reads the topic of alerts. Whoever has its first partition works; whoever has any sends on what is in it, and
commits what was sent. A group that has committed nothing begins at the end: what was told before is no news.
"""

import logging

from pulsetrain_consumers.monitor.notifications import Notifications
from pulsetrain_consumers.runtime.broker import (
    Assigned,
    BrokerUnavailable,
    CommitRefused,
    Consumer,
    Partition,
    Position,
    Revoked,
)
from pulsetrain_schemas import events, registry
from pulsetrain_schemas.columnar import DecodeError
from pulsetrain_schemas.events import Alert
from pulsetrain_schemas.framing import Framing, UnknownSchema

log = logging.getLogger(__name__)


class Place:
    """Call `poll` again and again. Belongs to one thread."""

    def __init__(self, consumer: Consumer, notifications: Notifications, framing: Framing) -> None:
        self._consumer = consumer
        self._notifications = notifications
        self._framing = framing
        self._is_first = False
        self._unlocated: set[Partition] = set()
        self._uncommitted: dict[Partition, int] = {}

    def poll(self, timeout: float) -> bool:
        """Takes part in the group, and sends on; whether this is the one that works."""
        polled = self._consumer.poll(timeout)
        for rebalance in polled.rebalances:
            self._rebalanced(rebalance)
        for record in polled.records:
            alert = None
            try:
                alert = events.decode(record.value or b"", Alert, self._framing)
            except (DecodeError, UnknownSchema, registry.RegistryError) as error:
                log.warning("%s, offset %d is no alert that can be read: %s", record.partition, record.offset, error)
            except Exception:
                log.exception("%s, offset %d is no alert that can be read", record.partition, record.offset)
            self._notifications.take(record, alert)
        self._locate()
        self._commit()
        return self._is_first

    def close(self) -> None:
        """Commits what was sent, and leaves the group."""
        self._commit()
        self._notifications.close()
        self._consumer.close()

    def _rebalanced(self, rebalance: Assigned | Revoked) -> None:
        self._notifications.forget()
        self._uncommitted.clear()
        self._unlocated = set(rebalance.partitions) if isinstance(rebalance, Assigned) else set()
        self._is_first = any(partition.number == 0 for partition in self._unlocated)

    def _locate(self) -> None:
        for partition in sorted(self._unlocated):
            try:
                at = self._consumer.committed(partition)
                begin = self._consumer.log_range(partition).end if at is None else at.offset
            except BrokerUnavailable:
                return  # asked again with the next poll
            self._consumer.seek(partition, begin)
            self._unlocated.discard(partition)
            if at is None:
                self._uncommitted[partition] = begin

    def _commit(self) -> None:
        self._uncommitted.update(self._notifications.done())
        if not self._uncommitted:
            return
        try:
            self._consumer.commit({partition: Position(at) for partition, at in self._uncommitted.items()})
        except (CommitRefused, BrokerUnavailable):
            return  # what was sent comes again, should another have the topic now; else this is tried again
        self._uncommitted.clear()
