"""A broker in memory and the delivery to it, for tests of whatever sends: it can be away, be slow, refuse what is too
large, and lose its connection at any point.
"""

from collections import deque
from collections.abc import Hashable
from itertools import islice

from pulsetrain.forwarder.delivery import BrokerState, Message, Outcome


class MemoryBroker:
    """What arrived, by topic, in order."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.away = False
        self.max_message_bytes: int | None = None

    def of(self, topic: str) -> list[Message]:
        """The messages of one topic."""
        return [message for message in self.messages if message.topic == topic]


class MemoryDelivery:
    """Hands messages to the broker and hears of it when polled, unless the broker is away.

    `by_hand`: what arrives, and what is then heard of it, is said by `arrive` and `confirm`. What was sent under one
    topic arrives in order, as Kafka has it; between topics any order will do.
    """

    def __init__(self, broker: MemoryBroker, *, by_hand: bool = False) -> None:
        self._broker = broker
        self._by_hand = by_hand
        self._waiting: deque[tuple[Message, Hashable]] = deque()
        self._arrived: deque[tuple[Message, Hashable]] = deque()
        self._confirmed: list[Hashable] = []
        self._interrupted = False
        self._refused = ""

    @property
    def in_flight_bytes(self) -> int:
        return sum(len(message.payload) for queue in (self._waiting, self._arrived) for message, _ in queue)

    @property
    def state(self) -> BrokerState:
        if self._broker.away or self._refused:
            return BrokerState("away", self._refused or "the broker in memory is away")
        return BrokerState("connected")

    def send(self, message: Message, ticket: Hashable) -> None:
        if not self._interrupted:
            self._waiting.append((message, ticket))

    def poll(self) -> Outcome:
        if not self._by_hand:
            self.arrive()
            self.confirm()
        outcome = Outcome(tuple(self._confirmed), self._interrupted)
        self._confirmed = []
        self._interrupted = False
        return outcome

    def arrive(self, count: int | None = None, topic: str | None = None) -> None:
        """The next `count` messages (of one topic) reach the broker, which has yet to say so; all, where None."""
        if self._broker.away:
            return
        limit = self._broker.max_message_bytes
        wanted = [entry for entry in self._waiting if topic in (None, entry[0].topic)]
        for entry in islice(wanted, count):
            message = entry[0]
            if limit is not None and len(message.payload) > limit:
                self._refused = f"{len(message.payload)} bytes are too large for {message.topic}, which takes {limit}"
                self.interrupt()
                return
            self._refused = ""
            self._waiting.remove(entry)
            self._broker.messages.append(message)
            self._arrived.append(entry)

    def confirm(self, count: int | None = None) -> None:
        """The broker's word of the next `count` messages that arrived comes through; of all, where None."""
        for _ in range(len(self._arrived) if count is None else min(count, len(self._arrived))):
            self._confirmed.append(self._arrived.popleft()[1])

    def interrupt(self, arrived: int = 0) -> list[Message]:
        """Loses the connection, after `arrived` more messages reached the broker. Gives those that did not."""
        for message, _ in islice(self._waiting, arrived):
            self._broker.messages.append(message)
        lost = [message for message, _ in islice(self._waiting, arrived, None)]
        self._waiting.clear()
        self._arrived.clear()
        self._interrupted = True
        return lost

    def close(self, timeout: float) -> None:
        """Nothing is held open."""
