"""The topic table, and creating and checking the topics on a real broker."""

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from uuid import uuid4

import pytest
from click.testing import CliRunner
from kafka.admin import KafkaAdminClient

from pulsetrain.commands.topics import topics as topics_command
from pulsetrain_schemas import catalog
from pulsetrain_schemas.topics import TOPICS, Topic, by_kafka_name, create_or_check


def test_the_table_names_all_topics_and_each_schema_has_its_topic():
    assert set(TOPICS) == {
        "runs", "metrics", "system", "logs", "media", "alerts", "control", "sweeps", "schemas", "dead_letters",
    }  # fmt: skip
    assert {topic.schema for topic in TOPICS.values() if topic.schema} == set(catalog.names())
    assert all(by_kafka_name(topic.kafka_name) is topic for topic in TOPICS.values())
    assert by_kafka_name("metrics") is by_kafka_name("pulsetrain.nothing") is None


def test_a_dead_letter_can_hold_the_largest_message_of_every_other_topic():
    largest = max(topic.max_message_bytes for topic in TOPICS.values() if topic.name != "dead_letters")
    assert TOPICS["dead_letters"].max_message_bytes > largest


def test_retention_is_told_in_milliseconds_and_for_ever_as_minus_one():
    topic = Topic("t", 1, timedelta(hours=1), True, None, 1000)
    assert topic.config()["retention.ms"] == "3600000"
    assert topic.config()["cleanup.policy"] == "compact,delete"
    assert replace(topic, retention=None).config()["retention.ms"] == "-1"


@pytest.fixture
def admin(kafka_broker: str) -> Iterator[KafkaAdminClient]:
    with KafkaAdminClient(bootstrap_servers=kafka_broker) as client:
        yield client


@pytest.mark.kafka
def test_missing_topics_are_created_once_and_then_found_in_order(admin: KafkaAdminClient):
    wanted = [replace(topic, name=f"{topic.name}-{uuid4().hex}") for topic in TOPICS.values()]
    assert {report.state for report in create_or_check(admin, wanted, create=False)} == {"missing"}
    assert {report.state for report in create_or_check(admin, wanted)} == {"created"}
    again = create_or_check(admin, wanted)
    assert {report.state for report in again} == {"ok"}
    assert [report.partitions for report in again] == [topic.partitions for topic in wanted]


@pytest.mark.kafka
def test_a_topic_that_differs_is_reported_and_left_alone(admin: KafkaAdminClient):
    topic = Topic(f"metrics-{uuid4().hex}", 2, timedelta(days=1), False, None, 1 << 20)
    create_or_check(admin, [topic])
    stricter = replace(topic, partitions=3, retention=None, max_message_bytes=2 << 20)
    [report] = create_or_check(admin, [stricter])
    assert report.state == "different"
    assert [str(difference) for difference in report.differences] == [
        "partitions is 2, expected at least 3",
        "retention.ms is 86400000, expected -1",
        "max.message.bytes is 1048576, expected 2097152",
    ]
    [fewer] = create_or_check(admin, [replace(topic, partitions=1)])
    assert fewer.state == "ok"


@pytest.mark.kafka
def test_the_command_creates_the_topics_and_check_then_agrees(kafka_broker: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PULSETRAIN_KAFKA", kafka_broker)
    made = CliRunner().invoke(topics_command, ["--json"])
    assert made.exit_code == 0
    assert {row["topic"] for row in json.loads(made.output)} == {topic.kafka_name for topic in TOPICS.values()}
    checked = CliRunner().invoke(topics_command, ["--check"])
    assert (checked.exit_code, checked.output.count(" ok ")) == (0, len(TOPICS))


@pytest.mark.kafka
def test_partitions_are_added_where_they_are_asked_for_and_never_taken(
    kafka_broker: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("PULSETRAIN_KAFKA", kafka_broker)

    def partitions(*arguments: str) -> dict[str, int]:
        told = CliRunner().invoke(topics_command, ["--json", *arguments])
        assert told.exit_code == 0, told.output
        return {row["topic"].removeprefix("pulsetrain."): row["partitions"] for row in json.loads(told.output)}

    before = partitions()
    grown = partitions("--partitions", "metrics=7", "--partitions", "pulsetrain.logs=3")
    assert grown == {**before, "metrics": 7, "logs": 3}
    assert partitions("--partitions", "metrics=5") == grown


@pytest.mark.parametrize(
    ("text", "said"),
    [("alerts=2", "is none of runs, metrics"), ("metrics", "is not TOPIC=N"), ("metrics=-1", "is not TOPIC=N")],
)
def test_what_cannot_be_a_number_of_partitions_is_refused(text: str, said: str):
    told = CliRunner().invoke(topics_command, ["--partitions", text])
    assert told.exit_code == 2
    assert said in told.output


def test_the_command_says_what_to_do_where_no_kafka_is_known():
    told = CliRunner().invoke(topics_command, [])
    assert told.exit_code == 1
    assert "pulsetrain up" in told.output


def test_the_command_names_a_broker_that_does_not_answer(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("kafka.admin.KafkaAdminClient", _unreachable)
    monkeypatch.setenv("PULSETRAIN_KAFKA", "127.0.0.1:1")
    told = CliRunner().invoke(topics_command, [])
    assert told.exit_code == 1
    assert "127.0.0.1:1" in told.output
    assert "Traceback" not in told.output


def _unreachable(**_: object) -> None:
    from kafka.errors import KafkaTimeoutError

    raise KafkaTimeoutError
