"""deploy/kafka/acls.sh against what the code does: who reads, writes or joins something may do so, and no more."""

import pytest

from pulsetrain_consumers.aggregator.sink import AGGREGATOR_TOPICS
from pulsetrain_consumers.monitor.monitor import MONITOR_TOPICS
from pulsetrain_consumers.monitor.telling import ALERT_TOPIC
from pulsetrain_consumers.writer.sink import WRITER_TOPICS
from pulsetrain_schemas import addresses
from pulsetrain_schemas.topics import PREFIX, TOPICS
from tests.deploy_files import DEPLOY, known_variables
from tests.kafka_acls import Acl, acls

READ = {
    "writer": {*WRITER_TOPICS, TOPICS["schemas"].kafka_name},
    "aggregator": {*AGGREGATOR_TOPICS, TOPICS["schemas"].kafka_name},
    "monitor": {*MONITOR_TOPICS, ALERT_TOPIC, TOPICS["schemas"].kafka_name},
    "producer": {TOPICS[name].kafka_name for name in ("control", "alerts", "schemas")},
}
WRITTEN = {
    "writer": {TOPICS[name].kafka_name for name in ("dead_letters", "schemas")},
    "aggregator": set[str](),
    "monitor": {ALERT_TOPIC, TOPICS["schemas"].kafka_name},
    "producer": {TOPICS[name].kafka_name for name in ("runs", "metrics", "system", "logs", "media", "schemas")},
}


def _names(user: str, operation: str, resource: str = "topic") -> set[str]:
    return {one.name for one in acls() if (one.user, one.operation, one.resource) == (user, operation, resource)}


@pytest.mark.parametrize("user", list(READ))
def test_each_service_may_read_and_write_what_it_does_and_nothing_else(user: str):
    assert _names(user, "Read") == READ[user]
    assert _names(user, "Write") == WRITTEN[user]


@pytest.mark.parametrize("user", ["writer", "aggregator", "monitor"])
def test_each_service_joins_its_own_group_alone(user: str):
    assert _names(user, "Read", "group") == {f"pulsetrain-{user}"}


def test_the_aggregator_may_ask_how_far_the_writers_are():
    assert _names("aggregator", "Describe", "group") == {"pulsetrain-writer"}


def test_a_training_machine_joins_no_group_and_reads_nothing_of_what_others_logged():
    assert not _names("producer", "Read", "group")
    assert not _names("producer", "Read") & set(WRITER_TOPICS) - {ALERT_TOPIC}


def test_only_who_runs_it_may_stop_training_and_make_topics():
    assert {one.user for one in acls() if one.operation in ("Create", "Alter", "DescribeConfigs")} == {"admin"}
    for user in READ:
        assert TOPICS["control"].kafka_name not in _names(user, "Write")


def test_only_the_admin_s_rights_are_of_a_prefix_and_nobody_has_any_of_the_cluster():
    assert {one.user for one in acls() if one.prefixed} == {"admin"}
    assert {one.name for one in acls() if one.prefixed} == {PREFIX, "pulsetrain-"}
    assert {one.resource for one in acls()} == {"topic", "group"}


def test_every_topic_that_is_named_is_one_of_ours():
    named = {one.name for one in acls() if one.resource == "topic" and not one.prefixed}
    assert named <= {topic.kafka_name for topic in TOPICS.values()}


def test_the_script_calls_kafka_s_tool_with_each_right_once():
    assert len(set(acls())) == len(acls())
    assert Acl("writer", "Read", "group", "pulsetrain-writer", prefixed=False) in acls()


def test_the_example_of_a_client_s_environment_is_read_and_has_no_password():
    lines = (DEPLOY / "kafka" / "client.sasl.env").read_text().splitlines()
    given = dict(line.split("=", 1) for line in lines if not line.startswith("#"))
    assert set(given) <= known_variables()
    address = addresses.kafka(given)
    assert address is not None
    assert address.security["security_protocol"] == "SASL_SSL"
    assert "sasl_plain_password" not in address.security
