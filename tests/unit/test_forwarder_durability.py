"""The fsync of each second."""

import os
from pathlib import Path

import pytest

from pulsetrain.forwarder.durability import Fsync
from tests.journals import start_run
from tests.waiting import wait_for


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that were synced, in order."""
    names: list[str] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        names.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    return names


def test_segments_are_synced_from_the_one_that_was_newest_last_time(tmp_path: Path, synced: list[str]) -> None:
    journal = start_run(tmp_path, segment_bytes=4096)
    fsync = Fsync()
    fsync.add(journal.directory)
    fsync.sync()
    assert synced == ["00000001.journal"]
    for step in range(200):
        journal.row(("loss",), (1.0,), step, 1.76e9)
    synced.clear()
    fsync.sync()
    assert synced[0] == "00000001.journal"
    assert len(synced) == journal.position.segment > 2
    synced.clear()
    fsync.sync()
    assert synced == [f"{journal.position.segment:08d}.journal"]
    fsync.drop(journal.directory)
    synced.clear()
    fsync.sync()
    assert synced == []
    journal.close()


def test_it_goes_on_by_itself_and_a_journal_that_fails_is_said_once(
    tmp_path: Path, synced: list[str], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = start_run(tmp_path)
    fsync = Fsync(period=0.01)
    fsync.add(journal.directory)
    fsync.start()
    wait_for(lambda: len(synced) > 3, 5, "several rounds")
    calls: list[int] = []

    def broken(descriptor: int) -> None:
        calls.append(descriptor)
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", broken)
    wait_for(lambda: len(calls) > 3, 5, "several failures")
    fsync.stop()
    assert caplog.text.count("could not be synced") == 1
    journal.close()
