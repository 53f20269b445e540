"""Who of this machine is in a consumer group: one file for each member, locked for as long as its process lives.

Kafka misses a member that was killed when its session is over, and until then nobody gets its partitions. The kernel
knows at once: it frees the lock. So whoever of the group is left on the machine, or comes back there, can make the
dead leave the group, and a member that only stands still, as under a debugger, is never taken for one.

A directory may be on a disk that several machines share, and a lock may not reach from one to another. So each file
names the run of the machine on which its member lives, and those of others are left alone.
"""

import contextlib
import fcntl
import json
import os
import platform
import re
import secrets
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_SUFFIX = ".member"
_FORGOTTEN_SECONDS = 86_400.0


def directory(home: Path, group: str, cluster: str) -> Path:
    """Where the roster of a group of a cluster is kept under a home."""
    plain = re.sub(r"[^A-Za-z0-9._-]", "-", group)
    return home / "groups" / f"{plain[:80]}-{zlib.crc32(f'{group} {cluster}'.encode()):08x}"


class Roster:
    """The members of one group on one machine. Everything that touches the disk raises OSError."""

    def __init__(self, directory: Path, machine: str | None = None) -> None:
        """`directory` is for this one group of this one cluster; `machine` is this run of this machine, if not given.

        Two containers of one machine may share a directory: they have one kernel, and the lock holds between them.
        """
        self._directory = directory
        self._machine = machine if machine is not None else _this_machine()
        self._mine: dict[str, int] = {}

    def enter(self) -> str:
        """Writes a new member down, and locks its line until `leave` or the end of the process; its name.

        A name is used once: letters, digits, dots, dashes and underscores.
        """
        host = re.sub(r"[^A-Za-z0-9-]", "-", platform.node())[:60]
        name = f"{host}-{os.getpid()}-{secrets.token_hex(4)}"
        self._directory.mkdir(parents=True, exist_ok=True)
        # Locked before it has the name by which others find it: they would take it for one whose process is gone.
        aside = self._directory / f"{name}.entering"
        descriptor = os.open(aside, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.write(descriptor, json.dumps({"machine": self._machine}).encode())
            aside.rename(self._path(name))
        except OSError:
            os.close(descriptor)
            aside.unlink(missing_ok=True)
            raise
        self._mine[name] = descriptor
        return name

    def leave(self, name: str) -> None:
        """Strikes a member of one's own out."""
        descriptor = self._mine.pop(name)
        try:
            self._path(name).unlink(missing_ok=True)
        finally:
            os.close(descriptor)

    @contextlib.contextmanager
    def dead(self) -> Iterator[list[str]]:
        """The members whose processes have died. They are struck out when the block ends without an error.

        Meanwhile they are nobody else's to bury, and should this process die, another takes over.
        """
        found = {path.stem: descriptor for path in self._others() if (descriptor := self._inherited(path)) is not None}
        try:
            yield list(found)
            for name in found:
                self._path(name).unlink(missing_ok=True)
        finally:
            for descriptor in found.values():
                os.close(descriptor)

    def _others(self) -> list[Path]:
        with contextlib.suppress(FileNotFoundError), os.scandir(self._directory) as entries:
            return [
                Path(entry.path)
                for entry in entries
                if entry.name.endswith(_SUFFIX) and entry.name.removesuffix(_SUFFIX) not in self._mine
            ]
        return []

    def _inherited(self, path: Path) -> int | None:
        """The lock on the line of a member of this machine that is dead, else None."""
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            said = os.fstat(descriptor)
            if said.st_nlink and _machine(os.read(descriptor, 4096)) == self._machine:
                return descriptor
            if said.st_nlink and time.time() - said.st_mtime > _FORGOTTEN_SECONDS:
                path.unlink(missing_ok=True)  # left by a machine, or a run of this one, that is no more
        except BlockingIOError:
            pass  # it lives, or is being buried
        os.close(descriptor)
        return None

    def _path(self, name: str) -> Path:
        return self._directory / (name + _SUFFIX)


def _machine(line: bytes) -> str | None:
    try:
        return str(json.loads(line)["machine"])
    except (ValueError, KeyError, TypeError):
        return None


def _this_machine() -> str:
    """Another after every start of the machine, where the system has such a thing."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return platform.node()
