"""What `pulsetrain sync` does: sends what nobody sends, leaves the rest alone, and may be repeated."""

import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pulsetrain.forwarder import pump, sending
from pulsetrain.forwarder.memory_delivery import MemoryBroker, MemoryDelivery
from pulsetrain.forwarder.ownership import Ownership
from pulsetrain_schemas import events
from tests.journals import points_logged, points_of, same_points, start_run, uncovered

GONE = 2**22 + 1  # beyond the largest pid


@pytest.fixture
def offline(tmp_path: Path) -> Path:
    """The journal of an offline run whose process was killed."""
    journal = start_run(tmp_path, mode="offline", pid=GONE, pid_created=1.0)
    for step in range(1000):
        journal.row(("loss",), (1.0 / (step + 1),), step, 1.76e9 + step)
    journal.close()
    return journal.directory


def test_an_offline_run_is_sent_whole_with_its_end(offline: Path) -> None:
    broker = MemoryBroker()
    report = sending.send(offline, MemoryDelivery(broker))
    assert (report.state, report.counters.points) == ("sent", 1000)
    batches = [events.decode(message.payload, events.MetricBatch) for message in broker.of("metrics")]
    assert same_points([point for batch in batches for point in points_of(batch)], points_logged(offline))
    end = events.decode(broker.of("runs")[-1].payload, events.RunEvent)
    assert (end.state, end.time, end.summary) == ("killed", 1_760_000_999_000_000, {"loss": "0.001"})


def test_sending_again_sends_nothing(offline: Path) -> None:
    broker = MemoryBroker()
    sending.send(offline, MemoryDelivery(broker))
    sent = len(broker.messages)
    assert sending.send(offline, MemoryDelivery(broker)).state == "already sent"
    assert len(broker.messages) == sent


def test_a_dry_look_counts_and_leaves_no_trace_of_sending(offline: Path) -> None:
    report = sending.inspect(offline)
    assert (report.state, report.counters.rows) == ("to send", 1000)
    assert not (offline / "ack.json").exists()


def test_a_journal_that_a_forwarder_owns_is_left_to_it(offline: Path) -> None:
    code = "import sys; from pathlib import Path; from pulsetrain.forwarder.ownership import Ownership\n"
    code += "assert Ownership.take(Path(sys.argv[1])); print('mine', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(offline)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "mine\n"
        broker = MemoryBroker()
        report = sending.send(offline, MemoryDelivery(broker))
        assert report.state == "owned"
        assert "is sending it" in report.detail
        assert broker.messages == []
    ownership = Ownership.take(offline)  # the lock went with its process
    assert ownership is not None
    ownership.release()


def test_of_a_process_that_still_runs_there_is_sent_what_there_is_so_far(tmp_path: Path) -> None:
    journal = start_run(tmp_path, mode="offline", pid=os.getpid(), host=socket.gethostname())
    journal.row(("loss",), (1.0,), 0, 1.76e9)
    broker = MemoryBroker()
    assert sending.send(journal.directory, MemoryDelivery(broker)).state == "sent so far"
    journal.row(("loss",), (2.0,), 1, 1.76e9)
    journal.event("finish", {"state": "finished", "exit_code": 0})
    journal.close()
    assert sending.send(journal.directory, MemoryDelivery(broker)).state == "sent"
    batches = [events.decode(message.payload, events.MetricBatch) for message in broker.of("metrics")]
    assert [value for batch in batches for value in batch.values] == [1.0, 2.0]


def test_a_broker_that_stays_away_is_an_error_that_loses_nothing(offline: Path) -> None:
    broker = MemoryBroker()
    broker.away = True
    with pytest.raises(sending.NotDelivered, match="away"):
        sending.send(offline, MemoryDelivery(broker), patience=0.1)
    broker.away = False
    assert sending.send(offline, MemoryDelivery(broker)).state == "sent"


def test_what_is_no_journal_of_ours_is_said_and_left(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "00000001.journal").write_bytes(b"something else altogether")
    (journal,) = sending.find_journals([tmp_path])
    report = sending.inspect(journal)
    assert report.state == "unreadable"
    assert report.detail


def received(broker: MemoryBroker) -> list[tuple[int, int, str, float]]:
    """Every point that arrived, counted once by its sequence; there is no gap on any topic."""
    kinds = {"metrics": events.MetricBatch, "logs": events.LogBatch, "runs": events.RunEvent}
    for topic, kind in kinds.items():
        origins = [events.decode(message.payload, kind).origin for message in broker.of(topic)]
        assert uncovered([(origin.first_sequence, origin.last_sequence) for origin in origins]) == [], topic
    points, covered = [], 0
    batches = [events.decode(message.payload, events.MetricBatch) for message in broker.of("metrics")]
    for batch in batches:
        points += [point for point in points_of(batch) if point[0] > covered]
        covered = max(covered, batch.origin.last_sequence)
    return points


class Fatal(BaseException):
    """The process is killed."""


class FatalDelivery(MemoryDelivery):
    """Kills the process at the n-th call, before or after what it does."""

    def __init__(self, broker: MemoryBroker, at: int, *, after: bool) -> None:
        super().__init__(broker)
        self._left = at
        self._after = after

    def _call(self, original):
        self._left -= 1
        if not self._left and not self._after:
            raise Fatal
        result = original()
        if not self._left:
            raise Fatal
        return result

    def send(self, message, ticket):
        self._call(lambda: super(FatalDelivery, self).send(message, ticket))

    def poll(self):
        return self._call(super().poll)


def long_run(directory: Path, **changes) -> Path:
    """The journal of an offline run over several segments, whose process was killed."""
    journal = start_run(directory, **{"mode": "offline", "pid": GONE, "pid_created": 1.0} | changes)
    for step in range(20_000):
        journal.row(("loss", "acc"), (1.0 / (step + 1), step), step, 1.76e9 + step)
        if step % 5000 == 0:
            journal.event("console", {"stream": "stdout", "line": "x"}, 1.76e9 + step)
    journal.close()
    return journal.directory


@pytest.mark.parametrize("after", [False, True])
def test_a_sync_that_is_killed_anywhere_is_completed_by_the_next(tmp_path: Path, after: bool) -> None:
    original = long_run(tmp_path / "original")
    logged = points_logged(original)
    at = 0
    while True:
        at += 1
        copy = tmp_path / f"{at}" / original.name
        shutil.copytree(original, copy)
        broker = MemoryBroker()
        try:
            sending.send(copy, FatalDelivery(broker, at, after=after))
            break
        except Fatal:
            pass
        assert sending.send(copy, MemoryDelivery(broker)).state == "sent"
        assert same_points(received(broker), logged)
        shutil.rmtree(copy.parent)
    assert at > 6


def test_a_folder_that_was_copied_to_another_machine_is_sent_there_and_here_and_counts_once(tmp_path: Path) -> None:
    original = long_run(tmp_path / "here" / "offline-run-1", host="elsewhere")
    broker = MemoryBroker()
    pump_some = FatalDelivery(broker, 5, after=True)
    with pytest.raises(Fatal):
        sending.send(original, pump_some)
    shutil.copytree(tmp_path / "here", tmp_path / "there")
    (copied,) = sending.find_journals([tmp_path / "there"])
    assert sending.send(copied, MemoryDelivery(broker)).state == "sent"
    assert sending.send(original, MemoryDelivery(broker)).state == "sent"
    assert same_points(received(broker), points_logged(original))
    ends = [events.decode(message.payload, events.RunEvent) for message in broker.of("runs")]
    told = {(end.origin.first_sequence, end.state, end.time) for end in ends if end.kind == "finish"}
    assert len({(state, time) for _, state, time in told}) == 1


def test_a_process_of_another_machine_that_wrote_just_now_may_still_run(tmp_path: Path) -> None:
    journal = start_run(tmp_path, mode="offline", pid=GONE, pid_created=1.0, host="elsewhere")
    journal.row(("loss",), (1.0,), 0, time.time())
    broker = MemoryBroker()
    report = sending.send(journal.directory, MemoryDelivery(broker))
    assert (report.state, report.detail) == ("sent so far", "it may still run on elsewhere")
    (heartbeat,) = [e for e in (events.decode(m.payload, events.RunEvent) for m in broker.of("runs")) if e.summary]
    assert (heartbeat.state, heartbeat.summary) == (None, {"loss": "1.0"})
    later = time.time() + pump.MAY_LIVE_SECONDS + 1
    report = sending.send(journal.directory, MemoryDelivery(broker), clock=lambda: later)
    assert report.state == "sent"


def test_a_run_that_never_pauses_is_sent_as_far_as_it_was(tmp_path: Path) -> None:
    journal = start_run(tmp_path, mode="offline", pid=os.getpid(), host=socket.gethostname(), segment_bytes=1 << 20)
    journal.row(("loss",), (1.0,), 0, 1.76e9)

    class Busy(MemoryDelivery):
        def poll(self):
            journal.row(("loss",), (2.0,), 1, 1.76e9)
            return super().poll()

    report = sending.send(journal.directory, Busy(MemoryBroker()))
    assert report.state == "sent so far"
    assert report.counters.rows >= 1


def test_two_syncs_at_once_do_not_send_the_same_journal(offline: Path) -> None:
    broker = MemoryBroker()
    first = sending.Sending.begin(offline, MemoryDelivery(broker))
    assert isinstance(first, sending.Sending)
    assert sending.send(offline, MemoryDelivery(broker)).state == "owned"
    first.close()
    assert sending.send(offline, MemoryDelivery(broker)).state == "sent"


@pytest.mark.parametrize("is_recent", [True, False])
def test_a_run_that_is_copied_again_and_again_while_it_goes_on_is_sent_as_it_comes(
    tmp_path: Path, is_recent: bool
) -> None:
    """As rsync does from a machine without a network; in between the run may be taken for dead, and is not."""
    now = 1.76e9 + (0 if is_recent else 10 * pump.MAY_LIVE_SECONDS)
    journal = start_run(tmp_path / "there" / "offline-run-1", mode="offline", pid=GONE, pid_created=1.0, host="there")
    broker = MemoryBroker()
    states = []
    for part in range(4):
        for step in range(3000 * part, 3000 * (part + 1)):
            journal.row(("loss", "acc"), (float(step), 1.0), step, 1.76e9)
        if part == 3:
            journal.event("finish", {"state": "finished", "exit_code": 0}, 1.76e9)
            journal.close()
        shutil.copytree(tmp_path / "there", tmp_path / "here", dirs_exist_ok=True)
        (copied,) = sending.find_journals([tmp_path / "here"])
        states.append(sending.send(copied, MemoryDelivery(broker), clock=lambda: now).state)
    assert states == (["sent so far"] * 3 if is_recent else ["sent"] * 3) + ["sent"]
    assert same_points(received(broker), points_logged(journal.directory))
    ends = [events.decode(message.payload, events.RunEvent) for message in broker.of("runs")]
    assert (ends[-1].state, ends[-1].rows) == ("finished", 12_000)
    assert sending.send(copied, MemoryDelivery(broker)).state == "already sent"
