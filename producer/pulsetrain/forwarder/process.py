"""The forwarder as a process: its lock, its signals, its log.

Run as `python -m pulsetrain.forwarder`, by `spawn.ensure_running` or by `pulsetrain forwarder`. The lock is taken
before anything large is imported, so that whoever looks for a forwarder finds one that is still starting.
"""

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
    stop = threading.Event()
    while True:
        with locked(place) as ours:
            if not ours:
                return False
            from pulsetrain.forwarder.composition import compose

            forwarder = compose(place, env, idle_exit)
            _on_signals(forwarder, stop)
            logger.info("the forwarder %d serves %s", os.getpid(), place.path)
            forwarder.run(once=once)
        # A process that registered just now found the lock held and counts on us.
        if stop.is_set() or once or not forwarder.has_news:
            logger.info("the forwarder %d leaves", os.getpid())
            return True


def _on_signals(forwarder: "Forwarder", stop: threading.Event) -> None:
    if threading.current_thread() is not threading.main_thread():
        return

    def leave(*_: object) -> None:
        stop.set()
        forwarder.stop()

    signal.signal(signal.SIGTERM, leave)
    signal.signal(signal.SIGINT, leave)


def configure_logging(*, quiet: bool = False) -> None:
    """Lines for the person who reads forwarder.log, or errors alone.

    kafka-python has its say through the status: it would log each try.
    """
    level = logging.ERROR if quiet else logging.INFO
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("kafka").setLevel(logging.CRITICAL + 1)
