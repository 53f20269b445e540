"""Dead letters as a person meets them: with the real broker, a real ClickHouse, a writer, and the command."""

import json
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import psutil
import pytest
from click.testing import CliRunner, Result

from pulsetrain_consumers.commands.dlq import dlq as command
from pulsetrain_schemas import events
from pulsetrain_schemas.errors import UserError
from tests.clickhouse_fixture import ClickHouse
from tests.pipeline_rig import Pipeline, running_pipeline
from tests.waiting import wait_for
from tests.writer_rig import metric_batch

pytestmark = [pytest.mark.kafka, pytest.mark.clickhouse, pytest.mark.timeout(180)]

HOSTILE = b"\x1b]0;owned\x07\x1b[31mred"


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory, clickhouse_server: ClickHouse) -> Iterator[Pipeline]:
    """A broker, a database and a writer for the module; each test puts its messages on a partition of its own."""
    directory = tmp_path_factory.mktemp("letters")
    with running_pipeline(directory, clickhouse_server, f"letters_{uuid4().hex[:8]}") as running:
        running.writer("--max-age", "0.05").wait_ready()
        yield running


def run(pipeline: Pipeline, *arguments: str, env: dict[str, str] | None = None) -> Result:
    """The command in this process: starting a Python for each call takes longer than all that it does."""
    names = ("PULSETRAIN_KAFKA", "PULSETRAIN_CLICKHOUSE")
    return CliRunner().invoke(command, arguments, env={name: pipeline.env[name] for name in names} | (env or {}))


def dlq(pipeline: Pipeline, *arguments: str, expected: int = 0, env: dict[str, str] | None = None) -> Any:
    """What it says, as an object where it is JSON; of an error that the user can put right, the text."""
    done = run(pipeline, *arguments, env=env)
    if isinstance(done.exception, UserError):
        assert expected == done.exception.exit_code, (arguments, done.exception)
        return str(done.exception)
    assert done.exit_code == expected, (arguments, done.output, done.exception)
    return json.loads(done.stdout) if "--json" in arguments else done.output


def put_aside(pipeline: Pipeline, partition: int, *payloads: bytes, key: bytes = b"r1") -> None:
    """Sends what cannot be stored; returns when it is in the table."""
    before = pipeline.client.query(f"SELECT count() FROM dead_letters WHERE kafka_partition = {partition}").one()
    for payload in payloads:
        pipeline.send_bytes("metrics", payload, key, partition)
    pipeline.sent()
    pipeline.count(f"dead_letters WHERE kafka_partition = {partition}", expected=before + len(payloads))


def letters(pipeline: Pipeline, partition: int, state: str = "any") -> list[dict[str, Any]]:
    found = dlq(pipeline, "list", "--json", "--state", state, "--limit", "1000")["letters"]
    return sorted((one for one in found if one["partition"] == partition), key=lambda one: one["offset"])


def test_letters_are_listed_by_reason_and_shown_decoded_as_far_as_they_can_be(pipeline: Pipeline) -> None:
    whole = events.encode(metric_batch("w", 1, 50, texts=True))
    put_aside(pipeline, 0, HOSTILE, whole[:-40], b"\xc3\x01\x01\x02\x03\x04\x05\x06\x07\x08rest", key=b"k\x1b\xff")
    listed = dlq(pipeline, "list", "--json", "--topic", "metrics")
    assert {kind["reason"]: kind["letters"] for kind in listed["kinds"]} == {"undecodable": 2, "unknown_schema": 1}
    assert {letter["letter"] for letter in listed["letters"]} == {"metrics/0/0", "metrics/0/1", "metrics/0/2"}
    assert all(letter["topic_id"] and letter["key"] == "k\x1b\\xff" for letter in listed["letters"])
    assert dlq(pipeline, "list", "--json", "--reason", "unknown_schema", "--limit", "0") | {"kinds": 0} == {
        "total": 1,
        "kinds": 0,
        "letters": [],
    }
    assert dlq(pipeline, "list", "--json", "--since", "0s")["total"] == 0

    text = dlq(pipeline, "list") + dlq(pipeline, "show", "metrics/0/0", "metrics/0/1")
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "\\x1b[31mred" in text or "1b 5d 30" in text

    (broken,) = dlq(pipeline, "show", "--json", "metrics/0/1")
    assert broken["payload"]["schema"] == "metrics"
    assert broken["payload"]["fields"]["run_id"] == "r1"
    assert broken["payload"]["fields"]["keys"] == ["loss", "acc"]
    assert "cannot be read" in broken["payload"]["problem"]
    assert broken["payload"]["size"] == len(whole) - 40
    done = run(pipeline, "show", "metrics/0/1", "-o", "-")
    assert done.stdout_bytes == whole[:-40]
    assert "dlq list" in dlq(pipeline, "show", "metrics/0/77", expected=1)
    assert "dlq list" in dlq(pipeline, "replay", "metrics/0/77", "--json", expected=1)
    assert "names no letter" in dlq(pipeline, "show", "metrics", expected=1)


def test_what_was_refused_is_stored_once_when_it_is_replayed_after_the_cause_was_put_right(pipeline: Pipeline) -> None:
    pipeline.client.execute("ALTER TABLE metrics ADD CONSTRAINT small CHECK run_id != 'big'")
    try:
        batches = [events.encode(metric_batch("big", n * 10 + 1, n * 10 + 10, run_id="big")) for n in range(3)]
        put_aside(pipeline, 1, *batches, key=b"big")
    finally:
        pipeline.client.execute("ALTER TABLE metrics DROP CONSTRAINT small")
    waiting = letters(pipeline, 1)
    assert [letter["reason"] for letter in waiting] == ["refused"] * 3
    assert dlq(pipeline, "replay", "--reason", "refused", "--dry-run", "--json") == {"replay": 3, "dry_run": True}
    assert "--yes" in dlq(pipeline, "replay", "--reason", "refused", expected=1)
    assert "which letters" in dlq(pipeline, "replay", expected=1)

    first = waiting[0]["letter"]
    assert dlq(pipeline, "replay", first, "--json") == {"replayed": 1, "left": [], "noted": True}
    pipeline.count("metrics WHERE run_id = 'big'", expected=20)
    assert "was replayed already" in dlq(pipeline, "replay", first)
    assert dlq(pipeline, "replay", "--reason", "refused", "--yes", "--json")["replayed"] == 2
    pipeline.count("metrics WHERE run_id = 'big'", expected=60)
    assert dlq(pipeline, "replay", first, "--again", "--json")["replayed"] == 1
    assert dlq(pipeline, "replay", "--reason", "refused", "--yes", "--json")["replayed"] == 0
    pipeline.send(metric_batch("after", 1, 1, run_id="after"), partition=1)
    pipeline.count("metrics WHERE run_id = 'after'", expected=2)
    assert pipeline.client.query("SELECT count() FROM metrics WHERE run_id = 'big'").one() == 60
    assert {letter["state"] for letter in letters(pipeline, 1)} == {"replayed"}


def test_a_message_that_fails_again_is_a_new_letter_that_knows_the_old_one(pipeline: Pipeline) -> None:
    put_aside(pipeline, 2, b"still bad", b"not wanted")
    old, other = (letter["letter"] for letter in letters(pipeline, 2))
    assert dlq(pipeline, "drop", other, "--json")["dropped"] == 1
    assert dlq(pipeline, "replay", old, "--json")["replayed"] == 1
    (again,) = wait_for(lambda: letters(pipeline, 2, "waiting"), 20, "the letter that came back")
    (shown,) = dlq(pipeline, "show", "--json", again["letter"])
    assert shown["replayed_before"] == [old]
    assert [letter["state"] for letter in letters(pipeline, 2)] == ["replayed", "dropped", "waiting"]


def test_a_payload_too_large_for_a_letter_is_read_from_its_own_offset(pipeline: Pipeline) -> None:
    """The broker takes letters of 300,000 bytes here, and messages of 8 MiB."""
    from kafka import KafkaAdminClient
    from kafka.admin import ConfigResource

    admin = KafkaAdminClient(bootstrap_servers=pipeline.broker)
    admin.alter_configs([ConfigResource("topic", "pulsetrain.dead_letters", {"max.message.bytes": "300000"})])
    admin.close()
    large = b"large " * 100_000
    put_aside(pipeline, 3, large)
    (letter,) = letters(pipeline, 3)
    assert letter["payload_bytes"] is None
    assert "too large" in letter["error"]
    (shown,) = dlq(pipeline, "show", "--json", letter["letter"])
    assert shown["payload"]["size"] == len(large)
    assert dlq(pipeline, "replay", letter["letter"], "--json")["replayed"] == 1
    (again,) = wait_for(lambda: letters(pipeline, 3, "waiting"), 20, "the letter that came back")
    assert again["offset"] == letter["offset"] + 1


def test_what_is_away_is_named(pipeline: Pipeline) -> None:
    put_aside(pipeline, 0, b"away")
    name = letters(pipeline, 0)[-1]["letter"]
    no_clickhouse = {"PULSETRAIN_CLICKHOUSE": "clickhouse://u:hunter2@127.0.0.1:1/x"}
    said = dlq(pipeline, "list", expected=1, env=no_clickhouse)
    assert "127.0.0.1:1" in said
    assert "hunter2" not in said
    no_kafka = {"PULSETRAIN_KAFKA": "127.0.0.1:1"}
    assert "127.0.0.1:1" in dlq(pipeline, "replay", name, expected=1, env=no_kafka)
    (shown,) = dlq(pipeline, "show", "--json", name, env=no_kafka)
    assert shown["payload"]["text"] == "away"
    assert "127.0.0.1:1" in shown["note"]
    assert letters(pipeline, 0)[-1]["state"] == "waiting"


def test_a_flood_of_bad_messages_leaves_the_good_ones_alone_and_is_dropped_at_one_word(pipeline: Pipeline) -> None:
    writer = pipeline.writers[0]
    memory = psutil.Process(writer.process.pid).memory_info().rss
    lines, letters_before = len(writer.log.splitlines()), dlq(pipeline, "list", "--state", "any", "--json")["total"]
    for index in range(200):
        for number in range(100):
            pipeline.send_bytes("metrics", b"flood %d" % number * 20, b"flooded", index % 4)
        pipeline.send(metric_batch("f", index * 50 + 1, index * 50 + 50, run_id="flooded"), partition=index % 4)
    pipeline.sent()
    pipeline.count("metrics WHERE run_id = 'flooded'", expected=20_000, timeout=60)
    pipeline.count("dead_letters", expected=letters_before + 20_000, timeout=60)
    assert (
        pipeline.client.query("SELECT uniqExact(letter_offset) FROM dead_letters WHERE key = 'flooded'").one() < 2_000
    )
    assert len(writer.log.splitlines()) - lines < 20
    assert psutil.Process(writer.process.pid).memory_info().rss - memory < 200 << 20
    assert dlq(pipeline, "drop", "--reason", "undecodable", "--yes", "--json")["dropped"] >= 20_000
    assert dlq(pipeline, "list", "--reason", "undecodable", "--json")["total"] == 0
