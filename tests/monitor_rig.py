"""The monitor on a broker and a store in memory, with time and crashes in the hands of the test."""

import math
import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pulsetrain_consumers.monitor.monitor import MONITOR_TOPICS, Monitor
from pulsetrain_consumers.monitor.silences import MemorySilences, Silence, Silences
from pulsetrain_consumers.monitor.state import MemoryState
from pulsetrain_consumers.monitor.telemetry import MonitorTelemetry
from pulsetrain_consumers.monitor.telling import ALERT_TOPIC
from pulsetrain_consumers.runtime.broker import BrokerUnavailable, Partition
from pulsetrain_consumers.runtime.follower import MemoryFollower
from pulsetrain_consumers.runtime.health import Health
from pulsetrain_consumers.runtime.memory import MemoryBroker
from pulsetrain_consumers.runtime.sink import StoreUnavailable
from pulsetrain_schemas import events
from pulsetrain_schemas.events import Alert, MetricBatch, Origin, RunEvent, UserAlert
from pulsetrain_schemas.framing import SINGLE_OBJECT
from pulsetrain_schemas.topics import TOPICS
from tests.writer_rig import STARTED, Faults, ManualClock

RUNS, METRICS, SYSTEM = (TOPICS[name].kafka_name for name in ("runs", "metrics", "system"))
SOURCE = "pulsetrain-monitor"
PARTITIONS = 2
Change = tuple[str, int, str]


class FaultyPublisher:
    """Passes a boundary before and after each call; loses the answer of some, of which a part may have arrived.

    `unsure` gets what was in those: it is told again.
    """

    def __init__(self, broker: MemoryBroker, faults: Faults, unsure: set[Change]) -> None:
        self.lost_answers: list[int] = []
        self._unsure = unsure
        self._broker = broker
        self._faults = faults

    def publish(self, topic: str, messages: Sequence[tuple[bytes | None, bytes]]) -> None:
        self._faults.boundary()
        if self.lost_answers:
            self._unsure.update(changes([events.decode(value, Alert) for _, value in messages]))
            self._broker.publish(topic, messages[: self.lost_answers.pop()])
            self._faults.boundary()
            raise BrokerUnavailable("no answer came")
        self._broker.publish(topic, messages)
        self._faults.boundary()

    def close(self) -> None:
        """Nothing to free."""


class FaultyState:
    """Passes a boundary before and after each save; loses the answer of some."""

    def __init__(self, inner: MemoryState, faults: Faults) -> None:
        self.inner = inner
        self.lost_answers = 0
        self._faults = faults

    def load(self) -> dict[str, str]:
        return self.inner.load()

    def save(self, parts: Mapping[str, str]) -> None:
        self._faults.boundary()
        self.inner.save(parts)
        self._faults.boundary()
        if self.lost_answers:
            self.lost_answers -= 1
            raise StoreUnavailable("no answer came")


class Process:
    """One monitor process."""

    def __init__(self, rig: "Rig", **more: Any) -> None:
        self.faults = Faults()
        self.telemetry = MonitorTelemetry()
        self.health = Health(rig.clock)
        self.publisher = FaultyPublisher(rig.broker, self.faults, rig.unsure)
        self.store = FaultyState(MemoryState(rig.table), self.faults)
        self.store.inner.away = rig.store_away
        self.follower = MemoryFollower(rig.broker, MONITOR_TOPICS)
        self.monitor = Monitor(
            self.follower,
            MemoryFollower(rig.broker, (ALERT_TOPIC,)),
            self.publisher,
            self.store,
            SINGLE_OBJECT,
            source=SOURCE,
            clock=rig.clock,
            random=random.Random(1),
            telemetry=self.telemetry,
            health=self.health,
            **{"silences": Silences((), MemorySilences(rig.silences)), **more},
        )

    def count(self, name: str, **labels: str) -> float:
        return self.telemetry.registry.get_sample_value(f"pulsetrain_{name}", labels) or 0.0


class Rig:
    """A broker with the monitor's topics, a table of states, a clock; and what runs send."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.broker = MemoryBroker(self.clock)
        self.table: dict[str, tuple[int, str]] = {}
        self.silences: dict[str, Silence] = {}
        self.store_away = False
        self.sent: dict[tuple[str, str], int] = {}
        self.unsure: set[Change] = set()
        for topic in MONITOR_TOPICS:
            self.broker.create_topic(topic, PARTITIONS)
        self.broker.create_topic(ALERT_TOPIC, 1)

    def settle(self, process: Process, ticks: int = 10, seconds: float = 1.0) -> None:
        """Lets a monitor work, with time passing."""
        for _ in range(ticks):
            process.monitor.tick(0)
            self.clock.time += seconds

    def next_sequences(self, topic: str, run: str, count: int = 1) -> tuple[int, int]:
        first = self.sent.get((topic, run), 0) + 1
        self.sent[topic, run] = first + count - 1
        return first, first + count - 1

    def append(self, topic: str, run: str, event: Any) -> int:
        return self.broker.append(Partition(topic, place(run)), events.encode(event))

    def metrics(self, run: str, values: Sequence[float], *, key: str = "train/loss", project: str = "p") -> MetricBatch:
        """Sends rows of one metric, numbered on."""
        first, last = self.next_sequences(METRICS, run, len(values))
        batch = self.batch(run, first, last, values, key=key, project=project)
        self.append(METRICS, run, batch)
        return batch

    def batch(
        self, run: str, first: int, last: int, values: Sequence[float], *, key: str = "train/loss", project: str = "p"
    ) -> MetricBatch:
        sequences, now = np.arange(first, last + 1), int(self.clock.now() * 1e6)
        return MetricBatch(
            origin=Origin(project, run, f"w-{run}", 0, 0, STARTED, first, last),
            keys=(key,),
            shape_lengths=np.array([1]),
            shape_keys=np.array([0]),
            row_sequences=sequences,
            row_steps=sequences - 1,
            row_times=now + sequences,
            row_shapes=np.zeros(len(sequences), np.int64),
            values=np.array(values, float),
        )

    def event(self, run: str, kind: str, *, project: str = "p", time: float | None = None, **more: Any) -> RunEvent:
        """Sends something that happened to a run."""
        sequence, _ = self.next_sequences(RUNS, run)
        origin = Origin(project, run, f"w-{run}", 0, 0, STARTED, sequence, sequence)
        at = int((self.clock.now() if time is None else time) * 1e6)
        event = RunEvent(origin, kind, at, True, **more)
        self.append(RUNS, run, event)
        return event

    def alert(self, run: str, title: str = "look", wait: float = 0.0, **more: Any) -> RunEvent:
        """Sends a run.alert()."""
        said = UserAlert(title=title, text="at this", level="WARN", wait_seconds=wait)
        return self.event(run, "alert", alert=said, **more)

    def told(self) -> list[Alert]:
        """What is in the topic of alerts, in order."""
        return [events.decode(record.value or b"", Alert) for record in self.broker.records(ALERT_TOPIC)]

    def changes(self, *kinds: str) -> list[Change]:
        return changes(self.told(), *kinds)


def place(run: str) -> int:
    """The number of a run's partition."""
    return sum(run.encode()) % PARTITIONS


def changes(alerts: Sequence[Alert], *kinds: str) -> list[Change]:
    """What tells changes apart, of these kinds or all."""
    return [(alert.alert_id, alert.sequence, alert.state) for alert in alerts if not kinds or alert.kind in kinds]


NAN = math.nan
