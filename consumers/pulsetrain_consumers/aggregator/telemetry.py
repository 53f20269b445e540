"""What an aggregator tells Prometheus, besides what every consumer does."""

from prometheus_client import CollectorRegistry, Counter, Histogram

from pulsetrain_consumers.runtime.telemetry import Telemetry

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300)


class AggregatorTelemetry(Telemetry):
    """The metrics of one aggregator, in a registry of its own."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        super().__init__(registry)
        self.buckets = Counter(
            "pulsetrain_aggregator_buckets", "Buckets of aggregates that were computed anew.", registry=self.registry
        )
        self.recompute_seconds = Histogram(
            "pulsetrain_aggregator_recompute_seconds",
            "Time to compute what a round of batches had changed, without the wait for the writers.",
            buckets=_SECONDS,
            registry=self.registry,
        )
