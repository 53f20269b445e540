"""A loader that has stalled is told from one that is slow, or new, or known to be slow at times."""

import json

import pytest

from pulsetrain_consumers.monitor.detectors.loader_stall import LoaderStall
from pulsetrain_consumers.monitor.detectors.remembering import dump, load
from pulsetrain_consumers.monitor.findings import Finding
from pulsetrain_consumers.monitor.watch import RunWatch
from pulsetrain_schemas.events import Origin, RunEvent, Waiting

T0 = 1_700_000_000.0


def waiting(seconds: float, *, steps: int = 100, is_over: bool = False) -> Waiting:
    return Waiting(waits_for="data", seconds=seconds, steps=steps, is_over=is_over)


def observed(detector: LoaderStall, wait: Waiting) -> Finding | None:
    return detector.observe(wait, T0, 0, 7, "host")


def test_it_fires_after_half_a_minute_and_is_over_when_the_data_comes() -> None:
    detector = LoaderStall()
    assert observed(detector, waiting(25)) is None
    found = observed(detector, waiting(31))
    assert found is not None
    assert (found.kind, found.subject, found.present, found.value, found.step) == (
        "loader_stall",
        "rank 0",
        True,
        31,
        7,
    )
    assert observed(detector, waiting(40)) is None
    over = observed(detector, waiting(45, is_over=True))
    assert over is not None
    assert not over.present
    assert observed(detector, waiting(6, is_over=True)) is None


def test_the_first_batches_may_take_minutes() -> None:
    detector = LoaderStall()
    assert observed(detector, waiting(250, steps=0)) is None
    assert observed(detector, waiting(310, steps=0)) is not None


def test_a_wait_that_came_before_is_normal() -> None:
    detector = LoaderStall()
    observed(detector, waiting(50))
    observed(detector, waiting(60, is_over=True))
    assert observed(detector, waiting(80)) is None, "workers begin anew with each epoch"
    assert observed(detector, waiting(96)) is not None


def test_it_goes_on_after_a_restart() -> None:
    detector, again = LoaderStall(), LoaderStall()
    observed(detector, waiting(35))
    load(again, json.loads(json.dumps(dump(detector))))
    assert observed(again, waiting(40)) is None
    assert observed(again, waiting(41, is_over=True)) is not None


def event(sequence: int, kind: str, **more: object) -> RunEvent:
    origin = Origin("p", "r", "w", 0, 0, int(T0 * 1e6), sequence, sequence)
    return RunEvent(origin, kind, int((T0 + sequence) * 1e6), True, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("state", ["finished", "killed"])
def test_of_a_run_it_ends_with_the_run(state: str) -> None:
    watch = RunWatch("p", "r")
    watch.tick(T0)
    watch.event(event(1, "start"))
    (found,) = watch.event(event(2, "waiting", waiting=waiting(31)))
    assert (found.kind, found.present) == ("loader_stall", True)
    ends = [(it.kind, it.present) for it in watch.event(event(3, "finish", state=state))]
    assert ("loader_stall", False) in ends
