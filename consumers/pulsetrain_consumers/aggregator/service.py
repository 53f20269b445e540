"""The aggregator as a service: its parts put together, from addresses to a loop that runs until it is told to stop.

It is a consumer group of its own, and scales as the writer does. The topics tell it what has changed, the tables what
that comes to: see `sink` and `store`.
"""

import logging
import random
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

from pulsetrain_consumers.aggregator.changes import Changes
from pulsetrain_consumers.aggregator.sink import AGGREGATOR_TOPICS, LIMITS, AggregatorSink
from pulsetrain_consumers.aggregator.store import THREADS, ClickHouseAggregates, Effort
from pulsetrain_consumers.aggregator.stored import KafkaStored
from pulsetrain_consumers.aggregator.telemetry import AggregatorTelemetry
from pulsetrain_consumers.clickhouse import connect
from pulsetrain_consumers.runtime.broker import Clock, SystemClock
from pulsetrain_consumers.runtime.dead_letters import DeadLetters
from pulsetrain_consumers.runtime.health import Health
from pulsetrain_consumers.runtime.http import LOOPBACK, ServiceServer
from pulsetrain_consumers.runtime.kafka import KafkaGroupConsumer
from pulsetrain_consumers.runtime.loop import Loop
from pulsetrain_consumers.runtime.membership import Membership
from pulsetrain_consumers.runtime.roster import Roster, directory
from pulsetrain_consumers.runtime.telemetry import Telemetry
from pulsetrain_consumers.writer.service import GROUP as WRITERS
from pulsetrain_schemas.addresses import ClickHouseAddress, KafkaAddress
from pulsetrain_schemas.framing import SINGLE_OBJECT, Framing
from pulsetrain_schemas.topics import TOPICS

log = logging.getLogger(__name__)

GROUP = "pulsetrain-aggregator"
GRACE_SECONDS = 7.0
# Statements over some ten million points take a while on a machine that has other things to do.
_ANSWER_SECONDS = 600.0
_LAG_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class AggregatorOptions:
    """How an aggregator runs. Under `home` the members of its group on this machine are written down.

    `max_age` is how many seconds a change waits for others: what is read back for a bucket costs the same for one new
    point in it as for all, so the longer the cheaper. `writers` is the group that must have stored what is aggregated.
    """

    kafka: KafkaAddress
    clickhouse: ClickHouseAddress
    home: Path
    group: str = GROUP
    writers: str = WRITERS
    metrics_host: str = LOOPBACK
    metrics_port: int = 0
    max_age: float = LIMITS.max_age
    threads: int = THREADS
    session_timeout: float = 10.0
    framing: Framing = field(default=SINGLE_OBJECT)


def run(
    options: AggregatorOptions,
    stopping: Callable[[], bool],
    listening: Callable[[int], None],
    ready: Callable[[], None],
) -> None:
    """Runs an aggregator until `stopping`; `listening` is told the port of the metrics, `ready` when it works.

    Raises OSError where the port of the metrics is taken.
    """
    clock: Clock = SystemClock()
    telemetry, health = AggregatorTelemetry(), Health(clock)
    with ServiceServer(health, telemetry.registry, options.metrics_host, options.metrics_port) as server:
        listening(server.port)
        _consume(options, clock, telemetry, health, stopping, ready)


def _consume(
    options: AggregatorOptions,
    clock: Clock,
    telemetry: AggregatorTelemetry,
    health: Health,
    stopping: Callable[[], bool],
    ready: Callable[[], None],
) -> None:
    limits = replace(LIMITS, max_age=options.max_age)
    roster = Roster(directory(options.home, options.group, str(options.kafka)))
    stored = KafkaStored(options.kafka, options.writers)
    with (
        connect(options.clickhouse, timeout=_ANSWER_SECONDS, client_name="pulsetrain-aggregator") as client,
        ThreadPoolExecutor(1, thread_name_prefix="store") as executor,
    ):
        consumer = KafkaGroupConsumer(
            options.kafka,
            options.group,
            AGGREGATOR_TOPICS,
            clock,
            membership=Membership(options.kafka, options.group, roster),
            session_timeout=options.session_timeout,
        )
        loop: Loop[Changes] = Loop(
            consumer,
            AggregatorSink(
                ClickHouseAggregates(client, clock.now, Effort(threads=options.threads)),
                stored,
                options.framing,
                clock,
                telemetry,
                _pause,
                limits,
            ),
            no_dead_letters(options.group, clock, telemetry),
            executor=executor,
            clock=clock,
            random=random.Random(),
            telemetry=telemetry,
            health=health,
            limits=limits,
        )
        measured, told = 0.0, False
        while not stopping():
            loop.tick()
            now = clock.monotonic()
            if now - measured >= _LAG_SECONDS:
                loop.measure_lag()
                measured = now
            if not told and health.ready()[0]:
                told = True
                ready()
        log.info("stopping: what was read is aggregated first")
        loop.finish(GRACE_SECONDS)
        executor.shutdown(wait=False, cancel_futures=True)
    stored.close()


def no_dead_letters(group: str, clock: Clock, telemetry: Telemetry) -> DeadLetters:
    """Dead letters for a sink that rejects nothing: the writers have put aside what cannot be read."""
    return DeadLetters(_Nowhere(), TOPICS["dead_letters"].kafka_name, group, clock, telemetry)


class _Nowhere:
    """A publisher that is never asked to publish."""

    def publish(self, topic: str, messages: Sequence[tuple[bytes | None, bytes]]) -> None:
        raise AssertionError(f"the aggregator puts {len(messages)} messages into {topic}, and it never does")

    def close(self) -> None:
        """Nothing to free."""


def _pause(seconds: float) -> None:
    threading.Event().wait(seconds)
