"""The services that fill ClickHouse, as Prometheus sees them: lag, batches, errors, what their processes take."""

from pulsetrain_grafana.boards import Board, Row
from pulsetrain_grafana.colours import BAD, GOOD, WARN
from pulsetrain_grafana.panels import figure, series
from pulsetrain_grafana.queries import Measured

_OURS = 'job=~"pulsetrain-.+"'
_WRITER = 'job="pulsetrain-writer"'


def _by(label: str, expression: str) -> Measured:
    """Lines by a label; where none of them was ever counted, one at zero."""
    nothing = f'label_replace(vector(0), "{label}", "none", "", "")'
    return Measured(f"{expression} or on() {nothing}", f"{{{{{label}}}}}")


def _rate(metric: str, *labels: str, of: str = _OURS) -> str:
    return f"sum by ({', '.join(labels)}) (rate({metric}{{{of}}}[$__rate_interval]))"


def _quantile(share: float, histogram: str, *labels: str, of: str = _OURS) -> str:
    """A quantile of what came since the last point; where nothing came there is none, and so no line."""
    return f"histogram_quantile({share}, {_rate(f'{histogram}_bucket', 'le', *labels, of=of)}) >= 0"


def _times(histogram: str, of: str = _WRITER) -> list[Measured]:
    return [
        Measured(_quantile(0.5, histogram, of=of), "median"),
        Measured(_quantile(0.99, histogram, of=of), "p99"),
    ]


BOARD = Board(
    "services",
    "Pulsetrain / Services",
    "The services that fill ClickHouse, as Prometheus sees them: lag, batches, errors, what their processes take.",
    [
        Row(
            "Do they work?",
            [
                figure(
                    "Up",
                    "1 where Prometheus reaches the service, 0 where it does not",
                    "none",
                    Measured(f"min by (job) (up{{{_OURS}}})", "{{job}}"),
                    width=10,
                    colour=BAD,
                    steps={1: GOOD},
                ),
                figure(
                    "Alerts firing",
                    "Of Prometheus's own rules, about the services; docs/operations.md says what each means",
                    "none",
                    Measured('count(ALERTS{alertstate="firing"}) or vector(0)', "firing"),
                    width=4,
                    colour=GOOD,
                    steps={1: BAD},
                ),
                figure(
                    "Lag",
                    "Messages in Kafka that no writer has stored yet",
                    "locale",
                    Measured(f"sum(pulsetrain_consumer_lag_messages{{{_WRITER}}})", "messages"),
                    width=5,
                    colour=GOOD,
                    steps={1000: WARN, 100_000: BAD},
                ),
                figure(
                    "Expired unread",
                    "Messages within the time range that Kafka had deleted before they were read: they are lost",
                    "locale",
                    Measured(
                        f"sum(increase(pulsetrain_consumer_expired_offsets_total{{{_OURS}}}[$__range])) or vector(0)",
                        "messages",
                    ),
                    width=5,
                    colour=GOOD,
                    steps={1: BAD},
                ),
            ],
        ),
        Row(
            "Kafka",
            [
                series(
                    "Lag by topic",
                    "Messages that the writers have not stored yet",
                    "locale",
                    Measured(f"sum by (topic) (pulsetrain_consumer_lag_messages{{{_WRITER}}})", "{{topic}}"),
                ),
                series(
                    "Lag by service",
                    "Messages that each consumer group has not dealt with yet",
                    "locale",
                    Measured(f"sum by (job) (pulsetrain_consumer_lag_messages{{{_OURS}}})", "{{job}}"),
                ),
                series(
                    "Messages read",
                    "A second, by topic",
                    "short",
                    Measured(_rate("pulsetrain_consumer_messages_total", "topic", of=_WRITER), "{{topic}}"),
                ),
                series(
                    "Partitions held back, rebalances",
                    "Partitions that are not read because others wait to be stored, and how often partitions moved",
                    "short",
                    Measured(f"sum by (job) (pulsetrain_consumer_paused_partitions{{{_OURS}}})", "{{job}} held back"),
                    Measured(
                        f"sum by (job) (increase(pulsetrain_consumer_rebalances_total{{{_OURS}}}[$__rate_interval]))",
                        "{{job}} rebalances",
                    ),
                ),
            ],
        ),
        Row(
            "Storing",
            [
                series(
                    "From log() to stored",
                    "Of the oldest row of each message, by topic: 99 in 100 were faster",
                    "s",
                    Measured(
                        _quantile(0.99, "pulsetrain_consumer_log_to_stored_seconds", "topic", of=_WRITER), "{{topic}}"
                    ),
                ),
                series(
                    "Time to store a round",
                    "All INSERTs of what was read together",
                    "s",
                    *_times("pulsetrain_consumer_store_seconds"),
                ),
                series(
                    "Rows stored",
                    "A second, by table",
                    "rows/s",
                    Measured(_rate("pulsetrain_consumer_rows_stored_total", "table", of=_WRITER), "{{table}}"),
                    fill=10,
                ),
                series(
                    "Time of a commit",
                    "Of the offsets of a batch, to Kafka",
                    "s",
                    *_times("pulsetrain_consumer_commit_seconds"),
                ),
                series(
                    "Errors",
                    "Failed attempts a second, by what failed; each is tried again",
                    "short",
                    _by("kind", _rate("pulsetrain_consumer_errors_total", "kind")),
                ),
                series(
                    "Left out",
                    "Rows that were stored before and messages that could not be read, a second",
                    "short",
                    Measured(f"{_rate('pulsetrain_consumer_duplicate_rows_total')} or vector(0)", "rows stored before"),
                    Measured(f"{_rate('pulsetrain_consumer_dead_letters_total')} or vector(0)", "dead letters"),
                ),
            ],
        ),
        Row(
            "Monitor and aggregator",
            [
                series(
                    "Points judged",
                    "By the monitor's detectors, a second",
                    "short",
                    Measured("sum(rate(pulsetrain_monitor_points_total[$__rate_interval]))", "points"),
                ),
                series("Runs watched", "By the monitor", "short", Measured("sum(pulsetrain_monitor_runs)", "runs")),
                series(
                    "Changes of alerts",
                    "That the monitor told, by kind, within each step of the picture",
                    "short",
                    _by("kind", "sum by (kind) (increase(pulsetrain_monitor_alerts_total[$__rate_interval]))"),
                ),
                series(
                    "Notifications",
                    "Sent on, by what became of them, within each step of the picture",
                    "short",
                    _by(
                        "outcome",
                        "sum by (outcome) (increase(pulsetrain_monitor_notifications_total[$__rate_interval]))",
                    ),
                ),
                series(
                    "Time to recompute",
                    "Of the aggregates that a round of batches had changed",
                    "s",
                    *_times("pulsetrain_aggregator_recompute_seconds", of='job="pulsetrain-aggregator"'),
                    width=24,
                ),
            ],
        ),
        Row(
            "Processes",
            [
                series(
                    "CPU",
                    "Cores that each process keeps busy",
                    "short",
                    Measured(f"rate(process_cpu_seconds_total{{{_OURS}}}[$__rate_interval])", "{{job}} {{instance}}"),
                    width=8,
                ),
                series(
                    "Memory",
                    "Resident",
                    "bytes",
                    Measured(f"process_resident_memory_bytes{{{_OURS}}}", "{{job}} {{instance}}"),
                    width=8,
                ),
                series(
                    "Open files",
                    "And sockets",
                    "short",
                    Measured(f"process_open_fds{{{_OURS}}}", "{{job}} {{instance}}"),
                    width=8,
                ),
            ],
        ),
    ],
    since="now-1h",
)
