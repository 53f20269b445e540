"""What a monitor knows of a run, and of how far it has read: in memory, and as the texts that it saves."""

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np

from pulsetrain_consumers.monitor.alerts import AlertBook
from pulsetrain_consumers.monitor.rules import RULE, RuleWatch
from pulsetrain_consumers.monitor.watch import RunWatch
from pulsetrain_consumers.runtime.broker import Partition
from pulsetrain_schemas.events import MetricBatch, RunEvent, SystemBatch

log = logging.getLogger(__name__)

# The part that holds the place; the others are those of runs, and have a slash.
PLACE = "offsets"
RunKey = tuple[str, str]
E = TypeVar("E", MetricBatch, SystemBatch, RunEvent)


@dataclass(slots=True, eq=False)
class Watched:
    """A run, and what is known of it. `read` holds, by topic and writer, the last sequence that came."""

    watch: RunWatch
    rules: RuleWatch
    book: AlertBook
    heard_at: float
    read: dict[str, int] = field(default_factory=dict)
    is_changed: bool = True

    def text(self, key: RunKey) -> str:
        """All of it, for `restored`."""
        return json.dumps(
            {
                "run": key,
                "heard_at": self.heard_at,
                "read": self.read,
                "book": self.book.state(),
                "watch": self.watch.state(),
                "rules": self.rules.state(),
            }
        )


def restored(text: str, new: Callable[[str, str, float], Watched]) -> tuple[RunKey, Watched]:
    """The run that `Watched.text` told of. Where its watches cannot be read, as of another release, its alerts can.

    `new` makes one of which nothing is known. Raises whatever another release's text, or damage, makes of it.
    """
    state: Mapping[str, Any] = json.loads(text)
    project, run_id = state["run"]
    watched = new(project, run_id, float(state["heard_at"]))
    watched.book.restore(state["book"])
    try:
        watched.watch = RunWatch.restored(project, run_id, state["watch"])
    except Exception:
        log.exception("what was seen of run %s of %s cannot be read: it is watched anew", run_id, project)
        watched.book.doubt(lambda kind: kind != RULE)
    try:
        if "rules" in state:
            watched.rules.restore(state["rules"])
    except Exception:
        log.exception("what the rules saw of run %s of %s cannot be read: they begin anew", run_id, project)
        watched.book.doubt(lambda kind: kind == RULE)
    watched.read = {str(place): int(sequence) for place, sequence in state["read"].items()}
    watched.is_changed = False
    return (project, run_id), watched


def part(key: RunKey) -> str:
    """The name of a run's part: project/run_id, with the slashes in them written otherwise."""
    return "/".join(name.replace("%", "%25").replace("/", "%2F") for name in key)


def place_text(positions: Mapping[Partition, int], now: float) -> str:
    """Offsets, and the broker's time, for `place`."""
    return json.dumps({"now": now, "at": {str(partition): at for partition, at in positions.items()}})


def place(text: str) -> tuple[dict[Partition, int], float]:
    """What `place_text` told; nothing where that cannot be read."""
    found: dict[Partition, int] = {}
    try:
        saved = json.loads(text or "{}")
        for name, at in saved.get("at", {}).items():
            topic, _, number = name.rpartition("[")
            found[Partition(topic, int(number.removesuffix("]")))] = int(at)
        return found, float(saved.get("now", 0.0))
    except (ValueError, TypeError, AttributeError):
        log.exception("the place that was saved cannot be read: going on with what came in the last minutes")
        return {}, 0.0


def unread(event: E, after: int) -> E:
    """An event without the rows up to a sequence: they came before, in a message that ended elsewhere."""
    if isinstance(event, RunEvent) or event.origin.first_sequence > after:
        return event
    keep = np.asarray(event.row_sequences) > after
    kept: dict[str, Any] = {
        name: np.asarray(getattr(event, name))[keep] for name in ("row_sequences", "row_times", "row_shapes")
    }
    kept["values"] = np.asarray(event.values)[keep[event.point_rows]]
    if isinstance(event, MetricBatch):
        texts = keep[event.text_rows]
        kept["row_steps"] = np.asarray(event.row_steps)[keep]
        kept["text_rows"] = (np.cumsum(keep) - 1)[event.text_rows][texts]
        kept["text_keys"] = np.asarray(event.text_keys)[texts]
        kept["text_values"] = [text for text, is_kept in zip(event.text_values, texts.tolist(), strict=True) if is_kept]
    return replace(event, origin=replace(event.origin, first_sequence=after + 1), **kept)
