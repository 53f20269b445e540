"""Fills the tables anew from the log, while people read the old ones and writers go on.

A shadow of each table is filled through the same loop and the same sink as a writer's, up to where the writers' group
has committed. For the rest a fence keeps the writers from storing, and joining their group for a moment makes them
drop what they have in hand: after a rebalance no commit of theirs stands that belongs to something stored before it.
Now what is committed holds still. The shadow is filled up to exactly there, the tables change places, and the writers
go on from the very offsets, with the ranges that were pending under the tokens that they had. So nothing needs to be
stopped, no offset is reset, and whatever is killed when, each row is stored once.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Protocol

from pulsetrain_consumers.clickhouse import ClickHouseError, Client, connect
from pulsetrain_consumers.rebuilding.checksums import Checksum, checksums
from pulsetrain_consumers.rebuilding.log_consumer import Log, LogConsumer
from pulsetrain_consumers.rebuilding.shadow import Loss, Shadow, sizes
from pulsetrain_consumers.runtime import progress
from pulsetrain_consumers.runtime.batching import Limits
from pulsetrain_consumers.runtime.broker import (
    Assigned,
    Clock,
    LogRange,
    Partition,
    Position,
    Publisher,
    SystemClock,
)
from pulsetrain_consumers.runtime.dead_letters import DeadLetters
from pulsetrain_consumers.runtime.health import Health
from pulsetrain_consumers.runtime.kafka import KafkaGroupConsumer, KafkaPublisher
from pulsetrain_consumers.runtime.loop import Loop
from pulsetrain_consumers.runtime.sink import Rejected, StoreUnavailable
from pulsetrain_consumers.runtime.telemetry import Telemetry
from pulsetrain_consumers.writer.sink import LEDGER, WRITER_TOPICS, WriterEvent, WriterSink
from pulsetrain_consumers.writer.store import ClickHouseStore
from pulsetrain_schemas.addresses import ClickHouseAddress, KafkaAddress
from pulsetrain_schemas.errors import UserError
from pulsetrain_schemas.framing import Framing
from pulsetrain_schemas.topics import TOPICS

_LETTERS = TOPICS["dead_letters"].kafka_name
_NEAR = 5_000
_MOST_PASSES = 10
# As long as the group may take to give up a member that is silent, and more.
_JOIN_SECONDS = 120.0
_TICK_SECONDS = 0.05


class RebuildRefused(UserError):
    """The rebuilt tables would lack what the present ones have; or something went on that must not."""


@dataclass(frozen=True, slots=True)
class Services:
    """What a rebuild connects to. `group` is the consumer group whose tables these are."""

    kafka: KafkaAddress
    clickhouse: ClickHouseAddress
    framing: Framing
    group: str
    holder: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What a rebuild is going to do. `expired`: what the ledger has from offsets that Kafka has dropped since."""

    messages: int
    rows: int
    bytes_on_disk: int
    expired: Sequence[Loss]
    letters_expired: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the tables held before, and what they hold now. `between` messages were stored and not yet committed."""

    before: Sequence[Checksum]
    after: Sequence[Checksum]
    messages: int
    seconds: float
    held_seconds: float
    losses: Sequence[Loss]
    between: int


class Reporter(Protocol):
    """Told how far it is."""

    def phase(self, text: str) -> None:
        """Something begins that may take a while."""

    def copied(self, messages: int, total: int, problem: str | None) -> None:
        """So many messages of so many are in the shadow; `problem` is what is waited for, if anything."""


def plan(services: Services) -> Plan:
    """Looks and changes nothing. Raises BrokerUnavailable and ClickHouseError."""
    with closing(Log(services.kafka, services.group, WRITER_TOPICS)) as log, connect(services.clickhouse) as client:
        spans = targets(log)
        rows, size = sizes(client)
        return Plan(
            messages=sum(span.end - span.first for span in spans.values()),
            rows=rows,
            bytes_on_disk=size,
            expired=_expired(client, spans),
            letters_expired=_letters_expired(client, spans),
        )


def rebuild(services: Services, report: Reporter, *, force: bool = False, clock: Clock | None = None) -> Outcome:
    """Does it. Raises RebuildRefused, RebuildBusy, BrokerUnavailable and ClickHouseError.

    The tables are as before then, unless the text says otherwise. With `force`, tables that lack something are put in
    place all the same.
    """
    clock = clock if clock is not None else SystemClock()
    began = clock.monotonic()
    with (
        closing(Log(services.kafka, services.group, WRITER_TOPICS)) as log,
        closing(KafkaPublisher(services.kafka)) as publisher,
        connect(services.clickhouse) as home,
        Shadow(services.clickhouse, services.holder) as shadow,
        connect(shadow.address, client_name="pulsetrain-rebuild") as client,
    ):
        copier = _Copier(services, log, client, home, publisher, clock, report)
        report.phase("filling new tables from Kafka")
        for _ in range(_MOST_PASSES):
            if copier.copy(targets(log)) <= _NEAR:
                break
        report.phase("holding the writers back")
        shadow.raise_fence()
        held = clock.monotonic()
        member = _joined(services, clock)
        try:
            spans = targets(log)
            report.phase("filling in what came meanwhile")
            copier.copy(spans)
            ends = _ends(spans)
            report.phase("comparing")
            between = shadow.uncommitted(ends)
            losses = shadow.losses(ends)
            if losses and not force:
                raise RebuildRefused(
                    "nothing was changed: Kafka no longer has all that the tables have, and these would be lost: "
                    f"{named(losses)}; --force puts the tables in place without them"
                )
            before = checksums(home)
            after = checksums(home, database=shadow.database)
            if shadow.fence_lapsed or _ends(targets(log)) != ends:
                raise RebuildRefused(
                    "nothing was changed: the writers could not be held back; is ClickHouse overloaded, or a writer of "
                    "an earlier version running? Begin again when that is over"
                )
            if not shadow.knows_all_deletions:
                raise RebuildRefused("nothing was changed: a run was deleted meanwhile; begin again")
            report.phase("exchanging the tables")
            shadow.exchange()
            if _ends(targets(log)) != ends:
                raise RebuildRefused(
                    "a writer stored something while the tables were exchanged, which may be in the old ones: rebuild "
                    "again, with no writer of an earlier version running"
                )
        finally:
            member.close()
        now = clock.monotonic()
        return Outcome(before, after, copier.total, now - began, now - held, losses, between)


def targets(log: Log) -> dict[Partition, LogRange]:
    """Of each partition what the group has stored and Kafka still has: from its beginning to where a writer goes on."""
    committed = log.committed()
    spans = {}
    for partition, span in log.ranges().items():
        found = progress.start(committed[partition], span, log.topic_id(partition.topic), lambda: "")
        spans[partition] = LogRange(span.first, max(span.first, found.offset))
    return spans


def _ends(spans: Mapping[Partition, LogRange]) -> dict[Partition, int]:
    return {partition: span.end for partition, span in spans.items()}


def named(losses: Sequence[Loss], most: int = 8) -> str:
    """Runs by name, a few of them."""
    shown = [f"{loss.project}/{loss.run_id} ({loss.topic}: {loss.sequences:,} sequences)" for loss in losses[:most]]
    return ", ".join(shown) + (f" and {len(losses) - most:,} more" if len(losses) > most else "")


class _Copier:
    """Fills the shadow, further with each call."""

    def __init__(
        self,
        services: Services,
        log: Log,
        client: Client,
        home: Client,
        publisher: Publisher,
        clock: Clock,
        report: Reporter,
    ) -> None:
        self._log = log
        self._clock = clock
        self._report = report
        self._positions: dict[Partition, Position] = {}
        self._telemetry = Telemetry()
        self._sink = WriterSink(ClickHouseStore(client), services.framing, clock, self._telemetry)
        self._letters = _NewLetters(publisher, services, clock, self._telemetry, home, log)
        self.total = 0

    def copy(self, spans: Mapping[Partition, LogRange]) -> int:
        """Stores what lies between the last call and these ends; how many messages that were."""
        total = sum(span.end - span.first for span in spans.values())
        new, self.total = total - self.total, total
        consumer = LogConsumer(self._log, spans, self._positions)
        health = Health(self._clock)
        with ThreadPoolExecutor(1, thread_name_prefix="store") as executor:
            loop: Loop[WriterEvent] = Loop(
                consumer,
                self._sink,
                self._letters,
                executor=executor,
                clock=self._clock,
                random=random.Random(),
                telemetry=self._telemetry,
                health=health,
                limits=replace(Limits(), max_age=1.0),
            )
            while not consumer.at_end:
                loop.tick(_TICK_SECONDS)
                ready, problem = health.ready()
                self._report.copied(consumer.read, total, None if ready else problem)
            loop.finish(float("inf"))
        return new


class _NewLetters(DeadLetters):
    """Puts aside what was not put aside before: a rebuild meets all the messages again that failed the first time."""

    def __init__(
        self, publisher: Publisher, services: Services, clock: Clock, telemetry: Telemetry, home: Client, log: Log
    ) -> None:
        super().__init__(publisher, _LETTERS, services.group, clock, telemetry, topic_id=log.topic_id)
        self._home = home

    def publish(self, rejected: Sequence[Rejected]) -> None:
        """As the class says; called on the storing thread, which has the connection for itself meanwhile."""
        try:
            known = set(self._known({entry.record.partition: [] for entry in rejected}, rejected))
        except ClickHouseError as error:
            raise StoreUnavailable(str(error)) from error
        super().publish([entry for entry in rejected if (entry.record.partition, entry.record.offset) not in known])

    def _known(
        self, offsets: dict[Partition, list[int]], rejected: Sequence[Rejected]
    ) -> Iterator[tuple[Partition, int]]:
        for entry in rejected:
            offsets[entry.record.partition].append(entry.record.offset)
        for partition, wanted in offsets.items():
            found = self._home.query(
                "SELECT DISTINCT kafka_offset FROM dead_letter_events WHERE topic = %(topic)s AND action = '' "
                "AND kafka_partition = %(number)s AND topic_id IN (%(id)s, '') AND kafka_offset IN %(offsets)s",
                {
                    "topic": partition.topic,
                    "number": partition.number,
                    "id": self._topic_id(partition.topic) or "",
                    "offsets": wanted,
                },
            ).rows
            yield from ((partition, int(offset)) for (offset,) in found)


def _joined(services: Services, clock: Clock) -> KafkaGroupConsumer:
    """A member of the writers' group, once the rebalance is over that it brings about."""
    member = KafkaGroupConsumer(services.kafka, services.group, WRITER_TOPICS, clock)
    deadline = clock.monotonic() + _JOIN_SECONDS
    while clock.monotonic() < deadline:
        if any(isinstance(rebalance, Assigned) for rebalance in member.poll(0.5).rebalances):
            return member
    member.close()
    raise RebuildRefused(
        f"nothing was changed: the group {services.group} did not rebalance within {_JOIN_SECONDS:.0f} s "
        f"({member.problem() or 'no reason was given'}); begin again"
    )


def _expired(client: Client, spans: Mapping[Partition, LogRange]) -> list[Loss]:
    """By run, what the ledger has from offsets before the first that Kafka has."""
    conditions = [
        f"(topic = '{partition.topic}' AND kafka_partition = {partition.number} AND kafka_offset < {span.first})"
        for partition, span in spans.items()
        if span.first > 0
    ]
    if not conditions:
        return []
    found = client.query(
        f"SELECT project, run_id, topic, sum(last_sequence - first_sequence + 1) AS lost FROM {LEDGER} "  # noqa: S608
        f"WHERE {' OR '.join(conditions)} GROUP BY project, run_id, topic ORDER BY lost DESC, project, run_id, topic"
    )
    return [Loss(project, run_id, topic, int(lost)) for project, run_id, topic, lost in found.rows]


def _letters_expired(client: Client, spans: Mapping[Partition, LogRange]) -> int:
    gone = 0
    for partition, span in spans.items():
        if partition.topic == _LETTERS and span.first > 0:
            gone += int(
                client.query(
                    "SELECT count() FROM dead_letters "
                    "WHERE letter_partition = %(partition)s AND letter_offset < %(first)s",
                    {"partition": partition.number, "first": span.first},
                ).one()
            )
    return gone
