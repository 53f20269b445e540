"""Sees how the program ends: by itself, by sys.exit, by an exception, by Ctrl-C; and keeps Ctrl-C from breaking
the end.
"""

import atexit
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import NoReturn

from pulsetrain._run.run import exit_code_of, outcome_of


class Ending:
    """Calls `finish(exit_code, state)` at the end of the program, with what it ended by."""

    def __init__(self, finish: Callable[[int, str], None]) -> None:
        self._finish = finish
        self._installed = False
        self._error: BaseException | None = None

    def install(self) -> bool:
        """Puts the hooks in place; True the first time."""
        if self._installed:
            return False
        self._installed = True
        original_exit, original_hook = sys.exit, sys.excepthook

        def leave(code: object = None, /) -> NoReturn:
            if threading.current_thread() is threading.main_thread():
                self._error = SystemExit(exit_code_of(code))
            original_exit(code)  # type: ignore[arg-type]

        def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
            self._error = outcome_error(error)
            original_hook(kind, error, trace)

        sys.exit = leave
        sys.excepthook = hook
        atexit.register(self._at_exit)
        return True

    def _at_exit(self) -> None:
        exit_code, state = outcome_of(self._error)
        self._finish(exit_code, state)


def outcome_error(error: BaseException) -> BaseException:
    """What is to be remembered of an error, without what its traceback keeps alive."""
    return KeyboardInterrupt() if isinstance(error, KeyboardInterrupt) else RuntimeError(type(error).__name__)


# How often a wait for a thread looks whether it was interrupted.
JOIN_SECONDS = 0.05


class HeldInterrupts:
    """What became of Ctrl-C while the end of a run was written down and waited for."""

    def __init__(self) -> None:
        self.came = False
        """Whether it was pressed."""

    def is_interrupted(self) -> bool:
        return self.came

    def join(self, thread: threading.Thread, seconds: float) -> None:
        """Waits for the thread, at most so long, and not at all once Ctrl-C was pressed."""
        for _ in range(int(seconds / JOIN_SECONDS)):
            if self.came or not thread.is_alive():
                return
            thread.join(JOIN_SECONDS)


@contextmanager
def held_interrupts() -> Iterator[HeldInterrupts]:
    """Within it, a first Ctrl-C only leaves its mark, so that the end of a run is written whole; a second one acts.

    A handler of the program's own is called at once all the same. Signals are the main thread's business: elsewhere
    there is nothing to hold.
    """
    held = HeldInterrupts()
    handler = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(handler):
        yield held
        return

    def hold(number: int, frame: FrameType | None) -> None:
        if held.came or handler is not signal.default_int_handler:
            held.came = True
            handler(number, frame)
        held.came = True

    signal.signal(signal.SIGINT, hold)
    try:
        yield held
    finally:
        if signal.getsignal(signal.SIGINT) is hold:
            signal.signal(signal.SIGINT, handler)
