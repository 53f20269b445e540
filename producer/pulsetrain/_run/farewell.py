"""The wait at the end of a run: until Kafka has everything, or until there is a reason to leave the rest to the
forwarder.

Reads what the forwarder writes, its status and the journal's `ack.json`; nothing is asked of anybody over the network.
"""

import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from pulsetrain._run.faults import tell
from pulsetrain.forwarder import spawn
from pulsetrain.forwarder.places import Place, read_json

POLL_SECONDS = 0.03
# How long a broker may be away at the end before the run is left to the forwarder.
AWAY_SECONDS = 2.0
# How long no forwarder may come up. The training process starts one every few seconds meanwhile.
NO_FORWARDER_SECONDS = 10.0
# The forwarder writes its status every five seconds: what is older is of one that was before, or that is stopped.
STALE_SECONDS = 12.0

PROGRESS_AFTER_SECONDS = 1.0
# How often the progress is shown: on a terminal, and in a log.
TERMINAL_SECONDS = 0.2
LOG_SECONDS = 10.0


class Farewell:
    """Waits for the delivery of one journal."""

    def __init__(
        self,
        place: Place,
        journal: Path,
        sequence: int,
        *,
        timeout: float,
        has_broker: bool,
        quiet: bool,
        is_interrupted: Callable[[], bool],
        clock: Callable[[], float] = time.monotonic,
        time_of_day: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """`sequence` is the journal's last record; `timeout` is in seconds from now.

        `has_broker`: whether any is known. Else there is nothing to wait for.
        """
        self._place = place
        self._journal = journal
        self._sequence = sequence
        self._timeout = timeout
        self._has_broker = has_broker
        self._quiet = quiet
        self._is_interrupted = is_interrupted
        self._clock = clock
        self._time_of_day = time_of_day
        self._sleep = sleep
        self._begun = self._forwarder_at = clock()
        self._was_connected = False
        self._away_since: float | None = None
        self._progress = Progress(clock)

    def wait(self) -> str:
        """Nothing once Kafka has everything, else why it was left to the forwarder; the user was told, unless quiet."""
        while True:
            ack = read_json(self._journal / "ack.json") or {}
            if ack.get("complete"):
                self._progress.end(self._sequence, self._sequence)
                return ""
            reason = self._reason_to_leave()
            sent = min(int(ack.get("sequence", 0)), self._sequence)
            if reason:
                self._progress.clear()
                if not self._quiet:
                    tell(self._words(reason, sent))
                return reason
            if not self._quiet and self._clock() - self._begun >= PROGRESS_AFTER_SECONDS:
                self._progress.show(sent, self._sequence)
            self._sleep(POLL_SECONDS)

    def _reason_to_leave(self) -> str:
        if self._is_interrupted():
            return "interrupted"
        if not self._has_broker:
            return "no Kafka is known"
        now = self._clock()
        status = self._status()
        broker = status.get("broker")
        if broker == "connected":
            self._was_connected, self._away_since = True, None
        elif broker == "away" and self._away_since is None:
            # A forwarder that was just started needs a while to find that out.
            self._away_since = now if self._was_connected else self._begun
        if self._away_since is not None and now - self._away_since >= AWAY_SECONDS:
            detail = str(status.get("detail") or "").partition(";")[0]
            return "the broker cannot be reached" + (f" ({detail})" if detail else "")
        if spawn.is_running(self._place):
            self._forwarder_at = now
        elif now - self._forwarder_at >= NO_FORWARDER_SECONDS:
            return f"no forwarder comes up, see {self._place.log}"
        if now - self._begun >= self._timeout:
            silent = "" if status else "; the forwarder does not say anything"
            return f"it was not all sent within {self._timeout:.2g} s{silent}"
        return ""

    def _status(self) -> Mapping[str, Any]:
        """What the forwarder says of now."""
        status = read_json(self._place.status) or {}
        updated = status.get("updated")
        is_fresh = isinstance(updated, int | float) and abs(self._time_of_day() - updated) < STALE_SECONDS
        return status if is_fresh else {}

    def _words(self, reason: str, sent: int) -> str:
        folder = self._journal.parent
        who = "the forwarder" if spawn.is_running(self._place) else "the next run's forwarder"
        return (
            f"{reason}. Nothing is lost: Kafka has {sent:,} of {self._sequence:,} records, the rest is in {folder}; "
            f"{who} sends it as soon as that is possible, `pulsetrain sync {folder}` does by hand"
        )


class Progress:
    """One line, rewritten where there is a terminal, and said now and then where there is none."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._shown: int | None = None
        self._at = float("-inf")

    def show(self, sent: int, total: int) -> None:
        """So many of `total` records are sent."""
        now = self._clock()
        stream = sys.stderr
        is_terminal = stream is not None and stream.isatty()
        if sent == self._shown or now - self._at < (TERMINAL_SECONDS if is_terminal else LOG_SECONDS):
            return
        self._shown, self._at = sent, now
        if is_terminal:
            self._rewrite(f"pulsetrain: {_line(sent, total)}")
        else:
            tell(_line(sent, total))

    def end(self, sent: int, total: int) -> None:
        """All is sent: the last word on it, where there was a first."""
        if self._shown is not None and sys.stderr is not None and sys.stderr.isatty():
            self._rewrite(f"pulsetrain: {_line(sent, total)}\n")

    def clear(self) -> None:
        """Takes the line from the terminal."""
        if self._shown is not None and sys.stderr is not None and sys.stderr.isatty():
            self._rewrite("")

    def _rewrite(self, line: str) -> None:
        stream = sys.stderr
        write: Callable[[str], object] = getattr(stream.write, "uncaptured", stream.write)
        with suppress(Exception):  # a broken terminal is no reason to fail
            write(f"\r\x1b[K{line}")
            stream.flush()


def _line(sent: int, total: int) -> str:
    return f"sending what was logged: {sent:,} of {total:,} records"
