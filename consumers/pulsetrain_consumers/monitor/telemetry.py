"""What the monitor tells Prometheus, beside what every consumer does."""

from prometheus_client import CollectorRegistry, Counter, Gauge

from pulsetrain_consumers.runtime.telemetry import Telemetry


class MonitorTelemetry(Telemetry):
    """The metrics of one monitor, in a registry of its own."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        super().__init__(registry)
        self.points = Counter("pulsetrain_monitor_points", "Points of metrics judged.", registry=self.registry)
        self.runs = Gauge("pulsetrain_monitor_runs", "Runs that are watched.", registry=self.registry)
        self.alerts = Counter(
            "pulsetrain_monitor_alerts", "Changes of alerts that were told.", ("kind", "state"), registry=self.registry
        )
        self.notifications = Counter(
            "pulsetrain_monitor_notifications", "Alerts sent on.", ("sink", "outcome"), registry=self.registry
        )
