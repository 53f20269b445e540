"""What a run had come to, for the attempt or the fork that goes on from there: config, definitions, rules, summary …

The journals of one attempt are enough, because an attempt's own begin with what it took over. Where they are on another
machine, the read side tells as much as is stored.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pulsetrain._run.attempts import Member
from pulsetrain._run.definitions import Definition, Definitions
from pulsetrain._run.summary import SummaryFold, merged
from pulsetrain.forwarder.tail import RULES, Tail, rules_with
from pulsetrain.journal.reader import Event, Item, RowBlock

_NAMES = ("name", "notes", "tags", "group", "job_type")


@dataclass(slots=True)
class State:
    """All that is handed on."""

    config: dict[str, Any] = field(default_factory=dict)
    definitions: Definitions = field(default_factory=Definitions)
    summary: dict[str, Any] = field(default_factory=dict)
    """The last values, and what was set by hand."""
    operations: dict[str, Any] = field(default_factory=dict)
    """What one rank has of min, max and so on, by metric."""
    explicit: set[str] = field(default_factory=set)
    start: dict[str, Any] = field(default_factory=dict)
    """Name, notes, tags, group and job type."""
    rules: dict[str, Any] = field(default_factory=dict)
    """What alert_when() said, by the name of the rule."""
    next_step: int | None = None
    """The one after the last that was logged; None where none was."""
    has_primary: bool = False
    """Whether it is from the process that speaks for the run."""
    has_rank: bool = False
    """Whether it is from a process of the rank that asked."""

    def record(self, *, primary: bool) -> dict[str, Any]:
        """The summary record that a journal goes on from. For the values one process speaks, each rank for its own."""
        record: dict[str, Any] = {"carried": True, "operations": self.operations}
        return record | {"summary": self.summary, "explicit": sorted(self.explicit)} if primary else record


def by_journals(members: Sequence[Member], rank: int, below: int | None) -> State | None:
    """Of the members of one attempt, the lowest rank first; rows from `below` on do not count.

    None where that cannot be told, because what is left of a journal goes beyond.
    """
    state = State()
    for member in reversed(members):
        fold = SummaryFold(below)
        tail = Tail(member.journal, fold, whole=True)
        if below is not None and tail.last_step is not None and tail.last_step >= below:
            return None
        reading = _Reading(member, tail)
        carried = fold.carried()
        for data in fold.definitions():
            state.definitions.add(Definition.of_event(data), overwrite=True)
        state.config.update(tail.config)
        state.rules.update(reading.rules)
        state.summary.update(carried["summary"])
        state.explicit.update(carried["explicit"])
        if member.rank == rank:
            state.has_rank = True
            for key, stats in carried["operations"].items():
                state.operations[key] = merged(stats, state.operations.get(key, {}))
        if member.primary:
            state.has_primary = True
            state.start = reading.start
        if reading.last_step is not None:
            state.next_step = max(reading.last_step + 1, state.next_step or reading.last_step + 1)
    return state


def by_read_side(told: Mapping[str, Any]) -> State:
    """What the read side says, see `pulsetrain_consumers.reading.resuming`."""
    definitions = Definitions()
    for data in told["definitions"]:
        definitions.add(Definition.of_event(data), overwrite=True)
    return State(
        dict(told["config"]),
        definitions,
        dict(told["summary"]),
        dict(told["operations"]),
        set(told["explicit"]),
        dict(told["start"]),
        dict(told.get("rules", {})),
        has_primary=True,
        has_rank=True,
    )


def best(journals: State | None, told: State | None) -> State:
    """The journals know exactly what the processes on this machine did; of the others the read side knows."""
    if journals is None or told is None:
        return journals or told or State()
    whole = journals if journals.has_primary else told
    own = journals if journals.has_rank else told
    return State(
        whole.config,
        whole.definitions,
        {**told.summary, **whole.summary},
        own.operations,
        whole.explicit,
        whole.start,
        whole.rules,
        journals.next_step,
        True,
        True,
    )


class _Reading:
    """Reads a journal to its end, for what the tail does not learn: names that were changed, and the last step."""

    def __init__(self, member: Member, tail: Tail) -> None:
        self.start = {name: member.start[name] for name in _NAMES if member.start.get(name) is not None}
        self.rules: dict[str, Any] = dict(member.start.get(RULES, {}))
        self.last_step = tail.last_step
        while items := tail.read(1 << 20):
            for item in items:
                self._learn(item)
        tail.close()

    def _learn(self, item: Item) -> None:
        if isinstance(item, Event):
            if item.kind == "alert_rule":
                self.rules = rules_with(self.rules, item.data)
            elif item.kind == "update":
                self.start.update({name: item.data[name] for name in _NAMES if item.data.get(name) is not None})
            return
        last = int(item.steps.max()) if isinstance(item, RowBlock) else item.step
        self.last_step = last if self.last_step is None else max(self.last_step, last)
