"""The forwarder as a process: its lock, its signals, its log.

Run as `python -m pulsetrain.forwarder`, by `spawn.ensure_running` or by `pulsetrain forwarder`. The lock is taken
before anything large is imported, so that whoever looks for a forwarder finds one that is still starting.
"""

import faulthandler
import fcntl
import logging
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pulsetrain.forwarder.places import Place, destination

if TYPE_CHECKING:
    from pulsetrain.forwarder.service import Forwarder

logger = logging.getLogger(__name__)

IDLE_EXIT_SECONDS = 30.0
HANG_SECONDS = 120.0
PULSE_SECONDS = 5.0
LOCK_SECONDS = 1.0  # a process that only looks whether the lock is held holds it for a moment


@contextmanager
def locked(place: Place) -> Iterator[bool]:
    """Whether this process is the forwarder of the place now: at most one is."""
    descriptor = os.open(place.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        yield _lock(descriptor)
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> bool:
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)


def serve(home: Path, env: Mapping[str, str], *, idle_exit: float = IDLE_EXIT_SECONDS, once: bool = False) -> bool:
    """Forwards until idle for `idle_exit` seconds or told to stop (SIGTERM, SIGINT); False where another one runs.

    `once`: leaves as soon as what is there now is sent.
    """
    place = Place.of(home, destination(env))
    place.create()
    stop = _Stop()
    while True:
        with locked(place) as ours:
            if not ours:
                return False
            from pulsetrain.forwarder.composition import compose

            watchdog = _Watchdog()
            forwarder = compose(place, env, idle_exit)
            stop.passes_to(forwarder)
            logger.info("the forwarder %d serves %s", os.getpid(), place.path)
            try:
                forwarder.run(once=once, pulse=watchdog)
            finally:
                watchdog.end()
            place.awaited.unlink(missing_ok=True)
        # A process that registered just now found the lock held and counts on us.
        if stop.asked or once or not forwarder.has_news:
            logger.info("the forwarder %d leaves", os.getpid())
            return True


class _Stop:
    """SIGTERM and SIGINT as a wish to leave, from the very start on. Only a main thread hears them."""

    def __init__(self) -> None:
        self.asked = False
        self._forwarder: Forwarder | None = None
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._leave)
            signal.signal(signal.SIGINT, self._leave)

    def passes_to(self, forwarder: "Forwarder") -> None:
        """From now on it is this one that is told."""
        self._forwarder = forwarder
        if self.asked:
            forwarder.stop()

    def _leave(self, *_: object) -> None:
        self.asked = True
        if self._forwarder is not None:
            self._forwarder.stop()


class _Watchdog:
    """Ends the process, with every thread's stack in the log, when its loop has not called for HANG_SECONDS.

    A forwarder that hangs would keep its lock and send nothing; whoever guards it starts another.
    """

    def __init__(self) -> None:
        self._called_at = float("-inf")

    def __call__(self) -> None:
        now = time.monotonic()
        if now - self._called_at >= PULSE_SECONDS:
            self._called_at = now
            faulthandler.dump_traceback_later(HANG_SECONDS, exit=True)

    def end(self) -> None:
        """The loop is over."""
        faulthandler.cancel_dump_traceback_later()


def configure_logging(*, quiet: bool = False) -> None:
    """Lines for the person who reads forwarder.log, or errors alone.

    kafka-python has its say through the status: it would log each try.
    """
    level = logging.ERROR if quiet else logging.INFO
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("kafka").setLevel(logging.CRITICAL + 1)
