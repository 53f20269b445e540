"""What `pulsetrain sync` does: sends what nobody sends, leaves the rest alone, and may be repeated."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from pulsetrain.forwarder import sending
from pulsetrain.forwarder.memory_delivery import MemoryBroker, MemoryDelivery
from pulsetrain.forwarder.ownership import Ownership
from pulsetrain_schemas import events
from tests.journals import points_logged, points_of, same_points, start_run

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
