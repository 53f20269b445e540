"""The contract of sending to Kafka, as the forwarder needs it: never block, tell what was confirmed, say when all is
off.

Kept by `kafka_delivery.KafkaDelivery` and, for tests, by `memory_delivery.MemoryDelivery`; one suite runs over both.
"""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Literal, Protocol

# What may be sent and not yet confirmed, over all journals: the bound on the forwarder's memory while the broker is
# away.
MAX_IN_FLIGHT_BYTES = 16 << 20

Broker = Literal["unknown", "connected", "away"]


@dataclass(frozen=True, slots=True)
class Message:
    """One framed message. `topic` is the short name; the partition follows from the key."""

    topic: str
    key: bytes
    payload: bytes


@dataclass(frozen=True, slots=True)
class BrokerState:
    """How things stand with the broker; `detail` says why it is away, for the person who reads the status."""

    broker: Broker
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What happened since the last poll.

    `interrupted` comes after the confirmations of the same outcome: whatever else was sent may or may not have arrived,
    nothing more will be heard of it, and it must be sent again from the last confirmed position.
    """

    confirmed: tuple[Hashable, ...] = ()
    interrupted: bool = False


class Delivery(Protocol):
    """Sends messages in the order given, per topic and key, and remembers how many bytes are unconfirmed."""

    @property
    def in_flight_bytes(self) -> int:
        """Bytes sent and neither confirmed nor given up."""
        ...

    @property
    def state(self) -> BrokerState: ...

    def send(self, message: Message, ticket: Hashable) -> None:
        """Takes the message; `ticket` comes back in an outcome when Kafka has it on all in-sync replicas. Never
        blocks.
        """
        ...

    def poll(self) -> Outcome:
        """What happened since the last poll. Never blocks."""
        ...

    def close(self, timeout: float) -> None:
        """Waits at most `timeout` seconds for what is in flight, then lets go. A last poll gives the last
        confirmations.
        """
        ...
