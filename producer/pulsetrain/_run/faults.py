"""What goes wrong inside the SDK: counted, and told once a kind. A training loop must not suffer from it."""

import sys
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

    def note(self, kind: str, message: str) -> None:
        """One more of this kind."""
        self.counts[kind] += 1  # no lock, which a fork might leave held: two threads may at worst say it twice
        if self.counts[kind] == 1:
            self._say(f"{message} (said once; it is counted)")
