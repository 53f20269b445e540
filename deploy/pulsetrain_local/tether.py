"""Runs a command that must not outlive the process that started it: `python -ISs tether.py PARENT COMMAND…`.

On Linux the kernel is asked to kill this process when its parent dies, and then this process becomes the command, so
a supervisor that is killed with -9 leaves nothing behind. Elsewhere it only becomes the command; the next start then
stops what an earlier supervisor left. Needs the standard library alone, so that it costs a few milliseconds.
"""

import os
import sys

_PR_SET_PDEATHSIG = 1


def tethered(command: list[str], parent: int) -> list[str]:
    """The command that runs `command` for as long as `parent`, the process that starts it, lives."""
    return [sys.executable, "-ISs", __file__, str(parent), *command]


def main(arguments: list[str]) -> None:
    """Ties itself to the parent whose id comes first, then becomes the command that follows."""
    parent, command = int(arguments[0]), arguments[1:]
    if sys.platform == "linux":
        import ctypes
        import signal

        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), "prctl(PR_SET_PDEATHSIG)")
        if os.getppid() != parent:  # it died before the kernel was asked
            raise SystemExit(1)
    try:
        os.execvp(command[0], command)  # noqa: S606 - becoming another program is what this is for
    except OSError as error:
        raise SystemExit(f"{command[0]} cannot be started: {error.strerror}") from None


if __name__ == "__main__":
    main(sys.argv[1:])
