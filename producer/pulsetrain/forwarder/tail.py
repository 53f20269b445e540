"""A journal as it grows, and what its records have taught so far: whose it is, what was counted, what the summary is.

What lies before the journal's checkpoint need not be read for that, and may be gone. A tail may go back to an earlier
position. Records that it reads a second time are given out again, but are neither counted nor folded into the summary
again.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from pulsetrain.forwarder.acknowledgement import Acknowledged, Counters
from pulsetrain.forwarder.checkpoint import Checkpoint
from pulsetrain.journal.format import Position, segment_path
from pulsetrain.journal.reader import Damage, Event, Item, JournalReader, RowBlock, TextRow

if TYPE_CHECKING:
    from pulsetrain_schemas.events import Origin


# What a person calls a run, and may change while it goes on.
NAMES = ("name", "notes", "tags", "group", "job_type")
# Where the data of a start record have the rules that were said since: by name, see `rules_with`.
RULES = "alert_rules"


class Fold(Protocol):
    """What the summary is made by: `pulsetrain._run.summary.SummaryFold`."""

    def feed(self, item: Item) -> None: ...

    def values(self) -> Mapping[str, Any]: ...

    def removed(self) -> Iterable[str]: ...

    def state(self) -> Mapping[str, Any]: ...

    def restore(self, state: Mapping[str, Any]) -> None: ...


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
    sampling_seconds: float | None = None
    """How often its hardware is to be sampled, where that was said."""

    @classmethod
    def of(cls, start: Item) -> "Identity":
        """Reads the start record. Raises ValueError where that is not what the journal begins with."""
        if not isinstance(start, Event) or start.kind != "start":
            raise ValueError("the journal does not begin with its start record")
        return cls.of_start(start.data)

    @classmethod
    def of_start(cls, data: Mapping[str, Any]) -> "Identity":
        """Reads the data of a start record; ValueError where they are not understood."""
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
                sampling_seconds=None if data.get("sampling_seconds") is None else float(data["sampling_seconds"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"the start record of the journal is not understood: {error!r}") from None

    def origin(self, first_sequence: int, last_sequence: int) -> "Origin":
        """The origin of a message that accounts for these sequences."""
        from pulsetrain_schemas.events import Origin  # a training process that folds its summary has no use for Avro

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


def read_start(journal: Path) -> Item | Mapping[str, Any] | None:
    """The first record; where its segment was removed, the data of the start record from the checkpoint.

    None where no record is complete. Raises ValueError where the beginning can be told from neither.
    """
    with JournalReader(journal) as reader:
        items = reader.read(4096)
        if items:
            return items[0]
    checkpoint = Checkpoint.load(journal)
    if checkpoint is not None:
        return checkpoint.start
    if not segment_path(journal, 1).exists() and any(journal.glob("*.journal")):
        raise ValueError("its first segment is gone, and no checkpoint tells what was in it")
    if reader.damage is not None:
        raise ValueError(f"the journal cannot be read: {reader.damage.reason}")
    return None


def read_identity(journal: Path) -> Identity | None:
    """Whose journal it is; None while its start record is not complete. Raises ValueError where it is no journal."""
    start = read_start(journal)
    if start is None:
        return None
    return Identity.of_start(start) if isinstance(start, Mapping) else Identity.of(start)


class Tail:
    """Reads one journal. `counters`, `last_time` and so on are of everything up to the last record that was read."""

    def __init__(self, journal: Path, fold: Fold | None = None, *, whole: bool = False) -> None:
        """Begins at the checkpoint; with `whole`, at the first segment where that is still there."""
        self.journal = journal
        self.fold = fold
        self.counters = Counters()
        self.last_time = 0.0
        self.latest_time = 0.0
        """The latest time of a record, in seconds since the epoch: it does not go back where the clock did."""
        self.last_step: int | None = None
        self.start: Mapping[str, Any] = {}
        """The data of the start record, as later records have changed them; empty before it was read."""
        self.config: dict[str, Any] = {}
        self.finish: Mapping[str, Any] | None = None
        """The data of the record of the run's end, once it was read."""
        self._learnt = 0
        self._sequence = 0
        self._reader = JournalReader(journal)
        if not (whole and segment_path(journal, 1).exists()):
            self._begin_at(self._checkpoint())

    @property
    def position(self) -> Position:
        return self._reader.position

    @property
    def sequence(self) -> int:
        """The last sequence read."""
        return self._reader.sequence or self._sequence

    @property
    def reads_again(self) -> bool:
        """Whether it is on the way to where it has been: then the counters and the fold are ahead of it."""
        return self.sequence < self._learnt

    @property
    def finished(self) -> bool:
        """Whether the record of the run's end was read."""
        return self.finish is not None

    @property
    def damage(self) -> Damage | None:
        return self._reader.damage

    def read(self, max_bytes: int) -> list[Item]:
        """The records that are there now, about `max_bytes` of them.

        Where the segments that were to be read next have been removed meanwhile, it goes on at the checkpoint.
        """
        items = self._reader.read(max_bytes)
        if not items and (self._reader.damage is not None or self._reader.writer is None) and self._is_overtaken():
            items = self._reader.read(max_bytes)
        for item in items:
            self._learn(item)
        return items

    def read_all(self) -> None:
        """Reads what is there now, for what it teaches."""
        while self.read(1 << 20):
            pass

    def seek(self, acknowledged: Acknowledged) -> None:
        """Goes back, to give records out again."""
        self._reader.close()
        self._reader = JournalReader(self.journal, acknowledged.position)
        self._sequence = acknowledged.sequence

    def checkpoint(self, acknowledged: Acknowledged) -> Checkpoint | None:
        """What is known now, at the position of `acknowledged`; None in the middle of reading something again."""
        if self.sequence != self._learnt or self.position != acknowledged.position or self.finished:
            return None
        summary = None if self.fold is None else self.fold.state()
        return Checkpoint(
            acknowledged, self.start, self.last_time, self.latest_time, self.last_step, dict(self.config), summary
        )

    def close(self) -> None:
        """Closes the file. Reading again goes on from the same position."""
        self._reader.close()

    def _checkpoint(self) -> Checkpoint | None:
        """One that this tail can go on from: the summary that it is to make must be in it."""
        checkpoint = Checkpoint.load(self.journal)
        if checkpoint is None or (self.fold is not None and checkpoint.summary is None):
            return None
        following = segment_path(self.journal, checkpoint.position.segment)
        return checkpoint if following.exists() else None

    def _is_overtaken(self) -> bool:
        number = self.position.segment
        if all(segment_path(self.journal, wanted).exists() for wanted in (number, number + 1)):
            return False
        checkpoint = self._checkpoint()
        if checkpoint is None or checkpoint.position.segment <= number:
            return False
        self._begin_at(checkpoint)
        return True

    def _begin_at(self, checkpoint: Checkpoint | None) -> None:
        if checkpoint is None:
            return
        self.counters = checkpoint.acknowledged.counters
        self.last_time = checkpoint.last_time
        self.latest_time = checkpoint.latest_time
        self.last_step = checkpoint.last_step
        self.start = checkpoint.start
        self.config = dict(checkpoint.config)
        if self.fold is not None and checkpoint.summary is not None:
            self.fold.restore(checkpoint.summary)
        self._learnt = checkpoint.acknowledged.sequence
        self.seek(checkpoint.acknowledged)

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
            self._note_step(int(item.steps[0] if rows == 1 else item.steps.max()))
        else:
            last = item.sequence
            if last <= self._learnt:
                return
            if isinstance(item, TextRow):
                counted = self.counters
                self.counters = Counters(
                    counted.rows + 1, counted.points + len(item.numbers), counted.texts + len(item.texts)
                )
                self._note_step(item.step)
            elif item.kind == "start":
                self.start = item.data
            elif item.kind == "update":
                self._update_start(item.data)
            elif item.kind == "alert_rule":
                self._learn_rule(item.data)
            elif item.kind == "config":
                self.config.update(item.data.get("config", {}))
                for key in item.data.get("removed", ()):
                    self.config.pop(key, None)
            elif item.kind == "finish":
                self.finish = item.data
        self.last_time, latest = times_of(item)
        self.latest_time = max(self.latest_time, latest)
        self._learnt = last
        if self.fold is not None:
            self.fold.feed(item)

    def _update_start(self, data: Mapping[str, Any]) -> None:
        changed = {name: data[name] for name in NAMES if data.get(name) is not None}
        if "first_step" in data:
            changed["first_step"] = min(int(data["first_step"]), int(self.start.get("first_step") or 0))
        if changed:
            self.start = {**self.start, **changed}

    def _learn_rule(self, data: Mapping[str, Any]) -> None:
        """What alert_when() said stands in the start record's place for it, which a checkpoint keeps."""
        self.start = {**self.start, RULES: rules_with(self.start.get(RULES, {}), data)}

    def _note_step(self, step: int) -> None:
        if self.last_step is None or step > self.last_step:
            self.last_step = step


def rules_with(rules: Mapping[str, Any], data: Mapping[str, Any]) -> dict[str, Any]:
    """The rules by name, and what one more record says: a rule, or that there is none of a name any more."""
    name = str(data.get("name", ""))
    others = {known: rule for known, rule in rules.items() if known != name}
    return others if data.get("removed") else {**others, name: data}


def times_of(item: Item) -> tuple[float, float]:
    """When it was logged, in seconds since the epoch; of several rows when the last was, and the latest time of all."""
    if isinstance(item, RowBlock):
        return float(item.times[-1]), float(item.times.max())
    return item.time, item.time


def after(block: RowBlock, sequence: int) -> RowBlock:
    """The rows of the block that come after `sequence`."""
    skip = sequence + 1 - int(block.sequences[0])
    if skip <= 0:
        return block
    return RowBlock(block.keys, block.sequences[skip:], block.steps[skip:], block.times[skip:], block.values[skip:])
