"""The aggregator as a service: its parts put together, from addresses to a loop that runs until it is told to stop.

It is a consumer group of its own, and scales as the writer does. The topics tell it what has changed, the tables what
that comes to: see `sink` and `store`.
"""

import random
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from pulsetrain_consumers.aggregator.changes import Changes
from pulsetrain_consumers.aggregator.sink import AGGREGATOR_TOPICS, LIMITS, AggregatorSink
from pulsetrain_consumers.aggregator.store import THREADS, ClickHouseAggregates, Effort
from pulsetrain_consumers.aggregator.stored import KafkaStored
from pulsetrain_consumers.aggregator.telemetry import AggregatorTelemetry
from pulsetrain_consumers.clickhouse import connect
from pulsetrain_consumers.runtime.broker import Clock
from pulsetrain_consumers.runtime.dead_letters import DeadLetters
from pulsetrain_consumers.runtime.health import Health
from pulsetrain_consumers.runtime.loop import Loop
from pulsetrain_consumers.runtime.service import Process, ServiceOptions, member, run_loop, serve
from pulsetrain_consumers.runtime.telemetry import Telemetry
from pulsetrain_consumers.writer.service import GROUP as WRITERS
from pulsetrain_schemas.topics import TOPICS

GROUP = "pulsetrain-aggregator"
# Statements over some ten million points take a while on a machine that has other things to do.
_ANSWER_SECONDS = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class AggregatorOptions(ServiceOptions):
    """How an aggregator runs.

    `max_age` is how many seconds a change waits for others: what is read back for a bucket costs the same for one new
    point in it as for all, so the longer the cheaper. `writers` is the group that must have stored what is aggregated.
    """

    group: str = GROUP
    writers: str = WRITERS
    max_age: float = LIMITS.max_age
    threads: int = THREADS


def run(options: AggregatorOptions, process: Process) -> None:
    """Runs an aggregator until its process is to stop. Raises OSError where the port of the metrics is taken."""
    telemetry = AggregatorTelemetry()
    serve(options, process, telemetry, lambda clock, health: _consume(options, process, clock, telemetry, health))


def _consume(
    options: AggregatorOptions, process: Process, clock: Clock, telemetry: AggregatorTelemetry, health: Health
) -> None:
    limits = replace(LIMITS, max_age=options.max_age)
    stored = KafkaStored(options.kafka, options.writers)
    with (
        connect(options.clickhouse, timeout=_ANSWER_SECONDS, client_name="pulsetrain-aggregator") as client,
        ThreadPoolExecutor(1, thread_name_prefix="store") as executor,
    ):
        loop: Loop[Changes] = Loop(
            member(options, AGGREGATOR_TOPICS, clock),
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
        run_loop(loop, process, clock, health)
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
