"""`pulsetrain sync` over the real broker: a watch that outlives it, and two machines that send copies of one run."""

import json
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

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

        log(1000)
        with subprocess.Popen(
            [*SYNC, "--watch", "--json", str(setting.runs)],
            env=setting.env,
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=interruptible,
        ) as watch:
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
                watch.send_signal(signal.SIGINT)
                output, _ = watch.communicate(timeout=20)
            finally:
                watch.kill()
        assert watch.returncode == 0
        said = [json.loads(line) for line in output.splitlines()]
        assert [line["state"] for line in said if line["state"] != "sent so far"] == ["sent"]
        assert said[-1]["rows"] == step
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
