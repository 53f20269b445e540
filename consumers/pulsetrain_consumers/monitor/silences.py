"""Silences: alerts that nobody is to be told of, for a while or for good. They are recorded all the same.

They stand in the table `silences`, where `pulsetrain alerts silence` puts them and the monitor looks every few seconds,
and in the monitor's configuration. An alert is silenced when it begins to fire while a silence fits it. Its end is told
where its beginning was; one that fires on when its silence is over is told then.
"""

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Protocol

from pulsetrain_consumers.clickhouse import ClickHouseError, Client, ColumnData
from pulsetrain_consumers.runtime.sink import StoreUnavailable

# How soon a silence counts that somebody makes; how long is waited for a store that does not answer, at most.
LOOK_SECONDS = 2.0
MOST_WAIT_SECONDS = 60.0
# How long one that is over is known still, for a past that is lived once more.
ENDED_SECONDS = 3_600.0
_SELECT = """
SELECT
    silence_id,
    argMax((project, run, kind, subject), changed) AS what,
    toFloat64(argMax(starts, changed)) AS begins_at,
    toFloat64(argMax(ends, changed)) AS ends_at,
    argMax((reason, actor), changed) AS why
FROM silences
GROUP BY silence_id
HAVING ends_at > %(after)s
ORDER BY ends_at, silence_id
"""


@dataclass(frozen=True, slots=True)
class Silence:
    """Which alerts are meant, by patterns in which * stands for anything, and from when until when.

    Times are seconds since the epoch. `ends` is None for one that stands in the configuration and has no end.
    """

    project: str = "*"
    run: str = "*"
    kind: str = "*"
    subject: str = "*"
    starts: float = 0.0
    ends: float | None = None
    reason: str = ""
    actor: str = ""
    silence_id: str = field(default_factory=lambda: uuid.uuid4().hex[:8])

    def fits(self, project: str, run: str, kind: str, subject: str, at: float) -> bool:
        """Whether it silences an alert that begins to fire at a time, or fires still."""
        return (
            self.starts <= at
            and (self.ends is None or at < self.ends)
            and fnmatchcase(project, self.project)
            and fnmatchcase(run, self.run)
            and fnmatchcase(kind, self.kind)
            and fnmatchcase(subject, self.subject)
        )


class SilenceStore(Protocol):
    """Where silences are kept. All methods raise StoreUnavailable."""

    def load(self, after: float) -> Sequence[Silence]:
        """Those that end after a time, the earliest end first."""

    def save(self, silence: Silence, changed: float) -> None:
        """Adds one, or changes the one with its id."""


class MemorySilences:
    """A store for tests."""

    def __init__(self, table: dict[str, Silence] | None = None) -> None:
        self.table: dict[str, Silence] = {} if table is None else table
        self.away = False

    def load(self, after: float) -> Sequence[Silence]:
        self._answer()
        found = [silence for silence in self.table.values() if silence.ends is not None and silence.ends > after]
        return sorted(found, key=lambda silence: (silence.ends or 0.0, silence.silence_id))

    def save(self, silence: Silence, changed: float) -> None:
        del changed
        self._answer()
        self.table[silence.silence_id] = silence

    def _answer(self) -> None:
        if self.away:
            raise StoreUnavailable("the store is away")


class ClickHouseSilences:
    """The table `silences`."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def load(self, after: float) -> Sequence[Silence]:
        try:
            rows = self._client.query(_SELECT, {"after": after}).rows
        except ClickHouseError as error:
            raise StoreUnavailable(str(error)) from error
        return [
            Silence(project, run, kind, subject, starts, ends, reason, actor, silence_id)
            for silence_id, (project, run, kind, subject), starts, ends, (reason, actor) in rows
        ]

    def save(self, silence: Silence, changed: float) -> None:
        columns: Mapping[str, ColumnData] = {
            "silence_id": [silence.silence_id],
            "changed": [round(changed * 1e6)],
            "project": [silence.project],
            "run": [silence.run],
            "kind": [silence.kind],
            "subject": [silence.subject],
            "starts": [round(silence.starts * 1e6)],
            "ends": [round((silence.ends or 0.0) * 1e6)],
            "reason": [silence.reason],
            "actor": [silence.actor],
        }
        try:
            self._client.insert("silences", columns)
        except ClickHouseError as error:
            raise StoreUnavailable(str(error)) from error


def lift(store: SilenceStore, silence: Silence, now: float) -> None:
    """Ends a silence now, also where the clock of who made it is ahead."""
    store.save(replace(silence, ends=now), max(now, silence.starts + 0.001))


class Silences:
    """Those of the configuration and those of the store, as they were read last."""

    def __init__(self, configured: Sequence[Silence], store: SilenceStore) -> None:
        self._configured = configured
        self._store = store
        self._known: Sequence[Silence] = configured
        self._looks_at = 0.0
        self._wait = LOOK_SECONDS

    def read(self, now: float) -> None:
        """Reads the store, at a time in seconds since the epoch. Raises StoreUnavailable: what was known counts on."""
        self._known = (*self._configured, *self._store.load(now - ENDED_SECONDS))

    def look(self, monotonic: float, now: float) -> bool:
        """As `read`, where it is time for it: every two seconds, and less often while the store does not answer.

        Whether it was.
        """
        if monotonic < self._looks_at:
            return False
        self._wait, wait = min(2 * self._wait, MOST_WAIT_SECONDS), self._wait
        self._looks_at = monotonic + wait
        self.read(now)
        self._wait = LOOK_SECONDS
        return True

    def of_run(self, project: str, run: str) -> Callable[[str, str, float], bool]:
        """Says of an alert's kind, its subject and a time whether it is silenced then."""

        def is_silenced(kind: str, subject: str, at: float) -> bool:
            return any(silence.fits(project, run, kind, subject, at) for silence in self._known)

        return is_silenced
