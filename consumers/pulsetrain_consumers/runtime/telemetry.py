"""What a consumer tells Prometheus."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

_ROWS = (1, 10, 100, 1_000, 5_000, 10_000, 50_000, 100_000, 250_000, 500_000, 1_000_000)
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 2, 5, 10, 30, 60, 300, 3600)


class Telemetry:
    """The metrics of one consumer service and of its process, in a registry of its own."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry if registry is not None else CollectorRegistry()
        ProcessCollector(registry=self.registry)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"pulsetrain_consumer_{name}", text, labels, registry=self.registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"pulsetrain_consumer_{name}", text, labels, registry=self.registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
            return Histogram(f"pulsetrain_consumer_{name}", text, labels, buckets=buckets, registry=self.registry)

        self.lag = gauge("lag_messages", "Messages of the partition that are not stored yet.", "topic", "partition")
        self.buffered_rows = gauge("buffered_rows", "Rows that were read and wait to be stored.")
        self.paused = gauge("paused_partitions", "Partitions that are not read because others wait to be stored.")
        self.messages = counter("messages", "Messages read.", "topic")
        self.batch_rows = histogram("batch_rows", "Rows of one batch of one partition.", _ROWS, "topic")
        self.store_seconds = histogram("store_seconds", "Time to store one round of batches.", _SECONDS)
        self.commit_seconds = histogram("commit_seconds", "Time of one commit of offsets.", _SECONDS)
        self.latency = histogram(
            "log_to_stored_seconds", "From the log() of a message's oldest row until it was stored.", _SECONDS, "topic"
        )
        self.rows_stored = counter("rows_stored", "Rows sent to the table.", "table")
        self.duplicates = counter("duplicate_rows", "Rows left out because they were stored before.", "topic")
        self.of_deleted_runs = counter("messages_of_deleted_runs", "Messages left out: their run was deleted.", "topic")
        self.dead_letters = counter("dead_letters", "Messages sent to the dead letters.", "topic", "reason")
        self.expired = counter("expired_offsets", "Offsets that Kafka had deleted before they were read.", "topic")
        self.errors = counter("errors", "Failed attempts, by what failed.", "kind")
        self.rebalances = counter("rebalances", "Changes of the partitions that this consumer has.")
        self.replays = counter("replays", "Pending ranges that were stored again after a crash or a rebalance.")
