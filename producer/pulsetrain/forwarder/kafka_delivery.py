"""Delivery to Kafka through kafka-python's idempotent producer.

The producer lives on a thread of its own, for making one and finding a topic's partitions block while the broker is
away. The address is asked for anew each time a producer is made, and every few seconds while nothing is confirmed: a
local stack that comes back has other ports. Any error of a send gives the producer up: what it had in flight is void, a
new one is made, and the journals are read again from what was confirmed. So order is kept, and what arrived twice is
recognised downstream by its sequences.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable
from typing import Any

from kafka import KafkaProducer
from kafka.errors import KafkaError, KafkaTimeoutError

from pulsetrain.forwarder.delivery import BrokerState, Message, Outcome
from pulsetrain_schemas.addresses import AddressError, KafkaAddress
from pulsetrain_schemas.topics import PREFIX

logger = logging.getLogger(__name__)

FIRST_BACKOFF = 0.25
LAST_BACKOFF = 5.0
# How long a broker has to answer a producer that is made: little at first, for whoever ends a run waits to hear that
# there is none, and more with each try, for one that is far away.
FIRST_PATIENCE = 1.0
LAST_PATIENCE = 4.0
STALL_SECONDS = 3.0  # without a confirmation: the broker counts as away, and its address is asked for again
GIVE_UP_SECONDS = 12.0  # without one: a producer with unsent batches keeps a core busy, one that is made anew does not
BLOCK_SECONDS = 5.0  # the longest that one call into the producer may take

PRODUCER_CONFIG = {
    "acks": "all",
    "enable_idempotence": True,
    "max_in_flight_requests_per_connection": 5,
    # A message is a batch already: each goes alone, at once; only small ones that wait anyway share a request.
    "batch_size": 64 << 10,
    "linger_ms": 0,
    "max_request_size": 8 << 20,
    "max_block_ms": int(BLOCK_SECONDS * 1000),
    "reconnect_backoff_max_ms": 1000,
    # A topic that is missing is an operator's error; a client that made one would give it the wrong partitions.
    "allow_auto_create_topics": False,
    "metrics_enabled": False,
    "client_id": "pulsetrain-forwarder",
}


class _Producer(KafkaProducer):  # type: ignore[misc]
    """kafka-python's producer, which can also be let go at once: its own close() waits for what is in flight first."""

    _closed: bool

    def abandon(self) -> None:
        """Stops the sender without another message. Futures fail; nobody listens to them any more."""
        if self._closed:
            return
        self._closed = True
        self._unregister_cleanup()
        self._sender.force_close()


def connect(address: KafkaAddress, patience: float) -> _Producer:
    """A producer that has found its broker. KafkaError or OSError where there is none within `patience` seconds."""
    return _Producer(**PRODUCER_CONFIG, bootstrap_timeout_ms=int(patience * 1000), **address.client_config())


class KafkaDelivery:
    """See `delivery.Delivery`. `resolve` gives the address of this moment; `notify` is called when something was
    confirmed.
    """

    def __init__(
        self,
        resolve: Callable[[], KafkaAddress | None],
        *,
        notify: Callable[[], None] = lambda: None,
        make_producer: Callable[[KafkaAddress, float], Any] = connect,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._resolve = resolve
        self._notify = notify
        self._make_producer = make_producer
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._waiting: deque[tuple[Message, Hashable]] = deque()
        self._unconfirmed: dict[int, int] = {}
        self._confirmed: list[Hashable] = []
        self._interrupted = False
        self._in_flight_bytes = 0
        self._next_send = 0
        self._generation = 0
        self._heard_at = monotonic()
        self._backoff = FIRST_BACKOFF
        self._patience = FIRST_PATIENCE
        self._state = BrokerState("unknown")
        self._producer: Any = None
        self._address: KafkaAddress | None = None
        self._broken: BaseException | None = None
        self._work = threading.Event()
        self._leave = threading.Event()
        self._thread = threading.Thread(target=self._run, name="delivery", daemon=True)
        self._thread.start()

    @property
    def in_flight_bytes(self) -> int:
        return self._in_flight_bytes

    @property
    def state(self) -> BrokerState:
        return self._state

    def send(self, message: Message, ticket: Hashable) -> None:
        with self._lock:
            if self._interrupted:  # void like all before it: the caller has not been told yet, and will send it again
                return
            self._in_flight_bytes += len(message.payload)
            self._waiting.append((message, ticket))
        self._work.set()

    def poll(self) -> Outcome:
        if not self._confirmed and not self._interrupted:
            return Outcome()
        with self._lock:
            outcome = Outcome(tuple(self._confirmed), self._interrupted)
            self._confirmed = []
            self._interrupted = False
        return outcome

    def close(self, timeout: float) -> None:
        deadline = self._monotonic() + timeout
        while self._in_flight_bytes and self._state.broker == "connected" and self._monotonic() < deadline:
            self._leave.wait(0.01)
        self._leave.set()
        self._work.set()
        self._thread.join(max(deadline - self._monotonic(), 0.1))
        if self._producer is not None:
            self._producer.abandon()

    def _run(self) -> None:
        while not self._leave.is_set():
            if self._producer is None:
                self._connect()
            elif self._broken is not None:
                self._give_up(f"a send failed: {describe(self._broken)}")
            else:
                self._work.wait(0.5)
                self._work.clear()
                self._send_waiting()
                self._look_for_a_stall()

    def _connect(self) -> None:
        address = None
        try:
            address = self._resolve()
            if address is None:
                self._away("no Kafka is known: start a local stack with `pulsetrain up`, or set PULSETRAIN_KAFKA")
            else:
                self._producer = self._make_producer(address, self._patience)
                self._address = address
        except KafkaTimeoutError:
            self._away(f"no broker answers at {address}; what is logged waits in the journals")
        except (KafkaError, OSError, AddressError, ValueError, AssertionError) as error:
            self._away(describe(error))
        if self._producer is None:
            self._patience = min(2 * self._patience, LAST_PATIENCE)
            self._leave.wait(self._backoff)
            self._backoff = min(2 * self._backoff, LAST_BACKOFF)
        else:
            self._heard_at = self._monotonic()
            self._say(BrokerState("connected", str(self._address)))

    def _send_waiting(self) -> None:
        while self._waiting and self._broken is None and not self._leave.is_set():
            with self._lock:
                message, ticket = self._waiting.popleft()
                number = self._next_send = self._next_send + 1
                if not self._unconfirmed:
                    self._heard_at = self._monotonic()
                self._unconfirmed[number] = len(message.payload)
            generation = self._generation
            try:
                future = self._producer.send(PREFIX + message.topic, message.payload, message.key)
            except (KafkaError, OSError, ValueError, AssertionError) as error:
                hint = f" (is there a topic {PREFIX}{message.topic}? `pulsetrain topics` makes them)"
                self._give_up(describe(error) + (hint if isinstance(error, KafkaTimeoutError | ValueError) else ""))
                return
            future.add_callback(self._on_confirmed, generation, number, ticket)
            future.add_errback(self._on_failed, generation)

    def _on_confirmed(self, generation: int, number: int, ticket: Hashable, _metadata: object) -> None:
        """On the producer's own thread."""
        with self._lock:
            if generation != self._generation:
                return
            self._in_flight_bytes -= self._unconfirmed.pop(number)
            self._confirmed.append(ticket)
            self._heard_at = self._monotonic()
        self._backoff = FIRST_BACKOFF
        if self._state.broker != "connected":
            self._say(BrokerState("connected", str(self._address)))
        self._notify()

    def _on_failed(self, generation: int, error: BaseException) -> None:
        """On the producer's own thread, which must not close itself: the delivery's thread does."""
        if generation == self._generation:
            self._broken = error
            self._work.set()

    def _look_for_a_stall(self) -> None:
        now = self._monotonic()
        if not self._unconfirmed or now - self._heard_at < STALL_SECONDS:
            return
        self._away(f"no answer from {self._address}; what was logged waits in the journals")
        try:
            address = self._resolve()
        except AddressError as error:
            self._away(str(error))
            return
        if address is not None and address != self._address:
            self._give_up(f"the broker moved to {address}")
        elif now - self._heard_at > GIVE_UP_SECONDS:
            self._give_up(self._state.detail)
        elif not self._waiting:
            self._leave.wait(0.2)

    def _give_up(self, why: str) -> None:
        """Lets the producer go with all that it had in flight, and has the journals read again."""
        producer, self._producer = self._producer, None
        self._away(why)  # before anyone hears of the interruption, and asks why
        with self._lock:
            self._generation += 1
            self._waiting.clear()
            self._unconfirmed.clear()
            self._in_flight_bytes = 0
            self._interrupted = True
            self._broken = None
        producer.abandon()
        self._notify()
        self._leave.wait(self._backoff)
        self._backoff = min(2 * self._backoff, LAST_BACKOFF)

    def _away(self, detail: str) -> None:
        self._say(BrokerState("away", detail))

    def _say(self, state: BrokerState) -> None:
        """Changes the state; the log has a line when the broker goes or comes, not one for each try."""
        if state.broker != self._state.broker:
            logger.log(logging.INFO if state.broker == "connected" else logging.WARNING, "%s: %s", *_words(state))
        self._state = state


def _words(state: BrokerState) -> tuple[str, str]:
    return f"Kafka is {state.broker}", state.detail


def describe(error: BaseException) -> str:
    """An error of kafka-python in one line: some of them have no text of their own."""
    text = " ".join(str(error).split())
    name = type(error).__name__
    return text if name in text else f"{name}: {text}" if text else name
