"""On the PYTHONPATH of the processes of the harness: another clock for all, and a bug put in on purpose for forwarders.

CHAOS_CLOCK names a file with one double, the seconds that the wall clock is off. CHAOS_FORWARDER_MUTANT names a
mutation of `tests.chaos.mutants_forwarder`, for processes that are forwarders.
"""

import mmap
import os
import struct
import sys
import time


def _shift_clock(path: str) -> None:
    with open(path, "rb") as file:
        shared = mmap.mmap(file.fileno(), 8, access=mmap.ACCESS_READ)
    real, real_ns = time.time, time.time_ns

    def offset() -> float:
        found: float = struct.unpack_from("<d", shared)[0]
        return found

    time.time = lambda: real() + offset()
    time.time_ns = lambda: real_ns() + int(offset() * 1e9)


if "CHAOS_CLOCK" in os.environ:
    _shift_clock(os.environ["CHAOS_CLOCK"])
if "CHAOS_FORWARDER_MUTANT" in os.environ and "pulsetrain.forwarder" in sys.orig_argv:
    from tests.chaos import mutants_forwarder

    mutants_forwarder.MUTANTS.apply(os.environ["CHAOS_FORWARDER_MUTANT"])
