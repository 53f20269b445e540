"""Samples of the host and of a run's processes, by psutil.

Rates come from counters that the kernel keeps, divided by the time between two samples; the first sample has none,
and a counter that went back (a device that went away) leaves its rate out rather than show a nonsense.
"""

import os
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any

from pulsetrain.hardware.sampler import Sample

LOOPBACK = ("lo", "lo0")
TREE_PERIOD = 5.0  # seconds between two looks for new child processes: that look reads every process of the machine


class Rates:
    """Turns counters into amounts per second."""

    def __init__(self) -> None:
        self._last: dict[str, tuple[float, float]] = {}

    def update(self, name: str, value: float, now: float, into: Sample) -> None:
        """Writes the rate since the last call for `name` into `into`, if there is one that makes sense."""
        last = self._last.get(name)
        self._last[name] = (now, value)
        if last is not None and now > last[0] and value >= last[1]:
            into[name] = (value - last[1]) / (now - last[0])


class HostSource:
    """The whole machine: processor, memory, disk and network. `path` is a place on the disk whose fill counts."""

    name = "host"

    def __init__(self, psutil: ModuleType | Any, path: str | os.PathLike[str] = "/") -> None:
        self._psutil = psutil
        self._path = os.fspath(path)
        self._rates = Rates()
        self._sampled = False

    def sample(self, now: float) -> Sample:
        psutil = self._psutil
        sample: Sample = {}
        busy = float(psutil.cpu_percent(interval=None))
        if self._sampled:  # psutil's first answer covers no time
            sample["cpu_percent"] = busy
        self._sampled = True
        sample["load_1m"] = float(psutil.getloadavg()[0])
        memory = psutil.virtual_memory()
        sample["memory_used_bytes"] = float(memory.used)
        sample["memory_percent"] = float(memory.percent)
        sample["swap_used_bytes"] = float(psutil.swap_memory().used)
        sample["disk_used_percent"] = float(psutil.disk_usage(self._path).percent)
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

    Memory is the sum of resident sets, so pages that processes share count once for each. 100 % is one core.
    """

    def __init__(self, name: str, pids: Callable[[], Iterable[int]], psutil: ModuleType | Any) -> None:
        self.name = name
        self._pids = pids
        self._psutil = psutil
        self._processes: dict[int, Any] = {}
        self._busy: dict[int, float] = {}
        self._looked_at: float | None = None
        self._sampled_at: float | None = None

    def sample(self, now: float) -> Sample:
        if self._looked_at is None or now - self._looked_at >= TREE_PERIOD:
            self._looked_at = now
            self._look()
        spent = 0.0
        resident = 0
        threads = 0
        busy: dict[int, float] = {}
        for pid, process in list(self._processes.items()):
            try:
                with process.oneshot():
                    times = process.cpu_times()
                    resident += process.memory_info().rss
                    threads += process.num_threads()
            except (self._psutil.NoSuchProcess, self._psutil.AccessDenied):
                del self._processes[pid]
                continue
            busy[pid] = times.user + times.system
            if pid in self._busy:
                spent += max(busy[pid] - self._busy[pid], 0.0)
        sample: Sample = {}
        if busy:
            sample["process_memory_rss_bytes"] = float(resident)
            sample["process_threads"] = float(threads)
            if self._sampled_at is not None and now > self._sampled_at:
                sample["process_cpu_percent"] = 100.0 * spent / (now - self._sampled_at)
        self._busy = busy
        self._sampled_at = now
        return sample

    def _look(self) -> None:
        found: dict[int, Any] = {}
        for pid in self._pids():
            try:
                root = self._processes.get(pid) or self._psutil.Process(pid)
                found[pid] = root
                for child in root.children(recursive=True):
                    found.setdefault(child.pid, self._processes.get(child.pid) or child)
            except (self._psutil.NoSuchProcess, self._psutil.AccessDenied):
                continue
        self._processes = found
