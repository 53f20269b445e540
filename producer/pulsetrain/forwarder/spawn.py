"""What a process that logs does about the forwarder: tell it of a journal, and start one where none runs.

Imported by training processes: standard library alone, nothing here waits for the forwarder.
"""

import fcntl
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from pulsetrain.forwarder import liveness
from pulsetrain.forwarder.places import Place, Registration, destination, write_atomically
from pulsetrain.journal import room

# Held down in the forwarder: BLAS threads that it has no use for, and an arena of memory for each of its threads.
SMALL = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}

GUARDIAN = Path(__file__).with_name("guardian.sh")

# How long a forwarder may take until it has its lock, before another one is tried.
STARTING_SECONDS = 3
# The longest that a guardian leaves between two starts of a forwarder that does not come up.
LONGEST_PAUSE_SECONDS = 60


def register(
    home: Path, writer: str, journal: Path, env: Mapping[str, str] = os.environ, pid: int | None = None
) -> None:
    """Leaves word for the forwarder that process `pid` (this one) writes the journal in that folder.

    Call it before `ensure_running`: a forwarder that is about to leave looks once more for registrations after it has
    let go of its lock, so either it sees this one or the lock is found free.
    """
    pid = os.getpid() if pid is None else pid
    since = liveness.created(pid)
    registration = Registration(str(journal.absolute()), pid, 0.0 if since is None else since, room.limits(env))
    Place.of(home, destination(env)).register(writer, registration)


def is_running(place: Place) -> bool:
    """Whether a forwarder holds the lock of this place."""
    try:
        descriptor = os.open(place.lock, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        # Not left to the closing: a child that another thread forks just now would go on to hold the lock.
        fcntl.flock(descriptor, fcntl.LOCK_UN)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def is_awaited(place: Place, clock: Callable[[], float] = time.time) -> bool:
    """Whether a forwarder was started just now, or its guardian is about to start it again."""
    try:
        until = int(place.awaited.read_text())
    except (FileNotFoundError, ValueError):
        return False
    return 0 < until - clock() <= LONGEST_PAUSE_SECONDS + STARTING_SECONDS


def ensure_running(home: Path, env: Mapping[str, str] = os.environ) -> bool:
    """Starts the forwarder of this home and destination unless one runs or is awaited; True if it was started.

    It does not wait for it. Two that start at once are settled by the lock: the second leaves. A shell of its own
    session, guardian.sh, starts it again should it be killed.
    """
    place = Place.of(home, destination(env))
    if is_running(place) or is_awaited(place):
        return False
    import subprocess

    place.create()
    write_atomically(place.awaited, str(int(time.time()) + STARTING_SECONDS).encode())
    command = [sys.executable, "-m", "pulsetrain.forwarder", "--home", str(home)]
    # The first shell puts the second into the background and ends: the training process gets no child that it did not
    # ask for, and neither has anything of its terminal, its folder or its descriptors.
    subprocess.run(
        ["/bin/sh", "-c", '"$@" &', "sh", "/bin/sh", str(GUARDIAN), str(place.path), *command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=home,
        env={**env, **SMALL, "PULSETRAIN_HOME": str(home)},
        start_new_session=True,
        check=True,
    )
    return True
