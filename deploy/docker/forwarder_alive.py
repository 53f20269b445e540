"""Whether the forwarder of PULSETRAIN_HOME says something of itself: exit status 0, else 1 and a line that says why.

It writes its status every few seconds, whether or not Kafka answers. Only the standard library is needed.
"""

import os
import sys
import time
from pathlib import Path

SILENT_SECONDS = 60.0


def problem(home: Path, now: float) -> str | None:
    """What is wrong; None where a forwarder has written its status lately."""
    written = [path.stat().st_mtime for path in home.glob("forwarder/*/status.json")]
    if not written:
        return f"no forwarder has written its status below {home}"
    age = now - max(written)
    return f"the forwarder has been silent for {age:.0f} s" if age > SILENT_SECONDS else None


if __name__ == "__main__":
    sys.exit(problem(Path(os.environ.get("PULSETRAIN_HOME", "~/.pulsetrain")).expanduser(), time.time()))
