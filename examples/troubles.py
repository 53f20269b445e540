"""Three runs that get into trouble, and what a script can do about it.

    python examples/troubles.py nan       # a learning rate that grows too large: the loss becomes NaN
    python examples/troubles.py loader    # a loader that stalls, until the script is told of it
    python examples/troubles.py killed    # a process that is killed, as the kernel does where memory runs out

The monitor notices each: `pulsetrain alerts troubles`.
"""

import argparse
import math
import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

import pulsetrain

STEPS_BEFORE = 200
GIVES_UP_AFTER = 180.0


def nan(project: str) -> None:
    """A warm-up of the learning rate that nobody ends: what is learned, w, leaves the domain of the loss w - log(w)."""
    noise = np.random.default_rng(1)
    with pulsetrain.init(project=project, name="warm-up without end", config={"warm_up_steps": None}) as run:
        w = 3.0
        for step in range(3 * STEPS_BEFORE):
            rate = 0.01 * step
            loss = w - math.log(w) if w > 0 else math.nan
            run.log({"loss": loss, "lr": rate})
            w -= rate * (1 - 1 / w + noise.normal(0, 0.02))
            time.sleep(0.005)


def loader(project: str) -> None:
    """What reads the data stops at one batch. The script is told, and reads on."""
    with pulsetrain.init(project=project, name="loader stalls") as run:
        told = threading.Event()

        @run.on_alert
        def react(alert: Any) -> None:
            if alert.kind == "loader_stall":
                print(f"told of it: {alert.text}")
                told.set()

        def batches() -> Iterator[int]:
            for number in range(2 * STEPS_BEFORE):
                if number == STEPS_BEFORE:
                    told.wait(GIVES_UP_AFTER)
                yield number

        timer = run.step_timer()
        for number in timer.data(batches()):
            with timer.forward():
                time.sleep(0.005)
            timer.step()
            run.log({"loss": 1 / (number + 1)})


def killed(project: str) -> None:
    """The process ends without a word."""
    run = pulsetrain.init(project=project, name="killed")
    for step in range(STEPS_BEFORE):
        run.log({"loss": 1 / (step + 1)})
        time.sleep(0.005)
    os.kill(os.getpid(), signal.SIGKILL)


TROUBLES = {"nan": nan, "loader": loader, "killed": killed}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trouble", choices=TROUBLES)
    parser.add_argument("--project", default="troubles")
    options = parser.parse_args()
    TROUBLES[options.trouble](options.project)
