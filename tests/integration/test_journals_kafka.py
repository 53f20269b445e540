"""Journals and the real broker: a watch that outlives it, copies from two machines, a run larger than its ceiling."""

import json
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.integration.test_forwarder_kafka import Setting, make_topics
from tests.journals import start_run
from tests.stack_fixture import running_broker
from tests.waiting import wait_for

pytestmark = [pytest.mark.kafka]

SYNC = [sys.executable, "-m", "pulsetrain.commands", "sync"]


def interruptible() -> None:
    """Ctrl-C reaches the process, also where the shell that runs the tests ignores it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def setting(tmp_path: Path, kafka_broker: str) -> Setting:
    make_topics(kafka_broker)
    return Setting(tmp_path, kafka_broker)


def offline_run(setting: Setting, directory: Path, **changes):
    return start_run(
        directory, setting.writer, run_id=setting.run_id, mode="offline", host=socket.gethostname(), **changes
    )


def test_a_watch_sends_what_is_added_while_the_broker_comes_and_goes(tmp_path: Path) -> None:
    with running_broker(tmp_path / "kafka") as broker:
        make_topics(broker.address)
        setting = Setting(tmp_path, broker.address)
        journal = offline_run(setting, setting.runs)
        step = 0

        def log(rows: int) -> int:
            nonlocal step
            for _ in range(rows):
                journal.row(("loss", "acc"), (1 / (step + 1), step), step, 1.76e9 + step)
                step += 1
            return step

        def stored() -> int:
            return max((batch.origin.last_sequence for batch in setting.received("metrics")), default=0) - 1

        printed = tmp_path / "printed.jsonl"

        def said() -> list[dict[str, Any]]:
            return [json.loads(line) for line in printed.read_text().splitlines(keepends=True) if line.endswith("\n")]

        log(1000)
        with (
            printed.open("w") as output,
            subprocess.Popen(
                [*SYNC, "--watch", "--json", str(setting.runs)],
                env=setting.env,
                stdout=output,
                preexec_fn=interruptible,
            ) as watch,
        ):
            try:
                wait_for(lambda: stored() == step, 30, "what was there")
                broker.kill()
                log(20_000)
                broker.start()
                wait_for(lambda: stored() == step, 60, "what was added while the broker was away")
                log(10)
                journal.event("finish", {"state": "finished", "exit_code": 0})
                journal.close()
                wait_for(setting.complete, 30, "the end")
                wait_for(lambda: said() and said()[-1]["state"] == "sent", 30, "that it knows so")
                watch.send_signal(signal.SIGINT)
                watch.wait(20)
            finally:
                watch.kill()
        assert watch.returncode == 0
        assert [line["state"] for line in said() if line["state"] != "sent so far"] == ["sent"]
        assert said()[-1]["rows"] == step
        setting.check()
        assert setting.finish().points == 2 * step


def test_copies_of_a_run_that_two_machines_send_count_once(setting: Setting, tmp_path: Path) -> None:
    journal = offline_run(setting, setting.runs / "offline-run-1", pid=2**22 + 1, pid_created=1.0)
    for step in range(20_000):
        journal.row(("loss", "acc"), (1 / (step + 1), step), step, 1.76e9 + step)
    journal.close()
    shutil.copytree(setting.runs, tmp_path / "copied")
    both = [
        subprocess.Popen([*SYNC, "--json", str(path)], env=setting.env, stdout=subprocess.PIPE, text=True)
        for path in (setting.runs, tmp_path / "copied", setting.runs)
    ]
    states = [json.loads(process.communicate(timeout=60)[0])[0]["state"] for process in both]
    assert states[1] == "sent"
    assert sorted({states[0], states[2]} | {"sent"}) in (["already sent", "sent"], ["owned", "sent"])
    setting.runs = setting.runs / "offline-run-1"
    setting.check()
    finish = setting.finish()
    assert (finish.state, finish.rows) == ("killed", 20_000)
    verified = subprocess.run(
        [sys.executable, "-m", "pulsetrain.commands", "verify", "--json", "--skip", "clickhouse", str(setting.runs)],
        env=setting.env,
        capture_output=True,
        text=True,
        check=True,
    )
    (row,) = json.loads(verified.stdout)
    assert (row["kafka"], row["missing_in_kafka"]) == ({"rows": 20_000, "points": 40_000, "texts": 0}, 0)


def test_a_run_that_logs_more_than_its_ceiling_loses_nothing_while_kafka_takes_it(setting: Setting) -> None:
    setting.env |= {
        "PULSETRAIN_DIR": str(setting.runs),
        "PULSETRAIN_JOURNAL_MAX_BYTES": "40MiB",
        "PULSETRAIN_JOURNAL_RETENTION": "0",
        "PULSETRAIN_CONSOLE": "off",
    }
    code = """
import sys, time, pulsetrain
from pathlib import Path
run = pulsetrain.init(project="p", id=sys.argv[1], settings={"disable_git": True})
row = {f"metric_{number}": 1.0 for number in range(100)}
journal = run._history.directory
for step in range(60_000):
    run.log(row)
    if step % 5000 == 4999:  # every 4 MiB: no faster than Kafka takes it
        deadline = time.monotonic() + 30
        while len(list(journal.glob("*.journal"))) > 8 and time.monotonic() < deadline:
            time.sleep(0.05)
gone = not (journal / "00000001.journal").exists()
run.finish()
print(run.summary["metric_7"], run._history.dropped, gone, journal.name)
"""
    training = subprocess.run(
        [sys.executable, "-c", code, setting.run_id], env=setting.env, capture_output=True, text=True, timeout=120
    )
    assert training.returncode == 0, training.stderr
    value, dropped, gone, writer = training.stdout.split()
    assert (value, dropped, gone) == ("1.0", "0", "True"), training.stderr
    verified = subprocess.run(
        [sys.executable, "-m", "pulsetrain.commands", "verify", "--json", "--skip", "clickhouse", setting.run_id],
        env=setting.env,
        capture_output=True,
        text=True,
    )
    rows = {row["writer"]: row for row in json.loads(verified.stdout)}
    assert verified.returncode == 0
    assert rows[writer]["journal"] == rows[writer]["kafka"] == {"rows": 60_000, "points": 6_000_000, "texts": 0}
    cleaned = subprocess.run(
        [*SYNC, "--clean", "--older-than", "0", str(setting.runs)], env=setting.env, capture_output=True, text=True
    )
    assert cleaned.returncode == 0, cleaned.stderr
    wait_for(lambda: not list(setting.runs.glob("*run-*/*/*.journal")), 20, "the end of the journals")
    again = subprocess.run(verified.args, env=setting.env, capture_output=True, text=True)
    (row,) = [row for row in json.loads(again.stdout) if row["writer"] == writer]
    assert row["removed"]
    assert row["journal"] == row["kafka"] == rows[writer]["journal"]
