"""Host and process samples, from a psutil that is made up."""

from contextlib import nullcontext
from types import SimpleNamespace

import psutil
import pytest

from pulsetrain.hardware.host import HostSource, ProcessTreeSource


class FakePsutil:
    NoSuchProcess = psutil.NoSuchProcess
    AccessDenied = psutil.AccessDenied

    def __init__(self):
        self.read = 1000
        self.received = {"lo": 10**9, "eth0": 500}
        self.processes = {}

    def cpu_percent(self, interval=None):
        return 42.0

    def getloadavg(self):
        return (1.5, 1.0, 0.5)

    def virtual_memory(self):
        return SimpleNamespace(used=8 << 30, percent=50.0)

    def swap_memory(self):
        return SimpleNamespace(used=1 << 20)

    def disk_usage(self, path):
        return SimpleNamespace(percent=77.0)

    def disk_io_counters(self):
        return SimpleNamespace(read_bytes=self.read, write_bytes=0)

    def net_io_counters(self, pernic):
        return {name: SimpleNamespace(bytes_recv=value, bytes_sent=0) for name, value in self.received.items()}

    def Process(self, pid):
        if pid not in self.processes:
            raise psutil.NoSuchProcess(pid)
        return self.processes[pid]


class FakeProcess:
    def __init__(self, pid, cpu=0.0, rss=100, children=()):
        self.pid, self.cpu, self.rss, self._children, self.gone = pid, cpu, rss, list(children), False

    def oneshot(self):
        return nullcontext()

    def children(self, recursive):
        return self._children

    def cpu_times(self):
        if self.gone:
            raise psutil.NoSuchProcess(self.pid)
        return SimpleNamespace(user=self.cpu, system=0.0)

    def memory_info(self):
        return SimpleNamespace(rss=self.rss)

    def num_threads(self):
        return 2


def test_the_first_host_sample_has_no_rates_and_no_processor_share():
    sample = HostSource(FakePsutil()).sample(10.0)
    assert sample["memory_used_bytes"] == 8 << 30
    assert sample["load_1m"] == 1.5
    assert sample["disk_used_percent"] == 77.0
    assert "cpu_percent" not in sample
    assert not [name for name in sample if name.endswith("_per_second")]


def test_host_rates_are_counted_from_the_last_sample_without_the_loopback():
    fake = FakePsutil()
    source = HostSource(fake)
    source.sample(10.0)
    fake.read += 4000
    fake.received = {"lo": 2 * 10**9, "eth0": 1500}
    sample = source.sample(12.0)
    assert sample["cpu_percent"] == 42.0
    assert sample["disk_read_bytes_per_second"] == 2000.0
    assert sample["network_received_bytes_per_second"] == 500.0


def test_a_counter_that_goes_back_leaves_its_rate_out_once():
    fake = FakePsutil()
    source = HostSource(fake)
    source.sample(10.0)
    fake.read = 0
    assert "disk_read_bytes_per_second" not in source.sample(11.0)
    fake.read = 300
    assert source.sample(12.0)["disk_read_bytes_per_second"] == 300.0


def test_a_host_without_disks_is_sampled():
    fake = FakePsutil()
    fake.disk_io_counters = lambda: None
    sample = HostSource(fake).sample(1.0)
    assert "memory_percent" in sample
    assert "disk_read_bytes_per_second" not in sample


def test_the_process_tree_adds_up_the_run_and_its_children():
    fake = FakePsutil()
    child = FakeProcess(2, cpu=1.0, rss=50)
    fake.processes[1] = FakeProcess(1, cpu=10.0, rss=100, children=[child])
    source = ProcessTreeSource("run", lambda: [1], fake)
    first = source.sample(0.0)
    assert first == {"process_memory_rss_bytes": 150.0, "process_threads": 4.0}
    fake.processes[1].cpu += 0.5
    child.cpu += 1.0
    assert source.sample(1.0)["process_cpu_percent"] == pytest.approx(150.0)


def test_a_child_that_ends_is_left_out_and_a_new_one_is_found():
    fake = FakePsutil()
    child = FakeProcess(2)
    fake.processes[1] = FakeProcess(1, children=[child])
    source = ProcessTreeSource("run", lambda: [1], fake)
    source.sample(0.0)
    child.gone = True
    assert source.sample(1.0)["process_threads"] == 2.0
    fake.processes[1]._children = [FakeProcess(3)]
    assert source.sample(6.0)["process_threads"] == 4.0


def test_a_run_whose_processes_are_gone_gives_nothing():
    assert ProcessTreeSource("run", lambda: [7], FakePsutil()).sample(0.0) == {}


def test_the_real_psutil_answers_to_the_same_names():
    import os

    host = HostSource(psutil)
    host.sample(1.0)
    assert {"cpu_percent", "memory_percent", "network_sent_bytes_per_second"} <= set(host.sample(2.0))
    tree = ProcessTreeSource("run", lambda: [os.getpid()], psutil)
    tree.sample(1.0)
    assert tree.sample(2.0)["process_memory_rss_bytes"] > 1 << 20
