"""Copies what the program prints into the journal, line by line.

The `write` of the stream objects themselves is replaced, so that handlers of `logging` that hold on to the stream are
heard too, and everything that asks what kind of stream it is finds what it was. A progress bar that rewrites its line
counts as the line that it leaves behind; of bars that move the cursor about, a line a second is kept at most.
"""

import re
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

MAX_LINE_CHARACTERS = 16_384
REWRITTEN_LINE_SECONDS = 1.0

# Colours and the like; and the cursor moving up, as nested progress bars have it do.
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b\][^\x07]*\x07")
_MOVES_UP = "\x1b[A"

Emit = Callable[[str, str], None]


class StreamCapture:
    """One stream. `emit(name, line)` is called for every complete line, from the thread that wrote its end."""

    def __init__(self, name: str, stream: Any, emit: Emit, clock: Callable[[], float] = time.monotonic) -> None:
        self._name = name
        self._stream = stream
        self._emit = emit
        self._clock = clock
        self._lock = threading.RLock()
        self._inside = threading.local()
        self._pending = ""
        self._rewritten_at = -REWRITTEN_LINE_SECONDS
        self._listening = False
        self._original: Callable[..., Any] | None = None
        self._installed: Callable[..., Any] | None = None

    def start(self) -> bool:
        """Begins to listen; False where the stream does not let itself be listened to."""
        original = getattr(self._stream, "write", None)
        if original is None:
            return False

        def write(text: Any, *more: Any) -> Any:
            result = original(text, *more)
            if self._listening:
                self.hear(text)
            return result

        write.uncaptured = getattr(original, "uncaptured", original)  # type: ignore[attr-defined]
        try:
            self._stream.write = write
        except (AttributeError, TypeError):
            return False
        self._original, self._installed = original, write
        self._listening = True
        return True

    def stop(self) -> None:
        """Gives the stream its own `write` back, unless another has wrapped it since; the rest of a line is a line."""
        if not self._listening:
            return
        self._listening = False
        if getattr(self._stream, "write", None) is self._installed:
            if "write" in getattr(self._stream, "__dict__", {}):
                del self._stream.write
            if getattr(self._stream, "write", None) != self._original:
                self._stream.write = self._original
        with self._lock:
            rest, self._pending = self._pending, ""
        if rest:
            self._line(rest, rewritten=False)

    def mute(self) -> None:
        """In a forked child: passes everything on and hears nothing."""
        self._listening = False
        self._lock = threading.RLock()

    def hear(self, text: Any) -> None:
        """Takes what was written; never raises, and does not hear what is written by it."""
        if not isinstance(text, str) or not text or getattr(self._inside, "now", False):
            return
        self._inside.now = True
        try:
            with self._lock:
                lines = (self._pending + text).split("\n")
                self._pending = self._shortened(lines.pop())
            for line in lines:
                self._line(line, rewritten="\r" in line.rstrip("\r") or _MOVES_UP in line)
        except Exception:  # noqa: BLE001, S110 - what a program prints must get through whatever becomes of the copy
            pass
        finally:
            self._inside.now = False

    @staticmethod
    def _shortened(rest: str) -> str:
        """What has to be kept of a line that is not over: of a progress bar, its last two states."""
        if rest.count("\r") > 2:
            rest = "\r" + "\r".join(rest.rsplit("\r", 2)[1:])
        return rest[-MAX_LINE_CHARACTERS:]

    def _line(self, line: str, *, rewritten: bool) -> None:
        states = [state for state in _ESCAPES.sub("", line).split("\r") if state.strip()]
        if not states:
            if line or rewritten:
                return
            states = [""]
        if rewritten:
            now = self._clock()
            moved = _MOVES_UP in line
            if moved and now - self._rewritten_at < REWRITTEN_LINE_SECONDS:
                return
            self._rewritten_at = now
        self._emit(self._name, states[-1][:MAX_LINE_CHARACTERS])


class ConsoleCapture:
    """Standard output and error of this process, for one run."""

    def __init__(self, emit: Emit) -> None:
        self._streams = [
            StreamCapture(name, stream, emit)
            for name, stream in (("stdout", sys.stdout), ("stderr", sys.stderr))
            if stream is not None
        ]

    def start(self) -> None:
        for stream in self._streams:
            stream.start()

    def stop(self) -> None:
        for stream in self._streams:
            stream.stop()

    def mute(self) -> None:
        for stream in self._streams:
            stream.mute()
