"""Whether a process lives, told from its number and its start."""

import os
import signal
import subprocess
import sys

import pytest

from pulsetrain.forwarder import liveness
from tests.waiting import wait_for


@pytest.fixture
def child():
    with subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE) as process:
        yield process
        process.kill()


def test_a_living_process_is_seen_to_live_and_its_death_is_seen(child):
    watch = liveness.ProcessWatch(child.pid, liveness.created(child.pid))
    assert watch.alive()
    child.kill()
    wait_for(lambda: not watch.alive(), 2, "the death, though nobody has waited for the process yet")
    child.wait()
    assert not watch.alive()


def test_a_number_that_is_another_processs_now_counts_as_gone(child):
    assert not liveness.ProcessWatch(child.pid, liveness.created(child.pid) - 3600).alive()


def test_a_number_that_nobody_has_counts_as_gone():
    assert liveness.created(2**22 + 1) is None
    assert not liveness.ProcessWatch(2**22 + 1, 0.0).alive()


def test_a_process_has_one_number_whatever_the_time_of_day(child, monkeypatch):
    before = liveness.created(child.pid)
    program = f"from pulsetrain.forwarder import liveness; print(repr(liveness.created({child.pid})))"
    told = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
    assert float(told) == before
    assert liveness.created(os.getpid()) < before, "it was started later"
    monkeypatch.setattr(liveness, "_boot", lambda: liveness.BOOT_STRIDE)
    assert not liveness.is_alive(child.pid, before), "of another boot"


def test_clock_ticks_are_told_apart_at_the_end_of_the_range():
    last = liveness.BOOT_STRIDE * liveness.BOOTS
    assert last - 0.01 != last
    assert abs((last - 0.01) - last) > liveness.TOLERANCE


def test_without_pidfds_a_death_is_seen_by_asking(child, monkeypatch):
    monkeypatch.delattr(os, "pidfd_open", raising=False)
    watch = liveness.ProcessWatch(child.pid, liveness.created(child.pid))
    assert watch.alive()
    child.kill()
    child.wait()
    assert not watch.alive()


@pytest.mark.parametrize("with_pidfds", [True, False])
def test_a_signal_reaches_the_process_and_no_other_that_has_its_number_now(child, monkeypatch, with_pidfds):
    if not with_pidfds:
        monkeypatch.delattr(os, "pidfd_open", raising=False)
    watch = liveness.ProcessWatch(child.pid, liveness.created(child.pid))
    watch.send(signal.SIGTERM)
    assert child.wait(10) == -signal.SIGTERM
    with pytest.raises(OSError, match=r"ended|No such"):
        watch.send(signal.SIGTERM)
    with pytest.raises(ProcessLookupError):
        liveness.ProcessWatch(os.getpid(), liveness.created(os.getpid()) - 3600).send(signal.SIGTERM)
