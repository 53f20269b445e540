"""The summary of a run: a fold over its journal, so that log() pays nothing for it.

The forwarder folds as it reads, and publishes what changed; the training process folds its own journal when its
summary is asked for. The last value of a metric is its summary, unless define_metric asked for others: `loss.min`,
`loss.mean` and so on take the place of `loss` then.

An attempt that goes on where another was begins with what that one had come to, its base: a record in its own journal,
made by `carried`. A later record of that kind takes the base's place, and what was logged since stays.
"""

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pulsetrain._run.definitions import OPERATIONS, Definition, Definitions
from pulsetrain.journal.reader import Event, Item, RowBlock, TextRow

Stats = Mapping[str, float]
"""Of one metric what is known of min, max, best, first, last, and total and count, which are its mean."""


def merged(earlier: Stats, later: Stats) -> dict[str, float]:
    """What both together come to; `first` is the earlier one's, `last` the later one's, `best` is not merged."""
    found = {**earlier, **later}
    for name, of_both in (("min", min), ("max", max), ("total", sum), ("count", sum)):
        if name in earlier and name in later:
            found[name] = of_both((earlier[name], later[name]))
    if "first" in earlier:
        found["first"] = earlier["first"]
    return found


class _Operations:
    """What is asked of one metric. NaN counts for first and last only."""

    def __init__(self, definition: Definition) -> None:
        self._definition = definition
        self._asked = frozenset(definition.summary or ())
        self.stats: dict[str, float] = {}

    def feed(self, column: NDArray[np.float64]) -> None:
        stats = self.stats
        asked = self._asked
        if "last" in asked:
            stats["last"] = float(column[-1])
        if "first" in asked:
            stats.setdefault("first", float(column[0]))
        numbers = column[~np.isnan(column)]
        if not len(numbers):
            return
        if "min" in asked or "best" in asked:
            stats["min"] = min(stats.get("min", math.inf), float(numbers.min()))
        if "max" in asked or "best" in asked:
            stats["max"] = max(stats.get("max", -math.inf), float(numbers.max()))
        if "mean" in asked:
            with np.errstate(invalid="ignore", over="ignore"):
                stats["total"] = stats.get("total", 0.0) + float(numbers.sum())
            stats["count"] = stats.get("count", 0) + len(numbers)

    def found(self, base: Stats) -> dict[str, float]:
        """What was asked for, over the base and what was fed."""
        stats = merged(base, self.stats)
        found: dict[str, float] = {
            name: stats[name] for name in ("min", "max", "first", "last") if name in self._asked and name in stats
        }
        best = "max" if self._definition.goal == "maximize" else "min"
        if "best" in self._asked and best in stats:
            found["best"] = stats[best]
        if "mean" in self._asked and stats.get("count"):
            found["mean"] = stats["total"] / stats["count"]
        return found

    def state(self) -> dict[str, Any]:
        """What `of_state` goes on from, as JSON has it."""
        return {"definition": self._definition.to_event(overwrite=False), "stats": dict(self.stats)}

    @classmethod
    def of_state(cls, state: Mapping[str, Any]) -> "_Operations":
        """Goes on from where another was."""
        operations = cls(Definition.of_event(state["definition"]))
        operations.stats = dict(state["stats"])
        return operations


class SummaryFold:
    """Feed it the records of one writer in order; `values()` is the summary then. A key is never fed twice.

    With `below`, rows from that step on do not count, nor what was set by hand after the first of them: so far a
    rewind keeps a run.
    """

    def __init__(self, below: int | None = None) -> None:
        self._below = below
        self._is_beyond = False
        self._definitions = Definitions()
        self._base: Mapping[str, Any] = {}
        self._last: dict[str, Any] = {}
        # Keys of the base that are there no more.
        self._removed: set[str] = set()
        self._operations: dict[str, _Operations] = {}
        # Keys that take the short way: the last value, and nothing else was asked of them.
        self._plain: set[str] = set()
        # Keys that summary was set for by hand: their operations are off.
        self._explicit: set[str] = set()

    def feed(self, item: Item) -> None:
        """One record of the journal; what has no bearing on the summary is passed over."""
        if isinstance(item, RowBlock):
            self._rows(item.keys, item.values if self._below is None else self._kept(item, self._below))
        elif isinstance(item, TextRow):
            if self._below is not None:
                self._is_beyond = item.step >= self._below
                if self._is_beyond:
                    return
            self._rows(tuple(item.numbers), np.array([list(item.numbers.values())], np.float64))
            for key, text in item.texts.items():
                if not self._silent(key):
                    self._last[key] = json.loads(text)
        elif isinstance(item, Event) and item.kind == "summary":
            self._set(item.data)
        elif isinstance(item, Event) and item.kind == "define_metric":
            self._definitions.add(Definition.of_event(item.data), overwrite=bool(item.data.get("overwrite")))
            self._plain.clear()

    def values(self) -> dict[str, Any]:
        """Every key with its value: a number, or what JSON has. The dictionary is the caller's."""
        result = self._values()
        stats = self._base.get("operations", {})
        for key in {**stats, **self._operations}:
            operations = self._operations.get(key)
            if operations is None:
                definition = self._definitions.find(key)
                operations = None if definition is None else _Operations(definition)
            if operations is not None and key not in self._explicit:
                found = operations.found(stats.get(key, {}))
                result.update((f"{key}.{name}", value) for name, value in found.items())
        return result

    def removed(self) -> set[str]:
        """Keys that `values` may have had and has no more, unless it has them again."""
        silent = self._explicit & (self._operations.keys() | self._base.get("operations", {}).keys())
        return self._removed | {f"{key}.{name}" for key in silent for name in OPERATIONS}

    def carried(self) -> dict[str, Any]:
        """The data of a summary record that another fold goes on from."""
        stats = {key: dict(found) for key, found in self._base.get("operations", {}).items()}
        for key, operations in self._operations.items():
            stats[key] = merged(stats.get(key, {}), operations.stats)
        return {
            "carried": True,
            "summary": self._values(),
            "operations": stats,
            "explicit": sorted(self._explicit),
        }

    def definitions(self) -> list[dict[str, Any]]:
        """The data of define_metric records that say all that holds now."""
        return self._definitions.to_events()

    def state(self) -> dict[str, Any]:
        """What `restore` goes on from, as JSON has it; nothing that comes later changes it."""
        return {
            "definitions": self.definitions(),
            "base": self._base,
            "last": dict(self._last),
            "removed": sorted(self._removed),
            "operations": {key: operations.state() for key, operations in self._operations.items()},
            "explicit": sorted(self._explicit),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes on from where another fold was."""
        self._definitions = Definitions()
        for event in state["definitions"]:
            self._definitions.add(Definition.of_event(event))
        self._base = state["base"]
        self._last = dict(state["last"])
        self._removed = set(state["removed"])
        self._operations = {key: _Operations.of_state(found) for key, found in state["operations"].items()}
        self._explicit = set(state["explicit"])
        self._plain.clear()

    def _kept(self, block: RowBlock, below: int) -> NDArray[np.float64]:
        self._is_beyond = bool(block.steps[-1] >= below)
        return block.values[block.steps < below]

    def _rows(self, keys: tuple[str, ...], values: NDArray[np.float64]) -> None:
        if not len(values):
            return
        if self._plain.issuperset(keys):
            self._last.update(zip(keys, values[-1].tolist(), strict=True))
            return
        for index, key in enumerate(keys):
            definition = self._definitions.find(key)
            if key in self._explicit or definition is None or definition.summary is None:
                self._plain.add(key)
                self._last[key] = float(values[-1, index])
                continue
            if "copy" in definition.summary:
                self._last[key] = float(values[-1, index])
            else:
                self._remove((key,))
            if "none" in definition.summary:
                continue
            operations = self._operations.get(key)
            if operations is None:
                operations = self._operations[key] = _Operations(definition)
            operations.feed(values[:, index])

    def _values(self) -> dict[str, Any]:
        base = self._base.get("summary", {})
        return {key: value for key, value in base.items() if key not in self._removed} | self._last

    def _remove(self, keys: Iterable[str]) -> None:
        for key in keys:
            self._last.pop(key, None)
            self._removed.add(key)

    def _silent(self, key: str) -> bool:
        definition = self._definitions.find(key)
        return key not in self._explicit and definition is not None and "none" in (definition.summary or ())

    def _set(self, data: Mapping[str, Any]) -> None:
        if data.get("carried"):
            self._base = data
            self._explicit.update(data.get("explicit", ()))
        elif not self._is_beyond:
            self._last.update(data.get("summary", {}))
            self._remove(data.get("removed", ()))
            self._explicit.update(data.get("summary", {}), data.get("removed", ()))
