"""Every query of every dashboard, as Grafana would send it, on a stack that has something for each: none may fail, and
none may be empty.
"""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from kafka import KafkaProducer

from tests.grafana_files import FILES, Asked, queries
from tests.grafana_macros import Range, expanded, interpolated
from tests.stack_fixture import Stack, running_stack
from tests.waiting import wait_for

pytestmark = [pytest.mark.stack, pytest.mark.timeout(300)]

ROOT = Path(__file__).parents[2]
MACHINE = ROOT / "tests" / "gpu_machine"
PROJECT = "a b's 프로젝트"
CHOSEN = {
    "project": [PROJECT],
    "projects": ["$__all"],
    "run": ["slow", "fast"],
    "metric": ["train/loss"],
    "goal": ["max"],
    "scale": ["linear"],
    "smoothing": ["5"],
    "host": ["$__all"],
    "price": ["2.5"],
}
ASKED = [asked for path in FILES for asked in queries(path)]


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Stack, Range]]:
    """Two jobs of two ranks on a machine with two GPUs, both with a NaN; a process that was killed; a dead letter."""
    began = time.time()
    with running_stack(tmp_path_factory.mktemp("grafana")) as stack:
        env = {**stack.env, "PYTHONPATH": f"{MACHINE}:{ROOT}"}
        jobs = [("slow", "0.1"), ("fast", "0.2")]
        commands = [[str(MACHINE / "job.py"), PROJECT, run, rank, rate] for run, rate in jobs for rank in "01"]
        commands.append([str(ROOT / "examples" / "troubles.py"), "killed", "--project", PROJECT])
        processes = [
            subprocess.Popen([sys.executable, *command], env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            for command in commands
        ]
        producer = KafkaProducer(bootstrap_servers=stack.addresses["PULSETRAIN_KAFKA"])
        producer.send("pulsetrain.metrics", b"garbage", key=b"r")
        producer.close()
        for process in processes:
            process.wait(120)
        told = {"p": PROJECT}
        missing = "SELECT sum(missing) FROM ingest WHERE project = %(p)s AND state != 'running'"
        seen = "SELECT uniqExact(run_id, kind) FROM alerts WHERE project = %(p)s AND kind IN ('nan', 'crashed')"
        wait_for(lambda: stack.sql(seen, told) == [(3,)], 60, "the alerts", 0.2)
        wait_for(lambda: stack.sql(missing, told) == [(0,)], 30, "all points", 0.2)
        summed_up = "SELECT uniqExact(gpu), uniqExact(seconds) FROM system_rollups WHERE metric = 'utilization_percent'"
        wait_for(lambda: stack.sql(summed_up) == [(2, 3)], 60, "the aggregates of the hardware", 0.2)
        spread = "SELECT uniqExact(run_id) FROM rank_spread WHERE metric = 'pulsetrain/forward_seconds'"
        wait_for(lambda: stack.sql(spread) == [(2,)], 60, "the comparison of the ranks", 0.2)
        wait_for(lambda: stack.sql("SELECT count() FROM dead_letters") == [(1,)], 30, "the dead letter", 0.2)
        yield stack, Range(began - 60, time.time() + 5, 10)


@pytest.mark.parametrize("asked", ASKED, ids=str)
def test_every_query_gives_rows(filled: tuple[Stack, Range], asked: Asked) -> None:
    stack, over = filled
    found = stack.sql(expanded(interpolated(asked.sql, CHOSEN), over))
    assert found
    assert any(value is not None for row in found for value in row)


def test_the_numbers_are_what_was_logged(filled: tuple[Stack, Range]) -> None:
    stack, over = filled

    def asked(dashboard: str, begins: str) -> list[tuple]:
        (one,) = [it for it in ASKED if it.dashboard == dashboard and begins in it.by]
        return stack.sql(expanded(interpolated(one.sql, {**CHOSEN, "smoothing": ["1"]}), over))

    by_step = {(step, run): mean for step, run, mean in asked("compare", "2 ${metric} A")}
    assert by_step[0, "lr=0.1"] == 1.0
    assert by_step[4, "lr=0.2"] == pytest.approx(0.2)
    assert max(step for step, _ in by_step) == 99, "what is not finite has no place on a curve"
    runs = {row[1]: row for row in asked("runs", " Runs A")}
    assert {runs["slow"][0], runs["fast"][0]} == {"lr=0.1", "lr=0.2"}
    assert runs["slow"][3] == 1.0, "the best by the goal"
    assert {row[0]: row[1] for row in asked("run", "Configuration")}.keys() == {"layers", "lr"}
    assert [row[:1] for row in asked("pipeline", "Missing")] == [(0,)]
