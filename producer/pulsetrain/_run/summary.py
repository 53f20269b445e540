"""The summary of a run: a fold over its journal, so that log() pays nothing for it.

The forwarder folds as it reads, and publishes what changed; the training process folds its own journal when its
summary is asked for. The last value of a metric is its summary, unless define_metric asked for others: `loss.min`,
`loss.mean` and so on take the place of `loss` then.
"""

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pulsetrain._run.definitions import Definition, Definitions
from pulsetrain.journal.reader import Event, Item, RowBlock, TextRow


class _Operations:
    """What is asked of one metric. NaN counts for first and last only."""

    def __init__(self, definition: Definition, seed: Mapping[str, Any]) -> None:
        self._definition = definition
        self._best_is_max = definition.goal == "maximize"
        self._asked = definition.summary or ()
        self.found: dict[str, float] = {
            name: float(value)
            for name, value in seed.items()
            if name in self._asked and name != "mean" and isinstance(value, int | float)
        }
        self._total = 0.0
        self._count = 0

    def state(self) -> dict[str, Any]:
        """What `of_state` goes on from, as JSON has it."""
        definition = self._definition.to_event(overwrite=False)
        return {"definition": definition, "found": dict(self.found), "total": self._total, "count": self._count}

    @classmethod
    def of_state(cls, state: Mapping[str, Any]) -> "_Operations":
        """Goes on from where another was."""
        operations = cls(Definition.of_event(state["definition"]), {})
        operations.found = dict(state["found"])
        operations._total, operations._count = state["total"], state["count"]
        return operations

    def feed(self, column: NDArray[np.float64]) -> None:
        found = self.found
        asked = self._asked
        if "last" in asked:
            found["last"] = float(column[-1])
        if "first" in asked:
            found.setdefault("first", float(column[0]))
        numbers = column[~np.isnan(column)]
        if not len(numbers):
            return
        low, high = float(numbers.min()), float(numbers.max())
        if "min" in asked:
            found["min"] = min(found.get("min", math.inf), low)
        if "max" in asked:
            found["max"] = max(found.get("max", -math.inf), high)
        if "best" in asked and self._best_is_max:
            found["best"] = max(found.get("best", -math.inf), high)
        elif "best" in asked:
            found["best"] = min(found.get("best", math.inf), low)
        if "mean" in asked:
            with np.errstate(invalid="ignore", over="ignore"):
                self._total += float(numbers.sum())
            self._count += len(numbers)
            found["mean"] = self._total / self._count


class SummaryFold:
    """Feed it the records of one writer in order; `values()` is the summary then. A key is never fed twice."""

    def __init__(self) -> None:
        self._definitions = Definitions()
        self._last: dict[str, Any] = {}
        self._operations: dict[str, _Operations] = {}
        # Keys that take the short way: the last value, and nothing else was asked of them.
        self._plain: set[str] = set()
        # Keys that summary was set for by hand: their operations are off.
        self._explicit: set[str] = set()

    def feed(self, item: Item) -> None:
        """One record of the journal; what has no bearing on the summary is passed over."""
        if isinstance(item, RowBlock):
            self._rows(item.keys, item.values)
        elif isinstance(item, TextRow):
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
        result = dict(self._last)
        for key, operations in self._operations.items():
            if key not in self._explicit:
                result.update((f"{key}.{name}", value) for name, value in operations.found.items())
        return result

    def state(self) -> dict[str, Any]:
        """What `restore` goes on from, as JSON has it; nothing that comes later changes it."""
        return {
            "definitions": self._definitions.to_events(),
            "last": dict(self._last),
            "operations": {key: operations.state() for key, operations in self._operations.items()},
            "explicit": sorted(self._explicit),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes on from where another fold was."""
        self._definitions = Definitions()
        for event in state["definitions"]:
            self._definitions.add(Definition.of_event(event))
        self._last = dict(state["last"])
        self._operations = {key: _Operations.of_state(found) for key, found in state["operations"].items()}
        self._explicit = set(state["explicit"])
        self._plain.clear()

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
            elif key in self._last:
                del self._last[key]
            if "none" in definition.summary:
                continue
            operations = self._operations.get(key)
            if operations is None:
                operations = self._operations[key] = _Operations(definition, self._take_seed(key))
            operations.feed(values[:, index])

    def _take_seed(self, key: str) -> dict[str, Any]:
        """What an earlier attempt of the run had found, as it was carried over."""
        prefix = f"{key}."
        return {
            name.removeprefix(prefix): self._last.pop(name)
            for name in [f"{prefix}{operation}" for operation in ("min", "max", "mean", "first", "last", "best")]
            if name in self._last
        }

    def _silent(self, key: str) -> bool:
        definition = self._definitions.find(key)
        return key not in self._explicit and definition is not None and "none" in (definition.summary or ())

    def _set(self, data: Mapping[str, Any]) -> None:
        for key, value in data.get("summary", {}).items():
            self._last[key] = value
            if not data.get("carried"):
                self._explicit.add(key)
        for key in data.get("removed", ()):
            self._last.pop(key, None)
            self._explicit.add(key)
