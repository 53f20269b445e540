"""Small disks that a test may fill: a tmpfs each, where this process may mount one; else plain folders."""

import contextlib
import os
import subprocess
from pathlib import Path

_BALLAST = ".ballast"


class Ballast:
    """A file that takes all the room of a disk."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / _BALLAST

    def fill(self) -> None:
        """Leaves not a byte. A file that was allocated before may still be written where it has its pages."""
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            block = 16 << 20
            while block >= 4096:
                try:
                    os.posix_fallocate(descriptor, os.fstat(descriptor).st_size, block)
                except OSError:
                    block //= 2
        finally:
            os.close(descriptor)

    def free(self) -> None:
        """Gives the space back."""
        self._path.unlink(missing_ok=True)


class Disk(Ballast):
    """A folder; `can_fill` says whether it is a file system of its own."""

    def __init__(self, path: Path, size: int) -> None:
        super().__init__(path)
        self.path = path
        path.mkdir(parents=True)
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "pulsetrain-chaos", str(path)],
            capture_output=True,
            check=False,
        )
        self.can_fill = mounted.returncode == 0

    def unmount(self) -> None:
        if self.can_fill:
            with contextlib.suppress(OSError):
                subprocess.run(["umount", "-l", str(self.path)], capture_output=True, check=False)
