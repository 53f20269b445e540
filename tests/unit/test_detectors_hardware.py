"""Detectors of GPUs and hosts: each with what it must see and what it must let pass."""

from dataclasses import replace

import numpy as np
import pytest

from pulsetrain_consumers.monitor.detectors.affected import Affected
from pulsetrain_consumers.monitor.detectors.gpu import HW_THERMAL, POWER_BRAKE, SW_POWER_CAP, Gpu, Sample
from pulsetrain_consumers.monitor.detectors.hardware import Hardware
from pulsetrain_consumers.monitor.detectors.memory_growth import MemoryLeak, OutOfMemorySoon
from pulsetrain_consumers.monitor.detectors.pace import Activity
from pulsetrain_consumers.monitor.detectors.ranks import Rank
from pulsetrain_consumers.monitor.detectors.system_samples import Summary, summary
from pulsetrain_consumers.monitor.detectors.writers import Writers
from pulsetrain_schemas.events import Origin, SystemBatch

GIB = 2.0**30
WELL = Sample(0.0, 95.0, 600.0, 60.0, 1900.0, 40 * GIB, 80 * GIB, errors=0.0)


def observed(*parts: tuple[float, Sample], busy: bool = True) -> Gpu:
    """A GPU that saw each sample for so many seconds, every ten."""
    gpu, time = Gpu(), 0.0
    for seconds, sample in parts:
        for _ in range(int(seconds / 10)):
            gpu.observe(replace(sample, time=time), busy)
            time += 10
    return gpu


def test_a_gpu_that_is_too_hot_throttles_until_it_has_cooled_down() -> None:
    hot = replace(WELL, thermal=0.9, clock=1300.0)
    assert observed((300, WELL), (60, hot)).thermal.present
    assert not observed((300, WELL), (60, hot), (120, WELL)).thermal.present
    assert not observed((300, WELL), (20, hot), (60, WELL), (20, hot)).thermal.present


def test_a_power_brake_throttles_and_so_does_a_cap_that_halves_the_clock() -> None:
    assert observed((300, WELL), (60, replace(WELL, power_brake=1.0))).brake.present
    assert observed((300, WELL), (60, replace(WELL, power_cap=1.0, clock=900.0))).brake.present


def test_the_power_cap_of_full_load_is_normal() -> None:
    assert not observed((300, WELL), (600, replace(WELL, power_cap=1.0, clock=1650.0))).brake.present


def test_a_gpu_that_worked_and_does_nothing_while_the_run_goes_on_is_idle() -> None:
    nothing = replace(WELL, utilisation=0.0, power=80.0)
    assert observed((300, WELL), (400, nothing)).idle.present
    assert not observed((300, WELL), (400, nothing), (10, WELL)).idle.present


def test_pauses_a_small_model_and_spare_gpus_are_not_idle() -> None:
    nothing = replace(WELL, utilisation=0.0, power=80.0)
    assert not observed((300, WELL), (200, nothing)).idle.present
    assert not observed((300, WELL), (900, nothing), busy=False).idle.present
    assert not observed((3000, replace(WELL, utilisation=4.0))).idle.present
    assert not observed((3000, replace(nothing, memory_used=0.5 * GIB))).idle.present
    assert observed((1000, replace(nothing, memory_used=20 * GIB))).idle.present


def test_errors_count_from_the_first_sample_on_and_are_over_ten_minutes_later() -> None:
    old = replace(WELL, errors=7.0)
    assert observed((300, old)).errors_at is None
    assert observed((300, old), (30, replace(old, errors=8.0))).errors_at is not None
    assert observed((300, old), (700, replace(old, errors=8.0))).errors_at is None
    fallen = replace(WELL, xids=1.0, last_xid=79)
    assert observed((300, WELL), (30, fallen)).xid_at is not None
    assert observed((300, fallen)).xid_at is None
    assert observed((300, fallen), (30, WELL), (30, fallen)).xid_at is not None
    assert observed((300, WELL)).xid_at is None


def clocked(clocks: list[float]) -> list[str]:
    hardware, found = Hardware(), []
    for i in range(30):
        gpus = {f"GPU-{n}": (n, replace(WELL, time=10.0 * i, clock=clock)) for n, clock in enumerate(clocks)}
        hardware.observe("node", 0, Rank(), Summary(10.0 * i, gpus), True, 10.0 * i)
        found += hardware.look(10.0 * i)
    return [f"{it.kind} {it.subject}" for it in found]


def test_a_gpu_whose_clock_is_far_below_its_peers_is_named() -> None:
    assert clocked([1900, 1890, 1500, 1910, 1900, 1905]) == ["clock_mismatch GPU-2"]


def test_clocks_that_differ_a_little_and_gpus_without_peers_are_well() -> None:
    assert clocked([1900, 1890, 1800, 1910, 1900, 1905]) == []
    assert clocked([1900, 1200]) == []


def test_a_gpu_that_vanishes_from_its_hosts_samples_is_lost() -> None:
    hardware, found = Hardware(), []
    for i in range(30):
        there = range(4) if i < 15 else range(3)
        gpus = {f"GPU-{n}": (n, replace(WELL, time=10.0 * i)) for n in there}
        hardware.observe("node", 0, Rank(), Summary(10.0 * i, gpus, {"memory_percent": 20.0}), True, 10.0 * i)
        found += hardware.look(10.0 * i)
    assert [(it.kind, it.subject, it.gpu) for it in found] == [("gpu_lost", "GPU-3", "GPU-3")]


AT_WORK, WAITS, IDLE = (95.0, 600.0), (100.0, 250.0), (0.0, 80.0)


@pytest.mark.parametrize(
    ("gpus", "processor", "expected"),
    [
        ([AT_WORK, IDLE], 300.0, Activity.GPU),
        ([IDLE, IDLE], 300.0, Activity.CPU),
        ([IDLE, IDLE], 3.0, Activity.NONE),
        ([WAITS, WAITS], 200.0, Activity.NONE),  # who waits in a collective spins
        ([], 300.0, Activity.CPU),
        ([], 3.0, Activity.UNKNOWN),
    ],
)
def test_what_a_silent_run_does_shows_in_its_samples(gpus, processor, expected) -> None:
    hardware = Hardware()
    for i in range(40):
        now = gpus if i >= 30 else [AT_WORK] * len(gpus)
        samples = {
            f"GPU-{n}": (n, replace(WELL, time=10.0 * i, utilisation=share, power=watts))
            for n, (share, watts) in enumerate(now)
        }
        told = Summary(10.0 * i, samples, {"process_cpu_percent": processor})
        hardware.observe("node", 0, Rank(), told, i < 30, 10.0 * i)
    assert hardware.activity(395.0) is expected
    assert hardware.activity(1000.0) is Activity.UNKNOWN, "old samples say nothing"


def leaks(shares: np.ndarray, seconds: float = 10.0) -> list[bool]:
    leak, said = MemoryLeak(), [False]
    for i, share in enumerate(shares):
        present = leak.observe(i * seconds, share * 100 * GIB, 100 * GIB)
        if present != said[-1]:
            said.append(present)
    return said[1:]


HOUR = np.arange(360) / 360


def test_memory_that_grows_steadily_leaks_until_it_is_given_back() -> None:
    noise = 0.002 * np.random.default_rng(0).normal(size=360)
    assert leaks(0.3 + 0.3 * HOUR + noise) == [True]
    assert leaks(np.concatenate([0.3 + 0.3 * HOUR, np.full(60, 0.3)])) == [True, False]
    assert leaks(0.3 + np.floor(0.3 * HOUR / 0.01) * 0.01) == [True]


def test_a_leak_is_told_when_a_third_of_its_way_is_over() -> None:
    full = np.arange(3600) / 3600  # ten hours from 0.2 to all of it
    (told,) = [i for i in range(1000, 1600, 50) if leaks(0.2 + 0.8 * full[:i]) == [True]][:1]
    assert 1100 < told < 1400


@pytest.mark.parametrize("minutes", [10, 60, 300])
def test_a_cache_that_takes_most_of_what_is_free_does_not_leak(minutes: int) -> None:
    noise = 0.001 * np.random.default_rng(minutes).normal(size=3600)
    assert leaks(0.3 + 0.5 * (1 - np.exp(-np.arange(3600) / 6 / minutes)) + noise) == []


@pytest.mark.parametrize(
    "shares",
    [
        0.4 + 0.003 * np.random.default_rng(1).normal(size=360),
        0.2 + 0.3 * (1 - np.exp(-HOUR * 8)),
        0.2 + 0.2 * ((HOUR * 6) % 1),
        0.2 + 0.5 * (HOUR > 0.3),
        0.3 + 0.01 * HOUR,
    ],
    ids=["steady", "a cache that fills", "workers that restart", "a leap", "growth for days"],
)
def test_memory_that_does_not_grow_for_ever_does_not_leak(shares: np.ndarray) -> None:
    assert leaks(shares) == []


def filling(detector: OutOfMemorySoon, shares: np.ndarray) -> list[bool]:
    said = [False]
    for i, share in enumerate(shares):
        present = detector.observe(i * 10.0, float(share))
        if present != said[-1]:
            said.append(present)
    return said[1:]


def test_memory_that_will_be_full_in_minutes_is_a_finding_before_it_is() -> None:
    shares = np.concatenate([np.full(60, 0.5), np.linspace(0.5, 1.0, 60)])
    for last in range(115, 120):
        assert filling(OutOfMemorySoon(near=0.9), shares[:last]) == [True]


def test_full_memory_is_fine_on_a_gpu_and_not_on_a_host() -> None:
    full = np.concatenate([np.linspace(0.2, 0.98, 6), np.full(300, 0.98)])
    assert filling(OutOfMemorySoon(near=0.9), full) == []
    assert filling(OutOfMemorySoon(full=0.97), full) == [True]


def test_memory_that_grows_slowly_or_far_from_full_is_fine() -> None:
    assert filling(OutOfMemorySoon(), np.linspace(0.85, 0.90, 720)) == []
    assert filling(OutOfMemorySoon(), np.linspace(0.1, 0.8, 60)) == []


def spoken(marks: dict[str, str], known: dict[str, str]) -> list[str]:
    """The subjects of what is said when these members (with their hosts) are in trouble, of those that are known."""
    group = Affected("hot", "GPU", gather=10.0)
    for name, host in known.items():
        group.meet(name, host)
    for name, host in marks.items():
        group.mark(name, True, 0.0, "hot", None, host)
    return [it.subject for now in (0.0, 5.0, 11.0, 20.0) for it in group.tick(now)]


GPUS = {f"{host}{n}": host for host in "abcd" for n in range(8)}


def test_one_gpu_a_host_and_the_whole_run_are_one_finding_each() -> None:
    assert spoken({"a1": "a"}, GPUS) == ["a1"]
    assert spoken({"a1": "a", "b2": "b"}, GPUS) == ["a1", "b2"]
    assert spoken({name: host for name, host in GPUS.items() if host == "c"}, GPUS) == ["c"]
    assert spoken(GPUS, GPUS) == [""]


def test_who_joins_a_host_that_was_spoken_of_is_covered_and_over_comes_once() -> None:
    group = Affected("hot", "GPU", gather=0.0)
    for n in range(4):
        group.mark(f"a{n}", True, 0.0, "hot", None, "a")
    assert [it.subject for it in group.tick(1.0)] == ["a"]
    group.mark("a5", True, 2.0, "hot", None, "a")
    assert group.tick(3.0) == []
    for n in range(4):
        group.mark(f"a{n}", False, 4.0, host="a")
    assert group.tick(5.0) == []
    group.mark("a5", False, 6.0, host="a")
    assert [(it.subject, it.present) for it in group.tick(7.0)] == [("a", False)]
    assert group.quiet()


def test_a_host_of_which_nothing_is_heard_for_a_minute_is_lost_and_may_come_back() -> None:
    writers, said = Writers(), []
    hosts = {0: "a", 1: "a", 2: "b"}
    for now in range(0, 400, 10):
        for rank in hosts:
            if rank != 2 or not 100 <= now < 300:
                writers.heard(f"w{rank}", rank, float(now), True)
        said += writers.look(float(now), float(now), hosts)
    assert [(it.subject, it.present) for it in said] == [("b", True), ("b", False)]


def test_a_crash_is_said_once_and_an_interruption_not_at_all() -> None:
    writers = Writers()
    one, two = writers.heard("a", 0, 0.0), writers.heard("b", 1, 0.0)
    found = writers.finish(one, True, "killed", None, 5.0, 17)
    assert found is not None
    assert found.present
    assert (found.rank, found.step) == (0, 17)
    assert writers.finish(two, True, "killed", None, 6.0, 17) is None
    assert writers.all_done()
    for primary, state, code in (
        (True, "finished", 0),
        (True, "failed", 130),
        (True, "killed", 255),
        (False, "killed", None),
    ):
        assert Writers().finish(Writers().heard("a", 0, 0.0), primary, state, code, 5.0, None) is None


def test_the_crash_of_a_rank_that_does_not_speak_for_the_run_is_said_and_the_end_of_its_child_is_not() -> None:
    writers = Writers()
    for name, rank, primary in (("main", 0, True), ("rank 1", 1, False), ("its child", 1, False)):
        writers.start(writers.heard(name, rank, 0.0), primary)
    assert writers.finish(writers.writers["its child"], False, "killed", None, 5.0, 3) is None
    found = writers.finish(writers.writers["rank 1"], False, "killed", None, 6.0, 4)
    assert found is not None
    assert (found.rank, found.step) == (1, 4)


def test_a_rank_that_is_killed_after_the_run_has_finished_did_not_crash() -> None:
    writers = Writers()
    for name, rank in (("main", 0), ("other", 1)):
        writers.start(writers.heard(name, rank, 0.0), rank == 0)
    assert writers.finish(writers.writers["main"], True, "finished", 0, 5.0, 9) is None
    assert writers.finish(writers.writers["other"], False, "killed", None, 6.0, 9) is None


def test_a_rank_whose_start_was_not_heard_is_known_by_its_rows() -> None:
    writers = Writers()
    writers.heard("a", 3, 0.0).logs = True
    assert writers.finish(writers.writers["a"], False, "failed", 1, 5.0, 9) is not None


def test_a_batch_of_samples_comes_to_means_last_values_and_shares_of_reasons() -> None:
    metrics = ["memory_percent", "utilization_percent", "memory_used_bytes", "throttle_reasons"]
    rows = np.array([[10, 80, 1, HW_THERMAL], [20, 90, 2, POWER_BRAKE | SW_POWER_CAP], [30, 100, 3, 0.0]])
    batch = SystemBatch(
        Origin("p", "r", "w", 0, 0, 0, 1, 3),
        "node",
        metrics,
        ["", "GPU-a", "GPU-a", "GPU-a"],
        np.array([-1, 4, 4, 4]),
        np.array([4]),
        np.arange(4),
        np.arange(1, 4),
        np.array([1, 2, 3]) * 1_000_000,
        np.zeros(3, np.int64),
        rows.reshape(-1),
    )
    several = replace(
        batch,
        shape_lengths=np.array([4, 4]),
        shape_keys=np.array([0, 1, 2, 3, 3, 2, 1, 0]),
        row_shapes=np.array([0, 1, 0]),
        values=np.concatenate([rows[0], rows[1][::-1], rows[2]]),
    )
    for it in (batch, several):
        told = summary(it)
        assert told is not None
        assert told.time == 3.0
        assert told.host == {"memory_percent": 20.0}
        index, sample = told.gpus["GPU-a"]
        assert (index, sample.utilisation, sample.memory_used) == (4, 90.0, 3.0)
        assert (sample.thermal, sample.power_brake, sample.power_cap) == pytest.approx((1 / 3, 1 / 3, 1 / 3))
