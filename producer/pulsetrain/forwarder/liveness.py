"""Whether a process that was seen before still runs: its number may long be another's, so its start time counts too.

`created` needs the standard library alone where there is a /proc, for training processes call it.
"""

import os
import select
from functools import cache
from pathlib import Path

# The start time is kept in clock ticks since boot, and the time of boot is known to the second and may be corrected.
TOLERANCE = 2.0


@cache
def _boot_time() -> float:
    with open("/proc/stat") as lines:
        return next(float(line.split()[1]) for line in lines if line.startswith("btime "))


def created(pid: int) -> float | None:
    """When the process was started, in seconds since the epoch; None when it does not run (or is a zombie)."""
    try:
        # Fields after the command in parentheses: state is the first, the start time in clock ticks the twentieth.
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        if Path("/proc/self/stat").exists():
            return None
        return _created_without_proc(pid)
    if fields[0] in ("Z", "X"):
        return None
    return _boot_time() + int(fields[19]) / os.sysconf("SC_CLK_TCK")


def _created_without_proc(pid: int) -> float | None:
    import psutil

    try:
        return float(psutil.Process(pid).create_time())
    except psutil.NoSuchProcess:
        return None


class ProcessWatch:
    """One process, watched through a pidfd where the kernel has them, which sees its end without asking /proc again."""

    def __init__(self, pid: int, pid_created: float) -> None:
        self.pid = pid
        self._created = pid_created
        self._descriptor: int | None = None
        self._poll: select.poll | None = None
        if not self._is_the_same():
            self._dead = True
            return
        self._dead = False
        if hasattr(os, "pidfd_open"):
            try:
                self._descriptor = os.pidfd_open(pid)
            except OSError:
                return  # gone since, or not allowed here: asking /proc tells
            self._poll = select.poll()
            self._poll.register(self._descriptor, select.POLLIN)
            if not self._is_the_same():  # it ended, and its number was given out again, before we had hold of it
                self._end()

    def alive(self) -> bool:
        """Whether it still runs. Once False, always False. A zombie does not run: it logs no more."""
        if self._dead:
            return False
        if self._poll is not None:
            if self._poll.poll(0):
                self._end()
        elif not self._is_the_same():
            self._end()
        return not self._dead

    def close(self) -> None:
        """Gives the descriptor back."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
            self._poll = None

    def _end(self) -> None:
        self._dead = True
        self.close()

    def _is_the_same(self) -> bool:
        now = created(self.pid)
        return now is not None and abs(now - self._created) <= TOLERANCE
