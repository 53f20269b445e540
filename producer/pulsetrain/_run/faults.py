"""What goes wrong inside the SDK: counted, and told once for each kind, since a training loop must not suffer from it."""

import sys
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import suppress


def tell(message: str) -> None:
    """One line on the terminal, past the capture of the console."""
    stream = sys.__stderr__ if sys.stderr is None else sys.stderr
    write: Callable[[str], object] | None = getattr(stream, "write", None)
    write = getattr(write, "uncaptured", write)
    with suppress(Exception):  # a closed or broken terminal is no reason to fail
        if write is not None:
            write(f"pulsetrain: {message}\n")
            stream.flush()


class Faults:
    """Counts faults by kind; the first of each kind is told."""

    def __init__(self, say: Callable[[str], None] = tell) -> None:
        self.counts: Counter[str] = Counter()
        self._say = say
        self._lock = threading.RLock()

    def note(self, kind: str, message: str) -> None:
        """One more of this kind."""
        with self._lock:
            self.counts[kind] += 1
            first = self.counts[kind] == 1
        if first:
            self._say(f"{message} (said once; it is counted)")
