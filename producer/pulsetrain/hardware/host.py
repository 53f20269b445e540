"""Samples of the host and of a run's processes, by psutil.

Rates come from counters that the kernel keeps, divided by the time between two samples; the first sample has none.
"""

import os
from collections.abc import Callable, Collection, Iterable, Sequence
from types import ModuleType
from typing import Any

from pulsetrain.hardware.cgroup import CgroupSource
from pulsetrain.hardware.rates import Rates
from pulsetrain.hardware.sampler import Sample

LOOPBACK = ("lo", "lo0")
TREE_PERIOD = 5.0
"""Seconds between two looks for new child processes and at open files: they read every process of the machine."""
CORES_PERIOD = 1.0
"""Seconds between two looks at each core."""
MANY_CORES = 64
MANY_CORES_PERIOD = 10.0
"""The same where there are more cores than that."""


class Cores:
    """How busy each core was since the look before, as `cpu/<number>/percent`."""

    def __init__(self, psutil: ModuleType | Any) -> None:
        self._psutil = psutil
        self._looked_at: float | None = None
        self._times: Sequence[tuple[float, float]] = ()

    def sample(self, now: float, into: Sample) -> None:
        """Adds the figures when it is time for them."""
        period = MANY_CORES_PERIOD if len(self._times) > MANY_CORES else CORES_PERIOD
        if self._looked_at is not None and now - self._looked_at < 0.95 * period:
            return
        self._looked_at = now
        times = [_busy_and_all(core) for core in self._psutil.cpu_times(percpu=True)]
        if len(times) == len(self._times):  # none was switched on or off
            for number, ((busy, every), (busy_before, before)) in enumerate(zip(times, self._times, strict=True)):
                if every > before:
                    share = (busy - busy_before) / (every - before)
                    into[f"cpu/{number}/percent"] = 100.0 * min(max(share, 0.0), 1.0)
        self._times = times


def _busy_and_all(core: Any) -> tuple[float, float]:
    every = sum(core) - getattr(core, "guest", 0.0) - getattr(core, "guest_nice", 0.0)  # Linux counts these twice
    return every - core.idle - getattr(core, "iowait", 0.0), every


class HostSource:
    """The whole machine: processor, memory, disk and network. `path` is a place on the disk whose fill counts."""

    name = "host"

    def __init__(self, psutil: ModuleType | Any, path: str | os.PathLike[str] = "/") -> None:
        self._psutil = psutil
        self._path = os.fspath(path)
        self._rates = Rates()
        self._cores = Cores(psutil)
        self._sampled = False

    def sample(self, now: float) -> Sample:
        psutil = self._psutil
        sample: Sample = {}
        busy = float(psutil.cpu_percent(interval=None))
        if self._sampled:  # psutil's first answer covers no time
            sample["cpu_percent"] = busy
        self._sampled = True
        self._cores.sample(now, sample)
        sample["load_1m"] = float(psutil.getloadavg()[0])
        memory = psutil.virtual_memory()
        sample["memory_used_bytes"] = float(memory.used)
        sample["memory_available_bytes"] = float(memory.available)
        sample["memory_total_bytes"] = float(memory.total)
        sample["memory_percent"] = float(memory.percent)
        swap = psutil.swap_memory()
        sample["swap_used_bytes"] = float(swap.used)
        sample["swap_percent"] = float(swap.percent)
        disk_usage = psutil.disk_usage(self._path)
        sample["disk_used_bytes"] = float(disk_usage.used)
        sample["disk_used_percent"] = float(disk_usage.percent)
        disk = psutil.disk_io_counters()
        if disk is not None:  # a container may show no disks
            self._rates.update("disk_read_bytes_per_second", disk.read_bytes, now, sample)
            self._rates.update("disk_write_bytes_per_second", disk.write_bytes, now, sample)
        cards = [card for name, card in psutil.net_io_counters(pernic=True).items() if name not in LOOPBACK]
        self._rates.update("network_received_bytes_per_second", sum(c.bytes_recv for c in cards), now, sample)
        self._rates.update("network_sent_bytes_per_second", sum(c.bytes_sent for c in cards), now, sample)
        return sample


class ProcessTreeSource:
    """The processes of one run together: the ones that log, and all that descend from them.

    Memory is the sum of resident sets, so pages that processes share count once for each. 100 % is one core, except in
    `process_cpu_share_percent`: there it is all that the processes may use, by their container or the machine. The
    container's limits are those of the first process that logs.
    """

    def __init__(
        self,
        name: str,
        pids: Callable[[], Iterable[int]],
        psutil: ModuleType | Any,
        limits: Callable[[int], CgroupSource] = CgroupSource,
    ) -> None:
        self.name = name
        self._roots = pids
        self._psutil = psutil
        self._limits = limits
        self._container: tuple[int, CgroupSource] | None = None
        self._processes: dict[int, Any] = {}
        self._busy: dict[int, float] = {}
        self._looked_at: float | None = None
        self._sampled_at: float | None = None
        self._cores = float(psutil.cpu_count() or 1) if hasattr(psutil, "cpu_count") else 1.0

    @property
    def pids(self) -> Collection[int]:
        """The processes that are known now."""
        return self._processes.keys()

    def sample(self, now: float) -> Sample:
        looks = self._looked_at is None or now - self._looked_at >= TREE_PERIOD
        if looks:
            self._looked_at = now
            self._look()
        sample = self._read(now, files=looks)
        if self._container is not None and sample:
            container = self._container[1]
            sample.update(container.sample(now))
            if "process_cpu_percent" in sample:
                sample["process_cpu_share_percent"] = sample["process_cpu_percent"] / (container.cores or self._cores)
            self._share_of_memory(sample)
        return sample

    def _share_of_memory(self, sample: Sample) -> None:
        total = sample.get("container_memory_limit_bytes") or float(self._psutil.virtual_memory().total)
        if total:
            sample["process_memory_percent"] = 100.0 * sample["process_memory_rss_bytes"] / total

    def _read(self, now: float, *, files: bool) -> Sample:
        spent, resident, threads, opened = 0.0, 0, 0, 0
        busy: dict[int, float] = {}
        for pid, process in list(self._processes.items()):
            try:
                with process.oneshot():
                    times = process.cpu_times()
                    resident += process.memory_info().rss
                    threads += process.num_threads()
                    opened += process.num_fds() if files and hasattr(process, "num_fds") else 0
            except (self._psutil.NoSuchProcess, self._psutil.AccessDenied):
                self._processes = {other: known for other, known in self._processes.items() if other != pid}
                continue
            busy[pid] = times.user + times.system
            if pid in self._busy:
                spent += max(busy[pid] - self._busy[pid], 0.0)
        sample: Sample = {}
        if busy:
            sample["process_memory_rss_bytes"] = float(resident)
            sample["process_threads"] = float(threads)
            sample["process_count"] = float(len(busy))
            if opened:
                sample["process_open_files"] = float(opened)
            if self._sampled_at is not None and now > self._sampled_at:
                sample["process_cpu_percent"] = 100.0 * spent / (now - self._sampled_at)
        self._busy = busy
        self._sampled_at = now
        return sample

    def _look(self) -> None:
        found: dict[int, Any] = {}
        first: int | None = None
        for pid in self._roots():
            try:
                root = self._processes.get(pid) or self._psutil.Process(pid)
                found[pid] = root
                first = pid if first is None else first
                for child in root.children(recursive=True):
                    found.setdefault(child.pid, self._processes.get(child.pid) or child)
            except (self._psutil.NoSuchProcess, self._psutil.AccessDenied):
                continue
        self._processes = found
        if first is not None and (self._container is None or self._container[0] != first):
            self._container = (first, self._limits(first))
