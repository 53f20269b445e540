"""A journal as it grows, and what its records have taught so far: whose it is, what was counted, what the summary is.

A tail may go back to an earlier position. Records that it reads a second time are given out again, but are neither
counted nor folded into the summary again.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from pulsetrain.forwarder.acknowledgement import Counters
from pulsetrain.journal.format import START, Position
from pulsetrain.journal.reader import Damage, Event, Item, JournalReader, RowBlock, TextRow
from pulsetrain_schemas.events import Origin


class Fold(Protocol):
    """What the summary is made by: `pulsetrain._run.summary.SummaryFold`."""

    def feed(self, item: Item) -> None: ...

    def values(self) -> Mapping[str, Any]: ...


@dataclass(frozen=True, slots=True)
class Identity:
    """Whose journal it is, as its first record says."""

    project: str
    run_id: str
    writer: str
    rank: int
    attempt: int
    attempt_started: int
    host: str
    primary: bool
    role: Literal["run", "system"]
    offline: bool
    pid: int
    pid_created: float
    telemetry: bool

    @classmethod
    def of(cls, start: Item) -> "Identity":
        """Reads the start record. Raises ValueError where that is not what the journal begins with."""
        if not isinstance(start, Event) or start.kind != "start":
            raise ValueError("the journal does not begin with its start record")
        data = start.data
        try:
            return cls(
                project=str(data["project"]),
                run_id=str(data["run_id"]),
                writer=str(data["writer"]),
                rank=int(data["rank"]),
                attempt=int(data["attempt"]),
                attempt_started=int(data["attempt_started"]),
                host=str(data["host"]),
                primary=bool(data["primary"]),
                role="system" if data["role"] == "system" else "run",
                offline=data["mode"] == "offline",
                pid=int(data["pid"]),
                pid_created=float(data["pid_created"]),
                telemetry=bool(data.get("telemetry", True)),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"the start record of the journal is not understood: {error!r}") from None

    def origin(self, first_sequence: int, last_sequence: int) -> Origin:
        """The origin of a message that accounts for these sequences."""
        return Origin(
            self.project,
            self.run_id,
            self.writer,
            self.rank,
            self.attempt,
            self.attempt_started,
            first_sequence,
            last_sequence,
        )


def read_identity(journal: Path) -> Identity | None:
    """Whose journal it is; None when its first record is not written yet. ValueError as `Identity.of`."""
    with JournalReader(journal) as reader:
        items = reader.read(4096)
        if not items:
            if reader.damage is not None:
                raise ValueError(f"the journal cannot be read: {reader.damage.reason}")
            return None
    start = items[0]
    return Identity.of(start)


class Tail:
    """Reads one journal. `counters`, `last_time` and the fold are of everything read so far."""

    def __init__(self, journal: Path, fold: Fold | None = None) -> None:
        self.journal = journal
        self.fold = fold
        self.counters = Counters()
        self.last_time = 0.0
        self.finished = False
        """Whether the record of the run's end was read."""
        self._learnt = 0
        self._reader = JournalReader(journal)

    @property
    def position(self) -> Position:
        return self._reader.position

    @property
    def sequence(self) -> int:
        """The last sequence read."""
        return self._reader.sequence

    @property
    def damage(self) -> Damage | None:
        return self._reader.damage

    def read(self, max_bytes: int) -> list[Item]:
        """The records that are there now, about `max_bytes` of them."""
        items = self._reader.read(max_bytes)
        for item in items:
            self._learn(item)
        return items

    def seek(self, position: Position = START) -> None:
        """Goes back, to give records out again."""
        self._reader.close()
        self._reader = JournalReader(self.journal, position)

    def close(self) -> None:
        self._reader.close()

    def _learn(self, item: Item) -> None:
        if isinstance(item, RowBlock):
            last = int(item.sequences[-1])
            if last <= self._learnt:
                return
            item = after(item, self._learnt)
            rows, points = item.values.shape
            self.counters = Counters(
                self.counters.rows + rows, self.counters.points + rows * points, self.counters.texts
            )
            self.last_time = float(item.times[-1])
        else:
            last = item.sequence
            if last <= self._learnt:
                return
            self.last_time = item.time
            if isinstance(item, TextRow):
                counted = self.counters
                self.counters = Counters(
                    counted.rows + 1, counted.points + len(item.numbers), counted.texts + len(item.texts)
                )
            elif item.kind == "finish":
                self.finished = True
        self._learnt = last
        if self.fold is not None:
            self.fold.feed(item)


def after(block: RowBlock, sequence: int) -> RowBlock:
    """The rows of the block that come after `sequence`."""
    skip = sequence + 1 - int(block.sequences[0])
    if skip <= 0:
        return block
    return RowBlock(block.keys, block.sequences[skip:], block.steps[skip:], block.times[skip:], block.values[skip:])
