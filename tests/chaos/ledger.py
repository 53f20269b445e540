"""What log() has returned for, outside of the product: a file of counters that survives the death of its process.

A stream is one thread of one process, which logs rows 0, 1, 2 … Two counters say how far it came: `begun` is set before
a call and `returned` after it, each by one store of eight bytes into a shared memory map. So after a SIGKILL the rows
below `returned` must be stored, and the one between the two, if there is one, may be.
"""

import mmap
import os
from dataclasses import dataclass
from pathlib import Path

_WORDS = 3  # begun, returned, dropped
_SLOTS = 64


@dataclass(frozen=True, slots=True)
class Counted:
    """One stream: `begun - returned` is 1 where its process died inside log(), else 0."""

    stream: str
    begun: int
    returned: int
    dropped: int
    """Of the returned ones, those that the run counted as not kept, because the disk was full."""


class Ledger:
    """The counters of one workload, by stream name `<workload>.<slot>`."""

    def __init__(self, path: Path, *, create: bool = False) -> None:
        self.name = path.stem
        size = (_SLOTS * _WORDS + 1) * 8
        descriptor = os.open(path, os.O_RDWR | (os.O_CREAT if create else 0), 0o600)
        try:
            if create:
                os.ftruncate(descriptor, size)
            self._map = mmap.mmap(descriptor, size)
        finally:
            os.close(descriptor)
        self._words = memoryview(self._map).cast("q")

    def stream(self, slot: int) -> str:
        """The name under which the rows of a slot are logged."""
        return f"{self.name}.{slot}"

    def begin(self, slot: int, row: int) -> None:
        """The call for `row` begins."""
        self._words[slot * _WORDS] = row + 1

    def returned(self, slot: int, row: int) -> None:
        """The call for `row` has returned."""
        self._words[slot * _WORDS + 1] = row + 1

    def dropped(self, slot: int, rows: int) -> None:
        """So many rows of this stream were not kept."""
        self._words[slot * _WORDS + 2] = rows

    def finishes(self) -> None:
        """The process is about to finish its run: a kill from now on may come before that or after it."""
        self._words[_SLOTS * _WORDS] = 1

    @property
    def finishing(self) -> bool:
        return bool(self._words[_SLOTS * _WORDS])

    def counted(self) -> list[Counted]:
        """The streams that have begun."""
        words = self._words
        return [
            Counted(self.stream(slot), *words[slot * _WORDS : (slot + 1) * _WORDS])
            for slot in range(_SLOTS)
            if words[slot * _WORDS]
        ]
