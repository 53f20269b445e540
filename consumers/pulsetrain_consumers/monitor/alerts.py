"""The life of alerts: pending, firing, resolved; each told once, whatever is read twice.

A book that comes up again lives its past once more, from what was saved on. What was told meanwhile it hears from the
topic first, and tells nothing that is not later than that. So it neither forgets an alert nor repeats one, also where
the past comes in another order or with other words the second time: see `heard` and `lived`.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from pulsetrain_consumers.monitor.findings import Finding, Severity
from pulsetrain_schemas.events import LATEST_TIME, Alert, UserAlert

PENDING, FIRING, RESOLVED = "pending", "firing", "resolved"
USER = "user"
COOLDOWN_SECONDS = 300.0
# How long an alert that another told goes on while nothing is found that says so, or the contrary.
UNSEEN_SECONDS = 600.0
_SEVERITIES = {"INFO": Severity.INFO, "WARN": Severity.WARNING, "ERROR": Severity.CRITICAL}
# What a person reads; and a message that Kafka takes.
_MOST_TITLE, _MOST_TEXT = 1_000, 50_000
# Titles of run.alert() of which is remembered until when they are left out.
_MOST_QUIET = 1_000
Key = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Policy:
    """How alerts of one kind live. Seconds.

    A trouble must last for `hold` before its alert fires; one that comes back within `cooldown` of its end fires again
    only after that, should it still be there.
    """

    title: str
    hold: float = 0.0
    cooldown: float = COOLDOWN_SECONDS
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class _Entry:
    """One alert, as it is; times are microseconds.

    `sequence` is that of the last change that was told, -1 before the first. `unseen_since` is set where another said
    that it is there, and nothing has been found since: 0 until the past is over. `cooled` is when the one before it has
    cooled down. `silenced` is how its firing was told.
    """

    alert_id: str
    state: str
    sequence: int
    started: int
    changed: int
    fires_at: int
    severity: str
    title: str
    text: str
    step: int | None = None
    value: float | None = None
    rank: int | None = None
    host: str = ""
    gpu: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    unseen_since: int | None = None
    cooled: int = 0
    silenced: bool = False

    @property
    def is_open(self) -> bool:
        return self.state != RESOLVED


class AlertBook:
    """The alerts of one run; `source` is who speaks of them.

    Times are seconds since the epoch by the broker's clock, when a message arrived. They may go back: what changes last
    counts, and the times of an alert's changes never go back, nor those of two alerts about one subject.
    """

    def __init__(
        self,
        project: str,
        run_id: str,
        source: str,
        policy: Callable[[str, str], Policy],
        is_silenced: Callable[[str, str, float], bool] = lambda kind, subject, at: False,  # noqa: ARG005
    ) -> None:
        """`policy` and `is_silenced` are asked by kind and subject, the latter with a time too."""
        self._project = project
        self._run_id = run_id
        self._source = source
        self._policy = policy
        self._is_silenced = is_silenced
        self._entries: dict[Key, _Entry] = {}
        # The last change of a subject that was told and that this book has not come to yet.
        self._ahead: dict[Key, Alert] = {}
        self._quiet_until: dict[str, float] = {}
        self._user_told: dict[str, int] = {}

    def note(self, finding: Finding, arrived: float) -> Iterator[Alert]:
        """What a finding changes."""
        key, at = (finding.kind, finding.subject), _microseconds(arrived)
        entry = self._entries.get(key)
        if entry is not None:
            yield from self._ripen(key, entry, at)
        if entry is None or not entry.is_open:
            if finding.present:
                yield from self._begin(key, finding, at)
        elif finding.present:
            entry.severity, entry.text, entry.unseen_since = str(finding.severity), finding.message, None
            if finding.has_lasted and entry.state == PENDING:
                entry.fires_at = min(entry.fires_at, max(at, entry.cooled))
                yield from self._ripen(key, entry, at)
        else:
            entry.text = finding.message
            yield from self._end(key, entry, at)

    def tick(self, now: float) -> Iterator[Alert]:
        """What time alone changes."""
        at = _microseconds(now)
        for key, entry in list(self._entries.items()):
            yield from self._ripen(key, entry, at)
            if not entry.is_open:
                if at >= entry.changed + _microseconds(max(self._policy(*key).cooldown, COOLDOWN_SECONDS)):
                    del self._entries[key]
            elif entry.unseen_since and at >= entry.unseen_since + _microseconds(UNSEEN_SECONDS):
                entry.text = f"not seen again since the monitor came up; it was: {entry.text}"
                yield from self._end(key, entry, at)
            elif entry.silenced and not self._silences(key, at):  # it outlasts its silence
                entry.silenced, entry.changed = False, max(at, entry.changed)
                yield from self._tell(key, entry)

    def told_by_user(self, alert: UserAlert, writer: str, sequence: int, time: float) -> Iterator[Alert]:
        """run.alert(), by the record `sequence` of a writer: it fires, and is over at once.

        Within `wait_seconds` of one, further ones of its title are left out.
        """
        title, wait = alert["title"], alert["wait_seconds"]
        if time < self._quiet_until.get(title, time):
            return
        if wait > 0:
            self._quiet_until.pop(title, None)
            self._quiet_until[title] = time + wait
            while len(self._quiet_until) > _MOST_QUIET:
                del self._quiet_until[next(iter(self._quiet_until))]
        if sequence <= self._user_told.get(writer, 0):
            return  # told before; what is quiet after it was to be known all the same
        self._user_told[writer] = sequence
        at = _microseconds(time)
        entry = _Entry(
            alert_id=f"{writer}-{sequence}",
            state=FIRING,
            sequence=0,
            started=at,
            changed=at,
            fires_at=at,
            severity=str(_SEVERITIES.get(alert["level"], Severity.INFO)),
            title=title,
            text=alert["text"],
            silenced=self._silences((USER, title), at),
        )
        yield self._alert((USER, title), entry)
        entry.state, entry.sequence = RESOLVED, 1
        yield self._alert((USER, title), entry)

    def end_all(self, now: float, text: str) -> Iterator[Alert]:
        """Ends what goes on: nothing more will be found."""
        for key, entry in self._entries.items():
            if entry.is_open:
                entry.text = text
                yield from self._end(key, entry, _microseconds(now))

    def heard(self, alert: Alert) -> bool:
        """Takes note of a change that was told, of the source of this book; whether the book has not come to it yet.

        From here on it tells what is later alone. `lived` is to be called when all has come again that had arrived.
        """
        if alert.kind == USER:
            writer, _, sequence = alert.alert_id.rpartition("-")
            if alert.state != RESOLVED or not sequence.isdecimal():
                return False  # it counts as told with its end
            is_new = int(sequence) > self._user_told.get(writer, 0)
            self._user_told[writer] = max(int(sequence), self._user_told.get(writer, 0))
            return is_new
        if alert.state not in (PENDING, FIRING, RESOLVED):
            return False
        key, place = (alert.kind, alert.subject), (alert.time, alert.sequence)
        entry, ahead = self._entries.get(key), self._ahead.get(key)
        if entry is not None and place <= (entry.changed, entry.sequence):
            return False
        if ahead is not None and place <= (ahead.time, ahead.sequence):
            return False
        self._ahead[key] = alert
        return True

    def lived(self, now: float) -> Iterator[Alert]:
        """The past is over. What was told in it, and was not found this time, holds nevertheless.

        An alert that fires goes on as one that is not seen; what was resolved and is there all the same begins anew.
        """
        at, ahead, self._ahead = _microseconds(now), self._ahead, {}
        for known in self._entries.values():
            known.unseen_since = at if known.unseen_since == 0 else known.unseen_since
        for key, told in ahead.items():
            entry = self._entries.get(key)
            if entry is None or not entry.is_open:
                self._entries[key] = self._as_told(told, None if told.state == RESOLVED else max(at, told.time))
            elif told.state == RESOLVED:
                policy = self._policy(*key)
                entry.state, entry.sequence, entry.changed = PENDING, -1, max(at, told.time + 1)
                entry.alert_id = self._identity(key, entry.changed)
                entry.cooled = told.time + _microseconds(policy.cooldown)
                entry.fires_at = max(entry.changed + _microseconds(policy.hold), entry.cooled)
            else:
                entry.changed = max(entry.changed, told.time)
                if self._is_news(key, entry, told):
                    yield self._told(key, entry)

    def doubt(self, is_lost: Callable[[str], bool]) -> None:
        """What was known beside this book is lost, for kinds of alerts: what of them goes on is to be seen again."""
        for (kind, _), entry in self._entries.items():
            if is_lost(kind):
                entry.unseen_since = 0 if entry.is_open else None

    @property
    def is_open(self) -> bool:
        """Whether anything is pending, fires, or cools down."""
        return bool(self._entries or self._ahead)

    def state(self) -> dict[str, Any]:
        """For `restore`, as JSON can hold it."""
        return {
            "entries": [[*key, asdict(entry)] for key, entry in self._entries.items()],
            "ahead": [[*key, asdict(alert)] for key, alert in self._ahead.items()],
            "quiet_until": dict(self._quiet_until),
            "user_told": dict(self._user_told),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes on from what `state` gave."""
        self._entries = {(kind, subject): _Entry(**entry) for kind, subject, entry in state["entries"]}
        self._ahead = {(kind, subject): Alert(**alert) for kind, subject, alert in state["ahead"]}
        self._quiet_until = dict(state["quiet_until"])
        self._user_told = dict(state["user_told"])
        for entry in self._entries.values():  # how long it took to come up does not count
            entry.unseen_since = None if entry.unseen_since is None else 0

    def _begin(self, key: Key, finding: Finding, at: int) -> Iterator[Alert]:
        policy, entry, ahead = self._policy(*key), self._entries.get(key), self._ahead.get(key)
        ended = None if entry is None else entry.changed
        if ahead is not None and ahead.state == RESOLVED and at > ahead.time:
            ended = max(ahead.time, ended or 0)
        changed = at if ended is None else max(at, ended + 1)
        cooled = changed if ended is None else ended + _microseconds(policy.cooldown)
        entry = self._entries[key] = _Entry(
            alert_id=self._identity(key, changed),
            state=PENDING,
            sequence=-1,
            started=_microseconds(finding.time),
            changed=changed,
            fires_at=max(changed + _microseconds(policy.hold), cooled),
            cooled=cooled,
            severity=str(finding.severity),
            title=policy.title,
            text=finding.message,
            step=finding.step,
            value=finding.value,
            rank=finding.rank,
            host=finding.host,
            gpu=finding.gpu,
            labels=dict(policy.labels),
        )
        if policy.hold > 0 and changed < entry.fires_at:
            yield from self._tell(key, entry)
        yield from self._ripen(key, entry, changed)

    def _ripen(self, key: Key, entry: _Entry, at: int) -> Iterator[Alert]:
        if entry.state == PENDING and at >= entry.fires_at:
            entry.state, entry.changed = FIRING, max(entry.fires_at, entry.changed)
            entry.silenced = self._silences(key, entry.changed)
            yield from self._tell(key, entry)

    def _end(self, key: Key, entry: _Entry, at: int) -> Iterator[Alert]:
        entry.state, entry.changed, entry.unseen_since = RESOLVED, max(at, entry.changed), None
        if entry.sequence >= 0:
            yield from self._tell(key, entry)

    def _tell(self, key: Key, entry: _Entry) -> Iterator[Alert]:
        """Tells that the entry has changed, unless that, or something later, was told."""
        ahead = self._ahead.get(key)
        if ahead is not None:
            if (entry.changed, entry.sequence + 1) < (ahead.time, ahead.sequence):
                entry.sequence += 1
                return
            del self._ahead[key]
            if not self._is_news(key, entry, ahead):
                return
        yield self._told(key, entry)

    def _is_news(self, key: Key, entry: _Entry, told: Alert) -> bool:
        """Whether the entry's change is news after what was told, which is not later; the entry goes on from that."""
        if told.state == RESOLVED and entry.is_open:
            if entry.alert_id == told.alert_id:  # another, which came back at another moment than the first time
                entry.changed, entry.sequence = max(entry.changed, told.time + 1), -1
                entry.alert_id = self._identity(key, entry.changed)
            return True
        entry.alert_id, entry.sequence = told.alert_id, told.sequence
        if told.state == FIRING:
            entry.silenced = told.silenced
            entry.state = FIRING if entry.state == PENDING else entry.state
        return entry.state != told.state

    def _as_told(self, told: Alert, unseen_since: int | None) -> _Entry:
        return _Entry(
            alert_id=told.alert_id,
            state=told.state,
            sequence=told.sequence,
            started=told.started,
            changed=told.time,
            fires_at=told.time + _microseconds(self._policy(told.kind, told.subject).hold),
            severity=told.severity,
            title=told.title,
            text=told.text,
            step=told.step,
            value=told.value,
            rank=told.rank,
            host=told.host,
            gpu=told.gpu,
            labels=dict(told.labels),
            unseen_since=unseen_since,
            silenced=told.silenced and told.state == FIRING,
        )

    def _told(self, key: Key, entry: _Entry) -> Alert:
        entry.sequence += 1
        return self._alert(key, entry)

    def _alert(self, key: Key, entry: _Entry) -> Alert:
        kind, subject = key
        return Alert(
            project=self._project,
            run_id=self._run_id,
            alert_id=entry.alert_id,
            sequence=entry.sequence,
            kind=kind,
            subject=subject,
            state=entry.state,
            severity=entry.severity,
            title=_cut(entry.title, _MOST_TITLE),
            text=_cut(entry.text, _MOST_TEXT),
            time=entry.changed,
            started=entry.started,
            source=self._source,
            step=entry.step,
            value=entry.value,
            rank=entry.rank,
            host=entry.host,
            gpu=entry.gpu,
            silenced=entry.silenced,
            labels=dict(entry.labels),
        )

    def _silences(self, key: Key, at: int) -> bool:
        return self._is_silenced(*key, at / 1e6)

    def _identity(self, key: Key, changed: int) -> str:
        words = "\0".join((self._project, self._run_id, *key, str(changed)))
        return hashlib.blake2b(words.encode("utf-8", "replace"), digest_size=12).hexdigest()


def _microseconds(seconds: float) -> int:
    """Whole microseconds, within what messages can hold: a producer's clock may say anything."""
    return round(min(seconds * 1e6, LATEST_TIME)) if seconds > 0 else 0


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"
