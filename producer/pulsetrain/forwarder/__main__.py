"""python -m pulsetrain.forwarder [--home DIR] [--idle-exit SECONDS] [--once]"""

import argparse
import os
import sys
from pathlib import Path

from pulsetrain.forwarder.process import IDLE_EXIT_SECONDS, configure_logging, serve
from pulsetrain_schemas import addresses


def main() -> int:
    """Zero also where another forwarder runs already: then there is nothing to do."""
    parser = argparse.ArgumentParser(prog="python -m pulsetrain.forwarder", description="Carries journals to Kafka.")
    parser.add_argument("--home", type=Path, default=None, help="PULSETRAIN_HOME")
    parser.add_argument("--idle-exit", type=float, default=IDLE_EXIT_SECONDS, metavar="SECONDS")
    parser.add_argument("--once", action="store_true", help="send what is there now, then leave")
    given = parser.parse_args()
    configure_logging()
    serve(given.home or addresses.home(), dict(os.environ), idle_exit=given.idle_exit, once=given.once)
    return 0


if __name__ == "__main__":
    sys.exit(main())
