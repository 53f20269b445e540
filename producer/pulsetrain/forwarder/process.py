"""The forwarder as a process: its lock, its signals, its log, and what it is made of.

Run as `python -m pulsetrain.forwarder`, by `spawn.ensure_running` or by `pulsetrain forwarder`.
"""

import fcntl
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psutil

from pulsetrain._run.summary import SummaryFold
from pulsetrain.forwarder.kafka_delivery import KafkaDelivery
from pulsetrain.forwarder.liveness import created
from pulsetrain.forwarder.places import Place, Registration, destination
from pulsetrain.forwarder.service import IDLE_EXIT_SECONDS, Forwarder
from pulsetrain.forwarder.telemetry import Telemetry
from pulsetrain_schemas import addresses
from pulsetrain_schemas.framing import SINGLE_OBJECT, Confluent, Framing
from pulsetrain_schemas.registry import Registry

logger = logging.getLogger(__name__)

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


def framing(env: Mapping[str, str]) -> Framing:
    """Confluent's framing where a schema registry is named, else the single-object encoding."""
    url = addresses.registry_url(env)
    return SINGLE_OBJECT if url is None else Confluent(Registry(url))


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
            forwarder = _make(place, env, idle_exit)
            _on_signals(forwarder, stop)
            logger.info("the forwarder %d serves %s", os.getpid(), place.path)
            forwarder.run(once=once)
        # A process that registered just now found the lock held and counts on us.
        if stop.is_set() or once or not forwarder.has_news:
            logger.info("the forwarder %d leaves", os.getpid())
            return True


def _make(place: Place, env: Mapping[str, str], idle_exit: float) -> Forwarder:
    own = (os.getpid(), created(os.getpid()) or 0.0)
    forwarder: Forwarder

    def register(writer: str, journal: Path) -> None:
        place.register(writer, Registration(str(journal), *own))

    def delivered() -> None:
        forwarder.delivered()

    forwarder = Forwarder(
        place,
        KafkaDelivery(lambda: addresses.kafka(env), notify=delivered),
        Telemetry(register, psutil=psutil, disk=place.path),
        host=socket.gethostname(),
        own=own,
        make_fold=SummaryFold,
        framing=framing(env),
        idle_exit=idle_exit,
    )
    return forwarder


def _on_signals(forwarder: Forwarder, stop: threading.Event) -> None:
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
    logging.basicConfig(level=logging.ERROR if quiet else logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("kafka").setLevel(logging.CRITICAL + 1)
