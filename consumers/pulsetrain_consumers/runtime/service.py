"""What all consumer services share: their options, a page of metrics and health, membership of a group, and a loop."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pulsetrain_consumers.runtime.broker import Clock, SystemClock
from pulsetrain_consumers.runtime.health import Health
from pulsetrain_consumers.runtime.http import LOOPBACK, ServiceServer
from pulsetrain_consumers.runtime.kafka import KafkaGroupConsumer
from pulsetrain_consumers.runtime.loop import Loop
from pulsetrain_consumers.runtime.membership import Membership
from pulsetrain_consumers.runtime.roster import Roster, directory
from pulsetrain_consumers.runtime.telemetry import Telemetry
from pulsetrain_schemas.addresses import ClickHouseAddress, KafkaAddress
from pulsetrain_schemas.framing import SINGLE_OBJECT, Framing

log = logging.getLogger(__name__)

GRACE_SECONDS = 7.0
_LAG_SECONDS = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceOptions:
    """How a service runs. Under `home` the members of its group on this machine are written down."""

    kafka: KafkaAddress
    clickhouse: ClickHouseAddress
    home: Path
    group: str
    metrics_host: str = LOOPBACK
    metrics_port: int = 0
    session_timeout: float = 10.0
    framing: Framing = field(default=SINGLE_OBJECT)


@dataclass(frozen=True, slots=True)
class Process:
    """The process around a service: whether it is to stop, and who is told its port of metrics and that it works."""

    stopping: Callable[[], bool]
    listening: Callable[[int], None]
    ready: Callable[[], None]


def serve(
    options: ServiceOptions, process: Process, telemetry: Telemetry, work: Callable[[Clock, Health], None]
) -> None:
    """Does the work beside a page of its metrics and its health. Raises OSError where the port of that is taken."""
    clock: Clock = SystemClock()
    health = Health(clock)
    with ServiceServer(health, telemetry.registry, options.metrics_host, options.metrics_port) as server:
        process.listening(server.port)
        work(clock, health)


def member(options: ServiceOptions, topics: Sequence[str], clock: Clock) -> KafkaGroupConsumer:
    """A member of the service's group."""
    roster = Roster(directory(options.home, options.group, str(options.kafka)))
    return KafkaGroupConsumer(
        options.kafka,
        options.group,
        topics,
        clock,
        membership=Membership(options.kafka, options.group, roster),
        session_timeout=options.session_timeout,
    )


def run_loop(loop: Loop[Any], process: Process, clock: Clock, health: Health) -> None:
    """Ticks until the process is to stop, then finishes what was read."""
    measured, told = 0.0, False
    while not process.stopping():
        loop.tick()
        now = clock.monotonic()
        if now - measured >= _LAG_SECONDS:
            loop.measure_lag()
            measured = now
        if not told and health.ready()[0]:
            told = True
            process.ready()
    log.info("stopping: what was read is stored first")
    loop.finish(GRACE_SECONDS)
