"""The fsync of each second: a journal lies in the page cache, which survives its process but not the loss of power.

On a thread of its own, because a disk under load may take long over it. fsync on a segment covers the pages that the
writer's memory map has made dirty.
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
        """Syncs, of every journal, the segments from the one on that was the newest last time."""
        with self._lock:
            journals = list(self._journals.items())
        for journal, since in journals:
            names = sorted(path.name for path in journal.glob("*.journal") if path.name >= since)
            for name in names:
                descriptor = os.open(journal / name, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)
            with self._lock:
                if names and journal in self._journals:
                    self._journals[journal] = names[-1]

    def _run(self) -> None:
        while not self._leave.wait(self._period):
            try:
                self.sync()
                self._failed = False
            except OSError as error:
                if not self._failed:
                    self._failed = True
                    logger.warning("a journal could not be synced to the disk: %s", error)
