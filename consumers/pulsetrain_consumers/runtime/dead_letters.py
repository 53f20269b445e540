"""Messages that cannot be stored, put aside whole, with the reason and where they came from.

Many travel in one message, as far as they share reason and partition: a flood of a million costs a few hundred sends,
and is decoded and stored a thousand at a time by whoever reads the dead letters.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from pulsetrain_consumers.runtime.broker import Clock, MessageTooLarge, Publisher
from pulsetrain_consumers.runtime.sink import Rejected
from pulsetrain_consumers.runtime.telemetry import Telemetry
from pulsetrain_schemas import events
from pulsetrain_schemas.events import IntArray
from pulsetrain_schemas.framing import SINGLE_OBJECT, Framing

log = logging.getLogger(__name__)

PACKED_BYTES = 512 << 10
PACKED_LETTERS = 1_000
_ERROR_CHARACTERS = 4_000
_SAY_SECONDS = 60.0


def _unknown(topic: str) -> str | None:
    del topic
    return None


class DeadLetters:
    """Publishes rejected records. A record may be published twice after a crash; (topic, partition, offset) tells.

    What is in the dead letters and cannot be read is left there, counted and skipped: a letter about a letter would
    lead to the next one. `topic_id` gives the id of a topic, from any thread, or None where it is not known.
    """

    def __init__(
        self,
        publisher: Publisher,
        topic: str,
        group: str,
        clock: Clock,
        telemetry: Telemetry,
        framing: Framing = SINGLE_OBJECT,
        topic_id: Callable[[str], str | None] = _unknown,
    ) -> None:
        self._publisher = publisher
        self._topic = topic
        self._group = group
        self._clock = clock
        self._telemetry = telemetry
        self._framing = framing
        self._topic_id = topic_id
        self._say_at = 0.0

    def publish(self, rejected: Sequence[Rejected]) -> None:
        """Returns once all are acknowledged. Raises BrokerUnavailable."""
        letters = [entry for entry in rejected if entry.record.partition.topic != self._topic]
        if len(letters) < len(rejected):
            self._skip([entry for entry in rejected if entry.record.partition.topic == self._topic])
        if not letters:
            return
        letters.sort(key=lambda entry: (entry.record.partition, entry.reason))
        try:
            self._publisher.publish(self._topic, [self._message(pack) for pack in _packed(letters)])
        except MessageTooLarge:
            for entry in letters:
                self._publish_one(entry)
        counts = Counter((entry.record.partition.topic, entry.reason) for entry in letters)
        for labels, count in counts.items():
            self._telemetry.dead_letters.labels(*labels).inc(count)

    def _skip(self, unreadable: Sequence[Rejected]) -> None:
        self._telemetry.errors.labels("unreadable_dead_letter").inc(len(unreadable))
        now = self._clock.monotonic()
        if now >= self._say_at:
            self._say_at = now + _SAY_SECONDS
            first = unreadable[0]
            log.warning(
                "%s, offset %d: left out, it is no dead letter that can be stored (%s); %d like it, and those of the "
                "next minute, are counted as errors_total{kind=unreadable_dead_letter}",
                first.record.partition,
                first.record.offset,
                first.error[:200],
                len(unreadable) - 1,
            )

    def _publish_one(self, rejected: Rejected) -> None:
        try:
            self._publisher.publish(self._topic, [self._message([rejected])])
        except MessageTooLarge:
            size = len(rejected.record.value or b"")
            left_out = Rejected(
                rejected.record,
                rejected.reason,
                f"{rejected.error} (the payload of {size} bytes is too large for a dead letter; it is at its offset)",
            )
            self._publisher.publish(self._topic, [self._message([left_out], with_payload=False)])

    def _message(self, pack: Sequence[Rejected], *, with_payload: bool = True) -> tuple[bytes | None, bytes]:
        first, more = pack[0], pack[1:]
        record = first.record
        key_lengths, keys = joined([entry.record.key for entry in more])
        payload_lengths, payloads = joined([entry.record.value for entry in more])
        errors: dict[str, int] = {}
        error_indexes = [errors.setdefault(entry.error[:_ERROR_CHARACTERS], len(errors)) for entry in more]
        letter = events.DeadLetter(
            reason=first.reason,
            error=first.error[:_ERROR_CHARACTERS],
            topic=record.partition.topic,
            partition=record.partition.number,
            offset=record.offset,
            time=int(self._clock.now() * 1e6),
            consumer_group=self._group,
            key=record.key,
            payload=record.value if with_payload else None,
            topic_id=self._topic_id(record.partition.topic),
            record_time=record.time,
            more_offsets=np.array([entry.record.offset for entry in more], np.int64),
            more_record_times=np.array([entry.record.time for entry in more], np.int64),
            more_errors=list(errors),
            more_error_indexes=np.array(error_indexes, np.int64),
            more_key_lengths=key_lengths,
            more_keys=keys,
            more_payload_lengths=payload_lengths,
            more_payloads=payloads,
        )
        return record.key, events.encode(letter, self._framing)


def joined(values: Sequence[bytes | None]) -> tuple[IntArray, bytes]:
    """Lengths, -1 for None, and the values one after another; `separate` takes them apart."""
    lengths = np.array([-1 if value is None else len(value) for value in values], np.int64)
    return lengths, b"".join(value for value in values if value is not None)


def separate(lengths: IntArray, values: bytes | None) -> Iterator[bytes | None]:
    """The values that `joined` was given."""
    end, content = 0, values or b""
    for length in lengths.tolist():
        if length < 0:
            yield None
        else:
            begin, end = end, end + length
            yield content[begin:end]


def _packed(letters: Sequence[Rejected]) -> Iterator[list[Rejected]]:
    """The letters in groups that make one message each: of one partition and reason, as they follow each other."""
    pack: list[Rejected] = []
    packed = 0
    for entry in letters:
        record = entry.record
        size = len(record.value or b"") + len(record.key or b"") + min(len(entry.error), _ERROR_CHARACTERS)
        if pack and (
            packed + size > PACKED_BYTES
            or len(pack) == PACKED_LETTERS
            or entry.reason != pack[0].reason
            or record.partition != pack[0].record.partition
        ):
            yield pack
            pack, packed = [], 0
        pack.append(entry)
        packed += size
    if pack:
        yield pack
