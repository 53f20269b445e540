"""A broker in memory and the delivery to it, for tests of whatever sends: it can be away, and lose its connection."""

from collections import deque
from collections.abc import Hashable

from pulsetrain.forwarder.delivery import BrokerState, Message, Outcome


class MemoryBroker:
    """What arrived, by topic, in order."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.away = False

    def of(self, topic: str) -> list[Message]:
        """The messages of one topic."""
        return [message for message in self.messages if message.topic == topic]


class MemoryDelivery:
    """Hands messages to the broker when polled, unless it is away.

    `interrupt()` behaves as the loss of a producer does: of what was in flight, `arrived` messages reached the broker,
    and nobody is told.
    """

    def __init__(self, broker: MemoryBroker) -> None:
        self._broker = broker
        self._queue: deque[tuple[Message, Hashable]] = deque()
        self._interrupted = False

    @property
    def in_flight_bytes(self) -> int:
        return sum(len(message.payload) for message, _ in self._queue)

    @property
    def state(self) -> BrokerState:
        return BrokerState("away", "the broker in memory is away") if self._broker.away else BrokerState("connected")

    def send(self, message: Message, ticket: Hashable) -> None:
        if self._interrupted:
            return
        self._queue.append((message, ticket))

    def poll(self) -> Outcome:
        confirmed: list[Hashable] = []
        while self._queue and not self._broker.away:
            message, ticket = self._queue.popleft()
            self._broker.messages.append(message)
            confirmed.append(ticket)
        interrupted, self._interrupted = self._interrupted, False
        return Outcome(tuple(confirmed), interrupted)

    def interrupt(self, arrived: int = 0) -> None:
        """Loses what is in flight, after the first `arrived` of it."""
        for message, _ in list(self._queue)[:arrived]:
            self._broker.messages.append(message)
        self._queue.clear()
        self._interrupted = True

    def close(self, timeout: float) -> None:
        """Nothing is held open."""
