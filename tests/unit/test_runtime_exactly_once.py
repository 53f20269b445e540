"""Every (writer, sequence, metric) is stored exactly once, wherever processes die and whatever is sent twice."""

from collections import Counter
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from pulsetrain_consumers.runtime.batching import Limits
from pulsetrain_consumers.runtime.broker import Partition
from pulsetrain_schemas import events
from tests.writer_rig import METRICS, Crash, Process, Rig, expected_points, metric_batch

WRITERS = ("w0", "w1", "w2")
KEYS = ("loss", "acc")


class ExactlyOnce(RuleBasedStateMachine):
    """Forwarders that send and resend, and writers that crash, stall, are thrown out and come back.

    A frozen process is one that the group takes for dead and that is not: it goes on later, with all that it had.
    """

    def __init__(self) -> None:
        super().__init__()
        self.sent = dict.fromkeys(WRITERS, 0)
        self.garbage: list[tuple[int, int]] = []
        self.processes: list[Process] = []

    @initialize(rows=st.sampled_from([6, 20, 500]), messages=st.sampled_from([1, 3, 50]))
    def start(self, rows: int, messages: int) -> None:
        self.rig = Rig(limits=Limits(rows=rows, messages=messages, max_age=0.0, total_rows=60))
        self.processes.append(self.rig.process(inline=False))

    def partition(self, writer: str) -> Partition:
        return Partition(METRICS, WRITERS.index(writer) % 2)

    def send(self, writer: str, first: int, last: int) -> None:
        message = metric_batch(writer, first, last, keys=KEYS, texts=True)
        self.rig.broker.append(self.partition(writer), events.encode(message))

    @rule(writer=st.sampled_from(WRITERS), count=st.integers(1, 8))
    def forwarder_sends(self, writer: str, count: int) -> None:
        first = self.sent[writer] + 1
        self.sent[writer] += count
        self.send(writer, first, self.sent[writer])

    @rule(writer=st.sampled_from(WRITERS), back=st.integers(1, 12), cut=st.integers(1, 12), more=st.integers(0, 4))
    def forwarder_sends_again_with_other_boundaries(self, writer: str, back: int, cut: int, more: int) -> None:
        first = max(1, self.sent[writer] - back + 1)
        last = self.sent[writer] + more
        while first <= last:
            end = min(first + cut - 1, last)
            self.send(writer, first, end)
            first = end + 1
        self.sent[writer] = last

    @rule(number=st.integers(0, 1))
    def someone_sends_garbage(self, number: int) -> None:
        self.garbage.append((number, self.rig.broker.append(Partition(METRICS, number), b"garbage")))

    @precondition(lambda self: self.processes)
    @rule(data=st.data(), ticks=st.integers(1, 5))
    def process_works(self, data: st.DataObject, ticks: int) -> None:
        process = data.draw(st.sampled_from(self.processes))
        try:
            for _ in range(ticks):
                process.loop.tick(0)
                if data.draw(st.booleans()):
                    process.executor.run()
                    process.loop.tick(0)
                self.rig.clock.time += data.draw(st.sampled_from([0.0, 0.1, 1.5, 12.0]))
        except Crash:
            self.processes.remove(process)

    @precondition(lambda self: self.processes)
    @rule(data=st.data(), boundary=st.integers(0, 9))
    def process_will_crash(self, data: st.DataObject, boundary: int) -> None:
        data.draw(st.sampled_from(self.processes)).faults.remaining = boundary

    @precondition(lambda self: self.processes)
    @rule(
        data=st.data(),
        boundary=st.integers(0, 7),
        lost=st.sampled_from([0, 0, 1, 2]),
        writer=st.sampled_from(WRITERS),
        more=st.integers(1, 8),
    )
    def process_dies_at_its_work_and_more_is_sent(
        self, data: st.DataObject, boundary: int, lost: int, writer: str, more: int
    ) -> None:
        process = data.draw(st.sampled_from(self.processes))
        process.faults.remaining = boundary
        process.consumer.loses_commits = lost
        try:
            for _ in range(4):
                process.loop.tick(0)
                process.executor.run()
        except Crash:
            self.processes.remove(process)
        self.forwarder_sends(writer=writer, count=more)

    @precondition(lambda self: self.processes)
    @rule(data=st.data())
    def process_is_thrown_out_of_the_group_and_does_not_know(self, data: st.DataObject) -> None:
        self.rig.broker.expel(data.draw(st.sampled_from(self.processes)).member)

    @precondition(lambda self: self.processes)
    @rule(writer=st.sampled_from(WRITERS), count=st.integers(1, 8))
    def another_stores_for_a_while_what_is_then_sent_again(self, writer: str, count: int) -> None:
        for member in list(self.rig.broker.members()):
            self.rig.broker.expel(member)
        other = self.rig.process(inline=False)
        self.forwarder_sends(writer=writer, count=count)
        self.rig.settle(other, 6)
        self.rig.broker.expel(other.member)
        self.forwarder_sends_again_with_other_boundaries(writer=writer, back=count, cut=count, more=0)

    @precondition(lambda self: self.processes)
    @rule(data=st.data())
    def what_a_stalled_process_was_storing_arrives(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from(self.processes)).executor.run()

    @precondition(lambda self: len(self.processes) < 3)
    @rule()
    def process_starts(self) -> None:
        self.processes.append(self.rig.process(inline=False))

    @rule(away=st.booleans())
    def store_goes_or_comes(self, away: bool) -> None:
        self.rig.store.away = away

    @rule(away=st.booleans())
    def broker_goes_or_comes(self, away: bool) -> None:
        self.rig.broker.away = away

    def teardown(self) -> None:
        if not hasattr(self, "rig"):
            return
        self.rig.store.away = self.rig.broker.away = False
        for process in self.processes:
            process.faults.remaining = None
            process.consumer.loses_commits = 0
        for group_member in list(self.rig.broker.members()):
            self.rig.broker.expel(group_member)
        # Whatever stalled processes were still storing arrives at the very end, too.
        last = self.rig.process(inline=False)
        self.rig.settle(last, 80)
        for process in self.processes:
            process.executor.run()
        wanted: Counter[Any] = Counter()
        for writer, sequence in self.sent.items():
            wanted += expected_points(writer, 1, sequence, KEYS)
        assert self.rig.points() == wanted
        texts = Counter((row["writer"], row["sequence"]) for row in self.rig.store.tables.get("texts", []))
        assert texts == Counter((writer, n) for writer, end in self.sent.items() for n in range(1, end + 1))
        letters = {(letter.partition, letter.offset) for letter in self.rig.dead_letters()}
        assert letters == set(self.garbage)
        ledger = {(row["writer"], row["kafka_offset"], row["kafka_partition"]): row["rows"] for row in self.ledger()}
        assert sum(ledger.values()) == sum(wanted.values()) + sum(texts.values())

    def ledger(self) -> list[dict[str, Any]]:
        return self.rig.store.tables.get("stored_batches", [])


TestExactlyOnce = ExactlyOnce.TestCase
TestExactlyOnce.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
