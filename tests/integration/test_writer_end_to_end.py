"""The writer as a process, between the real broker and a real ClickHouse: what is sent is stored once."""

import signal
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest
from kafka import KafkaConsumer

from pulsetrain_local.ports import free_ports
from pulsetrain_schemas import events
from pulsetrain_schemas.events import LogBatch, Origin, RunEvent, SystemBatch
from pulsetrain_schemas.topics import TOPICS
from tests.clickhouse_fixture import ClickHouse, running_clickhouse
from tests.pipeline_rig import Pipeline, running_pipeline
from tests.waiting import wait_for
from tests.writer_rig import STARTED, metric_batch

pytestmark = [pytest.mark.kafka, pytest.mark.clickhouse, pytest.mark.timeout(180)]


@pytest.fixture
def pipeline(tmp_path: Path, clickhouse_server: ClickHouse) -> Iterator[Pipeline]:
    with running_pipeline(tmp_path, clickhouse_server, f"writer_{uuid4().hex[:8]}") as running:
        yield running


def test_every_kind_of_event_reaches_its_tables(pipeline: Pipeline) -> None:
    origin = Origin("p", "r1", "w", 3, 1, STARTED, 1, 2)
    pipeline.send(metric_batch("w", 1, 50, texts=True))
    pipeline.send(
        SystemBatch(
            origin=origin,
            host="node-1",
            series_metrics=("cpu_percent", "power_watts"),
            series_gpus=("", "GPU-1"),
            series_gpu_indexes=np.array([-1, 0]),
            shape_lengths=np.array([2]),
            shape_keys=np.array([0, 1]),
            row_sequences=np.array([1, 2]),
            row_times=np.array([STARTED + 1, STARTED + 2]),
            row_shapes=np.array([0, 0]),
            values=np.array([1.0, 2.0, 3.0, np.nan]),
        )
    )
    pipeline.send(
        LogBatch(origin, np.array([1, 2]), np.array([STARTED, STARTED]), np.array([1, 2]), ("out ✓", "err\x00"))
    )
    pipeline.send(
        RunEvent(
            origin=origin,
            kind="start",
            time=STARTED,
            is_primary=True,
            name="first",
            tags=("a", "b"),
            config={"lr": "0.1", "model": '"mlp"'},
            summary={"gone": None},
            environment={"host": '"node-1"'},
            rows=50,
        )
    )
    writer = pipeline.writer().wait_ready()
    pipeline.count("metrics", expected=100)
    pipeline.count("texts", expected=50)
    pipeline.count("system", expected=4)
    pipeline.count("logs", expected=2)
    pipeline.count("run_events", expected=1)
    pipeline.count("run_values", expected=4)
    rows = pipeline.client.query(
        "SELECT project, run_id, metric, rank, step, toUnixTimestamp64Micro(ts), value, attempt, writer, sequence, "
        "toUnixTimestamp(attempt_started) FROM metrics ORDER BY sequence, metric LIMIT 1"
    ).rows
    assert rows == [("p", "r1", "acc", 0, 0, STARTED + 1000, 1.0, 0, "w", 1, STARTED // 10**6)]
    assert pipeline.client.query("SELECT host, gpu, gpu_index, metric, value FROM system ORDER BY ts, gpu").rows[
        :3
    ] == [
        ("node-1", "", -1, "cpu_percent", 1.0),
        ("node-1", "GPU-1", 0, "power_watts", 2.0),
        ("node-1", "", -1, "cpu_percent", 3.0),
    ]
    assert pipeline.client.query("SELECT stream, line, rank FROM logs ORDER BY sequence").rows == [
        ("stdout", "out ✓", 3),
        ("stderr", "err\x00", 3),
    ]
    event = pipeline.client.query("SELECT kind, is_primary, name, notes, tags, tags_set, rows FROM run_events").rows
    assert event == [("start", True, "first", None, ["a", "b"], True, 50)]
    assert pipeline.client.query("SELECT section, key, value, number FROM run_values ORDER BY key").rows == [
        ("summary", "gone", None, None),
        ("environment", "host", '"node-1"', None),
        ("config", "lr", "0.1", 0.1),
        ("config", "model", '"mlp"', None),
    ]
    assert pipeline.client.query("SELECT sum(rows) FROM stored_batches").one() == 100 + 50 + 4 + 2 + 5
    wait_for(lambda: writer.metric("rows_stored_total") > 160, 5, "the count of rows")
    assert writer.get("/healthz")[0] == 200
    assert writer.stop() == 0


def test_a_garbage_message_is_put_aside_and_the_partition_goes_on(pipeline: Pipeline) -> None:
    writer = pipeline.writer().wait_ready()
    pipeline.send(metric_batch("w", 1, 10), partition=0)
    pipeline.send_bytes("metrics", b"garbage", b"r1", partition=0)
    pipeline.send(metric_batch("w", 11, 20), partition=0)
    pipeline.count("metrics", expected=40)
    consumer = KafkaConsumer(
        TOPICS["dead_letters"].kafka_name,
        bootstrap_servers=pipeline.broker,
        auto_offset_reset="earliest",
        consumer_timeout_ms=10_000,
    )
    letter = events.decode(next(consumer).value, events.DeadLetter)
    consumer.close()
    assert (letter.reason, letter.partition, letter.offset, letter.payload) == ("undecodable", 0, 1, b"garbage")
    assert writer.metric("dead_letters_total") == 1


def test_what_forwarders_send_twice_is_stored_once(pipeline: Pipeline) -> None:
    pipeline.writer().wait_ready()
    for first, last in [(1, 50), (51, 100), (1, 50), (41, 120), (1, 120), (121, 130)]:
        pipeline.send(metric_batch("w", first, last, texts=True))
    pipeline.sent()
    pipeline.count("metrics WHERE sequence = 130", expected=2)
    pipeline.count("metrics", expected=260)
    pipeline.count("texts", expected=130)


def test_a_writer_that_is_killed_again_and_again_stores_every_row_once(pipeline: Pipeline) -> None:
    """kill -9 at different moments of the stream; the next one takes over what was pending, before the session ends."""
    messages, rows = 120, 400
    options = ("--max-age", "0.05", "--session-timeout", "120")
    writer = pipeline.writer(*options).wait_ready()
    for index in range(messages):
        for number in range(3):
            pipeline.send(
                metric_batch(f"w{number}", index * rows + 1, (index + 1) * rows, run_id=f"r{number}"), partition=number
            )
        if index % 30 == 29:
            pipeline.sent()
            stored = writer.metric("rows_stored_total")
            wait_for(lambda w=writer, s=stored: w.metric("rows_stored_total") != s, 20, "progress", 0.005)
            writer.kill()
            writer = pipeline.writer(*options)
    pipeline.sent()
    pipeline.count("metrics", expected=messages * rows * 3 * 2, timeout=60)
    assert pipeline.client.query("SELECT uniqExact(writer, sequence, metric) FROM metrics").one() == messages * rows * 6
    writer.wait_ready()
    assert writer.stop() == 0


def test_of_two_writers_that_share_the_partitions_one_may_be_killed(pipeline: Pipeline) -> None:
    """The other one makes it leave the group, long before its session is over."""
    options = ("--max-age", "0.05", "--session-timeout", "120")
    first, second = pipeline.writer(*options), pipeline.writer(*options)
    first.wait_ready()
    second.wait_ready()
    messages, rows = 60, 200
    for index in range(messages):
        for number in range(4):
            pipeline.send(
                metric_batch(f"w{number}", index * rows + 1, (index + 1) * rows, run_id=f"r{number}"), partition=number
            )
        if index == messages // 2:
            pipeline.sent()
            first.kill()
    pipeline.sent()
    pipeline.count("metrics", expected=messages * rows * 4 * 2, timeout=60)
    assert pipeline.client.query("SELECT uniqExact(writer, sequence, metric) FROM metrics").one() == messages * rows * 8


def test_a_writer_that_the_group_took_for_dead_comes_back_and_harms_nothing(pipeline: Pipeline) -> None:
    """Stopped while rows flow, until its session is over and another has its partitions; then it goes on."""
    zombie, other = pipeline.writer("--max-age", "0.05"), pipeline.writer("--max-age", "0.05")
    zombie.wait_ready()
    other.wait_ready()
    wait_for(lambda: zombie.metric("rebalances_total") and other.metric("rebalances_total"), 20, "two members")
    messages, rows = 90, 200

    def send(first: int, last: int) -> None:
        for index in range(first, last):
            for number in range(4):
                batch = metric_batch(f"w{number}", index * rows + 1, (index + 1) * rows, run_id=f"r{number}")
                pipeline.send(batch, partition=number)
        pipeline.sent()

    send(0, 30)
    zombie.process.send_signal(signal.SIGSTOP)
    send(30, 60)
    pipeline.count("metrics", expected=60 * rows * 4 * 2, timeout=40)  # by the other one alone
    zombie.process.send_signal(signal.SIGCONT)
    send(60, messages)
    pipeline.count("metrics", expected=messages * rows * 4 * 2, timeout=40)
    assert pipeline.client.query("SELECT uniqExact(writer, sequence, metric) FROM metrics").one() == messages * rows * 8
    wait_for(lambda: zombie.get("/readyz")[0] == 200, 20, "a zombie that is a member again")
    assert (zombie.stop(), other.stop()) == (0, 0)
    assert "Traceback" not in zombie.log


def test_while_clickhouse_is_away_the_writer_waits_says_so_and_loses_nothing(tmp_path: Path) -> None:
    with (
        running_clickhouse(tmp_path / "clickhouse", "--port", str(free_ports(1)[0])) as clickhouse,
        running_pipeline(tmp_path, clickhouse, "pulsetrain") as pipeline,
    ):
        writer = pipeline.writer().wait_ready()
        clickhouse.kill()
        for index in range(20):
            pipeline.send(metric_batch("w", index * 100 + 1, index * 100 + 100))
        pipeline.sent()
        wait_for(lambda: writer.get("/readyz")[0] == 503, 15, "a writer that is not ready")
        assert "did not answer" in writer.get("/readyz")[1]
        assert "p@ss" not in writer.log
        clickhouse.start()
        pipeline.count("metrics", expected=4_000, timeout=30)
        wait_for(lambda: writer.get("/readyz")[0] == 200, 15, "a ready writer")
        assert writer.stop() == 0
