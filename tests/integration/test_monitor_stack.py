"""From trouble in a training process to alerts, and from a person's word back to the process, on a whole stack."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import pytest

from pulsetrain_consumers.monitor.silences import LOOK_SECONDS
from tests.stack_fixture import Stack, running_stack
from tests.waiting import wait_for

pytestmark = [pytest.mark.stack, pytest.mark.timeout(240)]

TRAIN = """
import math, time
import pulsetrain
run = pulsetrain.init(project="{project}")
run.on_alert(lambda alert: print("alert", alert.kind, alert.state, flush=True))
run.on_signal("checkpoint", lambda sent: print("checkpoint", sent.text, flush=True))
for step in range(60):
    run.log({{"train/loss": 2 / (step + 1)}})
print(run.id, flush=True)
{body}
"""
NANS = """
for _ in range(5):
    run.log({"train/loss": math.nan})
"""
ON_AND_ON = """
while True:
    time.sleep(0.05)
    run.log({"train/loss": 0.01})
"""


class Training:
    """A training process, and what it printed."""

    def __init__(self, process: "subprocess.Popen[str]", output: Path) -> None:
        self.process = process
        self._output = output
        self.run_id = wait_for(lambda: self.lines()[:1], 60, "the run's id")[0]

    def lines(self) -> list[str]:
        return self._output.read_text().splitlines()

    def wait_line(self, line: str) -> None:
        wait_for(lambda: line in self.lines(), 60, f"the line {line!r}")


@contextmanager
def training(stack: Stack, directory: Path, project: str, body: str) -> Iterator[Training]:
    """A process that trains until it ends, or the context does."""
    output = directory / f"{uuid4().hex}.txt"
    with output.open("w") as out:
        program = [sys.executable, "-c", TRAIN.format(project=project, body=body)]
        process = subprocess.Popen(program, env=stack.env, stdout=out, stderr=subprocess.DEVNULL, text=True)
    try:
        yield Training(process, output)
    finally:
        process.kill()
        process.wait()


def alerts(stack: Stack, target: str) -> list[dict]:
    return json.loads(stack.pulsetrain("alerts", target, "--json").stdout)


def wait_alert(stack: Stack, run_id: str, kind: str, state: str) -> dict:
    """The alert of a kind, once it is in a state."""
    sql = "SELECT count() FROM alerts WHERE run_id = %(run)s AND kind = %(kind)s AND state = %(state)s"
    asked = {"run": run_id, "kind": kind, "state": state}
    wait_for(lambda: stack.sql(sql, asked) == [(1,)], 60, f"an alert {kind} that is {state}")
    wait_known(stack, run_id)
    (alert,) = [alert for alert in alerts(stack, run_id) if alert["kind"] == kind]
    return alert


def wait_known(stack: Stack, run_id: str) -> None:
    """Until the run is in the tables: before that nobody knows whom to tell."""
    sql = "SELECT count() FROM runs WHERE run_id = %(run)s"
    wait_for(lambda: stack.sql(sql, {"run": run_id}) == [(1,)], 60, "the run in the tables")


def test_a_loss_that_is_no_number_fires_reaches_the_script_and_is_over_when_it_is_one_again(
    stack: Stack, tmp_path: Path
) -> None:
    with training(stack, tmp_path, "monitor-nan", NANS + ON_AND_ON) as trained:
        trained.wait_line("alert nan firing")
        trained.wait_line("alert nan resolved")
        alert = wait_alert(stack, trained.run_id, "nan", "resolved")
    assert alert["subject"] == "train/loss"
    assert alert["severity"] == "critical"
    assert 60 <= alert["step"] <= 65
    assert "train/loss" in stack.pulsetrain("alerts").stdout
    assert "Alerts" in stack.pulsetrain("show", trained.run_id).stdout


# Low from the moment on at which the monitor knows the silences that were made before the run.
LOW = """
run.alert_when("acc < 0.2", name="low", severity="critical", labels={{"team": "vision"}})
began = time.monotonic()
while True:
    time.sleep(0.05)
    run.log({{"acc": 0.5 if time.monotonic() < began + {wait} else 0.1}})
"""


def test_a_rule_of_the_script_fires_and_a_silence_keeps_it_from_the_script_until_it_is_lifted(
    stack: Stack, tmp_path: Path
) -> None:
    stack.pulsetrain("alerts", "silence", "--project", "monitor-rule", "--kind", "rule", "--for", "1h")
    (silence,) = json.loads(stack.pulsetrain("alerts", "silences", "--json").stdout)
    with training(stack, tmp_path, "monitor-rule", LOW.format(wait=2 * LOOK_SECONDS)) as trained:
        alert = wait_alert(stack, trained.run_id, "rule", "firing")
        assert (alert["title"], alert["severity"], alert["labels"]) == ("low: acc", "critical", {"team": "vision"})
        assert alert["silenced"]
        assert "alert rule firing" not in trained.lines()
        stack.pulsetrain("alerts", "lift", silence["silence_id"])
        trained.wait_line("alert rule firing")
    sql = "SELECT key FROM run_values WHERE run_id = %(run)s AND section = 'rule'"
    assert stack.sql(sql, {"run": trained.run_id}) == [("low",)]


def test_what_a_script_says_with_alert_is_told_once_within_its_wait(stack: Stack, tmp_path: Path) -> None:
    said = 'for text in ("first", "second"):\n    run.alert("Odd", text, level="WARN", wait_duration=60)\n'
    with training(stack, tmp_path, "monitor-user", said + ON_AND_ON) as trained:
        alert = wait_alert(stack, trained.run_id, "user", "resolved")
        trained.wait_line("alert user firing")
    assert (alert["title"], alert["text"], alert["severity"]) == ("Odd", "first", "warning")


def test_a_run_is_signalled_and_stopped_from_outside(stack: Stack, tmp_path: Path) -> None:
    with training(stack, tmp_path, "monitor-control", ON_AND_ON) as trained:
        wait_known(stack, trained.run_id)
        stack.pulsetrain("signal", trained.run_id, "checkpoint", "--reason", "maintenance")
        trained.wait_line("checkpoint maintenance")
        stack.pulsetrain("stop", trained.run_id, timeout=90)
        assert trained.process.wait(30) != 0
    again = stack.pulsetrain("stop", trained.run_id, check=False)
    assert again.returncode == 1
    assert "nobody is there to hear" in again.stderr
    assert "Traceback" not in again.stderr


def test_a_script_that_does_not_stop_is_killed(stack: Stack, tmp_path: Path) -> None:
    deaf = 'import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nrun.on_signal("stop", lambda sent: None)\n'
    with training(stack, tmp_path, "monitor-deaf", deaf + ON_AND_ON) as trained:
        wait_known(stack, trained.run_id)
        refused = stack.pulsetrain("stop", trained.run_id, "--wait", "1", check=False)
        assert "goes on after 1 s" in refused.stderr
        stack.pulsetrain("signal", trained.run_id, "kill", timeout=90)
        assert trained.process.wait(30) == -signal.SIGKILL


def test_a_monitor_that_is_killed_again_and_again_neither_forgets_nor_repeats_an_alert(tmp_path: Path) -> None:
    with running_stack(tmp_path) as stack, training(stack, tmp_path, "monitor-mortal", NANS + ON_AND_ON) as first:
        wait_alert(stack, first.run_id, "nan", "resolved")
        stack.wait_restarted("monitor", stack.kill("monitor"))
        with training(stack, tmp_path, "monitor-mortal", NANS + "time.sleep(3600)") as another:
            os.kill(stack.services()["monitor"]["pid"], signal.SIGKILL)
            wait_alert(stack, another.run_id, "nan", "firing")
        counts = stack.sql(
            "SELECT run_id, kind, countIf(state = 'firing'), uniqExact(alert_id, sequence) = count() "
            "FROM alert_events WHERE kind = 'nan' GROUP BY run_id, kind"
        )
    assert len(counts) == 2
    assert {row[2:] for row in counts} == {(1, 1)}
