"""`pulsetrain delete` and `pulsetrain retention` on a whole stack: what goes is gone, and nothing else is."""

import json
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from kafka import KafkaProducer

from pulsetrain_consumers.retention.tables import OTHERS, POOLED, TABLES_OF_RUNS
from tests.stack_fixture import Stack
from tests.topics import records_of
from tests.waiting import wait_for

pytestmark = [pytest.mark.stack, pytest.mark.timeout(180)]

JOB = """
import sys
import pulsetrain
project, name, steps = sys.argv[1:]
run = pulsetrain.init(project=project, id=name, config={"secret": "s3cret"})
print("a line of the console")
for step in range(int(steps)):
    run.log({"loss": 1 / (step + 1), "note": f"text {step}"})
run.finish()
"""
EVERY_TABLE = (*TABLES_OF_RUNS, *POOLED)


def log(stack: Stack, project: str, name: str, steps: int = 70) -> None:
    stack.python("-c", JOB, project, name, str(steps))
    told = {"p": project, "r": name}
    stored = "SELECT countIf(metric = 'loss') FROM metrics WHERE project = %(p)s AND run_id = %(r)s"
    wait_for(lambda: stack.sql(stored, told)[0][0] >= steps, 30, "the points of a run")
    ended = "SELECT count() FROM runs WHERE project = %(p)s AND run_id = %(r)s AND state = 'finished'"
    wait_for(lambda: stack.sql(ended, told) == [(1,)], 30, "the end of a run")
    lines = "SELECT count() > 0 FROM logs WHERE project = %(p)s AND run_id = %(r)s"
    wait_for(lambda: stack.sql(lines, told) == [(1,)], 30, "the console of a run")


def rows(stack: Stack, project: str, name: str) -> dict[str, int]:
    told = {"p": project, "r": name}
    condition = "project = %(p)s AND run_id = %(r)s"
    counted = {table: stack.sql(f"SELECT count() FROM {table} WHERE {condition}", told)[0][0] for table in EVERY_TABLE}
    return {table: count for table, count in counted.items() if count}


def send_again(stack: Stack, key: bytes) -> int:
    """All messages of a run to the writers once more, as from a machine that was away; how many these are."""
    bootstrap, sent = stack.addresses["PULSETRAIN_KAFKA"], 0
    with closing(KafkaProducer(bootstrap_servers=bootstrap)) as producer:
        for topic in ("pulsetrain.runs", "pulsetrain.metrics", "pulsetrain.logs"):
            for record in list(records_of(bootstrap, topic)):
                if record.key == key:
                    producer.send(topic, record.value, key=record.key)
                    sent += 1
    return sent


def test_every_table_that_has_something_of_a_run_is_known(stack: Stack) -> None:
    found = stack.sql(
        "SELECT table FROM system.columns WHERE database = currentDatabase() AND name IN ('project', 'run_id') "
        "AND table IN (SELECT name FROM system.tables WHERE database = currentDatabase() AND engine LIKE '%MergeTree') "
        "GROUP BY table HAVING count() = 2"
    )
    assert {table for (table,) in found} == {*EVERY_TABLE, *OTHERS}


def test_a_run_goes_from_every_table_after_its_copy_and_the_others_stay(stack: Stack, tmp_path: Path) -> None:
    project = "weg's 삭제"
    log(stack, project, "gone")
    log(stack, project, "kept")
    for host, own, run_ids in (("pool", "", "['gone', 'kept']"), ("own", "gone", "['gone']")):
        stack.sql(
            "INSERT INTO system_10s (host, metric, project, run_id, time, count, sketch, run_ids, version) "
            "SELECT %(host)s, 'process_cpu_percent', %(project)s, %(own)s, now(), 1, "
            f"quantilesDDState(0.01, 0.5, 0.9, 0.99)(7.), {run_ids}, 1",
            {"host": host, "own": own, "project": project if own else ""},
        )
    before, kept = rows(stack, project, "gone"), rows(stack, project, "kept")
    assert {"system_10s", "metrics", "texts", "logs", "run_events", "run_values", "stored_batches"} <= before.keys()
    refused = stack.pulsetrain("delete", f"{project}/gone", check=False)
    assert refused.returncode == 1
    assert "give --yes" in refused.stderr
    dry = json.loads(stack.pulsetrain("delete", f"{project}/gone", "--dry-run", "--json").stdout)
    assert dry == {"runs": [f"{project}/gone"], "rows": before, "deleted": False}

    folder = tmp_path / "copy"
    told = json.loads(stack.pulsetrain("delete", f"{project}/gone", "--yes", "--json", "--export", str(folder)).stdout)
    assert told["deleted"]
    assert told["rows"] == before
    assert rows(stack, project, "gone") == {}
    assert rows(stack, project, "kept") == kept
    assert stack.sql("SELECT run_id FROM runs WHERE project = %(p)s", {"p": project}) == [("kept",)]
    manifest = json.loads((folder / "manifest.json").read_text())
    assert {table: entry["rows"] for table, entry in manifest["tables"].items()} == before
    table = pq.read_table(folder / "metrics.parquet").to_pandas()
    assert len(table[table.metric == "loss"]) == 70
    assert set(table.run_id) == {"gone"}
    (sums,) = pq.read_table(folder / "system_10s.parquet")["sketch"].to_pylist()
    assert sums == pytest.approx([7, 7, 7], rel=0.02)
    assert stack.sql("SELECT host, run_ids FROM system_10s WHERE host IN ('own', 'pool')") == [("pool", ["kept"])]
    assert "s3cret" in "".join(pq.read_table(folder / "run_values.parquet")["value"].to_pylist())

    again = stack.pulsetrain("delete", f"{project}/gone", "--yes", check=False)
    assert again.returncode == 1
    assert "there is no run called" in again.stderr
    there = stack.pulsetrain("delete", f"{project}/kept", "--yes", "--export", str(folder), check=False)
    assert "is there already" in there.stderr
    assert rows(stack, project, "kept") == kept


def test_what_comes_of_a_deleted_run_afterwards_is_not_stored_and_a_new_attempt_is(stack: Stack) -> None:
    project = "late"
    log(stack, project, "r")
    stack.pulsetrain("delete", f"{project}/r", "--yes")
    assert send_again(stack, b"r") > 0
    log(stack, project, "after")
    assert rows(stack, project, "r") == {}
    rebuilt = stack.pulsetrain("migrate", "--rebuild", "--yes", "--json", check=False, timeout=120)
    assert rebuilt.returncode == 0, rebuilt.stderr
    assert rows(stack, project, "r") == {}
    log(stack, project, "r", steps=5)
    assert stack.sql("SELECT count() FROM metrics WHERE project = 'late' AND run_id = 'r' AND metric = 'loss'") == [
        (5,)
    ]


def test_a_word_that_means_several_runs_deletes_none(stack: Stack) -> None:
    for project in ("here", "there"):
        log(stack, project, "same", steps=3)
    log(stack, "there", "here", steps=3)
    several = stack.pulsetrain("delete", "same", "--yes", check=False)
    assert several.returncode == 1
    assert "2 runs are called 'same'; say which" in several.stderr
    either = stack.pulsetrain("delete", "here", "--yes", check=False)
    assert either.returncode == 1
    assert "here is a project, and a run is called so too: say there/here" in either.stderr
    assert stack.sql("SELECT count() FROM runs WHERE project IN ('here', 'there')") == [(3,)]


def test_a_project_goes_whole(stack: Stack) -> None:
    for name in ("one", "two"):
        log(stack, "whole", name, steps=3)
    told = stack.pulsetrain("delete", "whole", "--yes")
    assert "gone: 2 runs" in told.stdout
    assert "in Kafka for ever: pulsetrain.runs" in told.stdout
    assert stack.sql("SELECT count() FROM runs WHERE project = 'whole'") == [(0,)]


def test_a_run_that_goes_on_is_not_deleted_unless_it_is_said_so(stack: Stack) -> None:
    script = JOB.replace("run.finish()", "input()")
    job = subprocess.Popen([sys.executable, "-c", script, "live", "r", "3"], env=stack.env, stdin=subprocess.PIPE)
    try:
        running = "SELECT count() FROM runs WHERE project = 'live' AND state = 'running'"
        wait_for(lambda: stack.sql(running) == [(1,)], 30, "a run")
        refused = stack.pulsetrain("delete", "live/r", "--yes", check=False)
        assert refused.returncode == 1
        assert "live/r is running: `pulsetrain stop` ends a run; --force" in refused.stderr
        stack.pulsetrain("delete", "live/r", "--yes", "--force")
    finally:
        job.communicate(b"\n", timeout=30)
    log(stack, "live", "other", steps=3)
    assert rows(stack, "live", "r") == {}


def test_retention_is_shown_set_and_takes_what_is_past_its_time(stack: Stack) -> None:
    stack.sql(
        "INSERT INTO metrics (project, run_id, metric, attempt_started) "
        "SELECT arrayJoin(['old', 'other']), 'r', 'm', now() - INTERVAL 40 DAY"
    )
    shown = stack.pulsetrain("retention", "set", "old", "--runs", "30", "--samples", "7d")
    assert [line.split() for line in shown.stdout.splitlines() if line.split()[:1] == ["old"]] == [
        ["old", "30", "days", "7", "days", "for", "ever"]
    ]
    stack.sql("OPTIMIZE TABLE metrics FINAL")
    left = "SELECT project FROM metrics WHERE project IN ('old', 'other')"
    wait_for(lambda: stack.sql(left) == [("other",)], 30, "the merge that takes it away")
    stack.pulsetrain("retention", "set", "old", "--runs", "forever", "--samples", "forever")
    told = json.loads(stack.pulsetrain("retention", "--json").stdout)
    assert {(one["project"], one["kind"]): one["days"] for one in told if one["project"] == "old"} == {
        ("old", "runs"): None,
        ("old", "samples"): None,
    }
    (metrics,) = stack.sql("SELECT create_table_query FROM system.tables WHERE name = 'metrics' LIMIT 1")[0]
    assert " TTL " not in metrics


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["old"], "say what is to be kept for how long"),
        (["--runs", "3"], "name a project, or give --other-projects"),
        (["old", "--runs", "-3"], "neither a number of days"),
        (["old", "--runs", "soon"], "neither a number of days"),
        (["long", "--runs", "9"], "the longest attempt at a run here took 8.0 days"),
    ],
)
def test_a_policy_that_is_wrong_or_dangerous_is_refused(stack: Stack, arguments: list[str], said: str) -> None:
    stack.sql(
        "INSERT INTO run_events (project, run_id, kind, ts, attempt_started) "
        "SELECT 'long', 'r', 'heartbeat', now64(6), now64(6) - INTERVAL 8 DAY"
    )
    refused = stack.pulsetrain("retention", "set", *arguments, check=False)
    assert refused.returncode in (1, 2)
    assert said in refused.stderr
