"""The writer as a service: its parts put together, from addresses to a loop that runs until it is told to stop."""

import logging
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

from pulsetrain_consumers.clickhouse import connect
from pulsetrain_consumers.runtime.batching import Limits
from pulsetrain_consumers.runtime.broker import Clock, SystemClock
from pulsetrain_consumers.runtime.dead_letters import DeadLetters
from pulsetrain_consumers.runtime.health import Health
from pulsetrain_consumers.runtime.http import LOOPBACK, ServiceServer
from pulsetrain_consumers.runtime.kafka import KafkaGroupConsumer, KafkaPublisher
from pulsetrain_consumers.runtime.loop import Loop
from pulsetrain_consumers.runtime.membership import Membership
from pulsetrain_consumers.runtime.roster import Roster, directory
from pulsetrain_consumers.runtime.telemetry import Telemetry
from pulsetrain_consumers.writer.sink import WRITER_TOPICS, WriterEvent, WriterSink
from pulsetrain_consumers.writer.store import ClickHouseStore
from pulsetrain_schemas.addresses import ClickHouseAddress, KafkaAddress
from pulsetrain_schemas.framing import SINGLE_OBJECT, Framing, SingleObject
from pulsetrain_schemas.published import PublishedSchemas
from pulsetrain_schemas.schema_topic import SchemaTopic
from pulsetrain_schemas.topics import TOPICS

log = logging.getLogger(__name__)

GROUP = "pulsetrain-writer"
GRACE_SECONDS = 7.0
_LAG_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class WriterOptions:
    """How a writer runs. Under `home` the members of its group on this machine are written down."""

    kafka: KafkaAddress
    clickhouse: ClickHouseAddress
    home: Path
    group: str = GROUP
    metrics_host: str = LOOPBACK
    metrics_port: int = 0
    max_age: float | None = None
    session_timeout: float = 10.0
    framing: Framing = field(default=SINGLE_OBJECT)


def run(
    options: WriterOptions,
    stopping: Callable[[], bool],
    listening: Callable[[int], None],
    ready: Callable[[], None],
) -> None:
    """Runs a writer until `stopping`; `listening` is told the port of the metrics, `ready` when rows can be stored.

    Raises OSError where the port of the metrics is taken.
    """
    clock: Clock = SystemClock()
    telemetry, health = Telemetry(), Health(clock)
    with ServiceServer(health, telemetry.registry, options.metrics_host, options.metrics_port) as server:
        listening(server.port)
        _consume(options, clock, telemetry, health, stopping, ready)


def _consume(
    options: WriterOptions,
    clock: Clock,
    telemetry: Telemetry,
    health: Health,
    stopping: Callable[[], bool],
    ready: Callable[[], None],
) -> None:
    limits = Limits() if options.max_age is None else replace(Limits(), max_age=options.max_age)
    publisher = KafkaPublisher(options.kafka)
    roster = Roster(directory(options.home, options.group, str(options.kafka)))
    with (
        connect(options.clickhouse, client_name="pulsetrain-writer") as client,
        ThreadPoolExecutor(1, thread_name_prefix="store") as executor,
    ):
        consumer = KafkaGroupConsumer(
            options.kafka,
            options.group,
            WRITER_TOPICS,
            clock,
            membership=Membership(options.kafka, options.group, roster),
            session_timeout=options.session_timeout,
        )
        loop: Loop[WriterEvent] = Loop(
            consumer,
            WriterSink(ClickHouseStore(client), options.framing, clock, telemetry),
            DeadLetters(
                publisher,
                TOPICS["dead_letters"].kafka_name,
                options.group,
                clock,
                telemetry,
                # No registry stands between a bad message and its being put aside.
                SingleObject(PublishedSchemas(SchemaTopic(lambda: options.kafka))),
                consumer.topic_id,
            ),
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
        log.info("stopping: what was read is stored first")
        loop.finish(GRACE_SECONDS)
        executor.shutdown(wait=False, cancel_futures=True)
    publisher.close()
