"""The monitor killed and started again neither forgets nor repeats an alert, wherever it dies and whatever is away."""

import contextlib
import json
from collections import Counter
from collections.abc import Mapping
from typing import Any
from unittest import mock

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from pulsetrain_consumers.monitor import monitor as monitor_module
from pulsetrain_consumers.monitor import watched as watched_module
from pulsetrain_consumers.monitor.findings import Finding, Severity
from pulsetrain_consumers.monitor.monitor import MONITOR_TOPICS
from pulsetrain_consumers.runtime.broker import Partition
from pulsetrain_schemas import events
from pulsetrain_schemas.alert_rules import parse
from pulsetrain_schemas.events import MetricBatch
from tests.monitor_rig import METRICS, NAN, Process, Rig, changes, place
from tests.writer_rig import Crash

RUNS = ("r0", "r1", "r2", "r3")
NAMES = ("a", "b")


class Exactness(RuleBasedStateMachine):
    """Runs that log and call run.alert(), forwarders that send again, and a monitor that is killed anywhere."""

    kinds: tuple[str, ...] = ()

    def __init__(self) -> None:
        super().__init__()
        self.rig = Rig()
        self.rows: dict[str, list[float]] = {run: [] for run in RUNS}
        self.process: Process | None = None
        self.again: set[tuple[Partition, int]] = set()
        self.frozen: Process | None = None
        self.was_frozen = False

    @initialize()
    def start(self) -> None:
        self.process = self.started(self.rig)
        self.rig.settle(self.process, 2)

    def started(self, rig: Rig) -> Process:
        """A monitor process."""
        return Process(rig)

    def send(self, run: str, values: list[float]) -> None:
        self.rows[run] += values
        self.rig.metrics(run, values)

    @rule(run=st.sampled_from(RUNS), title=st.sampled_from(NAMES), wait=st.sampled_from([0.0, 5.0, 60.0]))
    def run_calls_alert(self, run: str, title: str, wait: float) -> None:
        self.rig.alert(run, title, wait)

    @rule(run=st.sampled_from(RUNS), back=st.integers(1, 30), cut=st.integers(1, 12))
    def forwarder_sends_again_with_other_boundaries(self, run: str, back: int, cut: int) -> None:
        last = len(self.rows[run])
        first = max(1, last - back + 1)
        while first <= last:
            end = min(first + cut - 1, last)
            batch = self.rig.batch(run, first, end, self.rows[run][first - 1 : end])
            self.again.add((Partition(METRICS, place(run)), self.rig.append(METRICS, run, batch)))
            first = end + 1

    @rule(run=st.sampled_from(RUNS), back=st.integers(1, 3))
    def forwarder_sends_events_again(self, run: str, back: int) -> None:
        topic = MONITOR_TOPICS[0]
        held = [record.value for record in self.rig.broker.records(topic)]
        mine = [
            value
            for value in held
            if value != b"garbage" and events.decode(value or b"", events.RunEvent).origin.run_id == run
        ]
        for value in mine[-back:]:
            partition = Partition(topic, place(run))
            self.again.add((partition, self.rig.broker.append(partition, value)))

    @rule(topic=st.sampled_from(MONITOR_TOPICS))
    def someone_sends_garbage(self, topic: str) -> None:
        self.rig.broker.append(Partition(topic, 0), b"garbage")

    @precondition(lambda self: self.process is not None)
    @rule(ticks=st.integers(1, 4), seconds=st.sampled_from([0.0, 0.1, 1.5, 6.0]), most=st.sampled_from([1, 3, 500]))
    def monitor_works(self, ticks: int, seconds: float, most: int) -> None:
        assert self.process is not None
        self.process.follower.max_records = most
        try:
            self.rig.settle(self.process, ticks, seconds)
        except Crash:
            self.process = None

    @precondition(lambda self: self.process is not None)
    @rule(boundary=st.integers(0, 5))
    def monitor_will_be_killed(self, boundary: int) -> None:
        assert self.process is not None
        self.process.faults.remaining = boundary

    @precondition(lambda self: self.process is not None)
    @rule()
    def monitor_is_killed(self) -> None:
        self.process = None

    @precondition(lambda self: self.process is not None)
    @rule()
    def monitor_is_told_to_end(self) -> None:
        assert self.process is not None
        self.process.faults.remaining = None
        self.process.monitor.finish()
        self.process = None

    @precondition(lambda self: self.process is None)
    @rule()
    def monitor_starts(self) -> None:
        self.process = self.started(self.rig)

    @precondition(lambda self: self.process is not None and self.frozen is None)
    @rule()
    def monitor_is_frozen_and_another_takes_its_place(self) -> None:
        self.frozen, self.process = self.process, self.started(self.rig)
        self.was_frozen = True

    @precondition(lambda self: self.frozen is not None)
    @rule()
    def a_frozen_monitor_wakes_and_ends_its_round(self) -> None:
        assert self.frozen is not None
        before = len(self.rig.told())
        with contextlib.suppress(Crash):
            self.frozen.monitor.tick(0)
        self.rig.unsure.update(changes(self.rig.told()[before:]))
        self.frozen = None

    @precondition(lambda self: self.process is not None)
    @rule(arrived=st.integers(0, 3))
    def an_answer_of_the_broker_will_be_lost(self, arrived: int) -> None:
        assert self.process is not None
        self.process.publisher.lost_answers.append(arrived)

    @precondition(lambda self: self.process is not None)
    @rule()
    def an_answer_of_the_store_will_be_lost(self) -> None:
        assert self.process is not None
        self.process.store.lost_answers += 1

    @rule(away=st.booleans())
    def store_goes_or_comes(self, away: bool) -> None:
        self.rig.store_away = away
        for process in (self.process, self.frozen):
            if process is not None:
                process.store.inner.away = away

    @rule(away=st.booleans())
    def broker_goes_or_comes(self, away: bool) -> None:
        self.rig.broker.away = away

    def reference(self) -> Rig:
        """The same messages, each once, before a monitor that never dies."""
        other = Rig()
        process = self.started(other)
        other.settle(process, 2)
        for topic in MONITOR_TOPICS:
            for partition, held in self.rig.broker.topics[topic].logs.items():
                once = [record for record in held.records if (partition, record.offset) not in self.again]
                other.broker.log(partition).records.extend(once)
        other.clock.time = self.rig.clock.time
        other.settle(process, 20, 100.0)
        return other

    def teardown(self) -> None:
        self.rig.broker.away = self.rig.store_away = False
        if self.frozen is not None:
            self.a_frozen_monitor_wakes_and_ends_its_round()
        last = self.started(self.rig)
        self.rig.settle(last, 30, 100.0)
        told, wanted = self.rig.changes(*self.kinds), self.reference().changes(*self.kinds)
        assert len(wanted) == len(set(wanted)), "a monitor that never died told something twice"
        assert set(told) == set(wanted)
        repeated = {change for change, count in Counter(self.rig.changes()).items() if count > 1}
        assert repeated <= self.rig.unsure, "told again, though nothing was lost"
        # In the order of each alert's changes, however often.
        for alert_id in {alert_id for alert_id, _, _ in wanted}:
            first = list(dict.fromkeys(change for change in told if change[0] == alert_id))
            assert first == [change for change in wanted if change[0] == alert_id]


class WithTheDetectors(Exactness):
    """The real watch, of whose findings those about NaN depend on nothing but a metric's values."""

    kinds = ("nan", "user")

    def __init__(self) -> None:
        super().__init__()
        self.phases = dict.fromkeys(RUNS, 0)

    @rule(run=st.sampled_from(RUNS), count=st.integers(1, 4))
    def run_logs(self, run: str, count: int) -> None:
        self.send(run, [NAN if self.phases[run] == 1 else 1.0] * count)

    @rule(run=st.sampled_from(RUNS))
    def run_goes_bad_or_recovers(self, run: str) -> None:
        self.phases[run] += 1
        self.send(run, {1: [NAN, NAN], 2: [1.0] * 25}.get(self.phases[run], [1.0]))


class WithRules(Exactness):
    """Rules of a file and of the runs themselves, whose conditions hold and cease at will, for long enough or not."""

    kinds = ("rule", "user")
    configured = (
        parse({"name": "at once", "metric": "train/loss", "condition": "== 1", "cooldown": "10s"}, "a test"),
        parse({"name": "in time", "metric": "train/*", "condition": "> 0", "for": "20s"}, "a test"),
    )

    @initialize()
    def start(self) -> None:
        super().start()
        assert self.process is not None
        own = {"name": "own", "metric": "*", "condition": "> 0", "over": "mean", "window": "9h"}
        for run in RUNS:
            self.rig.event(run, "update", rules={"own": json.dumps(own)})
        self.rig.settle(self.process, 2)

    def started(self, rig: Rig) -> Process:
        return Process(rig, rules=self.configured)

    @rule(run=st.sampled_from(RUNS), values=st.lists(st.sampled_from([0.0, 1.0, -5.0]), min_size=1, max_size=4))
    def run_logs(self, run: str, values: list[float]) -> None:
        self.send(run, values)

    @rule(seconds=st.sampled_from([1.0, 25.0, 290.0, 301.0]))
    def time_passes(self, seconds: float) -> None:
        self.rig.clock.time += seconds


class ScriptedWatch:
    """Finds what a metric says: 1 that the trouble is there, 0 that it is over; and by the clock that it is quiet."""

    quiet_after = 50.0
    over = False

    def __init__(self, project: str, run_id: str) -> None:
        del project, run_id
        self.there = False
        self.quiet = False
        self.now: float | None = None
        self.heard: float | None = None

    def metrics(self, batch: MetricBatch) -> list[Finding]:
        found = []
        self.heard = self.now
        for value, time in zip(batch.values.tolist(), batch.row_times.tolist(), strict=True):
            if (value == 1) != self.there:
                self.there = value == 1
                found.append(Finding("scripted", "it", self.there, Severity.WARNING, f"{value}", time / 1e6))
        return found

    def system(self, batch: Any) -> list[Finding]:
        del batch
        return []

    def event(self, event: Any) -> list[Finding]:
        del event
        return []

    def tick(self, now: float) -> list[Finding]:
        self.now = now
        if self.heard is None:
            self.heard = now
        quiet = now - self.heard >= self.quiet_after
        if quiet == self.quiet:
            return []
        self.quiet = quiet
        return [Finding("quiet", "", quiet, Severity.WARNING, f"at {now}", now)]

    def ended(self) -> bool:
        return False

    def state(self) -> dict[str, Any]:
        return vars(self)

    @classmethod
    def restored(cls, project: str, run_id: str, state: Mapping[str, Any]) -> "ScriptedWatch":
        watch = cls(project, run_id)
        vars(watch).update(state)
        return watch


class WithAScript(Exactness):
    """Troubles that come and go at will, so that alerts cool down and fire late."""

    kinds = ("scripted", "user")

    def __init__(self) -> None:
        self.patches = [
            mock.patch.object(module, "RunWatch", ScriptedWatch) for module in (monitor_module, watched_module)
        ]
        for patch in self.patches:
            patch.start()
        super().__init__()

    @rule(run=st.sampled_from(RUNS), values=st.lists(st.sampled_from([0.0, 1.0]), min_size=1, max_size=4))
    def run_logs(self, run: str, values: list[float]) -> None:
        self.send(run, values)

    @rule(seconds=st.sampled_from([1.0, 100.0, 290.0, 301.0]))
    def time_passes(self, seconds: float) -> None:
        self.rig.clock.time += seconds

    def teardown(self) -> None:
        try:
            super().teardown()
            self.check_what_time_brings()
        finally:
            for patch in self.patches:
                patch.stop()

    def check_what_time_brings(self) -> None:
        """What a restart finds at another moment is one alert all the same; in the end each run is quiet, once."""
        is_open: dict[str, set[str]] = {}
        for alert in self.rig.told():
            if alert.kind == "quiet":
                open_ones = is_open.setdefault(alert.run_id, set())
                (open_ones.add if alert.state != "resolved" else open_ones.discard)(alert.alert_id)
                assert len(open_ones) <= 1 or self.was_frozen
        known = {record.run_id for record in self.rig.told()} | {run for run, rows in self.rows.items() if rows}
        assert set(is_open) == known
        assert all(len(open_ones) == 1 for open_ones in is_open.values()) or self.was_frozen


_SETTINGS = settings(max_examples=30, stateful_step_count=35, deadline=None, suppress_health_check=list(HealthCheck))
TestWithTheDetectors = WithTheDetectors.TestCase
TestWithTheDetectors.settings = _SETTINGS
TestWithRules = WithRules.TestCase
TestWithRules.settings = _SETTINGS
TestWithAScript = WithAScript.TestCase
TestWithAScript.settings = _SETTINGS
