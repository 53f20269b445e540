"""How long journals are kept and how much of the disk they take: measures, removes what may go, says what is near.

What Kafka has is kept for a while (seven days) and then removed. A directory of runs has a ceiling (20 GiB, or a
quarter of a small disk, and never the last of its free space); when it is near, what Kafka has goes before its time,
oldest first. What Kafka does not have is never removed: at the ceiling those who log are told to stop, see
`journal.room`, and well before it the person who trains is told.

On a thread of its own, since a directory of many runs takes long to look through.
"""

import contextlib
import json
import logging
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from pulsetrain.forwarder import removal
from pulsetrain.forwarder.acknowledgement import ACK_FILE
from pulsetrain.forwarder.checkpoint import Checkpoint
from pulsetrain.forwarder.places import read_json, write_atomically
from pulsetrain.journal import room
from pulsetrain.journal.room import Disk, Usage, size_text

logger = logging.getLogger(__name__)

# At this share of the ceiling removing begins, and at this one the person is told.
REMOVE_SHARE, ANNOUNCE_SHARE = 0.75, 0.8
# A journal that was confirmed a moment ago is left for whoever waits for that; a forwarder lives longer than this.
GRACE_SECONDS = 20.0
EMPTY_SECONDS = 86400.0
LOOK_SECONDS, NEAR_LOOK_SECONDS = 5.0, 1.0
NEAR_SHARE = 0.5
# Looking takes at most this share of the time.
BUSY_SHARE = 0.02


@dataclass(frozen=True, slots=True)
class Policy:
    """`retention` in seconds, `max_bytes` in bytes; None is the default ceiling of the disk."""

    retention: float = room.DEFAULT_RETENTION
    max_bytes: float | None = None
    grace: float = GRACE_SECONDS

    @classmethod
    def of(cls, env: Mapping[str, str]) -> "Policy":
        """What the environment says. Where that is not understood nothing is removed for its age, and it is said."""
        try:
            return cls(room.retention(env), room.max_bytes(env))
        except ValueError as error:
            logger.error("%s; until that is put right, nothing is removed for its age", error)
            return cls(retention=math.inf)

    def ceiling(self, disk: Disk) -> float:
        """What the journals of a directory on this disk may take, as long as it has that much."""
        if self.max_bytes is not None:
            return self.max_bytes
        return min(room.DEFAULT_MAX_BYTES, disk.total // room.DEFAULT_SHARE)

    def limit(self, taken: int, disk: Disk) -> int:
        """What they may take as the disk is now, those `taken` bytes included."""
        return max(int(min(self.ceiling(disk), taken + disk.available)), 0)


@dataclass(slots=True)
class _Journal:
    """One journal as the disk has it."""

    path: Path
    segments: list[tuple[int, float, int]]
    """Number, time of the last change, bytes; in order."""
    drafts: int
    """Bytes of segments that a process was killed over before they were any."""
    completed: float | None
    """Since when Kafka has all of it, in seconds since the epoch."""

    @property
    def taken(self) -> int:
        return sum(size for _, _, size in self.segments) + self.drafts

    @property
    def changed(self) -> float:
        return max((changed for _, changed, _ in self.segments), default=math.inf)


@dataclass(slots=True)
class Survey:
    """The journals of one directory."""

    journals: list[_Journal] = field(default_factory=list)
    trash: list[Path] = field(default_factory=list)
    empty: list[Path] = field(default_factory=list)
    """Folders of runs with nothing in them."""

    @property
    def taken(self) -> int:
        return sum(journal.taken for journal in self.journals)

    @classmethod
    def of(cls, directory: Path) -> "Survey":
        """Looks through the run folders. What goes away meanwhile is not counted."""
        survey = cls()
        for run in directory.glob("*run-*"):
            try:
                content = list(run.iterdir())
                folders = [path for path in content if path.is_dir()]
            except OSError:
                continue
            if not content:
                survey.empty.append(run)
            for folder in folders:
                if folder.name.startswith(removal.TRASH_PREFIX):
                    survey.trash.append(folder)
                elif (journal := _survey(folder)) is not None:
                    survey.journals.append(journal)
        return survey


def _survey(folder: Path) -> _Journal | None:
    journal = _Journal(folder, [], 0, None)
    try:
        for path in folder.glob("*.journal*"):
            found = path.stat()
            if path.suffix == ".journal" and path.stem.isdecimal():
                journal.segments.append((int(path.stem), found.st_mtime, found.st_blocks * room.BLOCK_BYTES))
            else:
                journal.drafts += found.st_blocks * room.BLOCK_BYTES
        if not journal.segments and not journal.drafts:
            return None
        journal.segments.sort()
        acknowledged = read_json(folder / ACK_FILE)
        if acknowledged is not None and acknowledged.get("complete"):
            journal.completed = (folder / ACK_FILE).stat().st_mtime
    except OSError:
        return None
    return journal


class Keeper:
    """Keeps one directory within its policy."""

    def __init__(self, directory: Path, policy: Policy, clock: Callable[[], float] = time.time) -> None:
        self.directory = directory
        self.usage: Usage | None = None
        """What the last look found."""
        self._policy = policy
        self._clock = clock
        self._said: set[tuple[str, Path | None]] = set()
        self._not_empty: set[Path] = set()

    def look(self) -> Usage:
        """Removes what is due, measures, and leaves word of it in the directory. OSError where that is gone."""
        now = self._clock()
        survey = Survey.of(self.directory)
        for trash in survey.trash:
            with contextlib.suppress(OSError):  # somebody has a file of it open, on a disk of the network
                removal.discard(trash)
        for run in survey.empty:
            with contextlib.suppress(OSError):
                if run.stat().st_mtime < now - self._policy.grace:  # else a run is just beginning there
                    run.rmdir()
        self._expire(survey, now)
        taken = survey.taken
        disk = Disk.of(self.directory)
        limit = self._policy.limit(taken, disk)
        if taken > REMOVE_SHARE * limit:
            taken -= self._make_room(survey, now, taken - int(REMOVE_SHARE * limit))
        disk = Disk.of(self.directory)
        limit = self._policy.limit(taken, disk)
        usage = Usage(taken, limit, now, self._notice(taken, limit, disk))
        write_atomically(self.directory / room.USAGE_FILE, usage.encode())
        self.usage = usage
        return usage

    def _expire(self, survey: Survey, now: float) -> None:
        """Removes what Kafka has had for longer than the retention."""
        before = now - self._policy.retention
        for journal in survey.journals.copy():
            if journal.completed is not None:
                if journal.completed <= before and self._is_settled(journal, now):
                    self._remove(survey, journal, now)
                continue
            old = [number for number, changed, _ in journal.segments if changed <= before]
            if old:
                self._remove_segments(journal, max(old) + 1)
            if len(journal.segments) == 1 and journal.changed < now - max(self._policy.retention, EMPTY_SECONDS):
                self._remove_if_empty(survey, journal)

    def _make_room(self, survey: Survey, now: float, wanted: int) -> int:
        """Removes what Kafka has, oldest first, until `wanted` bytes are free or there is nothing more. Returns how
        many are free.
        """
        before = survey.taken
        freed = 0
        segments: dict[Path, tuple[_Journal, int]] = {}
        for _, journal, segment, size in sorted(self._candidates(survey, now), key=lambda found: found[0]):
            if freed >= wanted:
                break
            if segment is not None:
                segments[journal.path] = (journal, segment)
                freed += size
            elif self._remove(survey, journal, now):
                freed += size
        for journal, segment in segments.values():
            self._remove_segments(journal, segment + 1)
        freed = before - survey.taken
        if freed:
            logger.info("%s: removed %s that Kafka has, to stay below the ceiling", self.directory, size_text(freed))
        return freed

    def _candidates(self, survey: Survey, now: float) -> Iterator[tuple[float, _Journal, int | None, int]]:
        """What might go: since when, of which journal, which segment of it where not all of it may, and its bytes."""
        for journal in survey.journals:
            if journal.completed is not None:
                if self._is_settled(journal, now):
                    yield journal.completed, journal, None, journal.taken
                continue
            checkpoint = Checkpoint.load(journal.path)
            latest = 0.0
            for number, changed, size in journal.segments:
                if checkpoint is not None and number < checkpoint.position.segment:
                    latest = max(latest, changed)  # a copy may have given them other times; their order stays
                    yield latest, journal, number, size

    def _is_settled(self, journal: _Journal, now: float) -> bool:
        return journal.completed is not None and now - journal.completed >= self._policy.grace

    def _remove(self, survey: Survey, journal: _Journal, now: float) -> bool:
        try:
            removal.remove(journal.path, now)
        except (removal.Kept, OSError) as error:
            self._say("is not removed", journal.path, str(error))
            return False
        survey.journals.remove(journal)
        return True

    def _remove_if_empty(self, survey: Survey, journal: _Journal) -> None:
        if journal.path in self._not_empty:
            return
        try:
            removal.remove_empty(journal.path)
            survey.journals.remove(journal)
        except (removal.Kept, ValueError, OSError):
            self._not_empty.add(journal.path)

    def _remove_segments(self, journal: _Journal, before: int) -> None:
        try:
            gone = set(removal.remove_segments(journal.path, before))
            journal.segments = [segment for segment in journal.segments if segment[0] not in gone]
        except OSError as error:
            self._say("keeps its old segments", journal.path, str(error))

    def _notice(self, taken: int, limit: int, disk: Disk) -> str:
        if not taken or taken < ANNOUNCE_SHARE * limit:
            self._said.discard(("near", None))
            return ""
        full = taken + disk.available < self._policy.ceiling(disk)
        notice = (
            f"the journals in {self.directory} take {size_text(taken)} of the {size_text(limit)} that they may"
            f"{', for the disk is nearly full' if full else ''}, and Kafka does not have them yet; what is logged "
            f"beyond that will be lost. Have Kafka reachable, send offline runs with `pulsetrain sync "
            f"{self.directory}`, or {'make room on the disk' if full else f'raise {room.MAX_BYTES_VARIABLE}'}"
        )
        if ("near", None) not in self._said:
            self._said.add(("near", None))
            logger.warning("%s", notice)
        return notice

    def _say(self, what: str, journal: Path, why: str) -> None:
        """Once a journal: it is looked at again every few seconds."""
        if (what, journal) not in self._said:
            self._said.add((what, journal))
            logger.warning("the journal %s %s: %s", journal, what, why)


class Retention:
    """Looks after the directories that it was told of, now and by forwarders before it, from a thread of its own."""

    def __init__(
        self,
        memory: Path,
        policy: Policy,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`memory` is the file that the directories are remembered in; `policy` counts where nobody said another."""
        self._memory = memory
        self._policy = policy
        self._clock = clock
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._limits = _remembered(memory)
        self._keepers = {path: self._keeper(path) for path in self._limits}
        self._leave = threading.Event()
        self._failed: set[Path] = set()
        self._thread = threading.Thread(target=self._run, name="retention", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread; a look in progress may be broken off anywhere."""
        self._leave.set()

    def watch(self, directory: Path, limits: Mapping[str, str] | None = None) -> None:
        """Looks after a directory of runs from now on. OSError where that cannot be remembered.

        `limits` are what the process that logs there has in its environment; the last one that says something counts.
        """
        with self._lock:
            if directory in self._keepers and (not limits or limits == self._limits[directory]):
                return
            self._limits[directory] = dict(limits or {})
            self._keepers[directory] = self._keeper(directory)
            self._remember()

    @property
    def fullest(self) -> Usage | None:
        """What was found in the directory that is nearest to its ceiling."""
        usages = [keeper.usage for keeper in list(self._keepers.values()) if keeper.usage is not None]
        return max(usages, key=lambda usage: usage.taken / max(usage.limit, 1), default=None)

    def look(self) -> None:
        """One look at each directory; one that is gone is forgotten."""
        with self._lock:
            keepers = list(self._keepers.values())
        for keeper in keepers:
            try:
                keeper.look()
                self._failed.discard(keeper.directory)
            except OSError as error:
                if not keeper.directory.exists():
                    with self._lock:
                        del self._keepers[keeper.directory], self._limits[keeper.directory]
                        self._remember()
                elif keeper.directory not in self._failed:
                    self._failed.add(keeper.directory)
                    logger.warning("what the journals in %s take cannot be told: %s", keeper.directory, error)

    def _keeper(self, directory: Path) -> Keeper:
        limits = self._limits[directory]
        policy = replace(Policy.of(limits), grace=self._policy.grace) if limits else self._policy
        return Keeper(directory, policy, self._clock)

    def _remember(self) -> None:
        document = {"directories": {str(path): limits for path, limits in self._limits.items()}}
        write_atomically(self._memory, json.dumps(document).encode())

    def _run(self) -> None:
        self._leave.wait(NEAR_LOOK_SECONDS)  # the journals that wait come first
        while not self._leave.is_set():
            began = self._monotonic()
            try:
                self.look()
            except Exception:
                logger.exception("looking after the journals failed; it is tried again")
            took = self._monotonic() - began
            usage = self.fullest
            near = usage is not None and usage.taken > NEAR_SHARE * usage.limit
            self._leave.wait(max(NEAR_LOOK_SECONDS if near else LOOK_SECONDS, took / BUSY_SHARE))


def _remembered(memory: Path) -> dict[Path, dict[str, str]]:
    """The directories, and the limits that count there."""
    found = (read_json(memory) or {}).get("directories")
    if not isinstance(found, dict):
        return {}
    return {Path(path): dict(limits) for path, limits in found.items() if isinstance(limits, dict)}
