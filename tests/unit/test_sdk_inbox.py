"""What the process of a run does about what it is told."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pulsetrain._run.faults import Faults
from pulsetrain._run.inbox import Alert, Inbox, Signal

ALERT = {
    "kind": "nan", "subject": "loss", "state": "firing", "severity": "critical", "title": "t", "text": "x", "time": 1.5,
    "step": 3, "value": float("nan"), "rank": 0, "host": "h", "gpu": "", "a field of a later release": 1,
}  # fmt: skip


class Process:
    """A training process, as far as its inbox knows it."""

    def __init__(self, directory: Path) -> None:
        self.file: Path | None = directory / "inbox.jsonl"
        self.said: list[str] = []
        self.noted: list[str] = []
        self.interrupted = 0
        self.inbox = self.new()

    def new(self, **more: bool) -> Inbox:
        return Inbox(
            lambda: self.file, Faults(self.noted.append), interrupt=self._interrupt, say=self.said.append, **more
        )

    def _interrupt(self) -> None:
        self.interrupted += 1

    def told(self, *entries: object) -> None:
        with self.file.open("a") as file:
            file.writelines(json.dumps(entry) + "\n" for entry in entries)
        self.inbox.look()


@pytest.fixture
def process(tmp_path: Path) -> Process:
    return Process(tmp_path)


def command(action: str, identity: str = "c") -> dict:
    return {"id": identity, "action": action, "actor": "ada", "text": "why"}


def test_nothing_is_there_before_something_is_said(process: Process) -> None:
    process.inbox.look()
    process.file = None
    process.inbox.look()
    assert process.noted == []


def test_alerts_reach_every_callback_in_order(process: Process) -> None:
    heard: list[tuple[str, Alert]] = []
    process.inbox.on_alert(lambda alert: heard.append(("a", alert)))
    process.inbox.on_alert(lambda alert: heard.append(("b", alert)))
    process.told({"id": "1", "alert": ALERT})
    process.told({"id": "2", "alert": ALERT | {"state": "resolved"}})
    assert [(name, alert.state) for name, alert in heard] == [
        ("a", "firing"), ("b", "firing"), ("a", "resolved"), ("b", "resolved")
    ]  # fmt: skip
    assert heard[0][1].step == 3


def test_a_signal_reaches_who_listens_for_it_alone(process: Process) -> None:
    heard: list[Signal] = []
    process.inbox.on_signal("checkpoint", heard.append)
    process.told(command("checkpoint"), command("something else"))
    assert heard == [Signal("checkpoint", "ada", "why")]
    assert process.interrupted == 0


def test_stop_interrupts_the_program_and_says_who_asked(process: Process) -> None:
    process.told(command("stop"))
    assert process.interrupted == 1
    assert process.said == ["stopped by ada: why"]


def test_a_script_that_listens_for_stop_is_not_interrupted(process: Process) -> None:
    heard: list[Signal] = []
    process.inbox.on_signal("stop", heard.append)
    process.told(command("stop"))
    assert (len(heard), process.interrupted) == (1, 0)


def test_what_a_callback_raises_is_noted_and_the_others_are_called(process: Process) -> None:
    heard: list[Alert] = []

    def broken(alert: Alert) -> None:
        raise RuntimeError("no disk")

    process.inbox.on_alert(broken)
    process.inbox.on_alert(heard.append)
    process.told({"id": "1", "alert": ALERT})
    assert len(heard) == 1
    assert "no disk" in process.noted[0]


def test_half_a_line_is_read_when_it_is_whole_and_nonsense_is_passed_over(process: Process) -> None:
    heard: list[Signal] = []
    process.inbox.on_signal("checkpoint", heard.append)
    line = json.dumps(command("checkpoint")).encode() + b"\n"
    process.file.write_bytes(b"no json\n[1]\n" + line[:10])
    process.inbox.look()
    assert heard == []
    with process.file.open("ab") as file:
        file.write(line[10:])
    process.inbox.look()
    assert len(heard) == 1


def test_a_forked_child_reads_its_own_inbox_from_the_beginning(process: Process, tmp_path: Path) -> None:
    heard: list[Signal] = []
    process.inbox.on_signal("checkpoint", heard.append)
    process.told(command("checkpoint"))
    process.file = tmp_path / "child.jsonl"
    process.told(command("checkpoint"))
    assert len(heard) == 2


def test_an_alert_that_fires_is_said_on_the_console_and_what_the_script_raised_itself_is_not(process: Process) -> None:
    for changed in ({}, {"state": "resolved"}, {"kind": "user"}):
        process.told({"id": "1", "alert": {**ALERT, **changed}})
    assert process.said == ["critical alert, t: x"]
    process.inbox = process.new(says_alerts=False)
    process.told({"id": "2", "alert": ALERT})
    assert process.said == ["critical alert, t: x"]


@pytest.mark.parametrize("handler", ["default_int_handler", "SIG_IGN", "SIG_DFL"])
def test_a_program_is_interrupted_also_where_a_shell_has_had_ctrl_c_ignored(handler: str) -> None:
    program = f"""
import signal, threading, time
from pulsetrain._run.inbox import interrupt
signal.signal(signal.SIGINT, signal.{handler})
threading.Timer(0.05, interrupt).start()
try:
    while True:
        time.sleep(0.01)
except KeyboardInterrupt:
    print("interrupted")
"""
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=20)
    assert done.stdout == "interrupted\n"
