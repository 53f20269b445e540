"""Who gives a command, as it is kept beside what was done."""

import getpass
import os
import socket


def actor() -> str:
    """`user@host`; the number of the user where that has no name, as in a container."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"
