"""Sees how the program ends: by itself, by sys.exit, by an exception, by Ctrl-C."""

import atexit
import sys
import threading
from collections.abc import Callable
from types import TracebackType
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
