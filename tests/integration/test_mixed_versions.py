"""This release and the next at once, on the same topics and tables: everything is stored once, nothing is put aside."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from uuid import uuid4

import pytest
from kafka import KafkaConsumer, TopicPartition

from pulsetrain_consumers.clickhouse.migrate import migrate
from pulsetrain_schemas import catalog, events, migrations
from pulsetrain_schemas.addresses import KafkaAddress
from pulsetrain_schemas.schema_topic import SchemaTopic
from pulsetrain_schemas.topics import TOPICS
from tests.clickhouse_fixture import ClickHouse
from tests.journals import start_run
from tests.pipeline_rig import Pipeline, WriterProcess, running_pipeline
from tests.versions import newer
from tests.waiting import wait_for
from tests.writer_rig import metric_batch

pytestmark = [pytest.mark.kafka, pytest.mark.clickhouse, pytest.mark.timeout(180)]

THIS, NEXT = "pulsetrain.commands", "tests.versions"
RUNS, ROWS = 4, 400


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory, clickhouse_server: ClickHouse) -> Iterator[Pipeline]:
    """A pipeline with a writer of each version, which share the partitions."""
    directory = tmp_path_factory.mktemp("mixed")
    with running_pipeline(directory, clickhouse_server, f"mixed_{uuid4().hex[:8]}") as running:
        running.env["PYTHONPATH"] = str(Path(__file__).parent.parent.parent)
        writers = [running.writer("--max-age", "0.05", command=command) for command in (THIS, NEXT)]
        for writer in writers:
            writer.wait_ready()
        yield running


def write_runs(folder: Path, version: str) -> None:
    """Journals of some runs, with rows, texts, console lines and all that a run tells of itself."""
    for number in range(RUNS):
        writer = f"{version[:1]}{number}".ljust(32, "f")
        journal = start_run(folder, writer, run_id=f"{version}-{number}", mode="offline")
        journal.event("config", {"config": {"lr": 0.1, "version": version}})
        for step in range(ROWS):
            journal.row(("loss", "acc"), (step, 0.5), step, 1.76e9 + step)
            if step % 50 == 0:
                journal.text_row({}, {"note": '"텍스트"'}, step, 1.76e9 + step)
                journal.event("console", {"stream": "stdout", "line": f"step {step}"})
        journal.event("finish", {"state": "finished", "exit_code": 0, "time": 1.76e9 + ROWS})
        journal.close()


def dead_letters(pipeline: Pipeline) -> list[tuple[str, str]]:
    """Reason and text of everything that was put aside."""
    consumer = KafkaConsumer(bootstrap_servers=pipeline.broker, auto_offset_reset="earliest", consumer_timeout_ms=500)
    partition = TopicPartition(TOPICS["dead_letters"].kafka_name, 0)
    consumer.assign([partition])
    try:
        if consumer.end_offsets([partition])[partition] == 0:
            return []
        letters = [events.decode(record.value, events.DeadLetter) for record in consumer]
        return [(letter.reason, letter.error) for letter in letters]
    finally:
        consumer.close()


def test_producers_and_writers_of_two_versions_share_the_topics(pipeline: Pipeline, tmp_path: Path) -> None:
    processes = []
    for command, version in ((THIS, "this"), (NEXT, "next")):
        write_runs(tmp_path / version, version)
        arguments = [sys.executable, "-m", command, "sync", str(tmp_path / version), "--json"]
        processes.append(subprocess.Popen(arguments, env=pipeline.env, stdout=subprocess.PIPE, text=True))
    for process in processes:
        output, _ = process.communicate(timeout=60)
        assert {row["state"] for row in json.loads(output)} == {"sent"}

    texts = len(range(0, ROWS, 50))
    pipeline.count("metrics", expected=2 * RUNS * ROWS * 2)
    pipeline.count("texts", expected=2 * RUNS * texts)
    pipeline.count("logs", expected=2 * RUNS * texts)
    pipeline.count("runs", expected=2 * RUNS)
    counted = pipeline.client.query("SELECT uniqExact(run_id, sequence, metric), sum(value) FROM metrics").rows[0]
    assert counted == (2 * RUNS * ROWS * 2, 2 * RUNS * (sum(range(ROWS)) + 0.5 * ROWS))
    assert pipeline.client.query("SELECT DISTINCT state FROM runs").rows == [("finished",)]
    assert pipeline.client.query("SELECT count() FROM run_values WHERE key = 'version'").one() == 2 * RUNS
    wait_for(lambda: all(w.metric("messages_total") > 0 for w in pipeline.writers), 5, "messages for both writers")
    assert dead_letters(pipeline) == []
    assert [writer.metric("dead_letters_total") for writer in pipeline.writers] == [0, 0]

    found = SchemaTopic(lambda: KafkaAddress((pipeline.broker,))).read()
    for name in ("runs", "metrics", "logs"):
        for document in (catalog.load(name), newer(catalog.load(name))):
            assert json.loads(found[catalog.fingerprint(document)]) == document

    told = subprocess.run(
        [sys.executable, "-m", THIS, "verify", "--dir", str(tmp_path), "--json"],
        env=pipeline.env,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert told.returncode == 0, told.stdout + told.stderr
    lines = json.loads(told.stdout)
    assert len(lines) == 2 * RUNS
    assert all(line["journal"] == line["kafka"] == line["clickhouse"] for line in lines)


@contextmanager
def load(pipeline: Pipeline, run_id: str) -> Iterator[list[int]]:
    """Sends batches until the block ends; how many rows were sent, when it has ended."""
    stop, sent = threading.Event(), [0]

    def send() -> None:
        while not stop.is_set():
            first = sent[0] + 1
            for partition in range(4):
                batch = metric_batch(f"w{partition}", first, first + 99, run_id=f"{run_id}-{partition}", texts=True)
                pipeline.send(batch, partition)
            sent[0] += 100
            stop.wait(0.01)

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield sent
    finally:
        stop.set()
        thread.join()
        pipeline.sent()


def test_a_migration_while_writers_run_loses_nothing_and_needs_no_restart(
    pipeline: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for file in files("pulsetrain_schemas").joinpath("clickhouse").iterdir():
        (tmp_path / file.name).write_text(file.read_text(encoding="utf-8"), encoding="utf-8")
    known = migrations.load()
    (tmp_path / f"{len(known) + 1:04}_next.sql").write_text(
        "ALTER TABLE metrics ADD COLUMN IF NOT EXISTS quality LowCardinality(String) DEFAULT 'unknown';\n"
        "ALTER TABLE stored_batches ADD COLUMN IF NOT EXISTS release UInt32 DEFAULT 7;\n"
        "CREATE TABLE IF NOT EXISTS extra (run_id String) ENGINE = MergeTree ORDER BY run_id;\n"
    )
    processes = [writer.process.pid for writer in pipeline.writers]
    mine = "metrics WHERE startsWith(run_id, 'load')"
    with load(pipeline, "load") as sent:
        wait_for(lambda: pipeline.client.query(f"SELECT count() FROM {mine}").one() > 2_000, 30, "rows before")
        next_release = migrations.load(tmp_path)
        monkeypatch.setattr(migrations, "load", lambda: next_release)
        report = migrate(pipeline.address)
        before = pipeline.client.query(f"SELECT count() FROM {mine}").one()
        wait_for(lambda: pipeline.client.query(f"SELECT count() FROM {mine}").one() > before, 30, "rows after")
    assert [migration.number for migration in report.applied] == [len(known) + 1]
    rows = sent[0]
    pipeline.count(mine, expected=rows * 4 * 2)
    pipeline.count("texts WHERE startsWith(run_id, 'load')", expected=rows * 4)
    assert pipeline.client.query(f"SELECT uniqExact(writer, sequence, metric) FROM {mine}").one() == rows * 8
    assert pipeline.client.query("SELECT DISTINCT quality FROM metrics").rows == [("unknown",)]
    assert pipeline.client.query("SELECT DISTINCT release FROM stored_batches").rows == [(7,)]
    assert [writer.process.pid for writer in pipeline.writers if alive(writer)] == processes
    assert dead_letters(pipeline) == []


def alive(writer: WriterProcess) -> bool:
    return writer.get("/readyz")[0] == 200
