"""Runs that are killed, go on, go back and are forked, through the whole stack, seen by SQL and the Api."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pulsetrain_consumers.reading.api import Api
from tests.stack_fixture import Stack
from tests.waiting import wait_for

pytestmark = [pytest.mark.stack, pytest.mark.timeout(240)]

# A training script as people have them: it goes on from its checkpoint, logs with steps of its own, and is killed.
TRAIN = """
import json, os, signal, sys
import pulsetrain
settings = json.loads(sys.argv[1])
first, last, end = settings.pop("first"), settings.pop("last"), settings.pop("end")
run = pulsetrain.init(project="{project}", settings={{"quiet": True}}, **settings)
run.define_metric("loss", summary="min,max,mean,first,last")
begin = run.step if first is None else first
for step in range(begin, last):
    run.log({{"loss": 100.0 * run.attempt + step, "rank": run.rank}}, step=step)
print(run.id, run.attempt, begin, flush=True)
if end == "kill":
    os.kill(os.getpid(), signal.SIGKILL)
"""


class Cluster:
    """Starts processes of a job on the stack; each `machine` is a directory that has no journals of the others."""

    def __init__(self, stack: Stack, tmp_path: Path, project: str) -> None:
        self.stack = stack
        self.project = project
        self._tmp_path = tmp_path

    def start(
        self, last: int, *, first: int | None = None, end: str = "finish", machine: str = "a", **settings: Any
    ) -> "subprocess.Popen[str]":
        given = json.dumps({**settings, "first": first, "last": last, "end": end})
        env = {**self.stack.env, "PULSETRAIN_DIR": str(self._tmp_path / machine)}
        command = [sys.executable, "-c", TRAIN.format(project=self.project), given]
        return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def train(self, last: int, **given: Any) -> tuple[str, int, int]:
        """Runs it to its end; returns the run's id, the attempt and the step that it began with."""
        return self.outcome(self.start(last, **given))

    @staticmethod
    def outcome(process: "subprocess.Popen[str]") -> tuple[str, int, int]:
        output, errors = process.communicate(timeout=90)
        assert process.returncode in (0, -signal.SIGKILL), errors
        run_id, attempt, step = output.split()
        return run_id, int(attempt), int(step)

    def stored(self, run_id: str, points: int) -> None:
        """Waits until the tables have so many points of the run, and the start of each process that logged them."""
        query = (
            "SELECT count(), countIf(writer NOT IN (SELECT writer FROM run_events WHERE kind = 'start')) FROM metrics "
            "WHERE project = %(p)s AND run_id = %(r)s"
        )
        wait_for(
            lambda: self.stack.sql(query, {"p": self.project, "r": run_id}) == [(points, 0)],
            60,
            f"{points} points of {run_id}",
        )

    def latest(self, run_id: str, metric: str = "loss") -> list[tuple[int, float]]:
        query = (
            "SELECT step, value FROM latest_metrics WHERE project = %(p)s AND run_id = %(r)s AND metric = %(m)s "
            "ORDER BY step, value"
        )
        return [(int(a), float(b)) for a, b in self.stack.sql(query, {"p": self.project, "r": run_id, "m": metric})]


@pytest.fixture
def cluster(stack: Stack, tmp_path: Path, request: pytest.FixtureRequest) -> Cluster:
    return Cluster(stack, tmp_path, request.node.name)


@pytest.fixture
def api(stack: Stack) -> Iterator[Api]:
    with Api(stack.addresses["PULSETRAIN_CLICKHOUSE"]) as api:
        yield api


def test_a_job_that_is_killed_and_requeued_shows_each_step_once(cluster: Cluster, api: Api):
    """Five attempts, each killed ten steps after its checkpoint; the fourth on a machine that has no journals."""
    points = 0
    for attempt in range(5):
        first = 20 * attempt
        machine = "b" if attempt == 3 else "a"
        last = first + 30
        if attempt == 3:
            cluster.stored("job", points)
        end = "kill" if attempt < 4 else "finish"
        begun = cluster.train(last, first=first, end=end, machine=machine, id="job", resume="allow")
        assert begun == ("job", attempt, first)
        points += 60
    cluster.stored("job", points)
    wait_for(lambda: api.run(f"{cluster.project}/job").state == "finished", 60, "the end of the job")
    expected = [(step, 100.0 * min(step // 20, 4) + step) for step in range(110)]
    assert cluster.latest("job") == expected
    run = api.run(f"{cluster.project}/job")
    shown = run.history(["loss"])
    assert list(zip(shown["_step"].tolist(), shown["loss"].tolist(), strict=True)) == expected
    assert (run.attempt, run.state, run.last_step, len(run.history(all_attempts=True)["_step"])) == (
        4,
        "finished",
        109,
        150,
    )
    values = [value for _, value in expected]
    summary = {"min": 0.0, "max": 509.0, "mean": sum(values) / len(values), "first": 0.0, "last": 509.0}
    wait_for(
        lambda: {name: api.run(f"{cluster.project}/job").summary.get(f"loss.{name}") for name in summary} == summary,
        30,
        f"the summary {summary}",
    )
    show = json.loads(cluster.stack.pulsetrain("show", "job", "--json").stdout)
    assert (show["metrics"]["loss"]["points"], len(show["attempts"])) == (110, 5)


def test_a_run_goes_back_and_a_fork_goes_another_way(cluster: Cluster, api: Api):
    cluster.train(20, id="root")
    cluster.stored("root", 40)
    # Both on machines that do not know the run.
    assert cluster.train(15, machine="b", resume_from="root?_step=9") == ("root", 1, 10)
    cluster.stored("root", 50)
    child, *begun = cluster.train(16, machine="c", fork_from="root?_step=11", id="child")
    assert (child, *begun) == ("child", 0, 12)
    cluster.stored("child", 8)
    assert cluster.train(9, machine="d", fork_from="child?_step=5", id="grandchild") == ("grandchild", 0, 6)
    cluster.stored("grandchild", 6)
    # What the parent does later is no matter of its forks.
    cluster.train(3, machine="b", resume_from="root?_step=0")
    cluster.stored("root", 54)
    root = [(0, 0.0), (1, 201.0), (2, 202.0)]
    before = [(step, float(step)) for step in range(10)]
    forked = [*before, (10, 110.0), (11, 111.0), *((step, float(step)) for step in range(12, 16))]
    for run_id, expected in (("root", root), ("child", forked), ("grandchild", [(s, float(s)) for s in range(9)])):
        assert cluster.latest(run_id) == expected
        shown = api.run(f"{cluster.project}/{run_id}").history(["loss"])
        assert list(zip(shown["_step"].tolist(), shown["loss"].tolist(), strict=True)) == expected
    run = api.run(f"{cluster.project}/child")
    assert (run.parent, run.summary["loss.max"], run.summary["loss.first"]) == (("root", 11), 111.0, 0.0)
    assert "root, after step 11" in cluster.stack.pulsetrain("show", f"{cluster.project}/child").stdout


def test_ranks_on_two_machines_resume_as_one_attempt(cluster: Cluster):
    for launch, last, begin in (("first", 6, 0), ("second", 9, 6)):
        cluster.stack.env["PULSETRAIN_LAUNCH"] = launch
        try:
            processes = [
                cluster.start(last, id="ranks", resume="allow", rank=rank, machine=f"node-{rank}", end="kill")
                for rank in range(2)
            ]
            outcomes = [cluster.outcome(process) for process in processes]
        finally:
            del cluster.stack.env["PULSETRAIN_LAUNCH"]
        assert outcomes == [("ranks", int(launch == "second"), begin)] * 2
        cluster.stored("ranks", 4 * last)
    assert cluster.latest("ranks", "rank") == [(step, float(rank)) for step in range(9) for rank in range(2)]
    ((started,),) = cluster.stack.sql(
        "SELECT count() FROM run_lineage WHERE project = %(p)s AND run_id = 'ranks'", {"p": cluster.project}
    )
    assert started == 2
