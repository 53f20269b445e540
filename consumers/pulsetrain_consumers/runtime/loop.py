"""The loop of every consumer service: read, batch by partition, announce, store, commit; again after every failure.

One thread polls, decodes and commits; another stores. While a round of batches is stored, the next one is read, and
when enough waits, partitions are paused and the polling goes on, so that the group never takes a slow store for a dead
consumer. `intake` is the reading half, `rounds` the storing one.
"""

import logging
from collections.abc import Callable
from concurrent.futures import Executor
from random import Random
from typing import Generic

from pulsetrain_consumers.runtime.backoff import Backoff
from pulsetrain_consumers.runtime.batching import Limits
from pulsetrain_consumers.runtime.broker import Clock, Consumer
from pulsetrain_consumers.runtime.dead_letters import DeadLetters
from pulsetrain_consumers.runtime.health import Health
from pulsetrain_consumers.runtime.intake import Intake
from pulsetrain_consumers.runtime.ownership import Ownership
from pulsetrain_consumers.runtime.rounds import Rounds
from pulsetrain_consumers.runtime.sink import M, Sink
from pulsetrain_consumers.runtime.telemetry import Telemetry

log = logging.getLogger(__name__)

_IDLE_POLL_SECONDS = 0.2
_BUSY_POLL_SECONDS = 0.005


class Loop(Generic[M]):
    """Moves messages from a consumer into a sink. `tick` does a bounded piece of work; call it until it is to stop."""

    def __init__(
        self,
        consumer: Consumer,
        sink: Sink[M],
        dead_letters: DeadLetters,
        *,
        executor: Executor,
        clock: Clock,
        random: Random,
        telemetry: Telemetry,
        health: Health,
        limits: Limits,
    ) -> None:
        self._consumer = consumer
        self._clock = clock
        self._health = health
        self._limits = limits
        self._owned: Ownership[M] = Ownership(consumer, limits, lambda: f"{random.getrandbits(32):08x}")
        broker_backoff = Backoff(random)
        self._rounds = Rounds(
            consumer,
            sink,
            dead_letters,
            self._owned,
            executor=executor,
            clock=clock,
            store_backoff=Backoff(random),
            broker_backoff=broker_backoff,
            telemetry=telemetry,
            health=health,
        )
        self._intake = Intake(
            consumer,
            sink,
            self._owned,
            self._rounds,
            backoff=broker_backoff,
            telemetry=telemetry,
            health=health,
            limits=limits,
        )
        health.problem("store", "not reached yet")
        health.problem("start", None)

    def run(self, stopping: Callable[[], bool], grace: float) -> None:
        """Works until `stopping`, then stores and commits what was read, and leaves within `grace` seconds."""
        while not stopping():
            self.tick()
        self.finish(grace)

    def tick(self, timeout: float | None = None) -> None:
        """Polls once, for at most `timeout` seconds, and does what there is to do."""
        polled = self._consumer.poll(self._patience() if timeout is None else timeout)
        for rebalance in polled.rebalances:
            self._intake.rebalanced(rebalance)
        now = self._clock.monotonic()
        self._intake.forget_recreated()
        self._intake.accept(polled.records, now)
        self._intake.locate(now)
        self._rounds.advance(now)
        self._rounds.begin(now)
        self._rounds.commit_when_idle(now)
        self._intake.regulate()
        self._broker_problem(self._consumer.problem())
        self._health.tick()

    def finish(self, grace: float) -> None:
        """Stores what was read and commits it, as far as that is possible in `grace` seconds, and leaves the group."""
        deadline = self._clock.monotonic() + grace
        while self._clock.monotonic() < deadline:
            self._consumer.pause([owned.partition for owned in self._owned])
            for rebalance in self._consumer.poll(_BUSY_POLL_SECONDS).rebalances:
                self._intake.rebalanced(rebalance)
            now = self._clock.monotonic()
            self._rounds.advance(now)
            self._rounds.begin(now, everything=True)
            if not self._rounds.busy and not any(owned.cuttable() for owned in self._owned):
                break
        self._rounds.abandon_all()
        self._rounds.commit_ends()
        self._consumer.close()

    def measure_lag(self) -> None:
        """Updates the lag of every partition, from what the last fetches told."""
        self._intake.measure_lag()

    def _patience(self) -> float:
        """How long the next poll may wait for records."""
        if not self._rounds.idle:
            return _BUSY_POLL_SECONDS
        now = self._clock.monotonic()
        waits = [
            owned.buffer.since + self._limits.max_age - now for owned in self._owned if owned.buffer.since is not None
        ]
        return max(0.0, min([_IDLE_POLL_SECONDS, *waits]))

    def _broker_problem(self, problem: str | None) -> None:
        if self._health.problem("kafka", problem):
            if problem is None:
                log.info("Kafka answers")
            else:
                log.warning("waiting: %s", problem)
