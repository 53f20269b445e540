"""What a container may use, by the control groups of Linux, version 2 and 1.

A limit may be set on the group of a process or on any above it (Slurm sets it on the job, Kubernetes on the container),
so all are looked at, and the tightest counts with what its own group uses. Outside of Linux there is nothing.
"""

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pulsetrain.hardware.rates import Rates
from pulsetrain.hardware.sampler import Sample

ROOT = Path("/sys/fs/cgroup")
PROC = Path("/proc")
NO_LIMIT = 1 << 60
"""Version 1 writes no limit as the largest multiple of a page."""


@dataclass(frozen=True, slots=True)
class _Files:
    """The files of one kind of limit: in a group's folder."""

    memory_limit: str
    memory_used: str
    throttled: str
    """The line of cpu.stat that counts the time that processes were held back."""
    throttled_unit: float


V1 = _Files("memory.limit_in_bytes", "memory.usage_in_bytes", "throttled_time", 1e-9)
V2 = _Files("memory.max", "memory.current", "throttled_usec", 1e-6)


class CgroupSource:
    """The limits that hold for one process, and how near it is to them. Names begin with `container_`."""

    def __init__(self, pid: int, root: Path = ROOT, proc: Path = PROC) -> None:
        self._root = root
        self._rates = Rates()
        groups = _groups(pid, proc)
        unified = groups.get("")
        self._v2 = unified is not None and (root / "cgroup.controllers").exists()
        self._files = V2 if self._v2 else V1
        self._memory = self._folders(unified if self._v2 else groups.get("memory"), "" if self._v2 else "memory")
        self._cpu = self._folders(unified if self._v2 else groups.get("cpu"), "" if self._v2 else "cpu")
        # Only what has a limit now is read at every tick; a limit is not lifted while a container runs.
        self._memory = [folder for folder in self._memory if self._memory_limit(folder) is not None]
        self._cpu = [folder for folder in self._cpu if self._quota(folder) is not None]

    @property
    def cores(self) -> float | None:
        """How many cores it may use at once; None without a limit."""
        return min((quota for folder in self._cpu if (quota := self._quota(folder)) is not None), default=None)

    def sample(self, now: float) -> Sample:
        """Empty where there is no limit."""
        sample: Sample = {}
        tightest: tuple[int, int] | None = None
        for folder in self._memory:
            limit, used = self._memory_limit(folder), _integer(folder / self._files.memory_used)
            if limit is not None and used is not None and (tightest is None or limit - used < tightest[0]):
                tightest = (limit - used, limit)
        if tightest is not None:
            left, allowed = tightest
            sample["container_memory_limit_bytes"] = float(allowed)
            sample["container_memory_used_bytes"] = float(allowed - left)
            sample["container_memory_percent"] = 100.0 * (allowed - left) / allowed
        cores = self.cores
        if cores is not None:
            sample["container_cpu_limit_cores"] = cores
            throttled = sum(self._throttled(folder) for folder in self._cpu)
            self._rates.update("container_cpu_throttled_ratio", throttled, now, sample)
        return sample

    def _folders(self, group: str | None, controller: str) -> list[Path]:
        """The folder of the group and of all above it, the nearest first."""
        if group is None:
            return []
        base = self._root / controller if controller else self._root
        path = PurePosixPath(group.lstrip("/"))
        # In a container that has no cgroup namespace, the path is the host's and its end is mounted as the root.
        return [folder for part in (path, *path.parents) if (folder := base / part).is_dir()]

    def _memory_limit(self, folder: Path) -> int | None:
        limit = _integer(folder / self._files.memory_limit)
        return limit if limit is not None and 0 < limit < NO_LIMIT else None

    def _quota(self, folder: Path) -> float | None:
        if self._v2:
            quota, _, period = _text(folder / "cpu.max").partition(" ")
        else:
            quota, period = _text(folder / "cpu.cfs_quota_us"), _text(folder / "cpu.cfs_period_us")
        if not (quota.isdecimal() and period.isdecimal()):  # "max", or -1
            return None
        return int(quota) / int(period) if int(period) else None

    def _throttled(self, folder: Path) -> float:
        for line in _text(folder / "cpu.stat").splitlines():
            name, _, value = line.partition(" ")
            if name == self._files.throttled and value.isdecimal():
                return int(value) * self._files.throttled_unit
        return 0.0


def _groups(pid: int, proc: Path) -> dict[str, str]:
    """By controller the group of the process; version 2's under ""."""
    groups: dict[str, str] = {}
    for line in _text(proc / str(pid) / "cgroup").splitlines():
        _, controllers, group = [*line.split(":", 2), "", ""][:3]
        for controller in controllers.split(","):
            groups.setdefault(controller, group)
    return groups


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _integer(path: Path) -> int | None:
    text = _text(path)
    return int(text) if text.isdecimal() else None
