"""What is said to a run, from the forwarder to the inbox beside its journal."""

import json
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from pulsetrain._run.inbox import INBOX
from pulsetrain.forwarder.control import KILL_AFTER_SECONDS, Deliverer
from pulsetrain.forwarder.tail import Identity
from pulsetrain_schemas.events import Alert, Command

STARTED = 1_700_000_000_000_000
IDENTITY = Identity("p", "r", "w", 0, 1, STARTED, "here", True, "run", False, 4711, 1.0, True)
COMMAND = Command("p", "r", "c1", "checkpoint", STARTED, "ada@lab", attempt=1, text="now")
ALERT = Alert(
    "p", "r", "a1", 0, "nan", "train/loss", "firing", "critical", "Not a number", "at step 3", STARTED + 5, STARTED + 4,
    "monitor", step=3, value=float("nan"),
)  # fmt: skip


class Target:
    """A process that is told things."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.now = 0.0
        self.sent: list[int] = []
        self.deliverer = self.another()

    def another(self) -> Deliverer:
        """As a forwarder makes it that comes up."""
        return Deliverer(
            self.directory,
            IDENTITY,
            send=self.sent.append,
            monotonic=lambda: self.now,
        )

    def entries(self) -> list[dict]:
        inbox = self.directory / INBOX
        return [json.loads(line) for line in inbox.read_text().splitlines() if line] if inbox.exists() else []


@pytest.fixture
def target(tmp_path: Path) -> Target:
    return Target(tmp_path)


def test_a_command_is_written_down_once_also_by_the_next_forwarder(target: Target) -> None:
    target.deliverer.deliver(COMMAND)
    target.deliverer.deliver(COMMAND)
    target.another().deliver(COMMAND)
    assert target.entries() == [{"id": "c1", "action": "checkpoint", "actor": "ada@lab", "text": "now"}]


@pytest.mark.parametrize("change", [{"run_id": "other"}, {"project": "other"}, {"attempt": 0}, {"attempt": 2}])
def test_what_is_for_another_run_or_another_attempt_is_left_alone(target: Target, change: dict) -> None:
    target.deliverer.deliver(replace(COMMAND, **change))
    assert target.entries() == []


def test_a_command_that_names_no_attempt_is_for_any(target: Target) -> None:
    target.deliverer.deliver(replace(COMMAND, attempt=None))
    assert len(target.entries()) == 1


def test_an_alert_is_written_down_when_it_fires_and_when_it_is_over_and_not_while_it_is_pending(target: Target) -> None:
    for sequence, state in enumerate(("pending", "firing", "resolved")):
        target.deliverer.deliver(replace(ALERT, sequence=sequence, state=state))
    assert [entry["alert"]["state"] for entry in target.entries()] == ["firing", "resolved"]
    first = target.entries()[0]["alert"]
    assert (first["kind"], first["subject"], first["step"], first["time"]) == ("nan", "train/loss", 3, ALERT.time / 1e6)


def test_an_alert_of_an_earlier_attempt_is_not_said_to_the_next(target: Target) -> None:
    target.deliverer.deliver(replace(ALERT, started=STARTED - 1))
    assert target.entries() == []


def test_kill_asks_first_and_ends_the_process_after_ten_seconds(target: Target) -> None:
    target.deliverer.deliver(replace(COMMAND, action="kill"))
    target.now = KILL_AFTER_SECONDS - 1
    target.deliverer.tick()
    assert target.sent == [signal.SIGTERM]
    target.now = KILL_AFTER_SECONDS
    target.deliverer.tick()
    target.deliverer.tick()
    assert target.sent == [signal.SIGTERM, signal.SIGKILL]


def test_half_a_line_of_a_full_disk_hides_no_later_one(target: Target) -> None:
    (target.directory / INBOX).write_bytes(b'{"id": "c0", "act')
    target.deliverer.deliver(COMMAND)
    lines = (target.directory / INBOX).read_bytes().splitlines()
    assert json.loads(lines[-1])["id"] == "c1"


def test_what_is_silenced_is_said_to_no_process(target: Target) -> None:
    target.deliverer.deliver(replace(ALERT, silenced=True))
    assert target.entries() == []
    target.deliverer.deliver(replace(ALERT, sequence=1))
    assert [entry["id"] for entry in target.entries()] == ["a1-1"]
