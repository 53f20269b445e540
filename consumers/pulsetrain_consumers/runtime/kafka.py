"""Kafka behind the runtime's contract, through kafka-python.

The group rebalances eagerly (round robin): whatever a consumer holds after a rebalance was given to it in that one, and
everything before it is dropped. Cooperative rebalancing would keep some partitions flowing for the second that it
takes; but replaying a pending range is exact and cheap, and there is then one kind of rebalance to be right about.

Connections are made when they are first needed and made again for ever, so a service starts before its broker does.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.consumer.subscription_state import ConsumerRebalanceListener
from kafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
from kafka.errors import (
    CommitFailedError,
    FencedInstanceIdError,
    IllegalGenerationError,
    IllegalStateError,
    KafkaError,
    MessageSizeTooLargeError,
    RebalanceInProgressError,
    UnknownMemberIdError,
)
from kafka.structs import OffsetAndMetadata

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
)
from pulsetrain_consumers.runtime.membership import Membership
from pulsetrain_schemas.addresses import KafkaAddress

log = logging.getLogger(__name__)

# A refused connection is told by us, once; the library tells every attempt.
for _name in ("kafka.net", "kafka.cluster", "kafka.coordinator", "kafka.consumer", "kafka.client", "kafka.producer"):
    logging.getLogger(_name).setLevel(logging.CRITICAL)

_MIB = 1 << 20
_REFUSALS = (
    CommitFailedError,
    FencedInstanceIdError,
    IllegalGenerationError,
    RebalanceInProgressError,
    UnknownMemberIdError,
)
_RECONNECT_SECONDS = 1.0
_ANSWER_MS = 5_000
_JOIN_MS = 3_000
# A heartbeat is how a member learns of a rebalance: until all have, nobody has a partition.
_HEARTBEAT_MS = 300


class KafkaGroupConsumer:
    """A member of a consumer group.

    A member that is killed is missed at once by the others that have a `membership` on its machine, by all after
    `session_timeout` seconds; one that lives and does not poll is missed after `poll_interval`.
    """

    def __init__(
        self,
        address: KafkaAddress,
        group: str,
        topics: Sequence[str],
        clock: Clock,
        *,
        membership: Membership | None = None,
        session_timeout: float = 10.0,
        poll_interval: float = 60.0,
    ) -> None:
        self._address = address
        self._topics = list(topics)
        self._clock = clock
        self._membership = membership
        self._rebalances: deque[Assigned | Revoked] = deque()
        self._silent: set[TopicPartition] = set()
        self._answers: dict[str, dict[TopicPartition, Any]] = {}
        self._client: Any = None
        self._problem: str | None = f"not connected to {address} yet"
        self._retry_at = 0.0
        self._config = {
            "client_id": f"pulsetrain-{group}",
            "group_id": group,
            "enable_auto_commit": False,
            "auto_offset_reset": "earliest",
            "allow_auto_create_topics": False,
            "partition_assignment_strategy": [RoundRobinPartitionAssignor],
            "session_timeout_ms": int(session_timeout * 1000),
            "heartbeat_interval_ms": _HEARTBEAT_MS,
            "max_poll_interval_ms": int(poll_interval * 1000),
            "fetch_max_wait_ms": 100,
            # A poll costs as much as a hundred small messages.
            "max_poll_records": 2_000,
            "fetch_max_bytes": 16 * _MIB,
            "max_partition_fetch_bytes": 4 * _MIB,
            "metadata_max_age_ms": 15_000,
            "reconnect_backoff_max_ms": 500,
            "request_timeout_ms": 20_000,
            "bootstrap_timeout_ms": 3_000,
            "metrics_enabled": False,
        }

    def poll(self, timeout: float) -> Polled:
        client = self._connected(timeout)
        if client is None:
            return Polled()
        try:
            _join(client._coordinator)  # noqa: SLF001  see there
            unpark(client)
            found = client.poll(timeout_ms=int(timeout * 1000))
        except KafkaError as error:
            self._note(f"{type(error).__name__}: {error}")
            return Polled(self._drain())
        rebalances = self._drain()
        self._silence(rebalances)
        unknown = client._coordinator.coordinator_unknown()  # noqa: SLF001  nothing public says that the broker is away
        self._note(f"no coordinator of the group answers at {self._address}" if unknown else None)
        return Polled(
            rebalances,
            [
                record
                for name, entries in found.items()
                if name not in self._silent
                for record in records(_partition(name), entries)
            ],
        )

    def seek(self, partition: Partition, offset: int) -> None:
        name = _tp(partition)
        if self._client is None or name not in self._client.assignment():
            return
        self._client.seek(name, offset)
        for answers in self._answers.values():
            answers.pop(name, None)
        if name in self._silent:
            self._silent.discard(name)
            self._client.resume(name)

    def pause(self, partitions: Iterable[Partition]) -> None:
        self._client.pause(*self._held(partitions))

    def resume(self, partitions: Iterable[Partition]) -> None:
        self._client.resume(*self._held(partitions))

    def commit(self, positions: Mapping[Partition, Position]) -> None:
        offsets = {_tp(partition): OffsetAndMetadata(at.offset, at.metadata, -1) for partition, at in positions.items()}
        if self._rebalances:
            raise CommitRefused("the group has rebalanced")
        try:
            self._client.commit(offsets, timeout_ms=_ANSWER_MS)
        except _REFUSALS as error:
            raise CommitRefused(f"{type(error).__name__}: {error}") from error
        except KafkaError as error:
            raise BrokerUnavailable(f"{self._address} did not take a commit: {type(error).__name__}") from error
        if self._rebalances:
            raise CommitRefused("the group rebalanced during the commit")

    def committed(self, partition: Partition) -> Position | None:
        def ask(names: list[TopicPartition]) -> Mapping[TopicPartition, Any]:
            found: Mapping[TopicPartition, Any] = self._client._coordinator.fetch_committed_offsets(  # noqa: SLF001  for several
                names, timeout_ms=_ANSWER_MS
            )
            return found

        try:
            found = self._of_all("committed", _tp(partition), ask)
        except KafkaError as error:
            raise BrokerUnavailable(f"{self._address} did not say what is committed: {type(error).__name__}") from error
        # Kafka answers offset -1 where nothing is committed.
        return None if found is None or found.offset < 0 else Position(found.offset, found.metadata or "")

    def log_range(self, partition: Partition) -> LogRange:
        def ask(names: list[TopicPartition]) -> Mapping[TopicPartition, LogRange]:
            firsts = self._client.beginning_offsets(names, timeout_ms=_ANSWER_MS)
            ends = self._client.end_offsets(names, timeout_ms=_ANSWER_MS)
            return {name: LogRange(int(firsts[name]), int(ends[name])) for name in names}

        try:
            found: LogRange = self._of_all("range", _tp(partition), ask)
        except (KafkaError, KeyError) as error:
            raise BrokerUnavailable(
                f"{self._address} did not say what {partition} holds: {type(error).__name__}"
            ) from error
        return found

    def _of_all(
        self, what: str, name: TopicPartition, ask: Callable[[list[TopicPartition]], Mapping[TopicPartition, Any]]
    ) -> Any:
        """An answer about a partition. Those that are silent are all asked about at once, when the first one is."""
        answers = self._answers.setdefault(what, {})
        if name not in answers:
            names = sorted(self._silent | {name})
            found = ask(names)
            answers.update((each, found.get(each)) for each in names)
        return answers.pop(name)

    def topic_id(self, topic: str) -> str | None:
        if self._client is None:
            return None
        found = self._client._cluster.topic_id(topic)  # noqa: SLF001  the id is in the metadata, behind nothing public
        return None if found is None else str(found)

    def known_end(self, partition: Partition) -> int | None:
        try:
            end = self._client.highwater(_tp(partition))
        except (IllegalStateError, KeyError):
            return None  # it has gone, which the next poll tells
        return None if end is None else int(end)

    def problem(self) -> str | None:
        return self._problem

    def close(self) -> None:
        if self._client is not None:
            self._client.close(autocommit=False, timeout_ms=2_000)
            self._client = None
        if self._membership is not None:
            self._membership.leave()

    def _connected(self, timeout: float) -> Any:
        if self._client is None:
            now = self._clock.monotonic()
            if now < self._retry_at:
                threading.Event().wait(timeout)
                return None
            name = None if self._membership is None else self._membership.enter()
            try:
                client = KafkaConsumer(group_instance_id=name, **self._config, **self._address.client_config())
            except KafkaError as error:
                self._note(f"{self._address} does not answer: {type(error).__name__}")
                self._retry_at = self._clock.monotonic() + _RECONNECT_SECONDS
                return None
            client.subscribe(self._topics, listener=_Listener(self._rebalances))
            self._client = client
            if self._membership is not None:
                self._membership.watch()
        return self._client

    def _held(self, partitions: Iterable[Partition]) -> list[TopicPartition]:
        held = self._client.assignment()
        return [name for name in map(_tp, partitions) if name in held]

    def _silence(self, rebalances: Iterable[Assigned | Revoked]) -> None:
        """Lets what was assigned deliver nothing until it is sought: kafka-python reads on from the committed offset.

        What the same poll has brought of it was read from there, and is left out.
        """
        for rebalance in rebalances:
            self._answers.clear()
            names = set(map(_tp, rebalance.partitions))
            if isinstance(rebalance, Assigned):
                silent = names & self._client.assignment()
                self._client.pause(*silent)
                self._silent |= silent
            else:
                self._silent -= names

    def _drain(self) -> list[Assigned | Revoked]:
        drained = []
        while self._rebalances:
            drained.append(self._rebalances.popleft())
        return drained

    def _note(self, problem: str | None) -> None:
        self._problem = problem


def unpark(client: Any) -> None:
    """To be called before each poll of a client whose partitions are paused and resumed.

    kafka-python (3.0.12) puts aside what it has fetched of a partition that is paused before all of it was given, and
    takes it up again after the partition is resumed only once there is nothing in its slot for the next records; but it
    leaves there what it has given to the end. So partitions would be neither read from nor fetched for ever.
    """
    fetcher = client._fetcher  # noqa: SLF001
    if not fetcher._next_partition_records:  # noqa: SLF001
        fetcher._next_partition_records = None  # noqa: SLF001


def _join(coordinator: Any) -> None:
    """Joins the group with a patience of its own, when it is to be joined.

    kafka-python (3.0.12) joins on a task that a poll waits for. If the poll gives up first and the task ends before the
    next one, its result is thrown away: either the group is joined all over again, or, where a change of the topics'
    partitions was the reason, never, and the consumer goes on without partitions for ever. So a join is waited for with
    more than the few milliseconds that a poll has, and a join whose result was missed is asked for again.
    """
    if coordinator._join_task is not None:  # noqa: SLF001
        coordinator.request_rejoin()
    if coordinator.need_rejoin():
        coordinator.poll(timeout_ms=_JOIN_MS)


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc] # kafka-python has no types
    """Notes what happened, in order. Called on kafka-python's own thread, where nothing may wait."""

    def __init__(self, rebalances: "deque[Assigned | Revoked]") -> None:
        self._rebalances = rebalances

    def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        self._rebalances.append(Revoked(frozenset(map(_partition, revoked))))

    def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        self._rebalances.append(Assigned(frozenset(map(_partition, assigned))))

    def on_partitions_lost(self, lost: Iterable[TopicPartition]) -> None:
        self._rebalances.append(Revoked(frozenset(map(_partition, lost))))


class KafkaPublisher:
    """Publishes with idempotence and all acknowledgements; connects with the first message."""

    def __init__(self, address: KafkaAddress) -> None:
        self._address = address
        self._producer: Any = None
        self._lock = threading.Lock()

    def publish(self, topic: str, messages: Sequence[tuple[bytes | None, bytes]]) -> None:
        with self._lock:
            try:
                if self._producer is None:
                    self._producer = KafkaProducer(
                        client_id="pulsetrain-dead-letters",
                        acks="all",
                        max_request_size=17 * _MIB,
                        max_block_ms=_ANSWER_MS,
                        bootstrap_timeout_ms=_ANSWER_MS,
                        delivery_timeout_ms=15_000,
                        request_timeout_ms=10_000,
                        metrics_enabled=False,
                        **self._address.client_config(),
                    )
                sent = [self._producer.send(topic, value=value, key=key) for key, value in messages]
                self._producer.flush(timeout=20)
                for future in sent:
                    future.get(timeout=1)
            except MessageSizeTooLargeError as error:
                # kafka-python (3.0.12) answers so to whatever its idempotent producer sends after it.
                self.close()
                raise MessageTooLarge(f"a message is larger than {topic} takes") from error
            except KafkaError as error:
                raise BrokerUnavailable(
                    f"{self._address} did not take messages for {topic}: {type(error).__name__}"
                ) from error

    def close(self) -> None:
        if self._producer is not None:
            self._producer.close(timeout=2)
            self._producer = None


def _tp(partition: Partition) -> TopicPartition:
    return TopicPartition(partition.topic, partition.number)


def _partition(name: TopicPartition) -> Partition:
    return Partition(name.topic, name.partition)


def records(partition: Partition, entries: Iterable[Any]) -> list[Record]:
    """What kafka-python has fetched of a partition."""
    return [Record(partition, entry.offset, entry.timestamp * 1000, entry.key, entry.value) for entry in entries]
