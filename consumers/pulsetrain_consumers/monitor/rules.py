"""The rules of the user's at work on one run: those of the configuration, and those that the run said itself.

The condition is looked at when a value comes, and with time: what was logged long ago leaves the window.
"""

import json
import logging
import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pulsetrain_consumers.monitor.alerts import COOLDOWN_SECONDS, Policy
from pulsetrain_consumers.monitor.findings import Finding, Severity
from pulsetrain_consumers.monitor.rule_series import EARLY_SECONDS, Bin, Early, RuleSeries
from pulsetrain_schemas import alert_rules
from pulsetrain_schemas.alert_rules import Rule, RuleError
from pulsetrain_schemas.events import IntArray, MetricBatch, Origin, RunEvent, SystemBatch

log = logging.getLogger(__name__)

RULE = "rule"
# Series of one rule in one run at most: a pattern may match thousands.
MOST_SERIES = 200
# Rules that one run may say: a loop that names each anew must not fill the memory.
MOST_OWN_RULES = 100
_MOST_PLANS = 64


class RuleWatch:
    """The rules of one run. Events come with when they arrived, `tick` with the monitor's time; alerts know theirs.

    Where a run has no rules, all of it costs a comparison, but for what the first seconds hold.
    """

    def __init__(self, project: str, rules: Sequence[Rule]) -> None:
        self._configured = {rule.name: rule for rule in rules if rule.is_for(project)}
        # What the run said, as it said it.
        self._said: dict[str, str] = {}
        self._rules: dict[str, Rule] = {}
        self._of_metrics: list[Rule] = []
        self._of_system: list[Rule] = []
        self._attempt: int | None = None
        self._series: dict[tuple[str, str], RuleSeries] = {}
        self._counts: dict[str, int] = {}
        # Subjects that were troubled, of rules that are no more.
        self._gone: list[str] = []
        # By the series of a batch: which of them which rules are about.
        self._plans: dict[tuple[Any, ...], list[tuple[int, Rule]]] = {}
        # How far the clock of metrics, and that of samples, is behind the monitor's.
        self._behind: dict[bool, float] = {}
        self._early: Early | None = Early(math.inf)
        self._renew()

    def metrics(self, batch: MetricBatch, arrived: float) -> Sequence[Finding]:
        """Takes rows of history."""
        if not self._of_metrics and self._early is None:
            return ()
        found: list[Finding] = []
        if self._is_current(batch.origin, arrived, found) and len(batch.row_times):
            self._keep_early(batch, arrived)
            self._metrics(batch, arrived, self._of_metrics, found)
        return found

    def system(self, batch: SystemBatch, arrived: float) -> Sequence[Finding]:
        """Takes samples of the hardware."""
        if not self._of_system and self._early is None:
            return ()
        found: list[Finding] = []
        if self._is_current(batch.origin, arrived, found) and len(batch.row_times):
            self._keep_early(batch, arrived)
            self._system(batch, arrived, self._of_system, found)
        return found

    def event(self, event: RunEvent, arrived: float) -> Sequence[Finding]:
        """Takes what happened to the run: that an attempt began, and the rules that it said."""
        found: list[Finding] = []
        if self._is_current(event.origin, arrived, found) and event.rules:
            self._end_early(arrived)
            for name, text in event.rules.items():
                self._say(name, text, event.time, found)
        return found

    def tick(self, now: float, *, is_over: bool) -> Sequence[Finding]:
        """What time alone changes: values that leave their window, and alerts that nothing more will end."""
        self._end_early(now)
        if not self._series and not self._gone:
            return ()
        found: list[Finding] = []
        why = "the rule is no longer there, or looks at other values"
        gone, self._gone = self._gone, []
        found += [_over(subject, why, now) for subject in gone if not self._is_present(subject)]
        if is_over:
            self._close(now, "the run has ended", found)
            return found
        for (name, series), held in self._series.items():
            rule = self._rules[name]
            behind = self._behind.get(rule.system is not None)
            if rule.window and behind is not None and (held.present or rule.over == "count"):
                self._judge(rule, series, held, now - behind, held.step, found)
        return found

    def policy(self, subject: str) -> Policy:
        """How an alert about a subject lives: as its rule says."""
        rule = self._rule_of(subject)
        if rule is None:
            return Policy(subject)
        cooldown = COOLDOWN_SECONDS if rule.cooldown is None else rule.cooldown
        return Policy(subject, rule.hold, cooldown, rule.labels)

    def state(self) -> dict[str, Any]:
        """For `restore`, as JSON can hold it."""
        return {
            "attempt": self._attempt,
            "said": self._said,
            "looks": {name: _look(self._rules[name]) for name in {name for name, _ in self._series}},
            "gone": self._gone,
            "behind": [self._behind.get(False), self._behind.get(True)],
            "series": [
                [*key, [[part.number, part.count, part.numbers, part.total, part.low, part.high] for part in held.bins],
                 held.last, held.step, held.present, held.since, held.lasted, held.where]
                for key, held in self._series.items()
            ],
        }  # fmt: skip

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes on from what `state` gave, as far as the rules are the same. What it raises leaves all as it was."""
        said = {str(name): str(text) for name, text in state["said"].items()}
        attempt, looks, gone = state["attempt"], dict(state["looks"]), list(state["gone"])
        of_metrics, of_system = state["behind"]
        kept = [
            (name, series, RuleSeries(deque(Bin(*part) for part in bins), *rest))
            for name, series, bins, *rest in state["series"]
        ]
        self._early, self._attempt, self._said, self._gone = None, attempt, said, gone
        self._behind = {kind: by for kind, by in ((False, of_metrics), (True, of_system)) if by is not None}
        self._renew()
        for name, series, held in kept:
            rule = self._rules.get(name)
            if rule is not None and _look(rule) == looks.get(name):
                self._series[name, series] = held
                self._counts[name] = self._counts.get(name, 0) + 1
            elif held.present:
                self._gone.append(_subject(name, series))

    def _renew(self) -> None:
        """Makes the rules of those that are configured and those that the run said, which take their place."""
        own = {}
        for name, text in self._said.items():
            try:
                own[name] = alert_rules.parse(json.loads(text), "a rule of the run")
            except (RuleError, ValueError) as error:  # of a newer release, or damage
                log.warning("a rule is left out: %s", error)
        before, self._rules = self._rules, self._configured | own
        self._of_metrics = [rule for rule in self._rules.values() if rule.system is None]
        self._of_system = [rule for rule in self._rules.values() if rule.system is not None]
        self._plans.clear()
        for key in list(self._series):
            name, series = key
            rule = self._rules.get(name)
            if rule is not None and rule.measures_as(before[name]):
                continue
            if self._series.pop(key).present:
                self._gone.append(_subject(name, series))
            self._counts[name] -= 1

    def _say(self, name: str, text: str | None, time: int, found: list[Finding]) -> None:
        """The run says a rule, or takes it back. What it logged since, and came earlier than this, counts."""
        if self._said.get(name) == text:
            return
        if text is None:
            del self._said[name]
        elif name not in self._said and len(self._said) >= MOST_OWN_RULES:
            log.warning("the rule %r is left out: a run has at most %d", name, MOST_OWN_RULES)
            return
        else:
            self._said[name] = text
        before = self._rules.get(name)
        self._renew()
        rule = self._rules.get(name)
        if rule is None or self._early is None or (before is not None and rule.measures_as(before)):
            return
        for batch, arrived in self._early.batches:
            if isinstance(batch, MetricBatch) and rule.system is None:
                self._metrics(batch, arrived, [rule], found, after=time)
            elif isinstance(batch, SystemBatch) and rule.system is not None:
                self._system(batch, arrived, [rule], found, after=time)

    def _is_current(self, origin: Origin, arrived: float, found: list[Finding]) -> bool:
        """Whether an event is of the latest attempt, which it may begin: what was before is over then."""
        if origin.attempt == self._attempt:
            return True
        if self._attempt is not None:
            if origin.attempt < self._attempt:
                return False
            self._close(arrived, f"attempt {origin.attempt} has begun", found)
            self._series, self._counts, self._behind = {}, {}, {}
        self._early = Early(arrived)
        self._attempt = origin.attempt
        return True

    def _end_early(self, now: float) -> None:
        if self._early is not None and now - self._early.since > EARLY_SECONDS:
            self._early = None

    def _keep_early(self, batch: MetricBatch | SystemBatch, arrived: float) -> None:
        if self._early is not None and not self._early.keep(batch, arrived):
            self._early = None

    def _metrics(
        self, batch: MetricBatch, arrived: float, rules: Sequence[Rule], found: list[Finding], after: int = 0
    ) -> None:
        keys = tuple(batch.keys)
        plan = self._plan(keys, rules, after, lambda number, rule: rule.means(keys[number]))
        rank = batch.origin.rank
        about = "" if rank == 0 else f", rank {rank}"
        for (key, rule), points, rows in _points(batch, plan, after):
            steps, times = np.asarray(batch.row_steps)[rows], np.asarray(batch.row_times)[rows] / 1e6
            self._take(rule, f"{keys[key]}{about}", times, batch.values[points], steps, {"rank": rank}, found)
        self._behind[False] = arrived - float(batch.row_times[-1]) / 1e6

    def _system(
        self, batch: SystemBatch, arrived: float, rules: Sequence[Rule], found: list[Finding], after: int = 0
    ) -> None:
        metrics, indexes = batch.series_metrics, np.asarray(batch.series_gpu_indexes).tolist()
        plan = self._plan(
            (*metrics, *indexes),
            rules,
            after,
            lambda number, rule: rule.means_system(metrics[number], indexes[number]),
            len(metrics),
        )
        for (key, rule), points, rows in _points(batch, plan, after):
            gpu = batch.series_gpus[key]
            place = batch.host if not gpu else f"{batch.host}, GPU {indexes[key]}"
            times = np.asarray(batch.row_times)[rows] / 1e6
            values = batch.values[points] * (1.0 if rule.system is None else rule.system.factor)
            self._take(rule, f"{metrics[key]}, {place}", times, values, None, {"host": batch.host, "gpu": gpu}, found)
        self._behind[True] = arrived - float(batch.row_times[-1]) / 1e6

    def _plan(
        self,
        keys: tuple[Any, ...],
        rules: Sequence[Rule],
        after: int,
        is_meant: Callable[[int, Rule], bool],
        count: int | None = None,
    ) -> list[tuple[int, Rule]]:
        plan = None if after else self._plans.get(keys)
        if plan is None:
            numbers = range(len(keys) if count is None else count)
            plan = [(number, rule) for number in numbers for rule in rules if is_meant(number, rule)]
            if not after:
                if len(self._plans) >= _MOST_PLANS:
                    self._plans.clear()
                self._plans[keys] = plan
        return plan

    def _take(
        self,
        rule: Rule,
        series: str,
        times: NDArray[np.float64],
        values: NDArray[np.float64],
        steps: IntArray | None,
        where: Mapping[str, Any],
        found: list[Finding],
    ) -> None:
        if not len(values):
            return
        held = self._series.get((rule.name, series))
        if held is None:
            if self._counts.get(rule.name, 0) >= MOST_SERIES:
                return
            self._counts[rule.name] = self._counts.get(rule.name, 0) + 1
            held = self._series[rule.name, series] = RuleSeries(where=where)
        if rule.window:
            numbers = [None] * len(values) if steps is None else steps.tolist()
            for time, value, step in zip(times.tolist(), values.tolist(), numbers, strict=True):
                held.last, held.step = value, step
                held.add(rule, time, value)
                self._judge(rule, series, held, time, step, found)
            return
        # Without a window only those values matter at which the condition turns, or has lasted.
        holds = rule.holds(values)
        turns = (np.flatnonzero(holds[1:] != holds[:-1]) + 1).tolist()
        for begin, end in pairwise((0, *turns, len(values))):
            places = [begin]
            if holds[begin] and rule.hold:
                since = held.since if held.present else float(times[begin])
                lasted = np.flatnonzero(times[begin:end] - since >= rule.hold)
                places += [begin + int(lasted[0])] if len(lasted) else []
            for at in places:
                step = None if steps is None else int(steps[at])
                self._turn(rule, series, held, float(values[at]), float(times[at]), step, found)
        held.last, held.step = float(values[-1]), None if steps is None else int(steps[-1])

    def _judge(
        self, rule: Rule, series: str, held: RuleSeries, now: float, step: int | None, found: list[Finding]
    ) -> None:
        self._turn(rule, series, held, held.value(rule, now), now, step, found)

    def _turn(
        self,
        rule: Rule,
        series: str,
        held: RuleSeries,
        value: float | None,
        time: float,
        step: int | None,
        found: list[Finding],
    ) -> None:
        """Says it where the condition has become true, or false, or has been true for as long as the rule asks."""
        present = value is not None and bool(rule.holds(value))
        if present != held.present:
            held.present, held.since, held.lasted = present, time, False
        elif not present or held.lasted or not rule.hold or time - held.since < rule.hold:
            return
        else:
            held.lasted = True
        what = series if rule.over == "last" else f"{rule.over} of {series} over {alert_rules.duration(rule.window)}"
        shown = "nothing" if value is None else f"{value:.6g}"
        verdict = "" if present else "no longer "
        found.append(
            Finding(
                RULE,
                _subject(rule.name, series),
                present,
                Severity(rule.severity),
                f"{what} is {shown}, {verdict}{rule.compare} {rule.threshold:g}",
                time,
                step,
                value,
                has_lasted=held.lasted,
                **held.where,
            )
        )

    def _close(self, time: float, why: str, found: list[Finding]) -> None:
        for (name, series), held in self._series.items():
            if held.present:
                held.present = False
                found.append(_over(_subject(name, series), why, time))

    def _is_present(self, subject: str) -> bool:
        return any(held.present and _subject(*key) == subject for key, held in self._series.items())

    def _rule_of(self, subject: str) -> Rule | None:
        """The rule whose name the subject begins with; a name may have colons of its own."""
        for name in _prefixes(subject):
            if name in self._rules:
                return self._rules[name]
        return None


def _points(
    batch: MetricBatch | SystemBatch, plan: Sequence[tuple[int, Rule]], after: int
) -> Iterator[tuple[tuple[int, Rule], IntArray, IntArray]]:
    """For each entry of the plan, the places of its values and their rows, of those that are not before `after`."""
    if not plan:
        return
    keys, rows = batch.point_keys, batch.point_rows
    order = np.argsort(keys, kind="stable")
    if after:
        order = order[np.asarray(batch.row_times)[rows[order]] >= after]
    in_order = keys[order]
    for entry in plan:
        points = order[np.searchsorted(in_order, entry[0]) : np.searchsorted(in_order, entry[0], "right")]
        yield entry, points, rows[points]


def _subject(name: str, series: str) -> str:
    return f"{name}: {series}"


def _prefixes(subject: str) -> Iterator[str]:
    end = subject.find(": ")
    while end >= 0:
        yield subject[:end]
        end = subject.find(": ", end + 1)


def _over(subject: str, why: str, time: float) -> Finding:
    return Finding(RULE, subject, False, Severity.INFO, why, time)


def _look(rule: Rule) -> str:
    """What the values that are kept for a rule depend on."""
    return repr((tuple(rule.metrics), rule.system, rule.over, rule.window))
