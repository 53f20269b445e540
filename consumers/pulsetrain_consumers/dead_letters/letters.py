"""One message that was put aside, with all that is known of it; unpacked from the messages of its topic."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

from pulsetrain_consumers.runtime.dead_letters import separate
from pulsetrain_schemas.events import DeadLetter


@dataclass(frozen=True, slots=True)
class Place:
    """Where a letter is: the message of pulsetrain.dead_letters, and the letter's number in it."""

    partition: int
    offset: int
    index: int


@dataclass(frozen=True, slots=True)
class Letter:
    """A message that was put aside. Times are in microseconds since the epoch; a payload of None is at its offset."""

    topic: str
    topic_id: str | None
    partition: int
    offset: int
    reason: str
    error: str
    time: int
    record_time: int | None
    consumer_group: str
    key: bytes | None
    payload: bytes | None
    place: Place


def unpack(message: DeadLetter, partition: int, offset: int) -> Iterator[Letter]:
    """The letters of one message, which is at this place of its topic; none of one that tells of an action."""
    if message.action is not None:
        return
    letters = zip(
        chain([message.offset], message.more_offsets.tolist()),
        chain([message.error], (message.more_errors[index] for index in message.more_error_indexes.tolist())),
        chain([message.record_time], message.more_record_times.tolist()),
        chain([message.key], separate(message.more_key_lengths, message.more_keys)),
        chain([message.payload], separate(message.more_payload_lengths, message.more_payloads)),
        strict=True,
    )
    for index, (at, error, record_time, key, payload) in enumerate(letters):
        yield Letter(
            topic=message.topic,
            topic_id=message.topic_id,
            partition=message.partition,
            offset=at,
            reason=message.reason,
            error=error,
            time=message.time,
            record_time=record_time,
            consumer_group=message.consumer_group,
            key=key,
            payload=payload,
            place=Place(partition, offset, index),
        )
