"""One sender a journal: the forwarder or `pulsetrain sync`, whichever has the lock in the journal's folder."""

import fcntl
import os
from pathlib import Path

LOCK_FILE = "owner.lock"


class Ownership:
    """The right to send a journal and to write its `ack.json`, until released or the process ends."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    @classmethod
    def take(cls, journal: Path) -> "Ownership | None":
        """None where another process has it. OSError where the folder cannot be written."""
        descriptor = os.open(journal / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        return cls(descriptor)

    def release(self) -> None:
        os.close(self._descriptor)
