"""Runs cases through a RunWatch as the monitor would, and counts what was found, missed and false."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from pulsetrain_consumers.monitor.findings import Finding
from pulsetrain_consumers.monitor.watch import RunWatch
from pulsetrain_schemas.events import MetricBatch, RunEvent, SystemBatch
from tests.bench.machine import quantile, table
from tests.corpus.labels import Case

TICK = 5.0


def heard(case: Case, tick: float = TICK, watch: RunWatch | None = None) -> list[tuple[float, Finding]]:
    """What a watch says of a case, with the times at which it says it."""
    watch = RunWatch("corpus", "run") if watch is None else watch
    said: list[tuple[float, Finding]] = []
    next_tick = case.start
    for arrival, event in case.events:
        while next_tick <= arrival:
            said += [(next_tick, it) for it in watch.tick(next_tick)]
            next_tick += tick
        if isinstance(event, MetricBatch):
            found = watch.metrics(event)
        elif isinstance(event, SystemBatch):
            found = watch.system(event)
        else:
            assert isinstance(event, RunEvent)
            found = watch.event(event)
        if found:
            said += [(arrival, it) for it in found]
    while next_tick <= case.end and not watch.ended():
        said += [(next_tick, it) for it in watch.tick(next_tick)]
        next_tick += tick
    return said


@dataclass
class Outcome:
    """How a case was judged: the delay of its detection, or None, and the alerts that were false."""

    kind: str
    seed: int
    expected: tuple[str, ...]
    delay: float | None
    false: list[Finding]


def judge(case: Case, said: Iterable[tuple[float, Finding]]) -> Outcome:
    """Compares what was said with the label. A second subject of the expected kind is a false alert too."""
    label = case.label
    delay: float | None = None
    false: list[Finding] = []
    subject: str | None = None
    for time, finding in said:
        if not finding.present:
            continue
        if label is None:
            false.append(finding)
            continue
        fits = finding.kind in label.kinds and (label.subject is None or finding.subject == label.subject)
        if fits and time >= label.onset and (subject is None or finding.subject == subject):
            subject = finding.subject
            delay = time - label.onset if delay is None else delay
        elif finding.kind not in label.also or time < label.onset:
            false.append(finding)
    return Outcome(case.kind, case.seed, label.kinds if label is not None else (), delay, false)


@dataclass
class Score:
    """Counts of one kind, of cases or of findings."""

    cases: int = 0
    detected: int = 0
    false: int = 0
    delays: list[float] = field(default_factory=list)

    def row(self, name: str) -> list[str]:
        """A row of the table."""
        said = self.detected + self.false
        return [
            name,
            str(self.cases),
            str(self.detected),
            str(self.cases - self.detected),
            f"{quantile(self.delays, 0.5):.0f}" if self.delays else "",
            f"{quantile(self.delays, 0.99):.0f}" if self.delays else "",
            str(self.false),
            f"{self.detected / said:.3f}" if said else "",
            f"{self.detected / self.cases:.3f}" if self.cases else "",
        ]


HEADER = ["", "cases", "detected", "missed", "median s", "p99 s", "false alerts", "precision", "recall"]


def report(outcomes: list[Outcome]) -> str:
    """Tables: per kind of finding, per kind of fault, and the healthy ones; the last lines name what went wrong."""
    findings: defaultdict[str, Score] = defaultdict(Score)
    faults: defaultdict[str, Score] = defaultdict(Score)
    healthy: Counter[str] = Counter()
    quiet: Counter[str] = Counter()
    total = Score()
    for it in outcomes:
        for found in it.false:
            findings[found.kind].false += 1
        total.false += len(it.false)
        if not it.expected:
            healthy[it.kind] += 1
            quiet[it.kind] += not it.false
            continue
        for score in (findings[it.expected[0]], faults[it.kind], total):
            score.cases += 1
            if it.delay is not None:
                score.detected += 1
                score.delays.append(it.delay)
        faults[it.kind].false += len(it.false)
    lines = ["per kind of finding", table(HEADER, [*(findings[k].row(k) for k in sorted(findings)), total.row("all")])]
    lines += ["", "per simulated fault", table(HEADER, [faults[k].row(k) for k in sorted(faults)])]
    names = [[k, str(healthy[k]), str(quiet[k])] for k in sorted(healthy)]
    lines += ["", "healthy", table(["", "cases", "without an alert"], names)]
    return "\n".join([*lines, "", wrong(outcomes)])


def wrong(outcomes: list[Outcome]) -> str:
    """A line for each case that was missed and for each false alert."""
    lines = []
    for it in outcomes:
        if it.expected and it.delay is None:
            lines.append(f"missed: {it.kind} {it.seed}\n")
        lines += [f"false: {it.kind} {it.seed}: {f.kind} {f.subject!r}: {f.message}\n" for f in it.false]
    return "".join(lines)
