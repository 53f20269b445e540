"""Processes by number and birth: a number alone may be another process's by now."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import psutil


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """One process, for good: its id and the epoch second at which it was created."""

    pid: int
    created: float

    @classmethod
    def of(cls, pid: int) -> "ProcessIdentity | None":
        """The process that has this id now, where there is one."""
        try:
            return cls(pid, psutil.Process(pid).create_time())
        except psutil.Error:
            return None

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "ProcessIdentity | None":
        """Reads what `to_json` gave; None for anything else."""
        pid, created = value.get("pid"), value.get("created")
        if isinstance(pid, int) and isinstance(created, int | float):
            return cls(pid, float(created))
        return None

    def to_json(self) -> dict[str, Any]:
        return {"pid": self.pid, "created": self.created}

    def process(self) -> psutil.Process | None:
        """The process, where it still lives."""
        try:
            process = psutil.Process(self.pid)
            # psutil derives it from the boot time, which moves by a little when the clock is set.
            same = abs(process.create_time() - self.created) < 2
            return process if same and process.status() != psutil.STATUS_ZOMBIE else None
        except psutil.Error:
            return None

    def lives(self) -> bool:
        return self.process() is not None


def end(identities: Iterable[ProcessIdentity], grace: float = 5.0) -> int:
    """Ends those of these that live, with SIGTERM and after `grace` seconds with SIGKILL. Returns how many lived."""
    living = [process for identity in identities if (process := identity.process()) is not None]
    for process in living:
        _signal(process.terminate)
    _, stubborn = psutil.wait_procs(living, timeout=grace)
    for process in stubborn:
        _signal(process.kill)
    psutil.wait_procs(stubborn, timeout=grace)
    return len(living)


def _signal(send: Any) -> None:
    try:
        send()
    except psutil.NoSuchProcess:
        pass  # it ended by itself in the meantime
