"""What a case of the corpus is, and the registers of the functions that make them."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from tests.corpus.job import Arrival, Job


@dataclass(frozen=True)
class Label:
    """What a monitor should say: one of `kinds`, of `subject` (None: any), after `onset`. `also` is no false alert."""

    kinds: tuple[str, ...]
    onset: float
    subject: str | None = None
    also: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Case:
    """A stream of events by time of arrival, and its label (None for a healthy one)."""

    kind: str
    seed: int
    label: Label | None
    start: float
    end: float
    events: list[Arrival] = field(repr=False)


Maker = Callable[[np.random.Generator], tuple[list[Job], Label | None]]
FAULTS: dict[str, Maker] = {}
HEALTHY: dict[str, Maker] = {}


def fault(make: Maker) -> Maker:
    """Registers a job in which something goes wrong at a known time."""
    FAULTS[make.__name__.strip("_")] = make
    return make


def healthy(make: Maker) -> Maker:
    """Registers a job in which nothing does."""
    HEALTHY[make.__name__.strip("_")] = make
    return make
