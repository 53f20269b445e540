"""NVIDIA's GPUs through NVML (the package nvidia-ml-py, imported only where it is installed).

`NvidiaSource` opens the driver, finds the GPUs and has each of them sampled on a lane of its own, so that a call that
hangs costs one GPU its metrics and no other. It opens the driver again after a restart, and when a lost GPU stays away.
"""

import importlib
import logging
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

from pulsetrain.hardware.nvidia_events import Xids, XidWatch
from pulsetrain.hardware.nvidia_gpu import GpuSource, Use, text
from pulsetrain.hardware.sampler import Sample, Source
from pulsetrain.hardware.visible_devices import Device

REOPEN_PERIOD = 5.0
"""Seconds between two attempts to open a driver that was restarted."""
RENEW_PERIOD = 300.0
"""Seconds between two openings for the sake of a GPU that is lost: NVML sees a card that was put back only then."""
PATIENCE = 1.0
"""Seconds that the opening waits for the calls of the other lanes to return."""

logger = logging.getLogger(__name__)


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


class NvidiaSource:
    """Looks after the driver, once a tick. The samples themselves come from the sources that it adds, one a GPU.

    `add` puts a source on a lane, `remove` takes it off by its name. The driver is opened at the first sample, on the
    thread that samples: it may hang.
    """

    name = "gpu"

    def __init__(
        self,
        add: Callable[[str, Source], None],
        remove: Callable[[str], None],
        open_driver: Callable[[], ModuleType | Any | None] = open_nvml,
        report: Callable[[str], None] = logger.warning,
    ) -> None:
        self._add = add
        self._remove = remove
        self._open = open_driver
        self._report = report
        self._nvml: ModuleType | Any | None = None
        self._opened = False
        self._gone = False
        self._tried_at = 0.0
        self._renewed_at: float | None = None
        self._gpus: tuple[GpuSource, ...] = ()
        self._missing: frozenset[str] = frozenset()
        """The UUIDs of GPUs that were there once and that the driver, opened again, no longer shows."""
        self._xids = Xids()
        self._watch: XidWatch | None = None

    @property
    def devices(self) -> tuple[Device, ...]:
        """The GPUs and instances that are known now."""
        return tuple(device for gpu in self._gpus for device in gpu.devices)

    @property
    def processes(self) -> Mapping[str, Mapping[int, Use]]:
        """By the UUID of a device: what each process has of it, as of the last ten seconds."""
        return {uuid: uses for gpu in self._gpus for uuid, uses in gpu.processes.items()}

    def sample(self, now: float) -> Sample:
        """Finds nothing of its own."""
        if not self._opened:
            self._nvml = self._open()
            self._opened = True
            if self._nvml is not None:
                self._find(self._nvml)
        elif self._nvml is not None and self._is_due(now):
            self._open_again(self._nvml, now)
        return {}

    def stop(self) -> None:
        """Ends the thread that waits for events."""
        if self._watch is not None:
            self._watch.stop(0.0)

    def _is_due(self, now: float) -> bool:
        if self._gone:
            return now - self._tried_at >= REOPEN_PERIOD
        if any(gpu.needs_driver for gpu in self._gpus):
            self._gone = True
            self._report("the NVIDIA driver was restarted or is gone; its GPUs are missing until it is back")
            return True
        if not self._missing and all(gpu.lost_at is None for gpu in self._gpus):
            self._renewed_at = None
            return False
        if self._renewed_at is None:
            self._renewed_at = now
        return now - self._renewed_at >= RENEW_PERIOD

    def _open_again(self, nvml: ModuleType | Any, now: float) -> None:
        self._tried_at = self._renewed_at = now
        away = self._missing | {gpu.device.uuid for gpu in self._gpus if gpu.lost_at is not None}
        self._leave(nvml)
        try:
            nvml.nvmlInit()
            self._find(nvml)
        except nvml.NVMLError as error:
            if not self._gone:
                self._gone = True
                self._report(f"the NVIDIA driver does not start again: {error}; its GPUs are missing until it does")
            return
        for gpu in self._gpus:
            if gpu.device.uuid in away and not self._gone:
                self._report(f"GPU {gpu.device.index} ({gpu.device.uuid}) is back")
        if self._gone:
            self._gone = False
            self._report(f"the NVIDIA driver is back, with {len(self._gpus)} GPUs")

    def _find(self, nvml: ModuleType | Any) -> None:
        gpus = []
        for index in range(nvml.nvmlDeviceGetCount()):
            try:
                handle = nvml.nvmlDeviceGetHandleByIndex(index)
                uuid = text(nvml.nvmlDeviceGetUUID(handle))
            except nvml.NVMLError as error:
                self._report(f"GPU {index} cannot be read: {error}")
                continue
            gpus.append(GpuSource(nvml, index, uuid, handle, self._xids, self._report))
        self._missing -= {gpu.device.uuid for gpu in gpus}
        self._gpus = tuple(gpus)
        if gpus:
            handles = {gpu.device.uuid: gpu.handle for gpu in gpus}
            self._watch = XidWatch(nvml, handles, self._xids, self._report)
        for gpu in gpus:
            self._add(gpu.name, gpu)

    def _leave(self, nvml: ModuleType | Any) -> None:
        """Lets go of the driver, unless a call of it hangs: NVML must not be shut down under one."""
        returned = self._watch is None or self._watch.stop()
        self._watch = None
        for gpu in self._gpus:
            self._remove(gpu.name)
        held = [gpu for gpu in self._gpus if gpu.in_call.acquire(timeout=PATIENCE)]
        try:
            for gpu in held:
                if not self._gone:
                    gpu.close()
                gpu.needs_driver = True  # for a sample that was about to be taken
            if returned and len(held) == len(self._gpus):
                nvml.nvmlShutdown()
        except nvml.NVMLError:
            pass  # it is gone already
        finally:
            for gpu in held:
                gpu.in_call.release()
        self._missing |= {gpu.device.uuid for gpu in self._gpus}
        self._gpus = ()
