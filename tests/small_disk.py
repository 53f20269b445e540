"""A small disk of one's own for a test: a tmpfs in a user namespace, where the system allows that.

The code runs in a process that sees the disk at DISK; nobody else does, and it goes with the process.
"""

import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@cache
def is_possible() -> bool:
    """Whether this system lets a user mount a tmpfs in a namespace."""
    if shutil.which("unshare") is None:
        return False
    tried = subprocess.run(
        ["unshare", "-Urm", "mount", "-t", "tmpfs", "-o", "size=1m", "none", "/tmp"], capture_output=True
    )
    return tried.returncode == 0


def run_on_small_disk(code: str, mount: Path, size: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    """Runs Python code with a disk of `size` (such as 16m) mounted at `mount`. Skips the test where that cannot be."""
    if not is_possible():
        pytest.skip("this system lets nobody mount a small disk: unshare -Urm mount -t tmpfs")
    mount.mkdir(parents=True, exist_ok=True)
    script = f'mount -t tmpfs -o size={size} none "$1" && shift && exec "$@"'
    command = ["unshare", "-Urm", "/bin/sh", "-c", script, "sh", str(mount), sys.executable, "-c", code, str(mount)]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, cwd=ROOT)
