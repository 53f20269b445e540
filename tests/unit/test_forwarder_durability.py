"""The fsync of each second."""

import os
from pathlib import Path

import pytest

from pulsetrain.forwarder.durability import Fsync
from tests.journals import start_run
from tests.waiting import wait_for


@pytest.fixture
def folders() -> list[str]:
    """The names of the folders that were synced, in order."""
    return []


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch, folders: list[str]) -> list[str]:
    """The names of the files that were synced, in order."""
    names: list[str] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        (folders if path.is_dir() else names).append(path.name)
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


def test_the_names_of_new_segments_and_of_a_new_journal_s_folders_are_synced_too(
    tmp_path: Path, synced: list[str], folders: list[str]
) -> None:
    journal = start_run(tmp_path / "runs" / "run-1", "w", segment_bytes=4096)
    fsync = Fsync()
    fsync.add(journal.directory)
    fsync.sync()
    assert folders == ["w", "run-1", "runs"]
    fsync.sync()
    assert folders == ["w", "run-1", "runs"]
    for step in range(200):
        journal.row(("loss",), (1.0,), step, 1.76e9)
    fsync.sync()
    assert folders == ["w", "run-1", "runs", "w"]
    journal.close()


def test_a_journal_that_cannot_be_synced_holds_up_no_other(tmp_path: Path, synced: list[str]) -> None:
    first, second = tmp_path / "b", start_run(tmp_path / "c")
    first.mkdir()
    (first / "00000001.journal").symlink_to(tmp_path / "nowhere" / "loop")
    (tmp_path / "nowhere").symlink_to(tmp_path / "nowhere")
    fsync = Fsync()
    fsync.add(first)
    fsync.add(second.directory)
    with pytest.raises(OSError, match="symbolic links"):
        fsync.sync()
    assert synced == ["00000001.journal"]
    second.close()


def test_a_segment_that_is_removed_meanwhile_is_no_failure(
    tmp_path: Path, synced: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = start_run(tmp_path)
    gone = journal.directory / "00000000.journal"
    monkeypatch.setattr(Path, "glob", lambda *_: iter([gone, journal.directory / "00000001.journal"]))
    fsync = Fsync()
    fsync.add(journal.directory)
    fsync.sync()
    assert synced == ["00000001.journal"]
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
