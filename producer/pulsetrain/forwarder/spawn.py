"""What a process that logs does about the forwarder: tell it of a journal, and start one where none runs.

Imported by training processes: standard library alone, nothing here waits for the forwarder.
"""

import fcntl
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from pulsetrain.forwarder import liveness
from pulsetrain.forwarder.places import Place, Registration, destination

# Held down in the forwarder: BLAS threads that it has no use for, and an arena of memory for each of its threads.
SMALL = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}

# How long a forwarder may take until it has its lock, before another one is tried.
STARTING_SECONDS = 2.0


def register(
    home: Path, writer: str, journal: Path, env: Mapping[str, str] = os.environ, pid: int | None = None
) -> None:
    """Leaves word for the forwarder that process `pid` (this one) writes the journal in that folder.

    Call it before `ensure_running`: a forwarder that is about to leave looks once more for registrations after it has
    let go of its lock, so either it sees this one or the lock is found free.
    """
    pid = os.getpid() if pid is None else pid
    since = liveness.created(pid)
    registration = Registration(str(journal.absolute()), pid, 0.0 if since is None else since)
    Place.of(home, destination(env)).register(writer, registration)


def is_running(place: Place) -> bool:
    """Whether a forwarder holds the lock of this place."""
    try:
        descriptor = os.open(place.lock, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _age(path: Path) -> float:
    try:
        return abs(time.time() - path.stat().st_mtime)
    except FileNotFoundError:
        return float("inf")


def ensure_running(home: Path, env: Mapping[str, str] = os.environ) -> bool:
    """Starts the forwarder of this home and destination unless it runs or was started just now; True if it was started.

    It does not wait for it. Two that start at once are settled by the lock: the second leaves.
    """
    place = Place.of(home, destination(env))
    if is_running(place) or _age(place.spawned) < STARTING_SECONDS:
        return False
    import subprocess

    place.create()
    place.spawned.touch()
    command = [sys.executable, "-m", "pulsetrain.forwarder", "--home", str(home)]
    with place.log.open("ab") as log:
        # The shell puts it into the background and ends: the training process gets no child that it did not ask for.
        subprocess.run(
            ["/bin/sh", "-c", '"$@" &', "sh", *command],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=home,
            env={**env, **SMALL, "PULSETRAIN_HOME": str(home)},
            start_new_session=True,
            check=True,
        )
    return True
