"""Samples of NVIDIA GPUs through NVML (the package nvidia-ml-py, imported only where it is installed).

Metrics are named `gpu/<index>/<uuid>/<metric>`. A metric that a GPU does not have is asked for once. A GPU that falls
off the bus is said once; the others go on, and it is looked for again every half minute. Calls that take long
(the fan, about 140 µs) are made every ten seconds.
"""

import importlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from pulsetrain.hardware.sampler import Sample

SLOW_PERIOD = 10.0
RETRY_PERIOD = 30.0

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Gpu:
    """One GPU as NVML numbers them, and what is known not to work on it."""

    index: int
    uuid: str
    handle: Any
    unsupported: set[str] = field(default_factory=set)
    failed: set[str] = field(default_factory=set)
    lost_at: float | None = None
    slow: Sample = field(default_factory=dict)
    slow_at: float | None = None


def open_nvml(
    import_module: Callable[[str], ModuleType] = importlib.import_module,
    report: Callable[[str], None] = logger.info,
) -> ModuleType | None:
    """NVML, initialised; None where the package or the driver is missing, which is the normal case without a GPU."""
    try:
        nvml = import_module("pynvml")
    except ImportError:
        return None
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        report(f"no GPU telemetry: NVML does not start: {error}")
        return None
    return nvml


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


class NvidiaSource:
    """All GPUs of the machine. A run's view of them is cut out by `visible`."""

    name = "gpu"

    def __init__(self, nvml: ModuleType | Any, report: Callable[[str], None] = logger.warning) -> None:
        self._nvml = nvml
        self._report = report
        self.gpus: list[Gpu] = []
        for index in range(nvml.nvmlDeviceGetCount()):
            try:
                handle = nvml.nvmlDeviceGetHandleByIndex(index)
                self.gpus.append(Gpu(index, _text(nvml.nvmlDeviceGetUUID(handle)), handle))
            except nvml.NVMLError as error:
                report(f"GPU {index} cannot be read: {error}")
        reasons = getattr(nvml, "nvmlDeviceGetCurrentClocksEventReasons", None)
        self._reasons = reasons or nvml.nvmlDeviceGetCurrentClocksThrottleReasons

    def sample(self, now: float) -> Sample:
        sample: Sample = {}
        for gpu in self.gpus:
            if gpu.lost_at is not None and not self._found_again(gpu, now):
                continue
            prefix = f"gpu/{gpu.index}/{gpu.uuid}/"
            for name, value in self._sample_one(gpu, now).items():
                sample[prefix + name] = value
        return sample

    def _sample_one(self, gpu: Gpu, now: float) -> Sample:
        nvml, handle = self._nvml, gpu.handle
        found: Sample = {}
        self._ask(gpu, "utilization", lambda: _utilization(nvml, handle), found, now)
        self._ask(gpu, "memory", lambda: _memory(nvml, handle), found, now)
        self._ask(gpu, "temperature_celsius", lambda: nvml.nvmlDeviceGetTemperature(handle, 0), found, now)
        self._ask(gpu, "power_watts", lambda: nvml.nvmlDeviceGetPowerUsage(handle) / 1000, found, now)
        self._ask(gpu, "sm_clock_mhz", lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM), found, now)
        self._ask(gpu, "memory_clock_mhz", lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_MEM), found, now)
        self._ask(gpu, "throttle_reasons", lambda: self._reasons(handle), found, now)
        if gpu.slow_at is None or now - gpu.slow_at >= SLOW_PERIOD:
            gpu.slow_at = now
            gpu.slow = {}
            self._ask(gpu, "fan_percent", lambda: nvml.nvmlDeviceGetFanSpeed(handle), gpu.slow, now)
        if gpu.lost_at is None:
            found.update(gpu.slow)
        return found

    def _ask(self, gpu: Gpu, name: str, call: Callable[[], float | Sample], into: Sample, now: float) -> None:
        if name in gpu.unsupported or gpu.lost_at is not None:
            return
        nvml = self._nvml
        try:
            value = call()
        except nvml.NVMLError as error:
            code = getattr(error, "value", None)
            if code == nvml.NVML_ERROR_NOT_SUPPORTED:
                gpu.unsupported.add(name)
            elif code == nvml.NVML_ERROR_GPU_IS_LOST:
                gpu.lost_at = now
                self._report(f"GPU {gpu.index} ({gpu.uuid}) is lost to the driver; the others are sampled on")
            elif name not in gpu.failed:
                gpu.failed.add(name)
                self._report(f"GPU {gpu.index}: {name} cannot be read: {error}")
            return
        if isinstance(value, dict):
            into.update(value)
        else:
            into[name] = float(value)

    def _found_again(self, gpu: Gpu, now: float) -> bool:
        if gpu.lost_at is None or now - gpu.lost_at < RETRY_PERIOD:
            return False
        gpu.lost_at = now
        try:
            gpu.handle = self._nvml.nvmlDeviceGetHandleByUUID(gpu.uuid)
            self._nvml.nvmlDeviceGetMemoryInfo(gpu.handle)
        except self._nvml.NVMLError:
            return False  # still away: that it is lost has been said
        gpu.lost_at = None
        self._report(f"GPU {gpu.index} ({gpu.uuid}) is back")
        return True


class LateNvidiaSource:
    """As `NvidiaSource`, but the driver is opened at the first sample, on the thread that samples: it may hang."""

    name = "gpu"

    def __init__(self, open_driver: Callable[[], ModuleType | Any | None] = open_nvml) -> None:
        self._open = open_driver
        self._opened = False
        self._source: NvidiaSource | None = None

    @property
    def gpus(self) -> tuple[tuple[int, str], ...]:
        """(index, uuid) of each GPU, as far as they are known yet."""
        return () if self._source is None else tuple((gpu.index, gpu.uuid) for gpu in self._source.gpus)

    def sample(self, now: float) -> Sample:
        if not self._opened:
            nvml = self._open()
            self._opened = True
            self._source = None if nvml is None else NvidiaSource(nvml)
        return {} if self._source is None else self._source.sample(now)


def _utilization(nvml: ModuleType | Any, handle: Any) -> Sample:
    return {"utilization_percent": float(nvml.nvmlDeviceGetUtilizationRates(handle).gpu)}


def _memory(nvml: ModuleType | Any, handle: Any) -> Sample:
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    sample = {"memory_used_bytes": float(memory.used), "memory_total_bytes": float(memory.total)}
    if memory.total:
        sample["memory_percent"] = 100.0 * memory.used / memory.total
    return sample


def visible(setting: str | None, gpus: Sequence[tuple[int, str]]) -> frozenset[int]:
    """The indexes of the GPUs that a process with this CUDA_VISIBLE_DEVICES uses; all where it is unset.

    `gpus` are (index, uuid). As CUDA does, reading stops at the first entry that names no GPU. A MIG instance does
    not say which GPU it is part of, so with one all are kept. Numbers are taken in PCI order, which is CUDA's own only
    with CUDA_DEVICE_ORDER=PCI_BUS_ID or where all GPUs are of one model.
    """
    every = frozenset(index for index, _ in gpus)
    if setting is None:
        return every
    chosen: set[int] = set()
    for entry in (part.strip() for part in setting.split(",")):
        if entry.startswith("MIG-"):
            return every
        matches = [i for i, uuid in gpus if entry == str(i) or (entry.startswith("GPU-") and uuid.startswith(entry))]
        if len(matches) != 1:
            break
        chosen.add(matches[0])
    return frozenset(chosen)
