"""Cases of the corpus: `case(kind, seed)` is one labelled stream, the same for the same arguments.

FAULTS are jobs in which something goes wrong at a known time; HEALTHY are jobs in which nothing does, many of which
look as if. What a case needs beyond the ordinary job stands in its function, in the modules beside this one.
"""

import zlib

import numpy as np

from tests.corpus import (  # noqa: F401 - to be registered
    faults_of_hardware,
    faults_of_models,
    faults_of_progress,
    faults_of_speed,
    healthy_curves,
    healthy_jobs,
)
from tests.corpus.job import Arrival
from tests.corpus.labels import FAULTS, HEALTHY, Case

__all__ = ["FAULTS", "HEALTHY", "Case", "case", "cases"]


def case(kind: str, seed: int) -> Case:
    """The case of this kind and seed."""
    rng = np.random.default_rng([seed, zlib.crc32(kind.encode())])
    jobs, label = (FAULTS.get(kind) or HEALTHY[kind])(rng)
    events: list[Arrival] = []
    for job in jobs:
        events += job.events()
    events.sort(key=lambda it: it[0])
    return Case(kind, seed, label, jobs[0].start, max(job.end for job in jobs), events)


def cases(count: int, first_seed: int) -> list[tuple[str, int]]:
    """Kinds and seeds of a corpus: healthy and faulty by turns, every kind about equally often."""
    faults, healthy = list(FAULTS), list(HEALTHY)
    return [
        (faults[i // 2 % len(faults)] if i % 2 else healthy[i // 2 % len(healthy)], first_seed + i)
        for i in range(count)
    ]
