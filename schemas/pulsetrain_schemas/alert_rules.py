"""Rules of the user's: a condition on a metric, or on what the hardware does, over a window of time.

    name: accuracy collapsed
    metric: val/accuracy            # or several, in a list; * stands for anything
    condition: < 0.2
    over: mean                      # of the window: last (the default), mean, min, max, count
    window: 10m
    for: 5m                         # how long it must hold before the alert fires
    cooldown: 30m                   # how long after its end it does not fire again; 5m unless it is said
    severity: warning
    projects: [vision-*]
    labels: {team: vision}

In place of `metric` there may be `system`, which names a metric of the hardware (`pulsetrain_schemas.system_metrics`):
`temperature_celsius`; `gpu/memory_percent` or `host/memory_percent` where a host and a GPU have one of the same name;
or W&B's key for it, `system.gpu.*.temp`, with W&B's unit. A rule stands so in files, and travels so as the JSON of what
run.alert_when() was given. This module says what a rule may be; the monitor lives by it.
"""

import difflib
import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from pulsetrain_schemas import system_metrics
from pulsetrain_schemas.errors import UserError

SEVERITIES = ("info", "warning", "critical")
OVER = ("last", "mean", "min", "max", "count")
KEYS = (
    "name", "metric", "system", "condition", "over", "window", "for", "cooldown", "severity", "projects", "labels"
)  # fmt: skip
MOST_NAME = 200
_COMPARISONS: Mapping[str, Callable[[Any, float], Any]] = {
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge, "==": operator.eq, "!=": operator.ne,
}  # fmt: skip
_CONDITION = re.compile(r"(<=|>=|==|!=|<|>)\s*(\S+)")
_WHOLE = re.compile(r"(.*[^\s<>=!])\s*((?:<=|>=|==|!=|<|>)\s*\S+)", re.DOTALL)
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)?")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0, None: 1.0}
_NUMBERS = re.compile(r"(?<=[/.])(\d+|\*)(?=[/.])")


class RuleError(UserError):
    """A rule says what cannot be."""


@dataclass(frozen=True, slots=True)
class SystemSource:
    """Which metrics of the hardware are meant: their names, of GPUs or hosts, and what their values are taken times."""

    pattern: str
    scope: str | None = None
    """gpu or host; None for both."""
    gpu_index: int | None = None
    factor: float = 1.0


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule. Times are in seconds; a window of 0 is the latest value alone. Of a run's metrics `system` is None."""

    name: str
    metrics: Sequence[str]
    system: SystemSource | None
    compare: str
    threshold: float
    over: str = "last"
    window: float = 0.0
    hold: float = 0.0
    cooldown: float | None = None
    severity: str = "warning"
    projects: Sequence[str] = ("*",)
    labels: Mapping[str, str] = field(default_factory=dict)

    def holds(self, value: Any) -> Any:
        """Whether the condition is true of a value, or of each of an array; of NaN only where it is compared by !=."""
        return _COMPARISONS[self.compare](value, self.threshold)

    def means(self, metric: str) -> bool:
        """Whether it is about the metric of a run that is called so."""
        return self.system is None and any(fnmatchcase(metric, pattern) for pattern in self.metrics)

    def means_system(self, metric: str, gpu_index: int) -> bool:
        """Whether it is about this metric of the hardware: of the GPU with this index, or of the host (-1)."""
        source = self.system
        return (
            source is not None
            and (source.scope is None or (source.scope == "gpu") == (gpu_index >= 0))
            and (source.gpu_index is None or source.gpu_index == gpu_index)
            and fnmatchcase(metric, source.pattern)
        )

    def is_for(self, project: str) -> bool:
        """Whether it is for the runs of a project."""
        return any(fnmatchcase(project, pattern) for pattern in self.projects)

    def measures_as(self, other: "Rule") -> bool:
        """Whether both look at the same values in the same way, whatever they compare them with."""
        return (self.metrics, self.system, self.over, self.window) == (
            other.metrics, other.system, other.over, other.window,
        )  # fmt: skip


def parse(entry: Any, where: str) -> Rule:
    """A rule as a file or an event has it. Raises RuleError, which says where, what is wrong, and what is right."""
    if not isinstance(entry, Mapping):
        raise RuleError(f"{where} is no mapping of names to values")
    name = entry.get("name")
    if not isinstance(name, str) or not name.strip() or len(name) > MOST_NAME or len(name.splitlines()) != 1:
        raise RuleError(f"{where} has no name: one line of at most {MOST_NAME} characters, in quotes if it is a number")
    where = f"{where} ({name})"
    unknown = [str(key) for key in entry if key not in KEYS]
    if unknown:
        raise RuleError(f"{where} has {', '.join(unknown)}; known are {', '.join(KEYS)}")
    metrics, system = _source(entry, where)
    compare, threshold = _condition(entry.get("condition"), where)
    over = entry.get("over", "last")
    if over not in OVER:
        raise RuleError(f"{where}: over is one of {', '.join(OVER)}, not {over!r}")
    window = seconds(entry.get("window"), f"{where}: window") or 0.0
    if over != "last" and not window:
        raise RuleError(f"{where}: {over} is over a window, as in `window: 5m`")
    severity = entry.get("severity", "warning")
    if severity not in SEVERITIES:
        raise RuleError(f"{where}: severity is one of {', '.join(SEVERITIES)}, not {severity!r}")
    labels = entry.get("labels", {})
    if not isinstance(labels, Mapping):
        raise RuleError(f"{where}: labels are names with values, as in `labels: {{team: vision}}`")
    return Rule(
        name=name,
        metrics=metrics,
        system=system,
        compare=compare,
        threshold=threshold,
        over=over,
        window=window,
        hold=seconds(entry.get("for"), f"{where}: for") or 0.0,
        cooldown=seconds(entry.get("cooldown"), f"{where}: cooldown"),
        severity=severity,
        projects=_names(entry.get("projects", ["*"]), f"{where}: projects"),
        labels={str(key): str(value) for key, value in labels.items()},
    )


def split(expression: str) -> tuple[str, str]:
    """The metric and the condition of `val/loss > 3`. Raises RuleError."""
    found = _WHOLE.fullmatch(expression.strip()) if isinstance(expression, str) else None
    if found is None:
        raise RuleError(f"a condition is a metric compared with a number, as in `val/loss > 3`, not {expression!r}")
    return found[1], found[2]


def seconds(given: Any, what: str) -> float | None:
    """A time in seconds: a number, or text such as 30s, 5m, 2h, 1d. None stays None. Raises RuleError."""
    if given is None:
        return None
    found = None if isinstance(given, bool) else _DURATION.fullmatch(str(given).strip())
    if found is None:
        raise RuleError(f"{what} is a time, as in 30s, 5m or 2h; not {given!r}")
    return float(found[1]) * _UNITS[found[2]]


def duration(length: float) -> str:
    """A time of so many seconds, as `seconds` reads it."""
    for unit, size in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if length >= size and length % size == 0:
            return f"{length / size:g}{unit}"
    return f"{length:.12g}s"


def _condition(given: Any, where: str) -> tuple[str, float]:
    found = _CONDITION.fullmatch(str(given or "").strip())
    try:
        threshold = float(found[2]) if found is not None else math.nan
    except ValueError:
        threshold = math.nan
    if found is None or math.isnan(threshold):
        raise RuleError(f'{where}: condition is a comparison with a number, as in "> 90", not {given!r}')
    return found[1], threshold


def _source(entry: Mapping[str, Any], where: str) -> tuple[Sequence[str], SystemSource | None]:
    if ("metric" in entry) == ("system" in entry):
        raise RuleError(f"{where} names either a metric, or a system metric, in which * stands for anything")
    if "metric" in entry:
        return _names(entry["metric"], f"{where}: metric"), None
    name = entry["system"]
    if not isinstance(name, str) or not name:
        raise RuleError(f"{where}: system is the name of a system metric, in which * stands for anything")
    source = system_source(name)
    if source is None:
        raise RuleError(f"{where}: there is no system metric {name}{_meant(name)}")
    return (), source


def system_source(name: str) -> SystemSource | None:
    """The metrics of the hardware that are called so, here or by W&B; None where none are."""
    if name.startswith("system."):
        return _by_wandb_key(name) or system_source(name.removeprefix("system."))
    scope, _, rest = name.partition("/")
    if scope not in ("gpu", "host"):
        scope, rest = "", name
    # The number of a core may be any.
    pattern = _NUMBERS.sub("0", rest)
    known = [*({} if scope == "gpu" else system_metrics.HOST_METRICS)]
    known += [] if scope == "host" else system_metrics.GPU_METRICS
    if not any(fnmatchcase(one.replace("{i}", "0"), pattern) for one in known):
        return None
    return SystemSource(rest, scope or None)


def _by_wandb_key(key: str) -> SystemSource | None:
    found = system_metrics.from_wandb_key(key.replace(".*.", ".0."))
    if found is None:
        return None
    name, index = found
    metric = system_metrics.find(name, gpu=index is not None)
    is_any = ".*." in key
    return SystemSource(
        _NUMBERS.sub("*", name) if is_any else name,
        "host" if index is None else "gpu",
        None if is_any else index,
        1.0 if metric is None else metric.wandb_factor,
    )


def _meant(name: str) -> str:
    """The names that come nearest, as the end of a sentence."""
    every = [*system_metrics.HOST_METRICS.values(), *system_metrics.GPU_METRICS.values()]
    names = [one.name for one in every]
    words = {word for word in re.split(r"[^a-z]+", name.lower()) if len(word) > 2 and word not in ("gpu", "system")}
    near = difflib.get_close_matches(name, names, 3, 0.7)
    if name.startswith("system."):
        keys = [one.wandb.replace("{i}", "0") for one in every if one.wandb is not None]
        near += difflib.get_close_matches(_NUMBERS.sub("0", name), keys, 2, 0.8)
    near += [one for one in names if any(part.startswith(word) for part in re.split(r"[^a-z]+", one) for word in words)]
    chosen = list(dict.fromkeys(near))[:4]
    if not chosen:
        return "; those that were sampled are in the table system: select distinct metric from system"
    return f"; is one of these meant: {', '.join(chosen)}?"


def _names(given: Any, what: str) -> Sequence[str]:
    found = [given] if isinstance(given, str) else given
    if not isinstance(found, list | tuple) or not found or not all(isinstance(one, str) and one for one in found):
        raise RuleError(f"{what} is a name, or a list of names, in which * stands for anything")
    return tuple(found)
