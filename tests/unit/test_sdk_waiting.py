"""A training loop that waits for its data says so while it waits, and once more when that is over."""

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from pulsetrain._run.waiting import WaitWatch


@dataclass
class Timer:
    """A step timer as it is seen from another thread."""

    steps: int = 12
    waits: bool = False


@dataclass
class Rig:
    """A watch, with time in the test's hands, and what it wrote down."""

    timers: list[Timer] = field(default_factory=lambda: [Timer()])
    now: float = 100.0
    told: list[tuple[float, int, bool]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.watch = WaitWatch(self.timers, SimpleNamespace(event=self.event), lambda: self.now)  # type: ignore[arg-type]

    def event(self, kind: str, data: dict[str, Any]) -> None:
        assert (kind, data["for"]) == ("waiting", "data")
        self.told.append((round(data["seconds"]), data["steps"], data["is_over"]))

    def pass_seconds(self, seconds: float) -> None:
        for _ in range(int(seconds * 4)):
            self.now += 0.25
            self.watch.look()


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_a_wait_is_told_again_and_again_and_its_end_once(rig: Rig) -> None:
    rig.timers[0].waits = True
    rig.pass_seconds(31)
    assert [seconds for seconds, _, _ in rig.told] == [5, 10, 15, 20, 25, 31][: len(rig.told)]
    assert not any(is_over for _, _, is_over in rig.told)
    rig.timers[0].waits = False
    rig.pass_seconds(10)
    assert rig.told[-1] == (31, 12, True)
    assert sum(is_over for _, _, is_over in rig.told) == 1


def test_an_hour_of_waiting_is_told_a_few_times(rig: Rig) -> None:
    rig.timers[0].waits = True
    rig.pass_seconds(3_600)
    assert 10 < len(rig.told) < 40


def test_waits_of_steps_that_end_are_not_told(rig: Rig) -> None:
    """Each look finds the loop waiting, though no step waits for long."""
    rig.timers[0].waits = True
    for _ in range(100):
        rig.timers[0].steps += 1
        rig.pass_seconds(1)
    assert not rig.told


def test_a_step_that_ends_between_two_looks_ends_the_wait(rig: Rig) -> None:
    rig.timers[0].waits = True
    rig.pass_seconds(7)
    rig.timers[0].steps += 1
    rig.pass_seconds(2)
    assert rig.told == [(5, 12, False), (7, 12, True)]


def test_a_loop_that_computes_for_long_does_not_wait(rig: Rig) -> None:
    rig.pass_seconds(600)
    assert not rig.told


def test_timers_that_are_made_later_are_looked_at_too(rig: Rig) -> None:
    rig.timers.append(Timer(steps=3, waits=True))
    rig.pass_seconds(6)
    assert rig.told == [(5, 3, False)]
