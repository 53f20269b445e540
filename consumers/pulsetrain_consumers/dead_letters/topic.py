"""The Kafka side of dead letters: reads a payload where it lies, sends it again, writes down what was done.

The log is the truth: what was done about a letter is a message of the same topic, so that a rebuild of the tables knows
it too.
"""

import itertools
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import numpy as np
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.errors import KafkaError

from pulsetrain_consumers.dead_letters.catalogue import Entry
from pulsetrain_consumers.dead_letters.letters import unpack
from pulsetrain_consumers.runtime import kafka as _quiet  # noqa: F401  kafka-python's own log is silenced there
from pulsetrain_schemas import events
from pulsetrain_schemas.addresses import KafkaAddress
from pulsetrain_schemas.columnar import DecodeError
from pulsetrain_schemas.errors import UserError
from pulsetrain_schemas.events import DeadLetter
from pulsetrain_schemas.framing import Framing
from pulsetrain_schemas.topics import TOPICS

_TOPIC = TOPICS["dead_letters"].kafka_name
_MIB = 1 << 20
_ANSWER_SECONDS = 15.0
_CHUNK_LETTERS = 500
_DROPPED_TOGETHER = 5_000
_CHUNK_BYTES = 16 * _MIB


class KafkaSilent(UserError):
    """Kafka did not answer."""


class PayloadGone(Exception):
    """The payload is nowhere in Kafka any more, or never was one; the text says which."""


@dataclass(slots=True)
class Outcome:
    """What was done so far, and which letters were left as they are, with why."""

    done: int = 0
    gone: list[tuple[Entry, str]] = field(default_factory=list)


class LetterTopic:
    """Connects when it is first used. Raises KafkaSilent; belongs to one thread."""

    def __init__(self, address: KafkaAddress, framing: Framing, actor: str) -> None:
        self._address = address
        self._framing = framing
        self._actor = actor
        self._consumer: Any = None
        self._producer: Any = None
        self._fetched: dict[TopicPartition, list[Any]] = {}
        self._unpacked: tuple[tuple[int, int], list[bytes | None]] = ((-1, -1), [])

    def payload(self, entry: Entry) -> bytes:
        """The whole payload: from the letter, else from its original offset. Raises PayloadGone."""
        try:
            letter = self._letter_payload(entry)
            return letter if letter is not None else self._original_payload(entry)
        except KafkaError as error:
            raise self._silent(error) from error

    def replay(self, entries: Iterable[Entry]) -> Iterator[Outcome]:
        """Sends the messages of the letters again, to their topics and partitions, and writes that down.

        Yields what has been done so far, chunk by chunk. What was sent is written down afterwards: where this breaks
        off between the two, it is sent again the next time, and stored once all the same.
        """
        outcome = Outcome()
        for chunk in _chunks(entries):
            sent = self._send(chunk, outcome)
            self._resolve(sent, "replayed")
            outcome.done += len(sent)
            yield outcome

    def drop(self, entries: Iterable[Entry]) -> Iterator[Outcome]:
        """Writes down that these letters are not wanted. Yields what has been done so far, chunk by chunk."""
        outcome = Outcome()
        waiting = iter(entries)
        while chunk := list(itertools.islice(waiting, _DROPPED_TOGETHER)):
            self._resolve(chunk, "dropped")
            outcome.done += len(chunk)
            yield outcome

    def _resolve(self, entries: Sequence[Entry], action: str) -> None:
        """Writes down what was done about letters; returns when it is acknowledged."""
        groups = itertools.groupby(
            sorted(entries, key=lambda entry: (entry.id.topic, entry.topic_id, entry.id.partition, entry.id.offset)),
            key=lambda entry: (entry.id.topic, entry.topic_id, entry.id.partition),
        )
        messages = []
        for (topic, topic_id, partition), group in groups:
            first, *more = [entry.id.offset for entry in group]
            told = DeadLetter(
                reason="",
                error="",
                topic=topic,
                partition=partition,
                offset=first,
                time=time.time_ns() // 1000,
                consumer_group="",
                topic_id=topic_id or None,
                action=action,
                actor=self._actor,
                more_offsets=np.array(more, np.int64),
            )
            messages.append(events.encode(told, self._framing))
        try:
            self._acknowledged([self._producing().send(_TOPIC, value=message) for message in messages])
        except KafkaError as error:
            raise self._silent(error) from error

    def close(self) -> None:
        """Frees the connections."""
        if self._consumer is not None:
            self._consumer.close(autocommit=False, timeout_ms=2_000)
        if self._producer is not None:
            self._producer.close(timeout=2)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _send(self, chunk: Sequence[Entry], outcome: Outcome) -> list[Entry]:
        sent, futures = [], []
        for entry in chunk:
            try:
                payload = self.payload(entry)
            except PayloadGone as error:
                outcome.gone.append((entry, str(error)))
                continue
            try:
                futures.append(
                    self._producing().send(entry.id.topic, value=payload, key=entry.key, partition=entry.id.partition)
                )
            except (KafkaError, AssertionError) as error:
                raise self._silent(error) from error
            sent.append(entry)
        try:
            self._acknowledged(futures)
        except KafkaError as error:
            raise self._silent(error) from error
        return sent

    def _acknowledged(self, futures: Sequence[Any]) -> None:
        self._producing().flush(timeout=_ANSWER_SECONDS)
        for future in futures:
            future.get(timeout=_ANSWER_SECONDS)

    def _letter_payload(self, entry: Entry) -> bytes | None:
        place = entry.place
        at = (place.partition, place.offset)
        if self._unpacked[0] != at:
            record = self._record(TopicPartition(_TOPIC, place.partition), place.offset)
            if record is None:
                return None
            try:
                message = events.decode(record.value or b"", DeadLetter, self._framing)
            except DecodeError:
                return None
            self._unpacked = (at, [letter.payload for letter in unpack(message, *at)])
        payloads = self._unpacked[1]
        return payloads[place.index] if place.index < len(payloads) else None

    def _original_payload(self, entry: Entry) -> bytes:
        name = entry.id
        record = self._record(TopicPartition(name.topic, name.partition), name.offset)
        known = self._consuming()._cluster.topic_id(name.topic)  # noqa: SLF001  the id is behind nothing public
        if entry.topic_id and known is not None and str(known) != entry.topic_id:
            raise PayloadGone(f"{name.topic} was deleted and created again since, and the letter has no payload")
        if record is None:
            raise PayloadGone("the payload is no longer in Kafka: its retention is over")
        if record.value is None:
            raise PayloadGone("the message has no value, there is nothing to send again")
        return bytes(record.value)

    def _record(self, partition: TopicPartition, offset: int) -> Any:
        """The record at an offset; None where there is none any more. Going forward costs no new fetch each time."""
        waiting = self._fetched.get(partition, [])
        while waiting and waiting[-1].offset < offset:
            waiting.pop()
        if not waiting:
            waiting = self._fetched[partition] = self._fetch(partition, offset)
        return waiting[-1] if waiting and waiting[-1].offset == offset else None

    def _fetch(self, partition: TopicPartition, offset: int) -> list[Any]:
        """Records from an offset on, the last one first; none where the log does not reach so far."""
        consumer = self._consuming()
        consumer.assign([partition])
        first = consumer.beginning_offsets([partition])[partition]
        end = consumer.end_offsets([partition])[partition]
        if not first <= offset < end:
            return []
        consumer.seek(partition, offset)
        deadline = time.monotonic() + _ANSWER_SECONDS
        while time.monotonic() < deadline:
            found = consumer.poll(timeout_ms=500).get(partition)
            if found:
                return list(reversed(found))
        raise KafkaSilent(f"Kafka at {self._address} did not give offset {offset} of {partition.topic} in time")

    def _consuming(self) -> Any:
        if self._consumer is None:
            self._consumer = KafkaConsumer(
                client_id="pulsetrain-dlq",
                enable_auto_commit=False,
                auto_offset_reset="none",
                allow_auto_create_topics=False,
                max_poll_records=100,
                fetch_max_bytes=8 * _MIB,
                max_partition_fetch_bytes=4 * _MIB,
                bootstrap_timeout_ms=5_000,
                metrics_enabled=False,
                **self._address.client_config(),
            )
        return self._consumer

    def _producing(self) -> Any:
        if self._producer is None:
            self._producer = KafkaProducer(
                client_id="pulsetrain-dlq",
                acks="all",
                linger_ms=5,
                max_request_size=17 * _MIB,
                max_block_ms=10_000,
                bootstrap_timeout_ms=5_000,
                delivery_timeout_ms=15_000,
                request_timeout_ms=10_000,
                metrics_enabled=False,
                **self._address.client_config(),
            )
        return self._producer

    def _silent(self, error: BaseException) -> KafkaSilent:
        return KafkaSilent(
            f"Kafka at {self._address} did not do it: {type(error).__name__}: {error}; is it up (`pulsetrain status`), "
            "and are PULSETRAIN_KAFKA and its settings right? What was not written down can be done again"
        )


def _chunks(entries: Iterable[Entry]) -> Iterator[list[Entry]]:
    chunk: list[Entry] = []
    size = 0
    for entry in entries:
        chunk.append(entry)
        size += entry.payload_bytes or 8 * _MIB
        if len(chunk) == _CHUNK_LETTERS or size >= _CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk
