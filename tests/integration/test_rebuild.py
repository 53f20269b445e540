"""The tables from the log: the same by any way of reading it, and filled anew while writers go on."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import psutil
import pytest
from click.testing import CliRunner
from kafka import KafkaAdminClient, KafkaConsumer, OffsetAndMetadata, TopicPartition

from pulsetrain.forwarder.places import Place, destination, read_json
from pulsetrain_consumers.clickhouse import connect
from pulsetrain_consumers.clickhouse.migrate import migrate
from pulsetrain_consumers.commands.dlq import dlq
from pulsetrain_consumers.commands.migrate import migrate as command
from pulsetrain_consumers.rebuilding import rebuild as rebuilding
from pulsetrain_consumers.rebuilding.checksums import WRITER_TABLES, Checksum, checksums
from pulsetrain_consumers.rebuilding.shadow import RebuildBusy
from pulsetrain_schemas.addresses import ClickHouseAddress, KafkaAddress
from pulsetrain_schemas.events import Alert, LogBatch, Origin, RunEvent, SystemBatch
from pulsetrain_schemas.framing import SINGLE_OBJECT
from pulsetrain_schemas.topics import TOPICS
from tests.clickhouse_fixture import ClickHouse
from tests.pipeline_rig import Pipeline
from tests.waiting import wait_for
from tests.writer_rig import STARTED, metric_batch

pytestmark = [pytest.mark.kafka, pytest.mark.clickhouse, pytest.mark.timeout(240)]

TRAINING = """
import pulsetrain
with pulsetrain.init(project="rebuilt", id="trained", config={"lr": 0.1, "gone": 1}) as run:
    for step in range(300):
        run.log({"loss": 1 / (step + 1), "note": f"step {step}"})
    run.summary["best"] = {"k": float("nan")}
    print("a line")
"""

# What is not filled from the log by writers.
OTHERS = {
    "migrations", "rebuild_fence", "monitor_state", "silences", "deletions", "retention",
    "metric_buckets", "rank_steps", "system_10s", "system_1m", "system_1h", "metric_changes", "system_changes",
}  # fmt: skip


@pytest.fixture
def pipeline(tmp_path: Path, kafka_broker: str, clickhouse_server: ClickHouse) -> Iterator[Pipeline]:
    """A database of the test's own, and topics that were created for it on the module's broker."""
    admin = KafkaAdminClient(bootstrap_servers=kafka_broker)
    names = [topic.kafka_name for topic in TOPICS.values()]
    former = [name for name in names if name in admin.list_topics()]
    if former:
        admin.delete_topics(former)
        wait_for(lambda: not set(names) & set(admin.list_topics()), 20, "the end of the former topics")
    admin.close()
    running = Pipeline(tmp_path, kafka_broker, clickhouse_server, f"rebuild_{uuid4().hex[:8]}")
    try:
        yield running
        for writer in running.writers:
            # In order, so that the group does not wait for it in the next test.
            if writer.process.poll() is None:
                writer.stop(20)
    finally:
        running.close()


def origin(first: int, last: int, writer: str = "w") -> Origin:
    return Origin("p", "r1", writer, 0, 0, STARTED, first, last)


def send_everything(pipeline: Pipeline) -> None:
    """Every kind of event, out of order, twice, overlapping; values that change or go; what is no message."""
    for first, last in [(1, 50), (101, 150), (51, 100), (1, 50), (41, 120), (151, 160)]:
        pipeline.send(metric_batch("w", first, last, texts=True))
    for number in range(8):
        pipeline.send(metric_batch(f"v{number}", 1, 40, run_id=f"s{number}"))
    for first in (1, 3, 3):
        span = origin(first, first + 1, "machine")
        sequences = np.array([first, first + 1])
        times = STARTED + sequences
        pipeline.send(
            SystemBatch(
                span, "node-1", ("cpu_percent",), ("",), np.array([-1]), np.array([1]), np.array([0]), sequences,
                times, np.array([0, 0]), np.array([np.nan, -0.0]),
            )
        )  # fmt: skip
        pipeline.send(LogBatch(span, sequences, times, np.array([1, 2]), ("out ✓", "\x1b[31merr")))
    changes: list[dict[str, Any]] = [
        {"kind": "start", "name": "first", "tags": ("a", "b"), "config": {"lr": "0.1", "gone": "1"}},
        {"kind": "update", "config": {"gone": None, "more": '"x"'}, "summary": {"loss": "3"}},
        {"kind": "heartbeat", "summary": {"loss": "2"}},
        {"kind": "finish", "summary": {"loss": "1", "nan": "NaN"}, "state": "finished", "exit_code": 0},
    ]
    for sequence, change in enumerate(changes, start=1):
        event = RunEvent(origin=origin(sequence, sequence), time=STARTED + sequence, is_primary=True, **change)
        pipeline.send(event)
        if sequence == 2:
            pipeline.send(event)
    for number, state in enumerate(["pending", "firing", "firing", "resolved"]):
        sequence = min(number, 1) + number // 3
        at = STARTED + sequence
        pipeline.send(
            Alert(
                "p", "r1", "a" * 24, sequence, "nan", "loss", state, "critical", "no number", "손실", at, STARTED, "m"
            )
        )
    for number in range(3):
        pipeline.send_bytes("metrics", b"garbage %d" % number, b"r1", partition=number)
    pipeline.sent()


def settled(pipeline: Pipeline, letters: int) -> None:
    """Returns when everything of `send_everything` is stored."""
    pipeline.count("metrics", expected=2 * 160 + 8 * 80)
    pipeline.count("logs", expected=4)
    pipeline.count("system", expected=4)
    pipeline.count("run_events", expected=4)
    pipeline.count("alerts WHERE state = 'resolved'", expected=1)
    pipeline.count("dead_letters", expected=letters)


def services(pipeline: Pipeline) -> rebuilding.Services:
    kafka = KafkaAddress((pipeline.broker,))
    return rebuilding.Services(kafka, pipeline.address, SINGLE_OBJECT, "pulsetrain-writer", "a test")


class Quiet:
    """A reporter that calls `at` with each phase."""

    def __init__(self, at: Any = lambda _text: None) -> None:
        self.at = at

    def phase(self, text: str) -> None:
        self.at(text)

    def copied(self, messages: int, total: int, problem: str | None) -> None: ...


def invoke(pipeline: Pipeline, cli: Any, *arguments: str, expected: int = 0) -> str:
    names = ("PULSETRAIN_KAFKA", "PULSETRAIN_CLICKHOUSE")
    done = CliRunner().invoke(cli, arguments, env={name: pipeline.env[name] for name in names})
    assert done.exit_code == expected, (done.output, done.exception)
    return done.stdout if expected == 0 else done.output


def held(pipeline: Pipeline) -> list[Checksum]:
    return checksums(pipeline.client)


def leftovers(pipeline: Pipeline) -> list[str]:
    found = pipeline.client.query(
        f"SELECT name FROM system.databases WHERE startsWith(name, '{pipeline.address.database}_')"
    )
    return [name for (name,) in found.rows]


def test_what_is_damaged_or_gone_comes_back_with_the_same_checksums(pipeline: Pipeline) -> None:
    writer = pipeline.writer("--max-age", "0.05").wait_ready()
    send_everything(pipeline)
    settled(pipeline, letters=3)
    invoke(pipeline, dlq, "drop", "metrics/1/" + str(_letter_offset(pipeline, 1)))
    pipeline.count("dead_letters WHERE state = 'dropped'", expected=1)
    found = pipeline.client.query(
        "SELECT name FROM system.tables WHERE database = currentDatabase() AND engine LIKE '%MergeTree'"
    ).rows
    told = {name for (name,) in found}
    assert told == {*WRITER_TABLES, *OTHERS}, "a table is filled from the log, or named with the others"
    before = held(pipeline)
    assert all(one.rows for one in before)
    assert json.loads(invoke(pipeline, command, "--checksum", "--json"))[1]["rows"] == 960

    told = json.loads(invoke(pipeline, command, "--rebuild", "--yes", "--json"))
    assert told["before"] == told["after"]
    assert held(pipeline) == before

    pipeline.client.execute("TRUNCATE TABLE logs")
    pipeline.client.execute("ALTER TABLE metrics DELETE WHERE metric = 'acc' SETTINGS mutations_sync = 1")
    pipeline.client.execute("INSERT INTO texts SELECT * FROM texts")
    pipeline.client.execute("ALTER TABLE run_values UPDATE value = '7' WHERE key = 'lr' SETTINGS mutations_sync = 1")
    assert sum(one != other for one, other in zip(held(pipeline), before, strict=True)) == 4
    assert "was " in invoke(pipeline, command, "--rebuild", "--yes")
    assert held(pipeline) == before
    assert pipeline.client.query("SELECT config FROM runs WHERE run_id = 'r1'").one() == '{"lr":0.1,"more":"x"}'
    assert not leftovers(pipeline)

    pipeline.send(metric_batch("after", 1, 10, run_id="after"))
    pipeline.count("metrics WHERE run_id = 'after'", expected=20)
    assert writer.metric("dead_letters_total") == 3, "a rebuild puts nothing aside that was put aside before"
    assert writer.stop() == 0


def test_equal_logs_make_equal_tables_whatever_the_batches(pipeline: Pipeline) -> None:
    send_everything(pipeline)
    other = ClickHouseAddress(
        pipeline.address.host,
        pipeline.address.port,
        pipeline.address.user,
        pipeline.address.password,
        f"{pipeline.address.database}_other",
    )
    migrate(other)
    pipeline.writer("--max-age", "5").wait_ready()
    settled(pipeline, letters=3)
    pipeline.env["PULSETRAIN_CLICKHOUSE"] = other.url()
    pipeline.writer("--max-age", "0", "--group", "another").wait_ready()
    pipeline.writer("--max-age", "0", "--group", "another").wait_ready()
    # The second group puts its own letters aside.
    same = tuple(table for table in WRITER_TABLES if table != "dead_letter_events")
    with connect(other) as client:
        wait_for(lambda: checksums(client, same) == checksums(pipeline.client, same), 30, "equal tables", 0.2)
        client.execute(f"DROP DATABASE {other.database}")


def test_writers_go_on_through_a_rebuild_and_readers_see_no_gap(pipeline: Pipeline) -> None:
    for _ in range(2):
        pipeline.writer("--max-age", "0.02").wait_ready()
    stop, sent = threading.Event(), [0] * 4

    def produce() -> None:
        while not stop.wait(0.02):
            for number in range(4):
                first = sent[number] * 20 + 1
                pipeline.send(metric_batch(f"w{number}", first, first + 19, run_id=f"r{number}"), partition=number)
                sent[number] += 1

    producing = threading.Thread(target=produce)
    producing.start()
    wait_for(lambda: pipeline.client.query("SELECT count() FROM metrics").one() > 4_000, 30, "rows")
    seen: list[int] = []
    watching = threading.Thread(target=_watch, args=(pipeline, stop, seen))
    watching.start()
    try:
        rebuilding.rebuild(services(pipeline), Quiet())
    finally:
        stop.set()
        producing.join()
        watching.join()
    pipeline.sent()
    pipeline.count("metrics", expected=sum(sent) * 40, timeout=40)
    unique = pipeline.client.query("SELECT uniqExact(writer, sequence, metric) FROM metrics").one()
    assert unique == sum(sent) * 40
    assert len(seen) > 20
    # What was stored and not committed is stored again a moment later: a round of each writer at most.
    assert all(after > before - 20_000 for before, after in pairwise(seen))
    assert min(seen) > 0


def test_a_rebuild_that_is_broken_off_changes_nothing_and_holds_nobody_up(pipeline: Pipeline) -> None:
    pipeline.writer("--max-age", "0.05").wait_ready()
    send_everything(pipeline)
    settled(pipeline, letters=3)
    before = held(pipeline)

    def break_off(text: str, phase: str) -> None:
        if text.startswith(phase):
            raise KeyboardInterrupt

    for phase in ("filling new", "holding", "comparing", "exchanging"):
        with pytest.raises(KeyboardInterrupt):
            rebuilding.rebuild(services(pipeline), Quiet(partial(break_off, phase=phase)))
        assert held(pipeline) == before
        assert not leftovers(pipeline)
    pipeline.send(metric_batch("after", 1, 10, run_id="after"))
    pipeline.count("metrics WHERE run_id = 'after'", expected=20, timeout=15)


def test_a_rebuild_that_was_killed_is_waited_for_only_while_it_may_live(pipeline: Pipeline) -> None:
    """What a kill -9 leaves: a database, and rows that say that it lives."""
    pipeline.writer("--max-age", "0.05").wait_ready()
    dead = f"{pipeline.address.database}_rebuild_0123abcd"
    fence = "SELECT now64(6) + INTERVAL 4 SECOND, 'the dead one'"
    pipeline.client.execute(f"CREATE DATABASE {dead}")
    pipeline.client.execute(f"CREATE TABLE {dead}.rebuild_alive AS {pipeline.address.database}.rebuild_fence")
    pipeline.client.execute(f"INSERT INTO {dead}.rebuild_alive {fence}")
    pipeline.client.execute(f"INSERT INTO rebuild_fence {fence}")
    pipeline.send(metric_batch("w", 1, 10))
    with pytest.raises(RebuildBusy, match="the dead one"):
        rebuilding.rebuild(services(pipeline), Quiet())
    assert pipeline.client.query("SELECT count() FROM metrics").one() == 0
    pipeline.count("metrics", expected=20, timeout=15)
    rebuilding.rebuild(services(pipeline), Quiet())
    assert not leftovers(pipeline)
    pipeline.count("metrics", expected=20)


def test_what_kafka_no_longer_has_is_named_and_kept_unless_it_is_forced(pipeline: Pipeline) -> None:
    pipeline.writer("--max-age", "0.05").wait_ready()
    for first in range(1, 100, 10):
        pipeline.send(metric_batch("w", first, first + 9, run_id="old"), partition=0)
    pipeline.send(metric_batch("v", 1, 10, run_id="new"), partition=1)
    pipeline.sent()
    pipeline.count("metrics", expected=220)
    wait_for(lambda: rebuilding.plan(services(pipeline)).messages == 11, 10, "commits")
    admin = KafkaAdminClient(bootstrap_servers=pipeline.broker)
    admin.delete_records({TopicPartition("pulsetrain.metrics", 0): 4})
    admin.close()
    said = invoke(pipeline, command, "--rebuild", "--yes", expected=1)
    assert "p/old (pulsetrain.metrics: 40 sequences)" in said
    assert "p/new" not in said
    with pytest.raises(rebuilding.RebuildRefused, match=r"p/old .*40 sequences"):
        rebuilding.rebuild(services(pipeline), Quiet())
    pipeline.count("metrics", expected=220)
    invoke(pipeline, command, "--rebuild", "--yes", "--force")
    pipeline.count("metrics", expected=140)


def test_verify_finds_nothing_missing_after_a_rebuild(pipeline: Pipeline, tmp_path: Path) -> None:
    pipeline.writer("--max-age", "0.05").wait_ready()
    env = {**pipeline.env, "PULSETRAIN_DIR": str(tmp_path / "runs"), "PULSETRAIN_HOME": str(tmp_path / "home")}
    try:
        subprocess.run([sys.executable, "-c", TRAINING], env=env, check=True, timeout=60)
        command_line = [sys.executable, "-m", "pulsetrain.commands"]
        subprocess.run([*command_line, "verify"], env=env, check=True, timeout=60)
        told = json.loads(invoke(pipeline, command, "--rebuild", "--yes", "--json"))
        assert {one["table"]: one["rows"] for one in told["after"]}["texts"] == 300
        assert not told["losses"]
        subprocess.run([*command_line, "verify", "--wait", "0"], env=env, check=True, timeout=60)
    finally:
        status = read_json(Place.of(tmp_path / "home", destination(env)).status) or {}
        if "pid" in status and psutil.pid_exists(status["pid"]):
            process = psutil.Process(status["pid"])
            process.terminate()
            process.wait(20)


def _watch(pipeline: Pipeline, stop: threading.Event, seen: list[int]) -> None:
    with connect(pipeline.address) as client:
        while not stop.wait(0.02):
            seen.append(client.query("SELECT count() FROM metrics").one())


def _letter_offset(pipeline: Pipeline, partition: int) -> int:
    return int(
        pipeline.client.query(f"SELECT kafka_offset FROM dead_letters WHERE kafka_partition = {partition}").one()
    )


def test_a_copy_of_clickhouse_that_is_put_back_is_caught_up_from_the_log(pipeline: Pipeline) -> None:
    """As docs/operations.md has it: the copy, and the writers begin before it; nothing twice, nothing lost."""
    writer = pipeline.writer("--max-age", "0.05").wait_ready()
    for number in range(8):
        pipeline.send(metric_batch(f"v{number}", 1, 40, run_id=f"s{number}"))
    pipeline.sent()
    pipeline.count("metrics", expected=8 * 80)
    writer.stop(20)
    copy = f"{pipeline.address.database}_copy"
    pipeline.client.execute(f"CREATE DATABASE {copy}")
    for table in WRITER_TABLES:
        pipeline.client.execute(f"CREATE TABLE {copy}.{table} AS {table}")
        pipeline.client.execute(f"INSERT INTO {copy}.{table} SELECT * FROM {table}")

    again = pipeline.writer("--max-age", "0.05").wait_ready()
    send_everything(pipeline)
    settled(pipeline, letters=3)

    def tables() -> dict[str, Checksum]:
        # What cannot be read is put aside again; `dead_letters` has it once.
        return {one.table: one for one in held(pipeline) if one.table != "dead_letter_events"}

    whole = tables()
    again.stop(20)

    for table in WRITER_TABLES:
        pipeline.client.execute(f"DROP TABLE {table} SYNC")
        pipeline.client.execute(f"RENAME TABLE {copy}.{table} TO {table}")
    with closing(KafkaConsumer(group_id="pulsetrain-writer", bootstrap_servers=pipeline.broker)) as group:
        topics = [TOPICS[name].kafka_name for name in ("runs", "metrics", "system", "logs", "alerts", "dead_letters")]
        partitions = [TopicPartition(topic, n) for topic in topics for n in group.partitions_for_topic(topic)]
        group.assign(partitions)
        group.commit({partition: OffsetAndMetadata(0, "", -1) for partition in partitions})
    pipeline.writer("--max-age", "0.05").wait_ready()
    wait_for(lambda: tables() == whole, 30, "the same tables as before", 0.2)
    pipeline.count("dead_letter_events", expected=6)
    pipeline.count("dead_letters", expected=3)
    assert tables() == whole
