"""Which sequences of which writer are stored already, so that what a forwarder sends twice is stored once."""

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pulsetrain_consumers.runtime.broker import Partition
from pulsetrain_schemas.events import IntArray


class Writer(NamedTuple):
    """One journal of one run."""

    project: str
    run_id: str
    writer: str


@dataclass(frozen=True, slots=True)
class Intervals:
    """A set of whole numbers, as disjoint intervals in order, both ends included; nearly always one."""

    spans: tuple[tuple[int, int], ...] = ()

    def covers(self, first: int, last: int) -> bool:
        return any(low <= first and last <= high for low, high in self.spans)

    def touches(self, first: int, last: int) -> bool:
        return any(low <= last and first <= high for low, high in self.spans)

    def without(self, sequences: IntArray) -> NDArray[np.bool_]:
        """For each sequence whether it is outside."""
        outside = np.ones(len(sequences), dtype=np.bool_)
        for low, high in self.spans:
            outside &= (sequences < low) | (sequences > high)
        return outside

    def add(self, first: int, last: int) -> "Intervals":
        """The set with the interval in it; what is adjacent becomes one."""
        before = [span for span in self.spans if span[1] + 1 < first]
        after = [span for span in self.spans if span[0] > last + 1]
        merged = [span for span in self.spans if span[1] + 1 >= first and span[0] <= last + 1]
        low = min([first, *(span[0] for span in merged)])
        high = max([last, *(span[1] for span in merged)])
        return Intervals((*before, (low, high), *after))


class Coverage:
    """What is known to be stored, by partition and writer; the least used writers are forgotten, and asked for again.

    What was learnt under one assignment of a partition does not hold under the next: another process stored since.
    """

    def __init__(self, writers_per_partition: int = 4096) -> None:
        self._limit = writers_per_partition
        self._known: dict[Partition, tuple[int, OrderedDict[Writer, Intervals]]] = {}

    def of(self, partition: Partition, assignment: int) -> Mapping[Writer, Intervals]:
        """What is known under this assignment."""
        return self._entries(partition, assignment)

    def update(self, partition: Partition, assignment: int, found: Iterable[tuple[Writer, Intervals]]) -> None:
        entries = self._entries(partition, assignment)
        for writer, intervals in found:
            entries[writer] = intervals
            entries.move_to_end(writer)

    def trim(self, partition: Partition, assignment: int) -> None:
        """Forgets the writers that were not heard of for longest, beyond the limit."""
        entries = self._entries(partition, assignment)
        while len(entries) > self._limit:
            entries.popitem(last=False)

    def _entries(self, partition: Partition, assignment: int) -> OrderedDict[Writer, Intervals]:
        known = self._known.get(partition)
        if known is None or known[0] != assignment:
            known = (assignment, OrderedDict())
            self._known[partition] = known
        return known[1]
