"""The one place where a training process meets the forwarder.

It leaves word of a journal, keeps a forwarder running, and waits at the end for what that sends.
"""

import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path

from pulsetrain._run.faults import Faults, tell
from pulsetrain.journal.room import Room
from pulsetrain_schemas import addresses

WATCH_SECONDS = 1.0
# How often it is asked whether the journals come near to what they may take.
ROOM_SECONDS = 3.0
POLL_SECONDS = 0.03
# How long a broker may be away at the end before the run is left to the forwarder.
AWAY_SECONDS = 2.0
PROGRESS_AFTER_SECONDS = 1.0


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

    def wait_delivered(self, journal: Path, sequence: int, timeout: float, *, quiet: bool = False) -> bool:
        """Waits until Kafka has everything of the journal. False, with a word to the user, when that takes too long."""
        from pulsetrain.forwarder.places import Place, destination, read_json

        place = Place.of(self._home, destination(self._env))
        begun = time.monotonic()
        # Where no broker is even known, there is nothing to wait for.
        away_since = None if self.broker_is_known() else begun - AWAY_SECONDS
        shown = False
        reason = f"it was not all sent within {timeout:g} s"
        try:
            while True:
                ack = read_json(journal / "ack.json") or {}
                if ack.get("complete"):
                    if shown:
                        _progress(sequence, sequence, end=True)
                    return True
                now = time.monotonic()
                if _is_away(read_json(place.status)):
                    away_since = now if away_since is None else away_since
                elif away_since is not None and self.broker_is_known():
                    away_since = None
                if away_since is not None and now - away_since >= AWAY_SECONDS:
                    reason = "the broker cannot be reached"
                    break
                if now - begun >= timeout:
                    break
                if now - begun >= PROGRESS_AFTER_SECONDS and not quiet:
                    shown = _progress(int(ack.get("sequence", 0)), sequence, first=not shown)
                self._stop.wait(POLL_SECONDS)
        except KeyboardInterrupt:
            reason = "interrupted"
        except OSError as error:
            reason = f"the forwarder cannot be asked: {error}"
        if shown:
            _progress(0, 0, end=True, clear=True)
        if not quiet:
            tell(
                f"{reason}. Nothing is lost: everything is in {journal.parent}, and is sent when the broker is "
                f"there; `pulsetrain sync {journal.parent}` sends it by hand"
            )
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


def _is_away(status: Mapping[str, object] | None) -> bool:
    return status is not None and status.get("broker") == "away"


def _progress(sent: int, total: int, *, first: bool = False, end: bool = False, clear: bool = False) -> bool:
    """One line, rewritten where there is a terminal and said once where there is none."""
    stream = sys.stderr
    if stream is None:
        return True
    if not stream.isatty():
        if first:
            tell(f"sending what was logged ({sent:,} of {total:,} records so far)")
        return True
    write = getattr(stream.write, "uncaptured", stream.write)
    line = "" if clear else f"pulsetrain: sending what was logged: {sent:,} of {total:,} records"
    write(f"\r\x1b[K{line}{chr(10) if end and not clear else ''}")
    stream.flush()
    return True
