"""define_metric: what was said about metrics before they are logged, and how a name finds its definition."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pulsetrain._run.errors import UsageError
from pulsetrain._run.values import clean_text

OPERATIONS = frozenset({"min", "max", "mean", "first", "last", "best", "copy", "none"})
GOALS = {"minimize": "minimize", "min": "minimize", "maximize": "maximize", "max": "maximize"}


@dataclass(frozen=True, slots=True)
class Definition:
    """What one call of define_metric said. A name that ends in * stands for all that begin so."""

    name: str
    step_metric: str | None = None
    step_sync: bool | None = None
    hidden: bool | None = None
    summary: tuple[str, ...] | None = None
    goal: str | None = None

    @classmethod
    def checked(
        cls,
        name: str,
        step_metric: str | None = None,
        step_sync: bool | None = None,
        hidden: bool | None = None,
        summary: str | Sequence[str] | None = None,
        goal: str | None = None,
    ) -> "Definition":
        """UsageError says what is wrong with the arguments, as W&B does."""
        if not isinstance(name, str) or not name:
            raise UsageError("define_metric() needs the name of a metric")
        name = clean_text(name)
        if "*" in name[:-1]:
            raise UsageError(f"define_metric({name!r}): a * may stand at the end of the name only")
        step_metric = getattr(step_metric, "name", step_metric)
        if step_metric is not None and not isinstance(step_metric, str):
            raise UsageError(f"define_metric({name!r}): step_metric has to be the name of a metric")
        operations = None
        if summary is not None:
            given = summary.split(",") if isinstance(summary, str) else summary
            operations = tuple(str(operation).strip().lower() for operation in given)
            unknown = sorted(set(operations) - OPERATIONS)
            if unknown:
                known = ", ".join(sorted(OPERATIONS))
                raise UsageError(f"define_metric({name!r}): no summary {unknown[0]!r}; there are {known}")
        if goal is not None:
            if goal not in GOALS:
                raise UsageError(f"define_metric({name!r}): goal is minimize or maximize, not {goal!r}")
            goal = GOALS[goal]
        return cls(name, step_metric, step_sync, hidden, operations, goal)

    @classmethod
    def of_event(cls, data: Mapping[str, Any]) -> "Definition":
        """What the journal has of it."""
        summary = data.get("summary")
        return cls(
            str(data.get("name", "")),
            data.get("step_metric"),
            data.get("step_sync"),
            data.get("hidden"),
            None if summary is None else tuple(summary),
            data.get("goal"),
        )

    def to_event(self, overwrite: bool) -> dict[str, Any]:
        """The data of a define_metric event."""
        return {
            "name": self.name,
            "step_metric": self.step_metric,
            "step_sync": self.step_sync,
            "hidden": self.hidden,
            "summary": None if self.summary is None else list(self.summary),
            "goal": self.goal,
            "overwrite": overwrite,
        }

    @property
    def synchronises(self) -> bool:
        """Whether rows that lack the step metric get its last value."""
        return self.step_metric is not None and self.step_sync is not False

    def merged(self, later: "Definition") -> "Definition":
        """What holds after a further call for the same name: what that call left open stays."""
        return replace(
            self,
            step_metric=self.step_metric if later.step_metric is None else later.step_metric,
            step_sync=self.step_sync if later.step_sync is None else later.step_sync,
            hidden=self.hidden if later.hidden is None else later.hidden,
            summary=self.summary if later.summary is None else later.summary,
            goal=self.goal if later.goal is None else later.goal,
        )


class Definitions:
    """All definitions of a run. An exact name counts before a pattern, a longer pattern before a shorter one."""

    def __init__(self) -> None:
        self._exact: dict[str, Definition] = {}
        self._patterns: dict[str, Definition] = {}
        self.synchronising = False

    def add(self, definition: Definition, *, overwrite: bool = False) -> Definition:
        """Adds it to what is known of the name; with `overwrite`, in place of it. Returns what holds now."""
        glob = definition.name.endswith("*")
        known = self._patterns if glob else self._exact
        key = definition.name[:-1] if glob else definition.name
        before = known.get(key)
        known[key] = definition if before is None or overwrite else before.merged(definition)
        everything = (*self._exact.values(), *self._patterns.values())
        self.synchronising = any(one.synchronises for one in everything)
        return known[key]

    def to_events(self) -> list[dict[str, Any]]:
        """The data of define_metric events that say all that holds now."""
        return [one.to_event(overwrite=False) for one in (*self._exact.values(), *self._patterns.values())]

    def find(self, name: str) -> Definition | None:
        """What was said about this metric."""
        exact = self._exact.get(name)
        if exact is not None:
            return exact
        fitting = [prefix for prefix in self._patterns if name.startswith(prefix)]
        return self._patterns[max(fitting, key=len)] if fitting else None
