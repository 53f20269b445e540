"""A training process for tests that kill it: it writes a journal as the SDK does, at a pace, until told how to end.

    python -m tests.training DIRECTORY WRITER RUN_ID ROWS PAUSE END

END is finish, vanish (exit without a word) or wait (until it is killed). It registers with the forwarder of its
environment.
"""

import os
import signal
import socket
import sys
import time
from pathlib import Path

from pulsetrain.forwarder.spawn import register
from pulsetrain_schemas import addresses
from tests.journals import start_run


def main() -> None:
    directory, writer, run_id, rows, pause, end = sys.argv[1:]
    started = int(time.time() * 1e6)
    host = socket.gethostname()
    journal = start_run(
        Path(directory), writer, run_id=run_id, attempt_started=started, host=host, segment_bytes=1 << 20
    )
    register(addresses.home(), writer, journal.directory)
    for step in range(int(rows)):
        journal.row(("loss", "acc"), (1 / (step + 1), step / 1000), step, time.time())
        if float(pause):
            time.sleep(float(pause))
    print("logged", flush=True)
    if end == "finish":
        journal.event("finish", {"state": "finished", "exit_code": 0})
        journal.close()
    elif end == "vanish":
        os._exit(0)
    else:
        signal.pause()


if __name__ == "__main__":
    main()
