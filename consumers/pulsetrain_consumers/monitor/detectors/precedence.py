"""What a run's trouble explains: one cause is one finding, and its consequences are none."""

from dataclasses import dataclass, field
from typing import Any

from pulsetrain_consumers.monitor.findings import Finding, Severity

_STEPS = frozenset({"straggler", "throughput_regression", "data_loader_bound", "gpu_idle", "clock_mismatch"})
_STILL = _STEPS | {"stall", "hung_rank", "loader_stall", "lost_host", "out_of_memory", "gpu_lost"}

# While the one on the left is there, those on the right are its consequences.
EXPLAINS: dict[str, frozenset[str]] = {
    "nan": frozenset({"loss_spike", "divergence", "plateau", "gradient_explosion"}),
    "gradient_explosion": frozenset({"loss_spike", "divergence"}),
    "divergence": frozenset({"loss_spike", "plateau", "gradient_explosion"}),
    "crashed": _STILL,
    "lost_host": _STEPS | {"stall", "hung_rank", "gpu_lost"},
    "gpu_lost": _STEPS | {"stall", "hung_rank"},
    "loader_stall": _STEPS | {"stall", "hung_rank"},
    "stall": _STEPS,
    "hung_rank": _STEPS | {"stall"},
    "xid": frozenset({"gpu_lost", "straggler", "throughput_regression", "gpu_idle"}),
    "thermal_throttle": frozenset({"straggler", "throughput_regression", "clock_mismatch"}),
    "power_throttle": frozenset({"straggler", "throughput_regression", "clock_mismatch"}),
    "clock_mismatch": frozenset({"straggler", "throughput_regression"}),
    "straggler": frozenset({"throughput_regression", "data_loader_bound"}),
    "data_loader_bound": frozenset({"throughput_regression", "gpu_idle", "straggler"}),
    "out_of_memory": frozenset({"memory_leak"}),
    "gpu_out_of_memory": frozenset({"gpu_memory_leak"}),
}
# Several metrics of a run show the same trouble; the first that does speaks for all.
ALONE = frozenset({"nan", "loss_spike", "divergence", "plateau", "gradient_explosion", "crashed"})


def _key(finding: Finding) -> str:
    return f"{finding.kind} {finding.subject}"


@dataclass(slots=True)
class Precedence:
    """Lets findings pass so that for each subject begin and end alternate, and nothing is said that a cause explains.

    What a cause explains is ended when the cause shows later than its consequence, and said after all when it is still
    there `grace` seconds after the cause is gone.
    """

    grace: float = 600.0
    active: dict[str, list[Any]] = field(init=False, default_factory=dict)
    waiting: dict[str, list[Any]] = field(init=False, default_factory=dict)
    ended: dict[str, float] = field(init=False, default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.active)

    def kinds(self) -> set[str]:
        """The kinds that are present."""
        return {key.partition(" ")[0] for key in self.active}

    def say(self, finding: Finding, clock: float) -> list[Finding]:
        """What to pass on of a finding."""
        key = _key(finding)
        if not finding.present:
            self.waiting.pop(key, None)
            if self.active.pop(key, None) is None:
                return []
            self.ended[finding.kind] = clock
            return [finding]
        if key in self.active:
            return []
        if self._explained(finding.kind, clock):
            self.waiting[key] = _row(finding)
            return []
        return self._pass(finding, clock)

    def tick(self, clock: float) -> list[Finding]:
        """What was held back and nothing explains any more."""
        found = []
        for row in list(self.waiting.values()):
            finding = _finding(row)
            if not self._explained(finding.kind, clock):
                found += self._pass(finding, clock)
        return found

    def close(self, time: float, clock: float, why: str, but: frozenset[str] = frozenset()) -> list[Finding]:
        """Ends all that is present, save some kinds, because the run or the attempt is over."""
        self.waiting.clear()
        keys = [key for key in self.active if key.partition(" ")[0] not in but]
        found = [self._end(key, time, clock, why) for key in keys]
        self.ended.clear()
        return found

    def _pass(self, finding: Finding, clock: float) -> list[Finding]:
        found = []
        explained = EXPLAINS.get(finding.kind, frozenset())
        for key in list(self.active):
            if key.partition(" ")[0] in explained:
                self.waiting[key] = self.active[key]
                found.append(
                    self._end(key, finding.time, clock, f"another alert explains it: {finding.kind.replace('_', ' ')}")
                )
        self.waiting.pop(_key(finding), None)
        self.active[_key(finding)] = _row(finding)
        return [*found, finding]

    def _end(self, key: str, time: float, clock: float, why: str) -> Finding:
        it = _finding(self.active.pop(key))
        self.ended[it.kind] = clock
        return Finding(it.kind, it.subject, False, it.severity, why, time, it.step, it.value, it.rank, it.host, it.gpu)

    def _explained(self, kind: str, clock: float) -> bool:
        kinds = self.kinds()
        if kind in ALONE and kind in kinds:
            return True
        for cause, explained in EXPLAINS.items():
            if kind not in explained:
                continue
            if cause in kinds or (cause in self.ended and clock - self.ended[cause] < self.grace):
                return True
        return kind in ALONE and kind in self.ended and clock - self.ended[kind] < 120.0


def _row(it: Finding) -> list[Any]:
    return [*(it.kind, it.subject, it.severity.value, it.message, it.time, it.step, it.value, it.rank, it.host, it.gpu)]


def _finding(row: list[Any]) -> Finding:
    kind, subject, severity, *rest = row
    return Finding(kind, subject, True, Severity(severity), *rest)
