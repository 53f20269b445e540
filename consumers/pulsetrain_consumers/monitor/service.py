"""The monitor as a service: its parts put together, from addresses to a loop that runs until it is told to stop.

Several may run, and one works: the one that has the first partition of the topic of alerts in their consumer group. The
others wait to take its place.
"""

import logging
import random
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from pulsetrain_consumers.clickhouse import connect
from pulsetrain_consumers.monitor.monitor import MONITOR_TOPICS, Monitor
from pulsetrain_consumers.monitor.notifications import Notifications, Route
from pulsetrain_consumers.monitor.place import Place
from pulsetrain_consumers.monitor.silences import ClickHouseSilences, Silence, Silences
from pulsetrain_consumers.monitor.state import ClickHouseState
from pulsetrain_consumers.monitor.telemetry import MonitorTelemetry
from pulsetrain_consumers.monitor.telling import ALERT_TOPIC
from pulsetrain_consumers.runtime.broker import Clock
from pulsetrain_consumers.runtime.follower import KafkaFollower
from pulsetrain_consumers.runtime.health import Health
from pulsetrain_consumers.runtime.kafka import KafkaPublisher
from pulsetrain_consumers.runtime.service import Process, ServiceOptions, member, serve
from pulsetrain_schemas.alert_rules import Rule

log = logging.getLogger(__name__)

GROUP = "pulsetrain-monitor"
_IDLE_SECONDS = 0.2
_POLL_SECONDS = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class MonitorOptions(ServiceOptions):
    """How a monitor runs: by which rules and silences, and where it sends alerts."""

    group: str = GROUP
    routes: Sequence[Route] = ()
    rules: Sequence[Rule] = ()
    silences: Sequence[Silence] = ()


def run(options: MonitorOptions, process: Process) -> None:
    """Runs a monitor until its process is to stop; it is ready when it works or waits to.

    Raises OSError where the port of the metrics is taken.
    """
    telemetry = MonitorTelemetry()
    serve(options, process, telemetry, lambda clock, health: _watch(options, process, clock, telemetry, health))


def _watch(
    options: MonitorOptions, process: Process, clock: Clock, telemetry: MonitorTelemetry, health: Health
) -> None:
    consumer = member(options, (ALERT_TOPIC,), clock)
    notifications = Notifications(options.routes, clock=clock, random=random.Random(), telemetry=telemetry)
    place = Place(consumer, notifications, options.framing)
    told = False
    with ExitStack() as resources:
        monitor: Monitor | None = None
        while not process.stopping():
            has_place = place.poll(0.0 if monitor is not None else _IDLE_SECONDS)
            if has_place and monitor is None:
                log.info("this monitor watches")
                monitor = _monitor(options, clock, telemetry, health, resources)
            elif not has_place and monitor is not None:
                log.info("another monitor watches, this one waits")
                resources.close()
                monitor = None
            if monitor is not None:
                monitor.tick(_POLL_SECONDS)
            else:
                health.tick()
                health.problem("start", consumer.problem())
            if not told and health.ready()[0]:
                told = True
                process.ready()
        if monitor is not None:
            monitor.finish()
    place.close()


def _monitor(
    options: MonitorOptions, clock: Clock, telemetry: MonitorTelemetry, health: Health, resources: ExitStack
) -> Monitor:
    """A monitor that begins; what it holds open is freed with `resources`."""
    follower = KafkaFollower(options.kafka, MONITOR_TOPICS, "pulsetrain-monitor")
    resources.callback(follower.close)
    alerts = KafkaFollower(options.kafka, (ALERT_TOPIC,), "pulsetrain-monitor-alerts")
    resources.callback(alerts.close)
    publisher = KafkaPublisher(options.kafka)
    resources.callback(publisher.close)
    client = resources.enter_context(connect(options.clickhouse, client_name="pulsetrain-monitor"))
    return Monitor(
        follower,
        alerts,
        publisher,
        ClickHouseState(client, options.group),
        options.framing,
        source=options.group,
        clock=clock,
        random=random.Random(),
        telemetry=telemetry,
        health=health,
        silences=Silences(options.silences, ClickHouseSilences(client)),
        rules=options.rules,
    )
