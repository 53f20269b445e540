"""The one place where a training process meets the forwarder.

It leaves word of a journal, keeps a forwarder running, and waits at the end for what that sends.
"""

import os
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from pulsetrain._run.faults import Faults, tell
from pulsetrain.journal.room import Room
from pulsetrain_schemas import addresses

WATCH_SECONDS = 1.0
# How often it is asked whether the journals come near to what they may take.
ROOM_SECONDS = 3.0


class Link:
    """The forwarder, as one run sees it. Nothing here raises: what fails is noted."""

    def __init__(self, home: Path, env: Mapping[str, str], faults: Faults) -> None:
        self._home = home
        self._env = env
        self._faults = faults
        self._stop = threading.Event()
        self._room: Room | None = None
        self._asked_at = 0.0
        # By writer: journals of which no word could be left yet, as on a full disk, and the process that writes each.
        self._unannounced: dict[str, tuple[Path, int]] = {}
        self._watching_pid = 0

    def announce(self, writer: str, journal: Path) -> None:
        """Leaves word of a journal of this process, and starts a forwarder where none runs.

        What is not possible now, as on a full disk, is tried again every second.
        """
        self._room = Room(journal.parent.parent)
        self._unannounced[writer] = (journal, os.getpid())
        self._try_to_keep_running()
        if writer in self._unannounced and self._watching_pid not in (0, os.getpid()):
            self.watch()  # a forked child, in which the parent's thread does not go on

    def watch(self) -> None:
        """Starts a forwarder again when it has died, from a thread of its own, until `stop`."""
        self._stop = threading.Event()
        self._watching_pid = os.getpid()
        threading.Thread(target=self._watch, args=(self._stop,), name="pulsetrain-watch", daemon=True).start()

    def stop(self) -> None:
        """Ends the watch."""
        self._stop.set()

    def broker_is_known(self) -> bool:
        """Whether there is an address of Kafka, from the environment or the local stack."""
        try:
            return addresses.kafka(self._env) is not None
        except addresses.AddressError as error:
            self._faults.note("address", str(error))
            return False

    def wait_delivered(
        self,
        journal: Path,
        sequence: int,
        timeout: float,
        *,
        quiet: bool = False,
        is_interrupted: Callable[[], bool] = bool,
    ) -> bool:
        """Waits until Kafka has everything of the journal, whose last record is `sequence`, for `timeout` seconds.

        False, with a word to the user, when that takes too long or cannot be, or as soon as it `is_interrupted`.
        """
        from pulsetrain._run.farewell import Farewell
        from pulsetrain.forwarder.places import Place, destination

        if self._unannounced:
            self._try_to_keep_running()
        try:
            farewell = Farewell(
                Place.of(self._home, destination(self._env)),
                journal,
                sequence,
                timeout=timeout,
                has_broker=self.broker_is_known(),
                quiet=quiet,
                is_interrupted=is_interrupted,
            )
            return not farewell.wait()
        except OSError as error:
            if not quiet:
                tell(f"the forwarder cannot be asked: {error}. Nothing is lost: everything is in {journal.parent}")
            return False

    def _watch(self, stop: threading.Event) -> None:
        while not stop.wait(WATCH_SECONDS):
            self._try_to_keep_running()
            self._tell_of_room(time.monotonic())

    def _tell_of_room(self, now: float) -> None:
        """Says it once when the disk, or the ceiling of what journals may take, is near."""
        if self._room is None or now - self._asked_at < ROOM_SECONDS:
            return
        self._asked_at = now
        usage = self._room.measured()
        if usage is not None and usage.notice:
            self._faults.note("room", usage.notice)

    def _try_to_keep_running(self) -> None:
        """Leaves word of what nobody knows of yet, and has a forwarder run."""
        from pulsetrain.forwarder.spawn import ensure_running, register

        try:
            for writer, (journal, pid) in list(self._unannounced.items()):
                if pid == os.getpid():  # a forked child knows of its parent's too
                    register(self._home, writer, journal, self._env)
                self._unannounced.pop(writer, None)
            ensure_running(self._home, self._env)
        except Exception as error:  # noqa: BLE001 - the journal is written all the same, and `pulsetrain sync` sends it
            self._faults.note("forwarder", f"the forwarder could not be started: {error!r}; nothing is lost")
