"""Messages that cannot be stored, put aside whole, with the reason and where they came from."""

from collections.abc import Sequence

from pulsetrain_consumers.runtime.broker import Clock, MessageTooLarge, Publisher
from pulsetrain_consumers.runtime.sink import Rejected
from pulsetrain_consumers.runtime.telemetry import Telemetry
from pulsetrain_schemas import events
from pulsetrain_schemas.framing import SINGLE_OBJECT, Framing

_ERROR_CHARACTERS = 4_000


class DeadLetters:
    """Publishes rejected records. A record may be published twice after a crash; (topic, partition, offset) tells."""

    def __init__(
        self,
        publisher: Publisher,
        topic: str,
        group: str,
        clock: Clock,
        telemetry: Telemetry,
        framing: Framing = SINGLE_OBJECT,
    ) -> None:
        self._publisher = publisher
        self._topic = topic
        self._group = group
        self._clock = clock
        self._telemetry = telemetry
        self._framing = framing

    def publish(self, rejected: Sequence[Rejected]) -> None:
        """Returns once all are acknowledged. Raises BrokerUnavailable."""
        if not rejected:
            return
        try:
            self._publisher.publish(self._topic, [self._message(entry) for entry in rejected])
        except MessageTooLarge:
            for entry in rejected:
                self._publish_one(entry)
        for entry in rejected:
            self._telemetry.dead_letters.labels(entry.record.partition.topic, entry.reason).inc()

    def _publish_one(self, rejected: Rejected) -> None:
        try:
            self._publisher.publish(self._topic, [self._message(rejected)])
        except MessageTooLarge:
            size = len(rejected.record.value or b"")
            left_out = Rejected(
                rejected.record,
                rejected.reason,
                f"{rejected.error} (the payload of {size} bytes is too large for a dead letter; it is at its offset)",
            )
            self._publisher.publish(self._topic, [self._message(left_out, with_payload=False)])

    def _message(self, rejected: Rejected, *, with_payload: bool = True) -> tuple[bytes | None, bytes]:
        record = rejected.record
        letter = events.DeadLetter(
            reason=rejected.reason,
            error=rejected.error[:_ERROR_CHARACTERS],
            topic=record.partition.topic,
            partition=record.partition.number,
            offset=record.offset,
            time=int(self._clock.now() * 1e6),
            consumer_group=self._group,
            key=record.key,
            payload=record.value if with_payload else None,
        )
        return record.key, events.encode(letter, self._framing)
