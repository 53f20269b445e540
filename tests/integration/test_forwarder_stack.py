"""From log() to the tables by way of the forwarder, on a whole stack; and the loss account of it."""

import json
import os
import signal
import subprocess
import sys

import psutil
import pytest

from pulsetrain.forwarder import spawn
from pulsetrain.forwarder.places import LOCAL, Place, read_json
from tests.stack_fixture import Stack
from tests.waiting import wait_for

pytestmark = [pytest.mark.stack, pytest.mark.timeout(180)]

TRAIN = """
import pulsetrain
run = pulsetrain.init(project="{project}", config={{"lr": 0.1}}, tags=["a"])
for step in range({steps}):
    run.log({{"loss": 1 / (step + 1), "accuracy": step / 1000}})
run.log({{"note": "done"}})
print(run.id, flush=True)
{end}
"""


def train(stack: Stack, project: str, end: str = "", steps: int = 2000, **env: str) -> str:
    """Trains to its end and returns the run's id."""
    output = stack.python("-c", TRAIN.format(project=project, steps=steps, end=end), env=env).stdout
    return output.split()[0]


def verify(stack: Stack, run_id: str) -> list[dict]:
    return json.loads(stack.pulsetrain("verify", run_id, "--json").stdout)


def stored(stack: Stack, project: str) -> int:
    ((count,),) = stack.sql("SELECT count() FROM metrics WHERE project = %(p)s", {"p": project})
    return int(count)


def forwarder_pid(stack: Stack) -> int:
    """The process of the stack's forwarder, 0 while there is none."""
    place = Place.of(stack.home, LOCAL)
    said = read_json(place.status) or {}
    return int(said["pid"]) if spawn.is_running(place) and "pid" in said and psutil.pid_exists(said["pid"]) else 0


def test_what_was_logged_is_in_kafka_and_in_the_tables(stack: Stack) -> None:
    run_id = train(stack, "forwarder-whole")
    history, machine = sorted(verify(stack, run_id), key=lambda row: row["role"])
    for place in ("journal", "kafka", "clickhouse"):
        assert history[place] == {"rows": 2001, "points": 4000, "texts": 1}
        assert machine[place]["points"] == machine["journal"]["points"]
    ((state, exit_code, tags),) = stack.sql(
        "SELECT state, exit_code, tags FROM runs WHERE run_id = %(r)s", {"r": run_id}
    )
    assert (state, exit_code, tags) == ("finished", 0, ["a"])


def test_a_run_whose_process_is_killed_is_stored_to_its_last_row_and_killed(stack: Stack) -> None:
    program = TRAIN.format(project="forwarder-killed", steps=500, end="import signal; signal.pause()")
    with subprocess.Popen([sys.executable, "-c", program], env=stack.env, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        run_id = process.stdout.readline().strip()
        os.kill(process.pid, signal.SIGKILL)

    def state() -> bool:
        return stack.sql("SELECT state FROM runs WHERE run_id = %(r)s", {"r": run_id}) == [("killed",)]

    wait_for(state, 10, "the state of the run")
    wait_for(
        lambda: stack.sql("SELECT count() FROM metrics WHERE run_id = %(r)s", {"r": run_id}) == [(1000,)],
        10,
        "its rows",
    )


def test_a_forwarder_that_is_killed_while_a_run_logs_costs_no_row_and_doubles_none(stack: Stack) -> None:
    slow = "import time\n" + TRAIN.replace("1000}})", "1000}}); time.sleep(0.002)")
    program = slow.format(project="forwarder-chaos", steps=8000, end="run.finish()")
    with subprocess.Popen([sys.executable, "-c", program], env=stack.env, stdout=subprocess.PIPE, text=True) as process:
        for _ in range(2):
            pid = wait_for(lambda: forwarder_pid(stack), 20, "a forwarder")
            before = stored(stack, "forwarder-chaos")
            wait_for(lambda before=before: stored(stack, "forwarder-chaos") > before or process.poll() is not None, 20)
            os.kill(pid, signal.SIGKILL)
            wait_for(lambda pid=pid: forwarder_pid(stack) not in (0, pid), 30, "another forwarder")
        assert process.stdout is not None
        run_id = process.stdout.readline().strip()
    assert process.returncode == 0
    assert {row["missing_in_clickhouse"] for row in verify(stack, run_id)} == {0}
    assert stored(stack, "forwarder-chaos") == 16000


def test_an_offline_run_is_stored_when_it_is_synced_and_only_once(stack: Stack) -> None:
    run_id = train(stack, "forwarder-offline", PULSETRAIN_MODE="offline")
    assert stack.sql("SELECT count() FROM metrics WHERE run_id = %(r)s", {"r": run_id}) == [(0,)]
    for expected in ("sent", "already sent"):
        rows = json.loads(stack.pulsetrain("sync", "--json").stdout)
        assert {row["state"] for row in rows if row["run_id"] == run_id and row["role"] == "run"} == {expected}
    (history, *_) = (row for row in verify(stack, run_id) if row["role"] == "run")
    assert history["clickhouse"] == {"rows": 2001, "points": 4000, "texts": 1}
