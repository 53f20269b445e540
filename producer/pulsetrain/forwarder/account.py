"""The loss account: what each journal holds, and what of it is in Kafka, each record counted once by its sequence."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pulsetrain.forwarder.acknowledgement import Acknowledged, Counters
from pulsetrain.forwarder.ledger import removed
from pulsetrain.forwarder.tail import Identity, Tail, read_identity
from pulsetrain.journal.reader import Damage
from pulsetrain_schemas import events
from pulsetrain_schemas.columnar import DecodeError
from pulsetrain_schemas.framing import SINGLE_OBJECT, Framing
from pulsetrain_schemas.topics import TOPICS


@dataclass(frozen=True, slots=True)
class JournalAccount:
    """What one journal holds, counted by reading it, or held until it was removed."""

    journal: Path
    identity: Identity
    counters: Counters
    complete: bool
    """Whether Kafka has confirmed all of it, by its ack.json."""
    damage: Damage | None
    removed: float | None = None
    """When it was removed, in seconds since the epoch; None where it is still there."""


def removed_accounts(directory: Path) -> list[JournalAccount]:
    """The journals of this directory of runs that were removed once Kafka had them, by what was written down then."""
    return [
        JournalAccount(directory / entry.folder / writer, entry.identity, entry.counters, True, None, entry.time)
        for writer, entry in removed(directory).items()
    ]


def journal_account(journal: Path) -> JournalAccount | None:
    """Reads the whole journal; None where the run never began. ValueError where it does not begin as a journal."""
    identity = read_identity(journal)
    if identity is None:
        return None
    tail = Tail(journal, whole=True)
    tail.read_all()
    damage = tail.damage
    tail.close()
    complete = Acknowledged.load(journal).complete
    return JournalAccount(journal, identity, tail.counters, complete, damage)


class Covered:
    """The sequences that messages have accounted for, as disjoint ranges: nearly always one."""

    def __init__(self) -> None:
        self.ranges: list[tuple[int, int]] = []

    def mask(self, sequences: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of the sequences are accounted for already."""
        found = np.zeros(len(sequences), bool)
        for first, last in self.ranges:
            found |= (sequences >= first) & (sequences <= last)
        return found

    def add(self, first: int, last: int) -> None:
        """Accounts for the range."""
        apart = []
        for low, high in self.ranges:
            if high + 1 < first or last + 1 < low:
                apart.append((low, high))
            else:
                first, last = min(first, low), max(last, high)
        self.ranges = sorted([*apart, (first, last)])

    @property
    def gaps(self) -> list[tuple[int, int]]:
        """What the ranges leave out, from 1 to their end."""
        starts = [1, *(last + 1 for _, last in self.ranges)]
        return [(a, b - 1) for a, (b, _) in zip(starts, self.ranges, strict=False) if a < b]


@dataclass(slots=True)
class KafkaAccount:
    """What Kafka has of one writer."""

    rows: int = 0
    points: int = 0
    texts: int = 0
    repeated: int = 0
    """Rows that came again, after a forwarder was killed. The writer of the tables drops them."""
    covered: Covered = field(default_factory=Covered)

    def add(self, batch: events.MetricBatch | events.SystemBatch) -> None:
        """Counts what is new in a message."""
        known = self.covered.mask(batch.row_sequences)  # type: ignore[arg-type]
        new = ~known
        self.repeated += int(known.sum())
        self.rows += int(new.sum())
        lengths = np.asarray(batch.shape_lengths, np.int64)
        if len(batch.row_shapes):
            self.points += int(lengths[batch.row_shapes][new].sum())
        if isinstance(batch, events.MetricBatch) and len(batch.text_rows):
            self.texts += int(new[batch.text_rows].sum())
        self.covered.add(batch.origin.first_sequence, batch.origin.last_sequence)


@dataclass(frozen=True, slots=True)
class KafkaReading:
    """The accounts by writer, and whether the topics have lost their oldest messages to retention."""

    writers: Mapping[str, KafkaAccount]
    expired: bool
    undecodable: int


def kafka_account(
    identities: Iterable[Identity], config: Mapping[str, Any], framing: Framing = SINGLE_OBJECT
) -> KafkaReading:
    """Reads the topics from their beginning to their end of now, for these writers alone; commits nothing.

    Raises KafkaError where the broker cannot be read.
    """
    from kafka import KafkaConsumer, TopicPartition

    wanted = list(identities)
    writers = {identity.writer: KafkaAccount() for identity in wanted}
    keys: dict[str, set[bytes]] = {"metrics": set(), "system": set()}
    for identity in wanted:
        if identity.role == "system":
            keys["system"].add(identity.host.encode("utf-8", "replace"))
        else:
            keys["metrics"].add(identity.run_id.encode("utf-8", "replace"))
    expired, undecodable = False, 0
    consumer = KafkaConsumer(
        **config,
        enable_auto_commit=False,
        max_partition_fetch_bytes=16 << 20,
        fetch_max_bytes=64 << 20,
        bootstrap_timeout_ms=10_000,
    )
    try:
        for topic in (topic for topic, found in keys.items() if found):
            name = TOPICS[topic].kafka_name
            partitions = [TopicPartition(name, number) for number in consumer.partitions_for_topic(name) or ()]
            if not partitions:
                continue
            consumer.assign(partitions)
            consumer.seek_to_beginning(*partitions)
            expired |= any(offset > 0 for offset in consumer.beginning_offsets(partitions).values())
            ends = consumer.end_offsets(partitions)
            while any(consumer.position(partition) < ends[partition] for partition in partitions):
                for records in consumer.poll(timeout_ms=500, max_records=200).values():
                    for record in records:
                        if record.key not in keys[topic]:
                            continue
                        try:
                            batch = _decode(topic, record.value, framing)
                        except DecodeError:
                            undecodable += 1
                            continue
                        account = writers.get(batch.origin.writer)
                        if account is not None:
                            account.add(batch)
    finally:
        consumer.close()
    return KafkaReading(writers, expired, undecodable)


def _decode(topic: str, payload: bytes, framing: Framing) -> events.MetricBatch | events.SystemBatch:
    if topic == "system":
        return events.decode(payload, events.SystemBatch, framing)
    return events.decode(payload, events.MetricBatch, framing)
