"""Small disks that a test may fill: a tmpfs each, where this process may mount one; else plain folders."""

import contextlib
import os
import subprocess
from pathlib import Path

_BALLAST = ".ballast"


class Disk:
    """A folder; `can_fill` says whether it is a file system of its own."""

    def __init__(self, path: Path, size: int) -> None:
        self.path = path
        path.mkdir(parents=True)
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "pulsetrain-chaos", str(path)],
            capture_output=True,
            check=False,
        )
        self.can_fill = mounted.returncode == 0

    def fill(self) -> None:
        """Leaves not a byte. A file that was allocated before may still be written where it has its pages."""
        assert self.can_fill
        descriptor = os.open(self.path / _BALLAST, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
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
        (self.path / _BALLAST).unlink(missing_ok=True)

    def unmount(self) -> None:
        if self.can_fill:
            with contextlib.suppress(OSError):
                subprocess.run(["umount", "-l", str(self.path)], capture_output=True, check=False)
