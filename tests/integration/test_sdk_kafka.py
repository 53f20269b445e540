"""The SDK over the real forwarder and the real broker: what finish() promises, and what Kafka has then."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition

from pulsetrain.forwarder.places import Place, destination, read_json
from pulsetrain_schemas import events
from pulsetrain_schemas.topics import PREFIX, create_or_check

pytestmark = [pytest.mark.kafka]

PROGRAM = """
import os, sys, time
import pulsetrain
run = pulsetrain.init(project="sdk", config={"lr": 0.1, "nested": {"a": [1, 2]}}, tags=["t"], rank=2)
run.define_metric("acc", summary="max")
for step in range(20_000):
    run.log({"loss": 1 / (step + 1), "acc": step / 20_000})
run.log({"note": "kept", "nan": float("nan")})
run.summary["by hand"] = {"k": 1}
print("printed")
if not os.fork():
    run.log({"child": 1})
    run.finish()
    os._exit(0)
os.wait()
begun = time.monotonic()
run.finish(exit_code=3)
print(f"id={run.id} finish={time.monotonic() - begun:.3f}", flush=True)
"""


@pytest.fixture
def env(tmp_path: Path, kafka_broker: str) -> Iterator[dict[str, str]]:
    admin = KafkaAdminClient(bootstrap_servers=kafka_broker)
    create_or_check(admin)
    admin.close()
    env = {**os.environ, "PULSETRAIN_KAFKA": kafka_broker, "PULSETRAIN_HOME": str(tmp_path / "home")}
    yield env
    status = read_json(Place.of(tmp_path / "home", destination(env)).status) or {}
    with suppress(psutil.NoSuchProcess, KeyError):
        process = psutil.Process(status["pid"])
        process.terminate()
        process.wait(20)


def received(address: str, topic: str, kind: type) -> list:
    consumer = KafkaConsumer(bootstrap_servers=address, enable_auto_commit=False)
    try:
        partitions = [TopicPartition(PREFIX + topic, p) for p in consumer.partitions_for_topic(PREFIX + topic)]
        consumer.assign(partitions)
        consumer.seek_to_beginning(*partitions)
        ends = consumer.end_offsets(partitions)
        found = []
        while any(consumer.position(partition) < ends[partition] for partition in partitions):
            for records in consumer.poll(timeout_ms=500).values():
                found += [events.decode(record.value, kind) for record in records]
        return found
    finally:
        consumer.close()


def test_when_finish_returns_kafka_has_everything(env: dict[str, str], kafka_broker: str) -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=env, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stderr
    assert "Nothing is lost" not in done.stderr, done.stderr
    run_id, seconds = re.search(r"id=(\w+) finish=([\d.]+)", done.stdout).groups()
    assert float(seconds) < 30

    def of_this_run(topic: str, kind: type) -> list:
        return [event for event in received(kafka_broker, topic, kind) if event.origin.run_id == run_id]

    metrics = of_this_run("metrics", events.MetricBatch)
    writers = {batch.origin.writer for batch in metrics}
    assert len(writers) == 2
    assert {batch.origin.rank for batch in metrics} == {2}
    assert sum(len(batch.values) for batch in metrics) == 40_000 + 1 + 1
    assert [text for batch in metrics for text in batch.text_values] == ['"kept"']
    runs = of_this_run("runs", events.RunEvent)
    (finish,) = [event for event in runs if event.kind == "finish" and event.is_primary]
    assert (finish.state, finish.exit_code, finish.rows, finish.points, finish.texts) == (
        "failed",
        3,
        20_001,
        40_001,
        1,
    )
    own = [event for event in runs if event.origin.writer == finish.origin.writer]
    config = {key: value for event in own for key, value in event.config.items()}
    assert {key: json.loads(value) for key, value in config.items()} == {"lr": 0.1, "nested": {"a": [1, 2]}}
    summary = {key: json.loads(value) for event in own for key, value in event.summary.items() if value is not None}
    assert summary == {
        "loss": 1 / 20_000,
        "acc.max": 19_999 / 20_000,
        "note": "kept",
        "nan": "NaN",
        "by hand": {"k": 1},
    }
    environment = {key: json.loads(value) for event in own for key, value in event.environment.items()}
    assert environment["host"] == os.uname().nodename
    assert "printed" in [line for batch in of_this_run("logs", events.LogBatch) for line in batch.lines]
