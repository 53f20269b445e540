"""Words to the training processes: commands and alerts, from their topics to the inbox beside each journal.

A thread listens; the forwarder's loop takes what came and writes it down for the processes that are meant. Nothing is
committed: what is said while no forwarder runs is heard by the next one for a while, and what comes twice has an id.
"""

import json
import logging
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError

from pulsetrain._run.inbox import INBOX
from pulsetrain.forwarder.kafka_delivery import describe
from pulsetrain.forwarder.tail import Identity
from pulsetrain_schemas import events
from pulsetrain_schemas.addresses import AddressError, KafkaAddress
from pulsetrain_schemas.columnar import DecodeError
from pulsetrain_schemas.events import Alert, Command
from pulsetrain_schemas.framing import Framing, UnknownSchema
from pulsetrain_schemas.registry import RegistryError
from pulsetrain_schemas.topics import TOPICS

logger = logging.getLogger(__name__)

# How far back it listens: a forwarder that was killed comes back within seconds, one that waits for a broker later.
LOOK_BACK_SECONDS = 600.0
KILL_AFTER_SECONDS = 10.0
_POLL_MS = 500
_RETRY_SECONDS = 2.0
_ANSWER_MS = 5_000
_EVENTS: dict[str, type[Any]] = {TOPICS["control"].kafka_name: Command, TOPICS["alerts"].kafka_name: Alert}

Word = Command | Alert


class Listener(Protocol):
    """Gives what was said since the last time. Nothing of it blocks or raises."""

    def heard(self) -> list[Word]: ...

    def close(self) -> None: ...


class KafkaListener:
    """See `Listener`. `resolve` gives the address of this moment, `notify` is called when something came."""

    def __init__(
        self,
        resolve: Callable[[], KafkaAddress | None],
        framing: Framing,
        *,
        notify: Callable[[], None] = lambda: None,
    ) -> None:
        self._resolve = resolve
        self._framing = framing
        self._notify = notify
        self._heard: deque[Word] = deque()
        self._leave = threading.Event()
        self._thread = threading.Thread(target=self._run, name="control", daemon=True)
        self._thread.start()

    def heard(self) -> list[Word]:
        words: list[Word] = []
        while self._heard:
            words.append(self._heard.popleft())
        return words

    def close(self) -> None:
        self._leave.set()
        self._thread.join(2 * _POLL_MS / 1000)

    def _run(self) -> None:
        since = time.time() - LOOK_BACK_SECONDS
        while not self._leave.is_set():
            consumer = None
            try:
                address = self._resolve()
                if address is not None:
                    consumer = _connect(address)
                    _begin(consumer, since)
                    while not self._leave.is_set():
                        self._take(consumer.poll(timeout_ms=_POLL_MS))
            except (KafkaError, AddressError, OSError, ValueError, AssertionError) as error:
                logger.debug("nothing can be heard: %s", describe(error))
            finally:
                if consumer is not None:
                    consumer.close(autocommit=False, timeout_ms=500)
            self._leave.wait(_RETRY_SECONDS)

    def _take(self, found: dict[TopicPartition, list[Any]]) -> None:
        for name, records in found.items():
            for record in records:
                try:
                    self._heard.append(events.decode(record.value or b"", _EVENTS[name.topic], self._framing))
                except (DecodeError, UnknownSchema, RegistryError) as error:
                    logger.warning("a word of %s was not understood: %s", name.topic, error)
        if found:
            self._notify()


class Deliverer:
    """Writes words down for one process, each once; and ends the process where it is told to, by `send`."""

    def __init__(
        self,
        journal: Path,
        identity: Identity,
        *,
        send: Callable[[signal.Signals], None],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path = journal / INBOX
        self._identity = identity
        self._send = send
        self._monotonic = monotonic
        self._known = _ids(self._path)
        self._kill_at: float | None = None

    def deliver(self, word: Word) -> None:
        """Nothing, where the word is for another run, or another attempt, or was delivered before. OSError: no room."""
        identity = self._identity
        if (word.project, word.run_id) != (identity.project, identity.run_id):
            return
        if isinstance(word, Command):
            entry: dict[str, Any] = {
                "id": word.command_id,
                "action": word.action,
                "actor": word.actor,
                "text": word.text,
            }
            is_meant = word.attempt is None or word.attempt == identity.attempt
        else:
            # By the run's own clock: what an earlier attempt was told is not said again to the next one.
            # What is silenced is said to nobody.
            is_told = word.state in ("firing", "resolved") and not word.silenced
            is_meant = is_told and word.started >= identity.attempt_started
            names = ("kind", "subject", "state", "severity", "title", "text", "step", "value", "rank", "host", "gpu")
            entry = {
                "id": f"{word.alert_id}-{word.sequence}",
                "alert": {name: getattr(word, name) for name in names} | {"time": word.time / 1e6},
            }
        if not is_meant or entry["id"] in self._known:
            return
        # Begun anew, for the line before may be half of one, of a disk that was full.
        line = b"\n" + json.dumps(entry).encode() + b"\n"
        descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.write(descriptor, line)
        finally:
            os.close(descriptor)
        self._known.add(str(entry["id"]))
        if isinstance(word, Command):
            logger.info("run %s is told to %s by %s", identity.run_id, word.action, word.actor)
            if word.action == "kill":
                self._end(signal.SIGTERM)
                self._kill_at = self._monotonic() + KILL_AFTER_SECONDS

    def tick(self) -> None:
        """Ends at once what did not end in order."""
        if self._kill_at is not None and self._monotonic() >= self._kill_at:
            self._kill_at = None
            self._end(signal.SIGKILL)

    def _end(self, number: signal.Signals) -> None:
        try:
            self._send(number)
        except OSError as error:
            logger.warning("process %d could not be sent %s: %s", self._identity.pid, number.name, error)


def _ids(path: Path) -> set[str]:
    """What was delivered before."""
    found = set[str]()
    try:
        lines = path.read_bytes().splitlines()
    except OSError:
        return found
    for line in lines:
        try:
            found.add(str(json.loads(line)["id"]))
        except (ValueError, KeyError, TypeError):
            continue  # half a line, of a disk that was full
    return found


def _connect(address: KafkaAddress) -> Any:
    return KafkaConsumer(
        client_id="pulsetrain-forwarder",
        group_id=None,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        allow_auto_create_topics=False,
        fetch_max_wait_ms=_POLL_MS,
        reconnect_backoff_max_ms=1000,
        bootstrap_timeout_ms=4_000,
        metrics_enabled=False,
        **address.client_config(),
    )


def _begin(consumer: Any, since: float) -> None:
    names = [
        TopicPartition(topic, number) for topic in _EVENTS for number in consumer.partitions_for_topic(topic) or ()
    ]
    if len({name.topic for name in names}) < len(_EVENTS):
        raise KafkaError("a topic is missing")
    consumer.assign(names)
    found = consumer.offsets_for_times(dict.fromkeys(names, int(since * 1000)), timeout_ms=_ANSWER_MS)
    ends = consumer.end_offsets(names, timeout_ms=_ANSWER_MS)
    for name in names:
        at = found.get(name)
        consumer.seek(name, ends[name] if at is None else at.offset)
