"""Room on the engine's disk, and what is done where there is none.

chDB takes a write for done though the disk had no room for it (seen in 26.3 to 26.9; ClickHouse itself raises): the
part that it stores is empty then, and whoever sent the rows is told that all is well. So nothing is written while room
is short. Where it went so fast that something under way may have been cut, the process ends at once, before anybody is
told that something is stored. What begins anew leaves aside what is not whole, and has what it was made from: see
`mending`.
"""

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from pulsetrain_local.clickhouse.engine import EngineConnection, EngineError

log = logging.getLogger(__name__)

SHORT_BYTES = 64 << 20
"""With less than this, nothing new is written; with twice as much, it is again."""
FULL_BYTES = 4 << 20
"""With less than this, what is being written may be cut."""
LOOK_SECONDS = 0.02
REST_SECONDS = 5.0
"""What was under way when room became short has ended by then."""
NOT_ENOUGH_SPACE = 243
EXIT_STATUS = os.EX_IOERR


def free_bytes(path: Path) -> int:
    """What an ordinary user may still write on the disk of this path."""
    found = os.statvfs(path)
    return found.f_bavail * found.f_frsize


def _end(reason: str) -> None:
    log.critical("%s", reason)
    os._exit(EXIT_STATUS)


class Room:
    """Whoever writes does so within `writing()`. `watch` looks after the merges, which nobody asks for."""

    def __init__(
        self,
        path: Path,
        *,
        free: Callable[[Path], int] = free_bytes,
        monotonic: Callable[[], float] = time.monotonic,
        end: Callable[[str], None] = _end,
    ) -> None:
        self._path = path
        self._free = free
        self._monotonic = monotonic
        self._end = end
        self._lock = threading.Lock()
        self._is_short = False
        self._under_way = 0
        self._moved_at = monotonic()
        self._leave = threading.Event()
        self._thread: threading.Thread | None = None

    def wait(self) -> None:
        """Returns when there is room: the engine writes as it begins."""
        told = False
        while (free := self._free(self._path)) < SHORT_BYTES and not self._leave.wait(LOOK_SECONDS):
            if not told:
                log.warning("waiting: %s", self._words(free))
                told = True

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """The time in which the engine writes on request. EngineError (NOT_ENOUGH_SPACE) where room is short."""
        if self.look():
            raise EngineError(NOT_ENOUGH_SPACE, f"{self._words(self._free(self._path))} (NOT_ENOUGH_SPACE)")
        with self._lock:
            self._under_way += 1
        try:
            yield
        finally:
            self.look()  # before anybody is told that it is stored
            with self._lock:
                self._under_way -= 1
                self._moved_at = self._monotonic()

    def look(self) -> bool:
        """Whether room is short. Ends the process where it is gone while something may be under way."""
        with self._lock:
            free, now = self._free(self._path), self._monotonic()
            at_rest = self._is_short and not self._under_way and now - self._moved_at > REST_SECONDS
            if free < FULL_BYTES and not at_rest:
                self._end(
                    f"{self._words(free)} What was being written may be cut: ending, to begin anew with what is whole"
                )
            short = free < SHORT_BYTES * (2 if self._is_short else 1)
            if short and not self._is_short:
                self._moved_at = now
                log.warning("%s", self._words(free))
            elif self._is_short and not short:
                log.info("there is room again: %d MiB are free", free >> 20)
            self._is_short = short
        return short

    def watch(self, connection: EngineConnection) -> None:
        """Begins to look, on a thread of its own, and to stop the engine's merges while room is short."""
        self._thread = threading.Thread(target=self._watch, args=(connection,), name="room", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Looks no more."""
        self._leave.set()
        if self._thread is not None:
            self._thread.join()

    def _watch(self, connection: EngineConnection) -> None:
        merges_stopped = False
        while not self._leave.wait(LOOK_SECONDS):
            short = self.look()
            if short != merges_stopped:
                try:
                    connection.query("SYSTEM STOP MERGES" if short else "SYSTEM START MERGES")
                    merges_stopped = short
                except EngineError as error:
                    log.warning("merges go on: %s", error)
        connection.close()

    def _words(self, free: int) -> str:
        return (
            f"The disk of {self._path} has {free >> 20} MiB free, and nothing is stored with less than "
            f"{SHORT_BYTES >> 20}. Make room, and it goes on by itself."
        )
