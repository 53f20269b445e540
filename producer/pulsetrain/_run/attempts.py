"""What is known of a run's attempts: from the journals of this machine, and from the read side.

An attempt is one start of a run, in one process or in several ranks. From its first step on it stands in place of what
earlier ones logged. Here is what they were and who took part; `carrying` says what they had come to.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from pulsetrain._run import environment
from pulsetrain.forwarder.ledger import Removed, removed
from pulsetrain.forwarder.liveness import TOLERANCE, created
from pulsetrain.forwarder.tail import Tail, read_start
from pulsetrain.journal.reader import Event, JournalReader, RowBlock, TextRow

# A process of another machine that wrote its journal so lately is taken to be running, unless that says that it ended.
RECENT_SECONDS = 300.0
HEAD_BYTES = 64 << 10


class Member:
    """A process that took part in an attempt, by its journal."""

    is_here = True
    """Whether its journal is there to be read."""

    def __init__(self, journal: Path, start: Mapping[str, Any]) -> None:
        self.journal = journal
        self.start = start
        self.attempt = int(start["attempt"])
        self.rank = int(start["rank"])
        self.pid = int(start["pid"])
        self.primary = bool(start["primary"])

    @property
    def launch(self) -> str | None:
        """Which launch of the job it belongs to, where that is known."""
        found = self.start.get("environment", {}).get("launch")
        return None if found is None else str(found)

    @cached_property
    def first_step(self) -> int:
        """The step that its attempt begins at, as far as this process tells: an update before its first row counts."""
        first = int(self.start.get("first_step") or 0)
        with JournalReader(self.journal) as reader:
            while items := reader.read(HEAD_BYTES):
                for item in items:
                    if isinstance(item, RowBlock | TextRow):
                        return first
                    if isinstance(item, Event) and item.kind == "update":
                        first = min(first, int(item.data.get("first_step", first)))
        return first

    @cached_property
    def finish(self) -> Mapping[str, Any] | None:
        """What it said at its end; None where it said nothing."""
        tail = Tail(self.journal)
        tail.read_all()
        tail.close()
        return tail.finish

    @property
    def is_running(self) -> bool:
        """Whether its process still runs and has not finished. Of another machine's process the journal's age tells."""
        if self.start.get("host") == environment.host():
            since = created(self.pid)
            there = since is not None and abs(since - float(self.start["pid_created"])) <= TOLERANCE
        else:
            written = max((path.stat().st_mtime for path in self.journal.glob("*.journal")), default=0.0)
            there = time.time() - written < RECENT_SECONDS
        return there and self.finish is None


class RemovedMember(Member):
    """One whose journal was removed after Kafka had it: what it had come to is for the read side to tell."""

    is_here = False
    is_running = False

    def __init__(self, journal: Path, entry: Removed) -> None:
        super().__init__(journal, entry.start)
        self.first_step = int(entry.start.get("first_step") or 0)
        self.finish = None if entry.exit_code is None else {"exit_code": entry.exit_code}
        self.next_step = 0 if entry.last_step is None else entry.last_step + 1


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """A process that took part in the latest attempt, as the read side knows it."""

    rank: int
    launch: str | None


@dataclass(frozen=True, slots=True)
class Known:
    """A run. What the journals do not tell of it, the read side may have told."""

    run_id: str
    first_steps: Mapping[int, int]
    """Of each attempt that is known."""
    members: Sequence[Member] = ()
    elsewhere: Sequence[Elsewhere] = ()
    is_heard: bool = False
    """Whether something was heard lately of a process that is `elsewhere`."""
    inherited: Mapping[int, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    """By attempt, what it told that the run, a fork, has from other runs."""
    next_step: int = 0
    """As far as the read side, or what is known of journals that were removed, tells: the step after the last one."""

    @property
    def attempt(self) -> int:
        """The latest."""
        return max(self.first_steps)

    @property
    def latest(self) -> list[Member]:
        """Who took part in the latest attempt, by the journals, the lowest rank first."""
        found = [member for member in self.members if member.attempt == self.attempt]
        return sorted(found, key=lambda member: (member.rank, not member.primary, member.start["attempt_started"]))

    @property
    def is_running(self) -> bool:
        """Whether some process of the latest attempt still runs."""
        return any(member.is_running for member in self.latest) or bool(self.elsewhere and self.is_heard)

    @property
    def exit_code(self) -> int | None:
        """How the latest attempt ended; None where it broke off, or ended elsewhere."""
        for member in self.latest:
            if member.primary:
                return None if member.finish is None else member.finish.get("exit_code")
        return None

    def takes(self, rank: int, launch: str | None, ancestors: Sequence[int], *, shares: bool) -> bool:
        """Whether a process that starts now belongs to the latest attempt, and does not begin another.

        One whose rank has taken part already does not, unless it comes of that process, or says that it `shares` the
        run with one that speaks for it. Else the launch decides; where none is known, whether the attempt still runs.
        """
        same = [member for member in self.latest if member.rank == rank]
        if same or any(member.rank == rank for member in self.elsewhere):
            running = [member for member in same if member.is_running]
            return any(member.pid in ancestors for member in running) or (shares and self.is_running)
        launches = {one.launch for one in self.latest} | {one.launch for one in self.elsewhere}
        launches.discard(None)
        if launch is not None and launches:
            return launch in launches
        return self.is_running

    def visible(self, below: int) -> list[dict[str, Any]]:
        """What a fork takes over with the steps under `below`: of which attempts which steps, inherited ones too."""
        parts = []
        if self.inherited:
            teller = max(self.inherited)
            limit = min((below, *(first for attempt, first in self.first_steps.items() if attempt >= teller)))
            parts = [{**part, "below": min(int(part["below"]), limit)} for part in self.inherited[teller]]
        for attempt in sorted(self.first_steps):
            later = [first for number, first in self.first_steps.items() if number > attempt]
            parts.append({"run_id": self.run_id, "attempt": attempt, "below": min((below, *later))})
        return parts


def by_journals(directory: Path, project: str, run_id: str) -> Known | None:
    """The run, as far as the run folders of this directory know it."""
    members = list(_members(directory, project, run_id))
    return _known(run_id, members) if members else None


def last_started(directory: Path, project: str) -> Known | None:
    """The run of this project that was started last in this directory."""
    members = sorted(_members(directory, project, None), key=lambda member: member.start["attempt_started"])
    if not members:
        return None
    run_id = members[-1].start["run_id"]
    return _known(run_id, [member for member in members if member.start["run_id"] == run_id])


def both(journals: Known | None, told: Known | None) -> Known | None:
    """What the journals and the read side know together."""
    if journals is None or told is None:
        return journals or told
    first_steps = dict(told.first_steps)
    for attempt, first in journals.first_steps.items():
        first_steps[attempt] = min(first, first_steps.get(attempt, first))
    latest = max(first_steps)
    return Known(
        journals.run_id,
        first_steps,
        journals.members,
        told.elsewhere if told.attempt == latest else (),
        told.is_heard and told.attempt == latest and not _all_here(journals, told),
        {**told.inherited, **journals.inherited},
        max(journals.next_step, told.next_step if told.attempt == latest else 0),
    )


def _all_here(journals: Known, told: Known) -> bool:
    """Whether the journals know all processes that the read side knows: then it is for them to say who still runs."""
    return {member.rank for member in told.elsewhere} <= {member.rank for member in journals.latest}


def _known(run_id: str, members: Sequence[Member]) -> Known:
    first_steps: dict[int, int] = {}
    inherited: dict[int, Sequence[Mapping[str, Any]]] = {}
    for member in members:
        first_steps[member.attempt] = min(member.first_step, first_steps.get(member.attempt, member.first_step))
        if member.start.get("inherited"):
            inherited[member.attempt] = member.start["inherited"]
    latest = max(first_steps)
    gone = [one for one in members if isinstance(one, RemovedMember) and one.attempt == latest]
    next_step = max((member.next_step for member in gone), default=0)
    return Known(run_id, first_steps, members, inherited=inherited, next_step=next_step)


def _members(directory: Path, project: str, run_id: str | None) -> Iterator[Member]:
    """Those of the journals that are there, then of those that were removed."""
    seen = set()
    for run in directory.glob("*run-*"):
        if run_id is not None and not run.name.endswith(f"-{run_id}"):
            continue
        for journal in run.iterdir():
            if not journal.is_dir() or journal.name.startswith("."):
                continue
            try:
                found = read_start(journal)
            except (ValueError, OSError):
                continue  # what cannot be read tells nothing
            start = found.data if isinstance(found, Event) and found.kind == "start" else found
            if isinstance(start, Mapping) and _is_meant(start, project, run_id):
                seen.add(journal.name)
                yield Member(journal, start)
    for writer, entry in removed(directory).items():
        if writer not in seen and _is_meant(entry.start, project, run_id):
            yield RemovedMember(directory / entry.folder / writer, entry)


def _is_meant(start: Mapping[str, Any], project: str, run_id: str | None) -> bool:
    """Whether it is the start of a process that logs to this run, or to some run of the project."""
    ours = start.get("role") == "run" and start.get("project") == project
    return ours and (run_id is None or start.get("run_id") == run_id)
