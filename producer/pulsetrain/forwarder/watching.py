"""Goes on sending what appears below some folders: offline runs as they grow, and new ones, until it is told to stop.

It has no deadline. While Kafka is away it waits, and goes on where Kafka's word ends. A journal that a forwarder has in
hand is left to that one, and looked at again.
"""

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from pulsetrain.forwarder.acknowledgement import Counters
from pulsetrain.forwarder.delivery import Delivery
from pulsetrain.forwarder.pump import Pace
from pulsetrain.forwarder.sending import Report, Sending, find_journals
from pulsetrain_schemas.framing import SINGLE_OBJECT, Framing
from pulsetrain_schemas.registry import RegistryError

logger = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
# Looking for journals takes at most this share of the time, however many there are.
BUSY_SHARE = 0.05
# One that was sent to its end, or cannot be read, is looked at again after so long.
SETTLED_SECONDS = 60.0
SAVE_SECONDS = 0.5
# A run that goes on is reported so often.
REPORT_SECONDS = 5.0
# So many journals are held open at once; those that have nothing to send make room for others.
MAX_OPEN = 256
RETRY_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Progress:
    """How things stand: journals that are held open, those that wait for their turn, rows and points confirmed."""

    open: int
    waiting: int
    rows: int
    points: int
    broker: str
    detail: str


@dataclass(slots=True)
class _Open:
    sending: Sending
    reported: Counters
    report_at: float


class Watching:
    """`tick` does what there is to do now. `tell` hears of each journal that was sent, wholly or so far."""

    def __init__(
        self,
        paths: Iterable[Path],
        delivery: Delivery,
        tell: Callable[[Report], object],
        *,
        framing: Framing = SINGLE_OBJECT,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        max_open: int = MAX_OPEN,
    ) -> None:
        self._paths = tuple(paths)
        self._delivery = delivery
        self._tell = tell
        self._framing = framing
        self._clock = clock
        self._monotonic = monotonic
        self._max_open = max_open
        self._open: dict[Path, _Open] = {}
        self._settled: dict[Path, float] = {}
        self._taken_at: dict[Path, float] = {}
        self._told: dict[Path, Report] = {}
        self._waiting = 0
        self._look_at = 0.0
        self._saved_at = 0.0
        self._retry_at = 0.0
        self._registry_error = ""
        self._rows = self._points = 0

    @property
    def progress(self) -> Progress:
        confirmed = [one.sending.counters for one in self._open.values()]
        state = self._delivery.state
        return Progress(
            len(self._open),
            self._waiting,
            self._rows + sum(counters.rows for counters in confirmed),
            self._points + sum(counters.points for counters in confirmed),
            "away" if self._registry_error else state.broker,
            self._registry_error or state.detail,
        )

    def tick(self) -> bool:
        """One round. True where the next should follow at once."""
        now = self._monotonic()
        if now >= self._look_at:
            self._look()
            self._look_at = self._monotonic() + max(LOOK_SECONDS, (self._monotonic() - now) / BUSY_SHARE)
        outcome = self._delivery.poll()
        plenty = False
        for journal, one in list(self._open.items()):
            one.sending.hear(outcome)
            if self._monotonic() >= self._retry_at:
                plenty |= self._advance(journal, one)
        if now - self._saved_at >= SAVE_SECONDS:
            self._saved_at = now
            self._save()
        return plenty

    def close(self) -> None:
        """Writes down what was confirmed, and leaves all journals to others."""
        outcome = self._delivery.poll()
        for journal, one in list(self._open.items()):
            one.sending.hear(outcome)
            self._let_go(journal)

    def _look(self) -> None:
        now = self._monotonic()
        self._waiting = 0
        found = find_journals(path for path in self._paths if path.exists())
        for journal in sorted(found, key=lambda journal: self._taken_at.get(journal, 0.0)):  # they take turns
            if journal in self._open or now < self._settled.get(journal, 0.0):
                continue
            if len(self._open) >= self._max_open and not self._make_place():
                self._waiting += 1
                continue
            try:
                begun = Sending.begin(journal, self._delivery, framing=self._framing)
            except OSError as error:
                begun = Report(journal, "unreadable", detail=str(error))
            if isinstance(begun, Report):
                if begun.state in ("already sent", "unreadable"):
                    self._settled[journal] = now + SETTLED_SECONDS
                self._tell_once(begun)
            elif any(one.sending.identity.writer == begun.identity.writer for one in self._open.values()):
                begun.close()  # a copy of one that is being sent: its turn comes after that
            else:
                # Above what is counted here is what an earlier sync has sent.
                counted = begun.counters
                self._rows, self._points = self._rows - counted.rows, self._points - counted.points
                self._taken_at[journal] = now
                self._open[journal] = _Open(begun, counted, 0.0)

    def _advance(self, journal: Path, one: _Open) -> bool:
        try:
            pace = one.sending.advance(self._clock(), self._monotonic())
        except RegistryError as error:
            one.sending.rewind()
            self._registry_error, self._retry_at = str(error), self._monotonic() + RETRY_SECONDS
            return False
        except Exception as error:
            logger.exception("the journal %s is left alone for now", journal)
            self._settled[journal] = self._monotonic() + SETTLED_SECONDS
            self._tell_once(Report(journal, "unreadable", one.sending.identity, detail=repr(error)))
            self._let_go(journal)
            return False
        self._registry_error = ""
        report = one.sending.report
        if report is not None and report.state == "sent":
            self._settled[journal] = self._monotonic() + SETTLED_SECONDS
            self._let_go(journal)
            self._tell(report)
        elif report is not None and report.counters != one.reported and self._monotonic() >= one.report_at:
            one.reported, one.report_at = report.counters, self._monotonic() + REPORT_SECONDS
            self._tell(report)
        return pace is Pace.PLENTY

    def _make_place(self) -> bool:
        """Lets go of a journal that has nothing to send just now, the one that was taken first."""
        for journal, one in self._open.items():
            if one.sending.is_idle:
                self._let_go(journal)
                return True
        return False

    def _let_go(self, journal: Path) -> None:
        one = self._open.pop(journal)
        counters = one.sending.counters
        self._rows, self._points = self._rows + counters.rows, self._points + counters.points
        try:
            one.sending.close()
        except OSError as error:
            logger.warning("what Kafka confirmed of %s could not be written down; it is sent again: %s", journal, error)

    def _save(self) -> None:
        for journal, one in self._open.items():
            try:
                one.sending.save()
            except OSError as error:
                logger.warning("what Kafka confirmed of %s could not be written down yet: %s", journal, error)

    def _tell_once(self, report: Report) -> None:
        """Of a journal that is left alone, when there is something to say that was not said before."""
        if report.state in ("unreadable", "owned") and self._told.get(report.journal) != report:
            self._told[report.journal] = report
            self._tell(report)
