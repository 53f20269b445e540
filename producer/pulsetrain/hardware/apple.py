"""The GPUs of a Mac, as far as the system tells them to everybody: how busy they are, and the memory in use.

`ioreg` reads what the graphics driver publishes; it needs no privileges. Starting a process costs about 10 ms, so it is
asked every five seconds. Power and clocks need root (powermetrics) and are left out.
"""

import re
import subprocess
import sys
from collections.abc import Callable

from pulsetrain.hardware.sampler import Sample
from pulsetrain.hardware.visible_devices import Device

PERIOD = 5.0
TIMEOUT = 4.0
COMMAND = ("/usr/sbin/ioreg", "-r", "-d", "1", "-w", "0", "-c", "IOAccelerator")
_STATISTICS = re.compile(r'"PerformanceStatistics" = \{(.*)\}')
_NUMBER = re.compile(r'"([^"]+)"=(\d+)')
METRICS = {"Device Utilization %": "utilization_percent", "In use system memory": "memory_used_bytes"}
"""By the driver's name. The memory is the machine's own, of which the GPU has no share of its own."""


def read_ioreg() -> str:
    """What ioreg says of the graphics drivers; OSError and subprocess.SubprocessError where it cannot be asked."""
    return subprocess.run(COMMAND, capture_output=True, text=True, timeout=TIMEOUT, check=True).stdout


class AppleSource:
    """All GPUs of a Mac; nothing elsewhere."""

    name = "apple"

    def __init__(self, read: Callable[[], str] = read_ioreg, platform: str = sys.platform) -> None:
        self._read = read
        self._mac = platform == "darwin"
        self._asked_at: float | None = None
        self._devices: tuple[Device, ...] = ()

    @property
    def devices(self) -> tuple[Device, ...]:
        """The GPUs that are known now. They have no UUID: a Mac's are told apart by their number."""
        return self._devices

    def sample(self, now: float) -> Sample:
        if not self._mac or (self._asked_at is not None and now - self._asked_at < PERIOD):
            return {}
        self._asked_at = now
        sample: Sample = {}
        devices = []
        for index, statistics in enumerate(_STATISTICS.findall(self._read())):
            device = Device(index, f"APPLE-{index}")
            devices.append(device)
            for key, value in _NUMBER.findall(statistics):
                if key in METRICS:
                    sample[f"gpu/{index}/{device.uuid}/{METRICS[key]}"] = float(value)
        self._devices = tuple(devices)
        return sample
