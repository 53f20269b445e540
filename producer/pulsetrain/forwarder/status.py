"""What the forwarder says of itself in `status.json`, for the SDK, `pulsetrain status` and whoever looks."""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from pulsetrain.forwarder.places import write_atomically


@dataclass(frozen=True, slots=True)
class Status:
    """`journals` are those not yet wholly in Kafka; `undeliverable` messages fitted none and were left out.

    `journal_bytes`, `journal_limit` and `notice` are of the directory of runs that is nearest to its ceiling: what its
    journals take, what they may take, and what a person has to know of that.
    """

    pid: int
    broker: str
    detail: str
    journals: int
    live: int
    in_flight_bytes: int
    undeliverable: int
    journal_bytes: int = 0
    journal_limit: int = 0
    notice: str = ""


class StatusFile:
    """Written when the words change, and every few seconds otherwise, so that its age tells whether somebody writes
    it.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.time, period: float = 5.0) -> None:
        self._path = path
        self._clock = clock
        self._period = period
        self._last: Status | None = None
        self._at = 0.0

    def write(self, status: Status) -> None:
        now = self._clock()
        last = self._last
        if last is not None and 0 <= now - self._at < self._period and _words(status) == _words(last):
            return
        self._last, self._at = status, now
        document = asdict(status) | {"updated": now}
        write_atomically(self._path, json.dumps(document).encode())


def _words(status: Status) -> tuple[object, ...]:
    # The notice has figures in it that change all the time.
    return (status.broker, status.detail, status.journals, status.live, status.undeliverable, bool(status.notice))
