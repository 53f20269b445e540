"""The writer as a service: its parts put together, from addresses to a loop that runs until it is told to stop."""

import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from pulsetrain_consumers.clickhouse import connect
from pulsetrain_consumers.runtime.batching import Limits
from pulsetrain_consumers.runtime.broker import Clock
from pulsetrain_consumers.runtime.dead_letters import DeadLetters
from pulsetrain_consumers.runtime.health import Health
from pulsetrain_consumers.runtime.kafka import KafkaPublisher
from pulsetrain_consumers.runtime.loop import Loop
from pulsetrain_consumers.runtime.service import Process, ServiceOptions, member, run_loop, serve
from pulsetrain_consumers.runtime.telemetry import Telemetry
from pulsetrain_consumers.writer.sink import WRITER_TOPICS, WriterEvent, WriterSink
from pulsetrain_consumers.writer.store import ClickHouseStore
from pulsetrain_schemas.framing import SingleObject
from pulsetrain_schemas.published import PublishedSchemas
from pulsetrain_schemas.schema_topic import SchemaTopic
from pulsetrain_schemas.topics import TOPICS

GROUP = "pulsetrain-writer"


@dataclass(frozen=True, slots=True, kw_only=True)
class WriterOptions(ServiceOptions):
    """How a writer runs."""

    group: str = GROUP
    max_age: float | None = None


def run(options: WriterOptions, process: Process) -> None:
    """Runs a writer until its process is to stop. Raises OSError where the port of the metrics is taken."""
    telemetry = Telemetry()
    serve(options, process, telemetry, lambda clock, health: _consume(options, process, clock, telemetry, health))


def _consume(options: WriterOptions, process: Process, clock: Clock, telemetry: Telemetry, health: Health) -> None:
    limits = Limits() if options.max_age is None else replace(Limits(), max_age=options.max_age)
    publisher = KafkaPublisher(options.kafka)
    with (
        connect(options.clickhouse, client_name="pulsetrain-writer") as client,
        ThreadPoolExecutor(1, thread_name_prefix="store") as executor,
    ):
        consumer = member(options, WRITER_TOPICS, clock)
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
        run_loop(loop, process, clock, health)
        executor.shutdown(wait=False, cancel_futures=True)
    publisher.close()
