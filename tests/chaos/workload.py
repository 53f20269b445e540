"""A training process of the harness: logs rows whose values follow from their number, as fast or as slow as it is told.

    python -m tests.chaos.workload LEDGER --project P --run-id R --kind plain|threads|forks|texts|wide …

Row i of a stream s has the metrics `s/i` (the number i), `s/x` (a function of i), every seventh `s/odd`, which is NaN,
an infinity or a huge number in turn, and with `texts` now and then `s/text`, a string. The steps are i. Where it keeps
to a rate, every thousandth row comes with an alert of its own.
"""

import argparse
import math
import os
import random
import sys
import threading
from pathlib import Path
from typing import Any

import pulsetrain
from tests.chaos.ledger import Ledger

ODD_EVERY = 7
TEXT_EVERY = 50
ALERT_EVERY = 1_000
ODD = (math.nan, math.inf, -math.inf, 1e308)
WIDE_KEYS = 200


def row(stream: str, number: int, kind: str) -> dict[str, Any]:
    """Row `number` of a stream, as it is logged."""
    values: dict[str, Any] = {f"{stream}/i": number, f"{stream}/x": value(number)}
    if number % ODD_EVERY == 0:
        values[f"{stream}/odd"] = ODD[number // ODD_EVERY % len(ODD)]
    if kind == "texts" and number % TEXT_EVERY == 0:
        values[f"{stream}/text"] = f"손실 {number}"
    if kind == "wide":
        values |= {f"{stream}/w{column}": float(column) for column in range(WIDE_KEYS)}
    return values


def alert_title(stream: str, number: int) -> str:
    """The title of the alert that comes with a row."""
    return f"{stream} {number}"


def value(number: int) -> float:
    """A value that tells its row, and that SQL can compute as well."""
    return number * 0.5 + 0.25


def main() -> None:
    """Logs until it has logged `--rows` rows a stream, or until `--stop-file` is there, or until it is killed."""
    options = _options()
    ledger = Ledger(options.ledger)
    run = pulsetrain.init(
        project=options.project,
        id=options.run_id,
        resume=options.resume,
        rank=options.rank,
        mode=options.mode,
        config={"seed": options.seed},
        settings={"console": "off", "disable_git": True, "finish_timeout": options.finish_timeout},
    )
    pace = _Pace(options)
    if options.kind == "threads":
        threads = [threading.Thread(target=_log, args=(run, ledger, slot, options, pace)) for slot in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    elif options.kind == "forks":
        children = [_fork(run, ledger, slot, options, pace) for slot in (1, 2)]
        _log(run, ledger, 0, options, pace)
        for child in children:
            os.waitpid(child, 0)
    else:
        _log(run, ledger, 0, options, pace)
    ledger.finishes()
    run.finish()


def _fork(run: Any, ledger: Ledger, slot: int, options: argparse.Namespace, pace: "_Pace") -> int:
    child = os.fork()
    if child == 0:
        _log(run, ledger, slot, options, pace)
        run.finish()
        os._exit(0)
    return child


def _log(run: Any, ledger: Ledger, slot: int, options: argparse.Namespace, pace: "_Pace") -> None:
    stream, kind = ledger.stream(slot), options.kind
    history = run._history
    # Threads share one count: it stands with the first of them.
    account, dropped = 0 if kind == "threads" else slot, 0
    for number in range(options.rows):
        values = row(stream, number, kind)
        ledger.begin(slot, number)
        if options.rate and number % ALERT_EVERY == 0:
            run.alert(alert_title(stream, number), f"행 {number}")
        run.log(values, step=number)
        if history.dropped != dropped:
            dropped = history.dropped
            ledger.dropped(account, dropped)
        ledger.returned(slot, number)
        if not pace.go_on(number):
            return


class _Pace:
    """Keeps a stream to its rate, in bursts of a hundredth of a second, and sees when it is to stop."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._rate = options.rate
        self._burst = max(1, int(options.rate / 100)) if options.rate else 500
        self._stop_file: Path | None = options.stop_file
        self._pause = threading.Event()
        self._random = random.Random(options.seed)

    def go_on(self, number: int) -> bool:
        """Called after every row; waits where the stream is ahead of its rate."""
        if number % self._burst:
            return True
        if self._stop_file is not None and self._stop_file.exists():
            return False
        if self._rate:
            self._pause.wait(self._burst / self._rate * self._random.uniform(0.5, 1.5))
        return True


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("ledger", type=Path)
    parser.add_argument("--project", required=True)
    parser.add_argument("--run-id", required=True)
    parser.add_argument("--kind", choices=["plain", "threads", "forks", "texts", "wide"], default="plain")
    parser.add_argument("--rank", type=int, default=0)
    parser.add_argument("--resume")
    parser.add_argument("--mode", default="online")
    parser.add_argument("--rows", type=int, default=sys.maxsize)
    parser.add_argument("--rate", type=float, default=0.0, help="rows a second and stream; 0: as fast as it goes")
    parser.add_argument("--stop-file", type=Path)
    parser.add_argument("--finish-timeout", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


if __name__ == "__main__":
    main()
