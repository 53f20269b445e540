"""Whether a process lives, told from its number and its start."""

import os
import subprocess
import sys
import time

import psutil
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


def test_the_time_of_creation_is_what_psutil_says(child):
    assert liveness.created(child.pid) == pytest.approx(psutil.Process(child.pid).create_time(), abs=0.1)
    assert abs(liveness.created(os.getpid()) - psutil.Process().create_time()) < 0.1
    assert liveness.created(child.pid) <= time.time() + 1


def test_without_pidfds_a_death_is_seen_by_asking(child, monkeypatch):
    monkeypatch.delattr(os, "pidfd_open", raising=False)
    watch = liveness.ProcessWatch(child.pid, liveness.created(child.pid))
    assert watch.alive()
    child.kill()
    child.wait()
    assert not watch.alive()
