"""The sampler's clock: lanes, failures, hangs and drift."""

import threading
import time

from pulsetrain.hardware.sampler import Sampler
from tests.waiting import wait_for


class Constant:
    def __init__(self, name, sample):
        self.name = name
        self._sample = sample

    def sample(self, now):
        return dict(self._sample)


class Failing:
    name = "broken"

    def sample(self, now):
        raise OSError("no such device")


class Hanging:
    name = "stuck"

    def __init__(self):
        self.release = threading.Event()

    def sample(self, now):
        self.release.wait()
        return {"late": 1.0}


def make(period=1.0, patience=3.0):
    delivered, said = [], []
    sampler = Sampler(
        lambda at, samples: delivered.append((at, dict(samples))),
        period=period,
        patience=patience,
        report=said.append,
    )
    return sampler, delivered, said


def test_all_sources_are_given_out_together_under_their_names():
    sampler, delivered, _ = make()
    sampler.add("host", Constant("host", {"cpu_percent": 5.0}))
    sampler.add("gpu", Constant("gpu", {"power": 300.0}))
    sampler.tick()
    assert delivered[0][1] == {"host": {"cpu_percent": 5.0}, "gpu": {"power": 300.0}}


def test_a_source_that_fails_is_reported_once_and_the_rest_go_on():
    sampler, delivered, said = make()
    sampler.add("host", Failing())
    sampler.add("host", Constant("host", {"cpu_percent": 5.0}))
    for _ in range(3):
        sampler.tick()
    assert [samples for _, samples in delivered] == [{"host": {"cpu_percent": 5.0}}] * 3
    assert len(said) == 1
    assert "broken" in said[0]
    assert "no such device" in said[0]


def test_a_source_that_hangs_is_reported_once_left_out_and_taken_back():
    sampler, delivered, said = make(period=0.1, patience=0.15)
    stuck = Hanging()
    sampler.add("gpu", stuck)
    sampler.add("host", Constant("host", {"cpu_percent": 5.0}))
    for _ in range(5):
        sampler.tick()
    assert [samples for _, samples in delivered] == [{"host": {"cpu_percent": 5.0}}] * 5
    assert len(said) == 1
    assert "hangs in stuck" in said[0]
    stuck.release.set()

    def back():
        sampler.tick()
        return "stuck" in delivered[-1][1]

    wait_for(back, what="the lane's return")
    assert "answers again" in said[1]


def test_a_removed_source_is_asked_no_more():
    sampler, delivered, _ = make()
    sampler.add("host", Constant("host", {"cpu_percent": 5.0}))
    sampler.add("host", Constant("run", {"process_threads": 3.0}))
    sampler.remove("run")
    sampler.tick()
    assert delivered[0][1] == {"host": {"cpu_percent": 5.0}}


def test_a_lane_without_sources_ends_and_one_that_hung_may_begin_anew():
    sampler, delivered, _ = make(period=0.02)
    stuck = Hanging()
    sampler.add("gpu", stuck)
    sampler.tick()
    hung = sampler._lanes["gpu"]._thread
    sampler.remove("stuck")
    sampler.add("gpu", Constant("gpu", {"power": 300.0}))
    sampler.tick()
    wait_for(lambda: sampler.tick() or delivered[-1][1] == {"gpu": {"power": 300.0}}, what="the new lane")
    stuck.release.set()
    wait_for(lambda: not hung.is_alive(), what="the old lane's end")


def test_a_round_that_comes_back_after_its_tick_is_given_out_at_the_next():
    sampler, delivered, said = make(period=0.02)
    stuck = Hanging()
    sampler.add("gpu", stuck)
    sampler.tick()
    assert delivered[-1][1] == {}
    stuck.release.set()
    wait_for(lambda: sampler._lanes["gpu"]._done.is_set(), what="the round")
    del stuck.release  # a round begun anew would fail
    sampler.tick()
    assert delivered[-1][1] == {"stuck": {"late": 1.0}}
    assert said == []


def test_the_period_may_be_changed_while_it_ticks():
    ticks = []
    sampler = Sampler(lambda at, samples: ticks.append(at), period=60.0)
    sampler.start()
    wait_for(lambda: ticks, what="the first tick")
    sampler.period = 0.02
    wait_for(lambda: len(ticks) > 5, what="faster ticks")
    sampler.stop()


def test_ticks_keep_to_their_period_whatever_a_tick_itself_takes():
    class Slow:
        name = "slow"

        def sample(self, now):
            threading.Event().wait(0.03)
            return {}

    ticks = []
    sampler = Sampler(lambda at, samples: ticks.append(at), period=0.1, clock=time.monotonic)
    sampler.add("host", Slow())
    sampler.start()
    wait_for(lambda: len(ticks) >= 16, what="sixteen ticks")
    sampler.stop()
    phases = sorted((tick - ticks[0] + 0.01) % 0.1 for tick in ticks)
    assert phases[len(phases) // 2] < 0.035  # with drift they would lie everywhere between 0 and a period


def test_a_delivery_that_fails_is_reported_once_and_tried_again():
    said, calls = [], []

    def deliver(at, samples):
        calls.append(at)
        if len(calls) < 4:
            raise OSError("disk full")

    sampler = Sampler(deliver, period=0.02, report=said.append)
    sampler.start()
    wait_for(lambda: len(calls) >= 6, what="deliveries after the failure")
    sampler.stop()
    assert len(said) == 1
    assert "disk full" in said[0]
