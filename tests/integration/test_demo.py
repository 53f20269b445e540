"""The example and the demo, run as a newcomer runs them."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.stack_fixture import Stack
from tests.waiting import wait_for

pytestmark = [pytest.mark.stack, pytest.mark.timeout(300)]

ROOT = Path(__file__).parents[2]
DIGITS = str(ROOT / "examples" / "digits.py")
STEPS_AN_EPOCH = 90  # 1,438 images, 16 at a time
METRICS_A_STEP, METRICS_AN_EPOCH = 11, 3


def test_what_the_example_logged_is_what_sql_counts(stack: Stack) -> None:
    project = "digits-counted"
    done = stack.python(DIGITS, "--project", project, "--epochs", "2", "--learning-rates", "0.01", "0.1", timeout=120)
    runs = re.findall(r"run (\w+)$", done.stdout, re.MULTILINE)
    assert len(runs) == 2
    expected = 2 * (STEPS_AN_EPOCH * METRICS_A_STEP + METRICS_AN_EPOCH)
    query = "SELECT run_id, count() FROM metrics WHERE project = %(project)s GROUP BY run_id"
    counted: dict[str, int] = {}

    def all_counted() -> bool:
        counted.update(stack.sql(query, {"project": project}))
        return sum(counted.values()) >= 2 * expected

    wait_for(all_counted, 20, f"{expected} points of each run")
    assert counted == dict.fromkeys(runs, expected)
    states = stack.sql("SELECT DISTINCT state FROM runs WHERE project = %(project)s", {"project": project})
    assert states == [("finished",)]


def test_the_example_runs_offline_without_any_server(tmp_path: Path) -> None:
    env = {**os.environ, "PULSETRAIN_MODE": "offline"}
    command = [sys.executable, DIGITS, "--epochs", "1", "--learning-rates", "0.1"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert len(list(Path(env["PULSETRAIN_DIR"]).glob("offline-run-*"))) == 1


def test_the_demo_accounts_for_every_point_writes_a_report_and_leaves_nothing_running(tmp_path: Path) -> None:
    env = {name: value for name, value in os.environ.items() if not name.startswith("PULSETRAIN_")}
    command = [sys.executable, str(ROOT / "examples" / "demo.py")]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^all +[\d,]+ +([\d,]+) +\1 +0$", done.stdout, re.MULTILINE), done.stdout
    assert (tmp_path / "report.html").stat().st_size > 50_000
    left = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert str(tmp_path) not in left
