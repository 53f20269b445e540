"""Whether a process that was seen before still runs: its number may long be another's, so its start counts too.

`created` needs the standard library alone where there is a /proc, for training processes call it.
"""

import os
import select
import signal
import zlib
from functools import cache
from pathlib import Path

TOLERANCE = 0.005  # half a clock tick: the same start is the same number
# Seconds, more than a machine stays up; and how many boots are told apart. A double holds their product to a tick.
BOOT_STRIDE, BOOTS = float(1 << 30), 1 << 14


@cache
def _boot() -> float:
    """A number for this boot of the machine."""
    try:
        boot_id = Path("/proc/sys/kernel/random/boot_id").read_bytes()
    except OSError:
        return 0.0
    return BOOT_STRIDE * (zlib.crc32(boot_id) % BOOTS)


def created(pid: int) -> float | None:
    """What tells the process from every other that has or had its number; None when it does not run (or is a zombie).

    It is made of the boot and of the seconds from there to the process's start, and not of the time of day: that is
    corrected now and then, and a process that lives would pass for another one.
    """
    try:
        # Fields after the command in parentheses: state is the first, the start time in clock ticks the twentieth.
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        if Path("/proc/self/stat").exists():
            return None
        return _created_without_proc(pid)
    if fields[0] in ("Z", "X"):
        return None
    return _boot() + int(fields[19]) / os.sysconf("SC_CLK_TCK")


def is_alive(pid: int, pid_created: float) -> bool:
    """Whether the process of this number that was `created` then still runs."""
    now = created(pid)
    return now is not None and abs(now - pid_created) <= TOLERANCE


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

    def send(self, number: signal.Signals) -> None:
        """Sends it a signal; never another process that has its number by now. Raises OSError."""
        if not self.alive():
            raise ProcessLookupError(f"process {self.pid} has ended")
        if self._descriptor is not None and hasattr(signal, "pidfd_send_signal"):
            signal.pidfd_send_signal(self._descriptor, number)
        else:
            os.kill(self.pid, number)

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
        return is_alive(self.pid, self._created)
