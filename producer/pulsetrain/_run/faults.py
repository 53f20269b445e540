"""What goes wrong inside the SDK: counted, and told once a kind. A training loop must not suffer from it."""

import sys
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import suppress


def tell(message: str) -> None:
    """One line on the terminal, past the capture of the console."""
    stream = sys.stderr
    if stream is None:
        return
    write: Callable[[str], object] = getattr(stream.write, "uncaptured", stream.write)
    with suppress(Exception):  # a closed or broken terminal is no reason to fail
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
