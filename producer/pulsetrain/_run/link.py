"""The one place where a training process meets the forwarder.

It leaves word of a journal, keeps a forwarder running, and waits at the end for what that sends.
"""

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

    def announce(self, writer: str, journal: Path) -> None:
        """Leaves word of a journal of this process, and starts a forwarder where none runs."""
        self._room = Room(journal.parent.parent)
        try:
            from pulsetrain.forwarder.spawn import register

            register(self._home, writer, journal, self._env)
            self._keep_running()
        except Exception as error:  # noqa: BLE001 - the journal is written all the same, and `pulsetrain sync` sends it
            self._faults.note("forwarder", f"the forwarder could not be started: {error!r}; nothing is lost")

    def watch(self) -> None:
        """Starts a forwarder again when it has died, from a thread of its own, until `stop`."""
        threading.Thread(target=self._watch, name="pulsetrain-watch", daemon=True).start()

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

    def _watch(self) -> None:
        while not self._stop.wait(WATCH_SECONDS):
            try:
                self._keep_running()
            except Exception as error:  # noqa: BLE001 - as in announce()
                self._faults.note("forwarder", f"the forwarder could not be started: {error!r}; nothing is lost")
            self._tell_of_room(time.monotonic())

    def _tell_of_room(self, now: float) -> None:
        """Says it once when the disk, or the ceiling of what journals may take, is near."""
        if self._room is None or now - self._asked_at < ROOM_SECONDS:
            return
        self._asked_at = now
        usage = self._room.measured()
        if usage is not None and usage.notice:
            self._faults.note("room", usage.notice)

    def _keep_running(self) -> None:
        from pulsetrain.forwarder.spawn import ensure_running

        ensure_running(self._home, self._env)
