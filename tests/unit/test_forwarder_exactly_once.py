"""Whatever dies, fails or comes late: all that was logged is in Kafka, in ranges without a gap, with one end a run."""

import json
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.forwarder_rig import KINDS, Rig, Trainer, judge

# Seconds, how many arrive of which topic, how many the broker answers, whether the connection is lost then.
ROUND = st.tuples(
    st.sampled_from([0.6, 0.0, 3.0]),
    st.sampled_from([None, 1, 0, 3]),
    st.sampled_from([None, None, *KINDS]),
    st.sampled_from([None, 1, 0]),
    st.sampled_from([False, False, True]),
)
# Hundreds of small files a history: where there is a disk in memory, it is quicker.
IN_MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None
WHAT = st.sampled_from(["row", "other", "text", "console", "config", "summary"])


class ExactlyOnce(RuleBasedStateMachine):
    """Processes that log, fork, finish and vanish; a forwarder that is killed between any two effects and begins anew;
    a broker that goes, comes, takes a part and answers late; a disk without room; clocks that jump.
    """

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory(prefix="pulsetrain-model-", dir=IN_MEMORY)

    @initialize(seed=st.integers(0, 1 << 16))
    def start(self, seed: int) -> None:
        self.rig = Rig(Path(self.directory.name), seed)
        self.rig.start_trainer()
        self.rig.start_forwarder()

    @property
    def logging(self) -> list[Trainer]:
        return [trainer for trainer in self.rig.trainers if trainer.logs]

    @precondition(lambda self: len(self.rig.trainers) < 3)
    @rule()
    def process_begins_a_run(self) -> None:
        self.rig.start_trainer()

    @precondition(lambda self: self.logging and len(self.rig.trainers) < 3)
    @rule(data=st.data())
    def process_forks(self, data: st.DataObject) -> None:
        self.rig.start_trainer(data.draw(st.sampled_from(self.logging)))

    @precondition(lambda self: self.logging)
    @rule(data=st.data(), what=st.lists(WHAT, min_size=1, max_size=4), count=st.sampled_from([1, 9, 90, 200]))
    def process_logs(self, data: st.DataObject, what: list[str], count: int) -> None:
        trainer = data.draw(st.sampled_from(self.logging))
        for kind in what:
            trainer.log(kind, count)

    @precondition(lambda self: self.logging)
    @rule(data=st.data(), exit_code=st.integers(0, 1))
    def process_finishes(self, data: st.DataObject, exit_code: int) -> None:
        data.draw(st.sampled_from(self.logging)).finish("failed" if exit_code else "finished", exit_code)

    @precondition(lambda self: self.logging)
    @rule(data=st.data(), within_log=st.booleans())
    def process_vanishes(self, data: st.DataObject, within_log: bool) -> None:
        data.draw(st.sampled_from(self.logging)).vanish(within_log=within_log)

    @precondition(lambda self: self.rig.process is None)
    @rule()
    def forwarder_starts(self) -> None:
        self.rig.start_forwarder()

    @rule(rounds=st.lists(ROUND, min_size=1, max_size=5))
    def forwarder_works(self, rounds: list[tuple[float, int | None, str | None, int | None, bool]]) -> None:
        """Each round: some seconds pass, it does what there is to do, some of it arrives, the broker answers some."""
        for seconds, arriving, topic, answered, lost in rounds:
            self.rig.passed += seconds
            if self.rig.process is not None and self.rig.process.tick():
                self.rig.process.delivery.arrive(arriving, topic)
                self.rig.process.delivery.confirm(answered)
                if lost:
                    self.rig.lose_connection()

    @precondition(lambda self: self.rig.process is not None)
    @rule(undisturbed=st.integers(0, 8), rounds=st.lists(ROUND, min_size=1, max_size=5))
    def forwarder_is_replaced(
        self, undisturbed: int, rounds: list[tuple[float, int | None, str | None, int | None, bool]]
    ) -> None:
        """What the next one does first, while it reads what the last one had read, is where it could go wrong."""
        self.forwarder_works([(0.6, None, None, None, False)] * undisturbed)
        if self.rig.process is not None:
            self.rig.process.die()
        self.rig.start_forwarder()
        self.forwarder_works(rounds)

    @precondition(lambda self: self.rig.process is not None)
    @rule(at_once=st.booleans())
    def forwarder_is_killed(self, at_once: bool) -> None:
        self.rig.process.die()
        if at_once:
            self.rig.start_forwarder()

    @precondition(lambda self: self.rig.process is not None)
    @rule(boundary=st.integers(0, 12))
    def forwarder_will_crash(self, boundary: int) -> None:
        self.rig.process.faults.remaining = boundary

    @precondition(lambda self: self.rig.process is not None)
    @rule()
    def hardware_is_sampled(self) -> None:
        self.rig.process.sample()

    @rule()
    def what_was_on_the_wire_arrives_late(self) -> None:
        self.rig.arrive_late()

    @rule(change=st.sampled_from(["away", "full", "strict", "clock", "none"]), jump=st.sampled_from([-3600.0, 5.0]))
    def the_world_changes(self, change: str, jump: float) -> None:
        """The broker is away, the disk full, the topics take short messages alone; or all is well again."""
        self.rig.broker.away = change == "away"
        self.rig.disk_full = change == "full"
        self.rig.broker.max_message_bytes = 400 if change == "strict" else None
        self.rig.skew += jump if change == "clock" else 0.0

    @precondition(lambda self: self.rig.process is None)
    @rule(what=st.sampled_from(["old", "half", "gone"]))
    def power_is_lost_and_acknowledgements_with_it(self, what: str) -> None:
        self.rig.lose_acknowledgements(what)

    @invariant()
    def what_is_acknowledged_is_in_kafka(self) -> None:
        """Else its journal could be removed, or its run be told to be over, and it would be lost."""
        if not hasattr(self, "rig"):
            return
        found = self.rig.arrived()
        for path in self.rig.acks:
            try:
                ack = json.loads(path.read_bytes())
            except (FileNotFoundError, ValueError):
                continue
            told = found.get(path.parent.name)
            reached = {} if told is None else told.reached
            for topic, last in ack["covered"].items():
                assert last <= reached.get(topic, 0), f"{topic} is acknowledged to {last} and has {reached}"
            assert not ack["complete"] or told.ends

    def teardown(self) -> None:
        try:
            if hasattr(self, "rig"):
                try:
                    self.rig.settle()
                    judge(self.rig)
                finally:
                    self.rig.close()
        finally:
            self.directory.cleanup()


TestExactlyOnce = ExactlyOnce.TestCase
TestExactlyOnce.settings = settings(
    max_examples=60,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


def test_a_summary_that_is_told_while_reading_again_is_not_taken_for_published(tmp_path: Path):
    """An event of what was covered already is dropped downstream, and all that it says with it."""
    rig = Rig(tmp_path)
    try:
        trainer = rig.start_trainer()
        trainer.log("row", 119)  # two steps
        process = rig.start_forwarder()
        process.tick()
        process.delivery.arrive()
        rig.passed += 3.0
        process.tick()
        rig.lose_connection()
        rig.passed += 3.0
        process.tick()
        rig.settle()
        judge(rig)
    finally:
        rig.close()
