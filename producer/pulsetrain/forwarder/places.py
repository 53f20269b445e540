"""Where a forwarder keeps its files, and the small files that it shares with the processes that log.

One forwarder serves one (user, PULSETRAIN_HOME, destination). Standard library alone: training processes import this.
"""

import contextlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

LOCAL = "local"


def destination(env: Mapping[str, str] = os.environ) -> str:
    """Which Kafka a process means: `local` for the stack of its home, else a short name made from the servers.

    An address that is not understood gives a name as well: the forwarder says in its status what is wrong with it.
    """
    given = env.get("PULSETRAIN_KAFKA")
    if not given:
        return LOCAL
    import hashlib

    servers = ",".join(sorted(re.split(r"\s*,\s*", given.strip())))
    return hashlib.sha256(servers.encode()).hexdigest()[:12]


def write_atomically(path: Path, data: bytes) -> None:
    """Replaces the file whole: whoever reads it finds the old or the new content."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.write_bytes(data)
        draft.replace(path)
    except OSError:
        with contextlib.suppress(OSError):  # half of a file would keep the room that there is too little of
            draft.unlink(missing_ok=True)
        raise


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in the file; None where there is none, or where a loss of power left half of one."""
    try:
        value = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    return value if isinstance(value, dict) else None


@dataclass(frozen=True, slots=True)
class Registration:
    """Which process writes which journal. `pid_created` tells it from others of its number, see liveness.created."""

    journal: str
    pid: int
    pid_created: float
    limits: Mapping[str, str] = field(default_factory=dict)
    """What its environment says of how long journals are kept and what they may take, see `journal.room`."""


@dataclass(frozen=True, slots=True)
class Place:
    """The directory of one forwarder."""

    path: Path

    @classmethod
    def of(cls, home: Path, destination: str) -> "Place":
        return cls(home / "forwarder" / destination)

    @property
    def lock(self) -> Path:
        """Locked (flock) for as long as the forwarder lives."""
        return self.path / "lock"

    @property
    def writers(self) -> Path:
        """A registration per writer."""
        return self.path / "writers"

    @property
    def awaited(self) -> Path:
        """Until when (whole seconds since the epoch) a forwarder is to be expected that was started, or will be."""
        return self.path / "awaited"

    @property
    def status(self) -> Path:
        return self.path / "status.json"

    @property
    def directories(self) -> Path:
        """The directories of runs that forwarders look after, see `retention`."""
        return self.path / "directories.json"

    @property
    def log(self) -> Path:
        return self.path / "forwarder.log"

    def create(self) -> None:
        """Makes the directories, for this user alone."""
        self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.writers.mkdir(exist_ok=True)

    def register(self, writer: str, registration: Registration) -> None:
        """Leaves word of a journal. The forwarder takes the file away when all of the journal is acknowledged."""
        self.create()
        write_atomically(self.writers / f"{writer}.json", json.dumps(asdict(registration)).encode())

    def unregister(self, writer: str) -> None:
        (self.writers / f"{writer}.json").unlink(missing_ok=True)

    def registrations(self) -> Iterator[tuple[str, Registration]]:
        """All registrations by writer. One that cannot be read is passed over: it may be of a newer release."""
        for path in sorted(self.writers.glob("*.json")):
            found = read_json(path)
            try:
                if found is not None:
                    limits = {str(name): str(value) for name, value in found.get("limits", {}).items()}
                    journal, pid, created = found["journal"], found["pid"], found["pid_created"]
                    yield path.stem, Registration(str(journal), int(pid), float(created), limits)
            except (KeyError, TypeError, ValueError, AttributeError):
                continue
