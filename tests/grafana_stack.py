"""A stack that has something for every panel of every dashboard."""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kafka import KafkaProducer

from tests.grafana_macros import Range
from tests.prometheus import asked_of_prometheus
from tests.stack_fixture import Stack, running_stack
from tests.waiting import wait_for

ROOT = Path(__file__).parents[1]
MACHINE = ROOT / "tests" / "gpu_machine"
PROJECT = "a b's 프로젝트"
RUNS = ("slow", "fast")


@contextmanager
def filled_stack(directory: Path, **more: str) -> Iterator[tuple[Stack, Range]]:
    """Two jobs of two ranks on a machine with two GPUs, both with a NaN; a process that was killed; a dead letter.

    `more` are variables of the stack's environment. The range is from before the first of it until now.
    """
    began = time.time()
    with running_stack(directory, **more) as stack:
        env = {**stack.env, "PYTHONPATH": f"{MACHINE}:{ROOT}"}
        jobs = zip(RUNS, ("0.1", "0.2"), strict=True)
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
        if "PULSETRAIN_PROMETHEUS" in stack.addresses:
            recomputed = (
                "sum(pulsetrain_aggregator_recompute_seconds_count) > 0 and sum(pulsetrain_monitor_points_total) > 0"
            )
            wait_for(
                lambda: asked_of_prometheus(stack, recomputed, Range(began, time.time())), 30, "a look by Prometheus"
            )
        yield stack, Range(began - 60, time.time() + 5, 10)
