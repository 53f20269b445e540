"""The forwarders of a home, as their status files and locks tell: do they live, and does the broker hear them?"""

import fcntl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pulsetrain_local.home import read_json

LOCAL = "local"
"""The destination that means the stack of the same home."""


@dataclass(frozen=True, slots=True)
class ForwarderStatus:
    """One forwarder: for which Kafka, whether it lives, what it says of the broker, how many journals wait for it."""

    destination: str
    alive: bool
    pid: int | None
    broker: str
    detail: str
    journals: int
    notice: str = ""
    """That the journals are about to take all that they may; empty as long as there is room."""

    def to_json(self) -> dict[str, Any]:
        """The entry of `pulsetrain status`."""
        state = f"broker {self.broker}" if self.alive else "stopped"
        pid = self.pid if self.alive else None
        return {"name": f"forwarder/{self.destination}", "pid": pid, "state": state, "address": None}


def forwarders(home: Path) -> Iterator[ForwarderStatus]:
    """Those of this home that live or have work left."""
    for directory in sorted((home / "forwarder").glob("*/")):
        alive = _is_locked(directory / "lock")
        journals = len(list((directory / "writers").glob("*.json")))
        if not alive and not journals:
            continue
        said = read_json(directory / "status.json")
        pid = said.get("pid")
        yield ForwarderStatus(
            destination=directory.name,
            alive=alive,
            pid=pid if isinstance(pid, int) else None,
            broker=str(said.get("broker", "unknown")),
            detail=str(said.get("detail") or ""),
            journals=journals,
            notice=str(said.get("notice") or "") if alive else "",
        )


def _is_locked(lock: Path) -> bool:
    try:
        with lock.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    return False
