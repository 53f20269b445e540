"""The fsync of each second: a journal lies in the page cache, which survives its process but not the loss of power.

On a thread of its own, because a disk under load may take long over it. fsync on a segment covers the pages that the
writer's memory map has made dirty; with the first sync of a segment, its folder is synced for its name.
"""

import logging
import os
import threading
from pathlib import Path

logger = logging.getLogger(__name__)


class Fsync:
    """Syncs the newest segments of the journals that it has been given, once a period, until they are dropped."""

    def __init__(self, period: float = 1.0) -> None:
        self._period = period
        self._journals: dict[Path, str] = {}
        self._lock = threading.Lock()
        self._leave = threading.Event()
        self._failed = False
        self._thread = threading.Thread(target=self._run, name="fsync", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread; a sync in progress is left to the kernel."""
        self._leave.set()

    def add(self, journal: Path) -> None:
        with self._lock:
            self._journals.setdefault(journal, "")

    def drop(self, journal: Path) -> None:
        with self._lock:
            self._journals.pop(journal, None)

    def sync(self) -> None:
        """Syncs, of every journal, the segments from the one on that was the newest last time.

        What fails with one journal holds up no other: the first OSError is raised when all have had their turn.
        """
        with self._lock:
            journals = list(self._journals.items())
        failed: OSError | None = None
        for journal, since in journals:
            try:
                newest = _sync(journal, since)
            except OSError as error:
                failed = failed or error
                continue
            with self._lock:
                if journal in self._journals:
                    self._journals[journal] = newest
        if failed is not None:
            raise failed

    def _run(self) -> None:
        while not self._leave.wait(self._period):
            try:
                self.sync()
                self._failed = False
            except OSError as error:
                if not self._failed:
                    self._failed = True
                    logger.warning("a journal could not be synced to the disk: %s", error)


def _sync(journal: Path, since: str) -> str:
    """Syncs the segments whose names are not before this one; returns the newest of them."""
    newest = since
    for name in sorted(path.name for path in journal.glob("*.journal") if path.name >= since):
        try:
            sync_path(journal / name)
        except FileNotFoundError:
            continue  # Kafka has it, and it was removed just now
        newest = name
    if newest != since:  # a file whose name is lost is lost
        for folder in (journal,) if since else (journal, journal.parent, journal.parent.parent):
            sync_path(folder)
    return newest


def sync_path(path: Path) -> None:
    """Has a file, or the names in a folder, outlast a loss of power. OSError where that fails."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
