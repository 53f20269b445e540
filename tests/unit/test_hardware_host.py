"""Host and process samples, from a psutil that is made up."""

from contextlib import nullcontext
from types import SimpleNamespace

import psutil
import pytest

from pulsetrain.hardware.cgroup import CgroupSource
from pulsetrain.hardware.host import HostSource, ProcessTreeSource
from pulsetrain_schemas.system_metrics import find


class FakePsutil:
    NoSuchProcess = psutil.NoSuchProcess
    AccessDenied = psutil.AccessDenied

    def __init__(self):
        self.read = 1000
        self.received = {"lo": 10**9, "eth0": 500}
        self.processes = {}
        self.cores = [(10.0, 90.0), (50.0, 50.0)]
        self.looks_at_cores = 0

    def cpu_count(self):
        return len(self.cores)

    def cpu_times(self, percpu):
        self.looks_at_cores += 1
        none = dict.fromkeys(psutil.cpu_times()._fields, 0.0)
        return [psutil.cpu_times()._replace(**none | {"user": user, "idle": idle}) for user, idle in self.cores]

    def cpu_percent(self, interval=None):
        return 42.0

    def getloadavg(self):
        return (1.5, 1.0, 0.5)

    def virtual_memory(self):
        return SimpleNamespace(used=8 << 30, available=8 << 30, total=16 << 30, percent=50.0)

    def swap_memory(self):
        return SimpleNamespace(used=1 << 20, percent=25.0)

    def disk_usage(self, path):
        return SimpleNamespace(used=7 << 30, percent=77.0)

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

    def num_fds(self):
        return 7


class Limits:
    """A container's, or none."""

    def __init__(self, cores=None, sample=None):
        self.cores, self._sample = cores, sample or {}

    def sample(self, now):
        return dict(self._sample)


def tree(fake, pids, limits=None):
    return ProcessTreeSource("run", lambda: pids, fake, lambda pid: limits or Limits())


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
    source = tree(fake, [1])
    first = source.sample(0.0)
    assert first == {
        "process_memory_rss_bytes": 150.0,
        "process_memory_percent": 100.0 * 150 / (16 << 30),
        "process_threads": 4.0,
        "process_count": 2.0,
        "process_open_files": 14.0,
    }
    assert set(source.pids) == {1, 2}
    fake.processes[1].cpu += 0.5
    child.cpu += 1.0
    second = source.sample(1.0)
    assert second["process_cpu_percent"] == pytest.approx(150.0)
    assert second["process_cpu_share_percent"] == pytest.approx(75.0)
    assert "process_open_files" not in second  # looked at every five seconds


def test_a_child_that_ends_is_left_out_and_a_new_one_is_found():
    fake = FakePsutil()
    child = FakeProcess(2)
    fake.processes[1] = FakeProcess(1, children=[child])
    source = tree(fake, [1])
    source.sample(0.0)
    child.gone = True
    assert source.sample(1.0)["process_threads"] == 2.0
    fake.processes[1]._children = [FakeProcess(3)]
    assert source.sample(6.0)["process_threads"] == 4.0


def test_a_run_whose_processes_are_gone_gives_nothing():
    assert tree(FakePsutil(), [7]).sample(0.0) == {}


def test_in_a_container_the_shares_are_of_its_limits():
    fake = FakePsutil()
    fake.processes[1] = FakeProcess(1, rss=100)
    source = tree(fake, [1], Limits(0.5, {"container_memory_limit_bytes": 1000.0}))
    assert source.sample(0.0)["process_memory_percent"] == 10.0
    fake.processes[1].cpu += 0.25
    assert source.sample(1.0)["process_cpu_share_percent"] == pytest.approx(50.0)


def test_each_core_is_looked_at_once_a_second_however_often_the_host_is_sampled():
    fake = FakePsutil()
    source = HostSource(fake)
    assert "cpu/0/percent" not in source.sample(0.0)
    fake.cores = [(11.0, 99.0), (60.0, 50.0)]
    samples = [source.sample(tick / 10) for tick in range(1, 11)]
    assert [tick for tick, sample in enumerate(samples, 1) if "cpu/0/percent" in sample] == [10]
    assert samples[-1]["cpu/0/percent"] == pytest.approx(10.0)
    assert samples[-1]["cpu/1/percent"] == pytest.approx(100.0)


def test_many_cores_are_looked_at_every_ten_seconds():
    fake = FakePsutil()
    fake.cores = [(1.0, 1.0)] * 128
    source = HostSource(fake)
    for second in range(30):
        source.sample(float(second))
    assert fake.looks_at_cores == 3


def test_a_core_that_is_switched_off_leaves_one_look_out():
    fake = FakePsutil()
    source = HostSource(fake)
    source.sample(0.0)
    fake.cores = [(20.0, 90.0)]
    assert "cpu/0/percent" not in source.sample(1.0)
    fake.cores = [(21.0, 91.0)]
    assert source.sample(2.0)["cpu/0/percent"] == pytest.approx(50.0)


V2 = {
    "cgroup.controllers": "cpu memory",
    "job/memory.max": "1000",
    "job/memory.current": "900",
    "job/step/memory.max": "max",
    "job/step/memory.current": "300",
    "job/step/cpu.max": "150000 100000",
    "job/step/cpu.stat": "usage_usec 5\nthrottled_usec 1000000",
    "job/cpu.max": "max 100000",
}
V1 = {
    "memory/docker/a/memory.limit_in_bytes": "2000",
    "memory/docker/a/memory.usage_in_bytes": "500",
    "memory/memory.limit_in_bytes": "9223372036854771712",
    "memory/memory.usage_in_bytes": "5000",
    "cpu/docker/a/cpu.cfs_quota_us": "50000",
    "cpu/docker/a/cpu.cfs_period_us": "100000",
    "cpu/docker/a/cpu.stat": "nr_periods 1\nnr_throttled 1\nthrottled_time 2000000000",
    "cpu/cpu.cfs_quota_us": "-1",
    "cpu/cpu.cfs_period_us": "100000",
}


def cgroup(tmp_path, files, groups):
    for name, text in files.items():
        (tmp_path / "cgroup" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "cgroup" / name).write_text(text + "\n")
    (tmp_path / "proc" / "7").mkdir(parents=True)
    (tmp_path / "proc" / "7" / "cgroup").write_text(groups)
    return CgroupSource(7, tmp_path / "cgroup", tmp_path / "proc")


def test_the_tightest_limit_above_a_process_counts_with_what_its_own_group_uses(tmp_path):
    source = cgroup(tmp_path, V2, "0::/job/step\n")
    sample = source.sample(0.0)
    assert sample == {
        "container_memory_limit_bytes": 1000.0,
        "container_memory_used_bytes": 900.0,
        "container_memory_percent": 90.0,
        "container_cpu_limit_cores": 1.5,
    }
    (tmp_path / "cgroup/job/step/cpu.stat").write_text("throttled_usec 1500000")
    assert source.sample(2.0)["container_cpu_throttled_ratio"] == pytest.approx(0.25)


def test_version_1_of_control_groups_is_read_too(tmp_path):
    groups = "5:memory:/docker/a\n4:cpu,cpuacct:/docker/a\n0::/\n"
    source = cgroup(tmp_path, V1, groups)
    sample = source.sample(0.0)
    assert sample["container_memory_percent"] == 25.0
    assert sample["container_cpu_limit_cores"] == 0.5
    (tmp_path / "cgroup/cpu/docker/a/cpu.stat").write_text("throttled_time 3000000000")
    assert source.sample(2.0)["container_cpu_throttled_ratio"] == pytest.approx(0.5)


def test_in_a_container_whose_group_is_named_as_on_the_host_the_root_counts(tmp_path):
    files = {"cgroup.controllers": "memory", "memory.max": "1000", "memory.current": "10"}
    assert cgroup(tmp_path, files, "0::/kubepods/pod1/abc\n").sample(0.0)["container_memory_percent"] == 1.0


def test_without_a_limit_or_control_groups_nothing_is_said_of_a_container(tmp_path):
    assert cgroup(tmp_path, {"cgroup.controllers": "", "memory.max": "max"}, "0::/\n").sample(0.0) == {}
    assert CgroupSource(8, tmp_path / "none", tmp_path / "none").sample(0.0) == {}


def test_the_real_psutil_answers_to_the_same_names():
    import os

    host = HostSource(psutil)
    host.sample(1.0)
    assert {"cpu_percent", "memory_percent", "network_sent_bytes_per_second"} <= set(host.sample(2.0))
    own = ProcessTreeSource("run", lambda: [os.getpid()], psutil)
    first = own.sample(1.0)
    assert first["process_open_files"] > 3
    assert own.sample(2.0)["process_memory_rss_bytes"] > 1 << 20


def test_every_metric_of_the_host_and_of_processes_is_in_the_catalogue():
    import os

    host, own = HostSource(psutil), ProcessTreeSource("run", lambda: [os.getpid()], psutil)
    names = [*host.sample(1.0), *host.sample(2.0), *own.sample(1.0), *own.sample(2.0)]
    assert [name for name in names if find(name) is None] == []
