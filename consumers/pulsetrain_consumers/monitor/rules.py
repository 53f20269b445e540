"""Rules of the user's: a condition on a metric, or on what the hardware does, over a window of time.

    rules:
      - name: accuracy collapsed
        metric: val/accuracy            # * stands for anything; or, of the hardware:  system: temperature_celsius
        condition: < 0.2
        over: mean                      # of the window: last (the default), mean, min, max, count
        window: 10m
        for: 5m                         # how long it must hold before the alert fires
        severity: warning
        projects: [vision-*]
        labels: {team: vision}

A window is kept as a few dozen bins, each with what its values came to: a rule costs the same however much is logged.
The condition is looked at when a value comes, and with time: what was logged long ago leaves the window.
"""

import math
import operator
import re
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from pulsetrain_consumers.monitor.findings import Finding, Severity
from pulsetrain_schemas.errors import UserError
from pulsetrain_schemas.events import MetricBatch, SystemBatch

RULE = "rule"
_BINS = 30
_COMPARISONS: Mapping[str, Callable[[float, float], bool]] = {
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge, "==": operator.eq, "!=": operator.ne,
}  # fmt: skip
_CONDITION = re.compile(r"(<=|>=|==|!=|<|>)\s*(\S+)")
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)?")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0, None: 1.0}
_OVER = ("last", "mean", "min", "max", "count")
_KEYS = (
    "name", "metric", "system", "condition", "over", "window", "for", "severity", "projects", "labels", "cooldown"
)  # fmt: skip
# Series of one rule in one run at most: a pattern may match thousands.
MOST_SERIES = 200


class RuleError(UserError):
    """A rule says what cannot be."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule. Times are in seconds; a window of 0 is the latest value alone."""

    name: str
    pattern: str
    of_system: bool
    compare: str
    threshold: float
    over: str = "last"
    window: float = 0.0
    hold: float = 0.0
    cooldown: float | None = None
    severity: Severity = Severity.WARNING
    projects: Sequence[str] = ("*",)
    labels: Mapping[str, str] = field(default_factory=dict)

    def holds(self, value: float) -> bool:
        """Whether the condition is true of a value; of NaN it is only if it is compared with !=."""
        return _COMPARISONS[self.compare](value, self.threshold)

    def matches(self, name: str) -> bool:
        """Whether a metric of this name is meant."""
        return fnmatchcase(name, self.pattern)


def parse(entry: Any, where: str) -> Rule:
    """A rule of a configuration file. Raises RuleError, which says where and what is wrong."""
    if not isinstance(entry, Mapping):
        raise RuleError(f"{where} is no mapping of names to values")
    unknown = [str(name) for name in entry if name not in _KEYS]
    if unknown:
        raise RuleError(f"{where} has {', '.join(unknown)}; known are {', '.join(_KEYS)}")
    name = entry.get("name")
    if not isinstance(name, str) or not name.strip():
        raise RuleError(f"{where} has no name")
    where = f"{where} ({name})"
    sources = [source for source in ("metric", "system") if source in entry]
    if len(sources) != 1 or not isinstance(entry[sources[0]], str):
        raise RuleError(f"{where} names a metric, or a system metric, in which * stands for anything")
    found = _CONDITION.fullmatch(str(entry.get("condition", "")).strip())
    threshold = _number(found[2]) if found else None
    if found is None or threshold is None:
        raise RuleError(f"{where}: condition is a comparison with a number, as in `> 90`")
    over = entry.get("over", "last")
    if over not in _OVER:
        raise RuleError(f"{where}: over is one of {', '.join(_OVER)}, not {over!r}")
    window = _seconds(entry, "window", where) or 0.0
    if over != "last" and not window:
        raise RuleError(f"{where}: {over} is over a window, as in `window: 5m`")
    severity = entry.get("severity", "warning")
    if severity not in list(Severity):
        raise RuleError(f"{where}: severity is one of {', '.join(Severity)}, not {severity!r}")
    labels = entry.get("labels", {})
    if not isinstance(labels, Mapping):
        raise RuleError(f"{where}: labels are names with values")
    projects = entry.get("projects", ["*"])
    projects = [projects] if isinstance(projects, str) else projects
    if not isinstance(projects, list) or not all(isinstance(one, str) for one in projects):
        raise RuleError(f"{where}: projects is a list of names, in which * stands for anything")
    return Rule(
        name=name,
        pattern=entry[sources[0]],
        of_system=sources[0] == "system",
        compare=found[1],
        threshold=threshold,
        over=over,
        window=window,
        hold=_seconds(entry, "for", where) or 0.0,
        cooldown=_seconds(entry, "cooldown", where),
        severity=Severity(severity),
        projects=tuple(projects),
        labels={str(key): str(value) for key, value in labels.items()},
    )


@dataclass(slots=True)
class _Bin:
    """What the values of one part of the window came to."""

    number: int
    count: int
    total: float
    low: float
    high: float


@dataclass(slots=True)
class _Series:
    """One series under one rule."""

    bins: deque[_Bin] = field(default_factory=deque)
    last: float = math.nan
    heard_at: float = 0.0
    step: int | None = None
    present: bool = False

    def add(self, rule: Rule, time: float, value: float, step: int | None) -> None:
        self.heard_at, self.last, self.step = max(self.heard_at, time), value, step
        if not rule.window:
            return
        number = int(time / rule.window * _BINS)
        if not self.bins or number > self.bins[-1].number:
            self.bins.append(_Bin(number, 0, 0.0, math.inf, -math.inf))
        newest = self.bins[-1]  # what comes late counts as now
        newest.count += 1
        if not math.isnan(value):
            newest.total += value
            newest.low, newest.high = min(newest.low, value), max(newest.high, value)
        self._drop(rule, time)

    def value(self, rule: Rule, now: float) -> float | None:
        """What the rule's condition is about; None where the window is empty, but for a count."""
        if not rule.window:
            return self.last
        self._drop(rule, now)
        count = sum(part.count for part in self.bins)
        if rule.over == "count":
            return float(count)
        if not count:
            return None
        if rule.over == "last":
            return self.last
        if rule.over == "mean":
            return sum(part.total for part in self.bins) / count
        return min(part.low for part in self.bins) if rule.over == "min" else max(part.high for part in self.bins)

    def _drop(self, rule: Rule, now: float) -> None:
        oldest = int(now / rule.window * _BINS) - _BINS
        while self.bins and self.bins[0].number < oldest:
            self.bins.popleft()


class RuleWatch:
    """The rules of one run. Times are the events' own; `tick` is told the monitor's."""

    def __init__(self, project: str, rules: Sequence[Rule]) -> None:
        self._rules = {
            rule.name: rule for rule in rules if any(fnmatchcase(project, pattern) for pattern in rule.projects)
        }
        self._of_metrics = [rule for rule in self._rules.values() if not rule.of_system]
        self._of_system = [rule for rule in self._rules.values() if rule.of_system]
        self._series: dict[tuple[str, str], _Series] = {}
        self._counts: dict[str, int] = {}
        # By the keys of a batch: which of them which rules are about.
        self._plans: dict[tuple[str, ...], list[tuple[int, Rule]]] = {}
        # How far the run's clock is behind the monitor's.
        self._behind: float | None = None

    def metrics(self, batch: MetricBatch, now: float) -> Iterator[Finding]:
        """Takes rows of history."""
        if not self._of_metrics or not len(batch.row_times):
            return
        rank = batch.origin.rank
        about = "" if rank == 0 else f", rank {rank}"
        plan = self._plan(tuple(batch.keys), self._of_metrics)
        if not plan:
            return
        keys, rows = batch.point_keys, batch.point_rows
        for key, rule in plan:
            chosen = (keys == key).nonzero()[0]
            times = (batch.row_times[rows[chosen]] / 1e6).tolist()
            steps = batch.row_steps[rows[chosen]].tolist()
            for time, step, value in zip(times, steps, batch.values[chosen].tolist(), strict=True):
                yield from self._take(rule, f"{batch.keys[key]}{about}", time, value, step, rank=rank)
        self._behind = now - float(batch.row_times[-1]) / 1e6

    def system(self, batch: SystemBatch, now: float) -> Iterator[Finding]:
        """Takes samples of the hardware."""
        if not self._of_system or not len(batch.row_times):
            return
        plan = self._plan(tuple(batch.series_metrics), self._of_system)
        if not plan:
            return
        keys, rows = batch.point_keys, batch.point_rows
        for key, rule in plan:
            gpu, index = batch.series_gpus[key], int(batch.series_gpu_indexes[key])
            place = batch.host if not gpu else f"{batch.host}, GPU {index}"
            chosen = (keys == key).nonzero()[0]
            times = (batch.row_times[rows[chosen]] / 1e6).tolist()
            for time, value in zip(times, batch.values[chosen].tolist(), strict=True):
                name = f"{batch.series_metrics[key]}, {place}"
                yield from self._take(rule, name, time, value, None, host=batch.host, gpu=gpu)
        self._behind = now - float(batch.row_times[-1]) / 1e6

    def tick(self, now: float) -> Iterator[Finding]:
        """What time alone changes: values that leave their window."""
        if self._behind is None:
            return
        for (name, series), held in self._series.items():
            rule = self._rules[name]
            if rule.window and (held.present or rule.over == "count"):
                yield from self._judge(rule, series, held, now - self._behind)

    def state(self) -> list[Any]:
        """For `restore`, as JSON can hold it."""
        return [
            [*key, held.last, held.heard_at, held.step, held.present,
             [[part.number, part.count, part.total, part.low, part.high] for part in held.bins]]
            for key, held in self._series.items()
        ]  # fmt: skip

    def restore(self, state: Sequence[Any]) -> None:
        """Goes on from what `state` gave, as far as the rules are the same."""
        for name, series, last, heard_at, step, present, bins in state:
            if name in self._rules:
                self._series[name, series] = _Series(deque(_Bin(*part) for part in bins), last, heard_at, step, present)
                self._counts[name] = self._counts.get(name, 0) + 1

    def _plan(self, keys: tuple[str, ...], rules: Sequence[Rule]) -> list[tuple[int, Rule]]:
        plan = self._plans.get(keys)
        if plan is None:
            if len(self._plans) >= 1_000:
                self._plans.clear()
            plan = [(number, rule) for number, key in enumerate(keys) for rule in rules if rule.matches(key)]
            self._plans[keys] = plan
        return plan

    def _take(
        self, rule: Rule, series: str, time: float, value: float, step: int | None, **where: Any
    ) -> Iterator[Finding]:
        held = self._series.get((rule.name, series))
        if held is None:
            if self._counts.get(rule.name, 0) >= MOST_SERIES:
                return
            self._counts[rule.name] = self._counts.get(rule.name, 0) + 1
            held = self._series[rule.name, series] = _Series()
        held.add(rule, time, value, step)
        yield from self._judge(rule, series, held, time, **where)

    def _judge(self, rule: Rule, series: str, held: _Series, now: float, **where: Any) -> Iterator[Finding]:
        value = held.value(rule, now)
        present = value is not None and rule.holds(value)
        if present == held.present:
            return
        held.present = present
        what = series if rule.over == "last" else f"{rule.over} of {series} over {_duration(rule.window)}"
        shown = "nothing" if value is None else f"{value:.6g}"
        verdict = "" if present else "no longer "
        yield Finding(
            RULE,
            f"{rule.name}: {series}",
            present,
            rule.severity,
            f"{what} is {shown}, {verdict}{rule.compare} {rule.threshold:g}",
            now,
            held.step,
            value,
            **where,
        )


def _seconds(entry: Mapping[str, Any], name: str, where: str) -> float | None:
    given = entry.get(name)
    if given is None:
        return None
    found = _DURATION.fullmatch(str(given).strip())
    if found is None or isinstance(given, bool):
        raise RuleError(f"{where}: {name} is a time, as in 30s, 5m or 2h; not {given!r}")
    return float(found[1]) * _UNITS[found[2]]


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _duration(seconds: float) -> str:
    for unit, size in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds >= size and seconds % size == 0:
            return f"{seconds / size:g}{unit}"
    return f"{seconds:g}s"
