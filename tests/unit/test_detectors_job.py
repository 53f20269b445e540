"""Detectors of what the ranks of a job do together: stalls, stragglers, speed, waiting for data."""

import numpy as np
import pytest

from pulsetrain_consumers.monitor.detectors.data_loader_bound import DataLoaderBound
from pulsetrain_consumers.monitor.detectors.lasting import Lasting
from pulsetrain_consumers.monitor.detectors.pace import Activity, Pace
from pulsetrain_consumers.monitor.detectors.stall import Silence, Stall
from pulsetrain_consumers.monitor.detectors.straggler import Straggler
from pulsetrain_consumers.monitor.detectors.throughput import ThroughputRegression


def pace(*gaps: float) -> Pace:
    made = Pace()
    for begin in range(0, len(gaps), 4):
        made.observe(np.array(gaps[begin : begin + 4]))
    return made


def test_a_run_that_logs_each_second_may_be_silent_for_minutes_not_for_more() -> None:
    assert 120 <= pace(*[1.0] * 200).patience(Activity.NONE) <= 180


def test_a_gap_that_was_there_before_is_normal() -> None:
    assert pace(*([1.0] * 100 + [400.0] + [1.0] * 100)).patience(Activity.NONE) >= 600


def test_who_logs_once_an_hour_is_waited_for_hours_and_whose_gpu_works_for_half_an_hour() -> None:
    assert pace(*[3600.0] * 24).patience(Activity.NONE) >= 3 * 3600
    assert pace(*[1.0] * 200).patience(Activity.GPU) == 1800
    assert pace(*[1.0] * 200).patience(Activity.UNKNOWN) == 300
    assert pace(*[1.0] * 200).patience(Activity.CPU) == 600


def test_the_first_steps_may_take_half_an_hour() -> None:
    assert pace(1.0, 1.0, 1.0).patience(Activity.NONE) == 1800


@pytest.mark.parametrize("others", [1, 3, 5])
@pytest.mark.parametrize("rows", [1, 4, 40, 1000])
def test_rows_that_come_at_once_are_one_of_the_usual_gap(rows: int, others: int) -> None:
    gaps = np.tile([60.0, *[0.001] * others], 1000)
    made = Pace()
    for begin in range(0, len(gaps), rows):
        made.observe(gaps[begin : begin + rows])
    assert made.usual == 60.0
    assert made.patience(Activity.NONE) == 600.0


def test_a_pause_now_and_then_is_not_the_usual_gap() -> None:
    made = pace(*([1.0] * 30 + [45.0]) * 20)
    assert made.usual == 1.0
    assert made.patience(Activity.NONE) == 150.0


def silences(count: int, seconds: float, **more) -> dict[int, Silence]:
    return {rank: Silence(seconds, 150.0, 100, **more) for rank in range(count)}


def test_a_silent_run_is_one_stall_that_ends_with_the_next_row() -> None:
    stall = Stall()
    assert stall.observe(0.0, silences(1, 100.0)) == []
    (found,) = stall.observe(60.0, silences(1, 160.0))
    assert (found.kind, found.subject, found.present) == ("stall", "", True)
    assert stall.observe(65.0, silences(1, 165.0)) == []
    (over,) = stall.observe(70.0, silences(1, 2.0))
    assert (over.kind, over.subject, over.present) == ("stall", "", False)


def test_of_64_silent_ranks_the_one_whose_step_is_behind_is_named() -> None:
    ranks = silences(64, 160.0) | {17: Silence(160.0, 150.0, 99, host="node02")}
    (found,) = Stall().observe(0.0, ranks)
    assert (found.kind, found.subject, found.rank, found.host) == ("hung_rank", "rank 17", 17, "node02")


def test_of_silent_ranks_at_one_step_the_one_with_an_idle_gpu_is_named() -> None:
    ranks = silences(8, 160.0, utilisation=100.0) | {5: Silence(160.0, 150.0, 100, utilisation=0.0)}
    assert [it.subject for it in Stall().observe(0.0, ranks)] == ["rank 5"]


def test_where_no_rank_stands_out_the_run_is_the_subject() -> None:
    assert [it.subject for it in Stall().observe(0.0, silences(8, 160.0, utilisation=100.0))] == [""]


def test_a_rank_that_is_silent_alone_is_hung_and_the_others_are_not() -> None:
    ranks = silences(8, 1.0) | {2: Silence(170.0, 150.0, 60)}
    assert [it.subject for it in Stall().observe(0.0, ranks)] == ["rank 2"]
    assert Stall().observe(0.0, silences(8, 140.0)) == []


def straggling(work: dict[int, float], hosts: dict[int, str] | None = None, rounds: int = 20) -> list[int]:
    detector, found = Straggler(), {}
    hosts = dict.fromkeys(work, "node") if hosts is None else hosts
    for i in range(rounds):
        found = detector.observe(i * 5.0, work, hosts)
    return sorted(rank for rank, (bad, _) in found.items() if bad)


def evenly(count: int) -> dict[int, float]:
    return {rank: 1.0 + 0.01 * np.sin(rank) for rank in range(count)}


def test_a_rank_that_works_half_as_long_again_straggles() -> None:
    assert straggling(evenly(64) | {9: 1.5}) == [9]
    assert straggling(evenly(64) | {9: 1.5}, rounds=5) == []


def test_ranks_of_one_host_straggle_together() -> None:
    hosts = {rank: f"node{rank // 8}" for rank in range(16)}
    assert straggling({rank: 1.4 if rank >= 12 else 1.0 for rank in range(16)}, hosts) == [12, 13, 14, 15]


def test_even_ranks_pipeline_stages_and_two_halves_do_not_straggle() -> None:
    assert straggling(evenly(64)) == []
    assert straggling(evenly(8) | {0: 1.12, 7: 1.17}) == []
    assert straggling({rank: 1.0 + (rank % 2) for rank in range(8)}) == []
    assert straggling({0: 1.0, 1: 2.0}) == []


def test_a_straggler_that_recovers_is_over() -> None:
    detector, hosts = Straggler(), dict.fromkeys(range(8), "node")
    for i in range(20):
        detector.observe(i * 5.0, evenly(8) | {1: 1.5}, hosts)
    for i in range(20, 40):
        found = detector.observe(i * 5.0, evenly(8), hosts)
    assert found[1][0] is False


def slower(costs: list[float]) -> list[bool]:
    detector, said = ThroughputRegression(), [False]
    for i, cost in enumerate(costs):
        slow, _ = detector.observe(i * 10.0, cost)
        if slow != said[-1]:
            said.append(slow)
    return said[1:]


def test_a_run_that_slows_down_is_a_regression_until_it_is_fast_again() -> None:
    assert slower([1.0] * 60 + [1.5] * 60 + [1.0] * 60) == [True, False]


def test_a_run_that_slows_down_little_by_little_is_a_regression() -> None:
    assert slower([1.0 + max(0, i - 60) / 200 for i in range(240)]) == [True]


def test_compilation_noise_and_a_short_pause_are_no_regression() -> None:
    rng = np.random.default_rng(0)
    costs = [20.0] * 4 + list(1 + 0.05 * rng.normal(size=400))
    costs[200:215] = [3.0] * 15
    assert slower(costs) == []


def test_steps_that_wait_for_data_for_long_are_bound_by_it() -> None:
    detector = DataLoaderBound()
    assert [detector.observe(t, 0.5) for t in (0.0, 60.0, 95.0)] == [False, False, True]
    assert [detector.observe(t, 0.3) for t in (100.0, 300.0)] == [True, True]
    assert [detector.observe(t, 0.1) for t in (310.0, 375.0)] == [True, False]


def test_the_slow_beginning_of_an_epoch_is_not_bound_by_data() -> None:
    detector = DataLoaderBound()
    shares = [0.6 if t % 300 < 60 else 0.05 for t in range(0, 3000, 5)]
    assert not any(detector.observe(5.0 * i, share) for i, share in enumerate(shares))


@pytest.mark.parametrize("gap", [None, False])
def test_a_condition_must_hold_without_a_break(gap: bool | None) -> None:
    lasting = Lasting(begin=30.0, end=30.0)
    assert not any(lasting.observe(t, c) for t, c in [(0.0, True), (20.0, True), (25.0, gap), (40.0, True)])
    assert lasting.observe(70.0, True)
