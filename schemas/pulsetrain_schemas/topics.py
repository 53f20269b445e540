"""The Kafka topics: how each is partitioned, how long it is kept, how large its messages may be; creating them.

A topic's key is the run id (the host for `system`), so that a run stays in order within one partition.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from types import MappingProxyType
from typing import Any, Literal

PREFIX = "pulsetrain."
MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Topic:
    """One topic. `partitions` is what one machine needs; a cluster gives it more. A retention of None is for ever."""

    name: str
    partitions: int
    retention: timedelta | None
    compacted: bool
    schema: str | None
    max_message_bytes: int

    @property
    def kafka_name(self) -> str:
        """The name in Kafka."""
        return PREFIX + self.name

    def config(self) -> dict[str, str]:
        """The topic's settings, as Kafka names them."""
        retention = -1 if self.retention is None else int(self.retention / timedelta(milliseconds=1))
        return {
            "cleanup.policy": "compact,delete" if self.compacted else "delete",
            "retention.ms": str(retention),
            "retention.bytes": "-1",
            "max.message.bytes": str(self.max_message_bytes),
            # The broker's clock, not the sender's: a message of a machine whose clock is ahead would be refused, and
            # one of a machine whose clock is behind could be past its retention before it was read.
            "message.timestamp.type": "LogAppendTime",
        }


def _table(*topics: Topic) -> Mapping[str, Topic]:
    return MappingProxyType({topic.name: topic for topic in topics})


# What a run is (runs, sweeps) is small and is kept; so are alerts for a season. What it measured is kept for as long as
# a rebuild of the tables from the log may need to reach back. In control the last word to a run is the one that counts.
# Batches aim at a quarter to half a mebibyte; the limit leaves room for one row that is larger than that. A dead letter
# holds a whole message of any other topic, and a little more. The schemas that messages are written with are kept, one
# of each fingerprint.
TOPICS: Mapping[str, Topic] = _table(
    Topic("runs", 2, None, False, "runs", 8 * MIB),
    Topic("metrics", 4, timedelta(days=30), False, "metrics", 8 * MIB),
    Topic("system", 2, timedelta(days=7), False, "system", 8 * MIB),
    Topic("logs", 2, timedelta(days=14), False, "logs", 8 * MIB),
    Topic("media", 2, timedelta(days=30), False, None, 16 * MIB),
    Topic("alerts", 1, timedelta(days=90), False, "alerts", MIB),
    Topic("control", 1, timedelta(days=7), True, "control", MIB),
    Topic("sweeps", 1, None, False, None, MIB),
    Topic("schemas", 1, None, True, None, MIB // 4),
    Topic("dead_letters", 1, timedelta(days=30), False, "dead_letters", 17 * MIB),
)


GROWING = ("runs", "metrics", "system", "logs", "media")
"""Topics whose partitions share out the work. The others have one, for what is in them is in one order."""


def by_kafka_name(name: str) -> Topic | None:
    """The topic that has this name in Kafka, or None where it is none of ours."""
    return TOPICS.get(name.removeprefix(PREFIX)) if name.startswith(PREFIX) else None


@dataclass(frozen=True, slots=True)
class Difference:
    """A setting of a topic that is not as the table says."""

    setting: str
    expected: str
    found: str

    def __str__(self) -> str:
        return f"{self.setting} is {self.found}, expected {self.expected}"


@dataclass(frozen=True, slots=True)
class TopicReport:
    """How a topic was found: created just now, missing (a check creates nothing), as it should be, or different."""

    topic: Topic
    state: Literal["created", "missing", "ok", "different"]
    partitions: int
    differences: tuple[Difference, ...] = ()


def create_or_check(
    admin: Any,
    topics: Iterable[Topic] = TOPICS.values(),
    *,
    create: bool = True,
    replication_factor: int = -1,
) -> list[TopicReport]:
    """Creates the topics that Kafka lacks and says how the others differ from the table; what exists is not changed.

    `admin` is a kafka-python KafkaAdminClient. More partitions than the table says are no difference.
    A replication factor of -1 leaves it to the broker's default. A topic that another process creates at the same time
    counts as created. Returns once the new topics have leaders. Raises kafka.errors.KafkaError as the client does.
    """
    from kafka.admin import ConfigResource
    from kafka.errors import TopicAlreadyExistsError

    wanted = list(topics)
    existing = set(admin.list_topics())
    missing = [topic for topic in wanted if topic.kafka_name not in existing]
    if create and missing:
        for topic in missing:
            specification = {
                "num_partitions": topic.partitions,
                "replication_factor": replication_factor,
                "configs": topic.config(),
            }
            try:
                admin.create_topics({topic.kafka_name: specification})
            except TopicAlreadyExistsError:
                continue
        admin.wait_for_topics([topic.kafka_name for topic in missing])

    present = [topic for topic in wanted if create or topic.kafka_name in existing]
    names = [topic.kafka_name for topic in present]
    partitions = {found["name"]: len(found["partitions"]) for found in admin.describe_topics(names)} if names else {}
    resources = [ConfigResource("topic", name) for name in names]
    settings = admin.describe_configs(resources, config_filter="all")["topic"] if names else {}

    reports = []
    for topic in wanted:
        name = topic.kafka_name
        if name not in partitions:
            reports.append(TopicReport(topic, "missing", 0))
            continue
        differences = _differences(topic, partitions[name], settings[name])
        created = create and topic in missing
        state: Literal["created", "ok", "different"] = "different" if differences else "created" if created else "ok"
        reports.append(TopicReport(topic, state, partitions[name], differences))
    return reports


def grow(admin: Any, found: Iterable[TopicReport]) -> bool:
    """Adds partitions to topics that were found with fewer than they are to have; whether there were such.

    Returns once the new ones have leaders. Raises kafka.errors.KafkaError as the client does.
    """
    short = {
        report.topic.kafka_name: report.topic.partitions
        for report in found
        if 0 < report.partitions < report.topic.partitions
    }
    if short:
        admin.create_partitions(short)
        admin.wait_for_topics(list(short))
    return bool(short)


def _differences(topic: Topic, partitions: int, settings: Mapping[str, Mapping[str, Any]]) -> tuple[Difference, ...]:
    differences = []
    if partitions < topic.partitions:
        differences.append(Difference("partitions", f"at least {topic.partitions}", str(partitions)))
    for setting, expected in topic.config().items():
        found = str(settings.get(setting, {}).get("value", "not told by the broker"))
        if set(found.split(",")) != set(expected.split(",")):
            differences.append(Difference(setting, expected, found))
    return tuple(differences)
