"""One NVIDIA GPU, with the instances that MIG may have divided it into.

What is cheap is asked at every tick. What costs more (the fan, about 140 µs; the processes) or hardly changes (errors,
rows remapped) is asked every ten seconds, and is in the sample of that tick alone. nvmlDeviceGetPcieThroughput, which
sleeps 20 ms, is never called.
"""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from pulsetrain.hardware.nvidia_events import Xids
from pulsetrain.hardware.nvidia_fields import FAST, SLOW, FieldReader
from pulsetrain.hardware.nvidia_gpm import GpmReader
from pulsetrain.hardware.nvidia_questions import DriverGone, GpuLost, Questions
from pulsetrain.hardware.rates import Rates
from pulsetrain.hardware.sampler import Sample
from pulsetrain.hardware.visible_devices import Device

SLOW_PERIOD = 10.0
RETRY_PERIOD = 30.0

# nvmlClocksEventReasons, as nvml.h has them.
POWER_CAP = 0x04
HARDWARE_SLOWDOWN = 0x08
SOFTWARE_THERMAL = 0x20
HARDWARE_THERMAL = 0x40
POWER_BRAKE = 0x80
THROTTLES = {
    "throttled_power": POWER_CAP | POWER_BRAKE,
    "throttled_thermal": SOFTWARE_THERMAL | HARDWARE_THERMAL,
    "throttled_hardware": HARDWARE_SLOWDOWN | HARDWARE_THERMAL | POWER_BRAKE,
}
GRAPHICS, SM, MEMORY = 0, 1, 2  # nvmlClockType_t
CORRECTED, UNCORRECTED = 0, 1  # nvmlMemoryErrorType_t
SINCE_LOADED, LIFETIME = 0, 1  # nvmlEccCounterType_t


@dataclass(frozen=True, slots=True)
class Use:
    """What one process has of a device. None where the driver does not say."""

    memory_bytes: float | None
    utilization_percent: float | None = None


@dataclass(slots=True)
class _Instance:
    """An instance of MIG, a device of its own."""

    device: Device
    questions: Questions
    gpm: GpmReader
    processes: Mapping[int, Use] = field(default_factory=dict)

    @property
    def gpu_instance(self) -> int | None:
        return None if self.device.place is None else self.device.place[0]


class GpuSource:
    """Samples one GPU, named `gpu/<index>/<uuid>/<metric>`, and its instances under their own UUIDs.

    A GPU that is lost is said once and looked for again every half minute. Where the driver itself is gone, or a lost
    GPU does not come back by itself, `needs_driver` becomes true: whoever opened the driver does the rest.
    """

    def __init__(
        self, nvml: ModuleType | Any, index: int, uuid: str, handle: Any, xids: Xids, report: Callable[[str], None]
    ) -> None:
        self.name = f"gpu {index}"
        self.device = Device(index, uuid)
        self.needs_driver = False
        self.lost_at: float | None = None
        """When it was last found to be lost, on the clock of the samples."""
        self.in_call = threading.Lock()
        """Held while a sample is taken, which is for ever where a call of the driver's hangs."""
        self._nvml = nvml
        self._xids = xids
        self._report = report
        self._questions = Questions(nvml, handle, f"GPU {index}", report)
        self._fast = FieldReader(self._questions, FAST)
        self._slow = FieldReader(self._questions, SLOW)
        self._gpm = GpmReader(self._questions)
        self._rates = Rates()
        self._processes: Mapping[int, Use] = {}
        self._samples_of_processes = 0
        self._power_limit: float | None = None
        self._slow_at: float | None = None
        self._instances: tuple[_Instance, ...] = ()
        self._divided_at: float | None = None

    @property
    def handle(self) -> Any:
        """NVML's, for this life of the driver."""
        return self._questions.handle

    @property
    def devices(self) -> tuple[Device, ...]:
        """The GPU and its instances."""
        return (self.device, *(instance.device for instance in self._instances))

    @property
    def processes(self) -> dict[str, Mapping[int, Use]]:
        """By the UUID of the device: what each process has of it."""
        return {
            self.device.uuid: self._processes,
            **{instance.device.uuid: instance.processes for instance in self._instances},
        }

    def sample(self, now: float) -> Sample:
        if self.needs_driver or (self.lost_at is not None and not self._found_again(now)):
            return {}
        with self.in_call:
            try:
                return self._sample(now)
            except GpuLost as error:
                self._lose(now, error)
            except DriverGone:
                self.needs_driver = True
            return {}

    def close(self) -> None:
        """Gives back what the driver holds for it. After a restart of the driver there is nothing to give back."""
        try:
            self._gpm.close()
            for instance in self._instances:
                instance.gpm.close()
        except (GpuLost, DriverGone):
            return

    def _sample(self, now: float) -> Sample:
        self._questions.now = now
        own: Sample = {}
        slow = self._slow_at is None or now - self._slow_at >= SLOW_PERIOD
        if slow:
            self._slow_at = now
            self._read_slow(now, own)
        self._read_fast(now, own)
        self._xids.write(self.device.uuid, None, own)
        prefix = f"gpu/{self.device.index}/"
        sample = {f"{prefix}{self.device.uuid}/{name}": value for name, value in own.items()}
        if self._divided_at is None or now - self._divided_at >= RETRY_PERIOD:
            self._divided_at = now
            self._find_instances()
        for instance in self._instances:
            uuid = instance.device.uuid
            for name, value in self._read_instance(instance, now, slow).items():
                sample[f"{prefix}{uuid}/{name}"] = value
        return sample

    def _read_fast(self, now: float, into: Sample) -> None:
        ask = self._questions.ask
        utilization = ask("nvmlDeviceGetUtilizationRates")
        if utilization is not None:
            into["utilization_percent"] = float(utilization.gpu)
            into["memory_utilization_percent"] = float(utilization.memory)
        _memory(ask("nvmlDeviceGetMemoryInfo"), into)
        _number(ask("nvmlDeviceGetTemperature", 0), "temperature_celsius", into)
        _number(ask("nvmlDeviceGetPowerUsage"), "power_watts", into, 1e-3)
        _number(ask("nvmlDeviceGetClockInfo", SM), "sm_clock_mhz", into)
        _number(ask("nvmlDeviceGetClockInfo", MEMORY), "memory_clock_mhz", into)
        _number(ask("nvmlDeviceGetClockInfo", GRAPHICS), "graphics_clock_mhz", into)
        self._read_throttling(into)
        self._fast.read(now, into)
        by_gpm: Sample = {}
        self._gpm.read(now, by_gpm)
        if by_gpm:
            into.update(by_gpm)
            self._fast.leave_out(frozenset(by_gpm))
        self._read_power(now, into)

    def _read_throttling(self, into: Sample) -> None:
        ask = self._questions.ask
        reasons = ask("nvmlDeviceGetCurrentClocksEventReasons")
        if reasons is None:
            reasons = ask("nvmlDeviceGetCurrentClocksThrottleReasons")
        if reasons is not None:
            into["throttle_reasons"] = float(reasons)
            for name, mask in THROTTLES.items():
                into[name] = 1.0 if reasons & mask else 0.0

    def _read_power(self, now: float, into: Sample) -> None:
        energy = into.get("energy_joules")
        if "power_watts" not in into and energy is not None:
            self._rates.update("power_watts", energy, now, into)
        if self._power_limit and "power_watts" in into:
            into["power_percent"] = 100.0 * into["power_watts"] / self._power_limit

    def _read_slow(self, now: float, into: Sample) -> None:
        ask = self._questions.ask
        _number(ask("nvmlDeviceGetFanSpeed"), "fan_percent", into)
        _number(ask("nvmlDeviceGetEnforcedPowerLimit"), "power_limit_watts", into, 1e-3)
        self._power_limit = into.get("power_limit_watts", self._power_limit)
        for function, name in (
            ("nvmlDeviceGetEncoderUtilization", "encoder_utilization_percent"),
            ("nvmlDeviceGetDecoderUtilization", "decoder_utilization_percent"),
        ):
            answer = ask(function)
            _number(None if answer is None else answer[0], name, into)
        for kind, bits in (("corrected", CORRECTED), ("uncorrected", UNCORRECTED)):
            _number(ask("nvmlDeviceGetTotalEccErrors", bits, SINCE_LOADED), f"ecc_{kind}_errors", into)
            _number(ask("nvmlDeviceGetTotalEccErrors", bits, LIFETIME), f"ecc_{kind}_lifetime_errors", into)
        self._slow.read(now, into)
        self._processes = self._read_processes()

    def _read_processes(self) -> Mapping[int, Use]:
        running = self._questions.ask("nvmlDeviceGetComputeRunningProcesses")
        since = self._samples_of_processes
        samples = self._questions.ask("nvmlDeviceGetProcessUtilization", since, key="nvmlDeviceGetProcessUtilization")
        busy: dict[int, tuple[int, float]] = {}
        for sample in samples or ():
            if sample.timeStamp > since:  # the driver leaves what it did not fill
                last = busy.get(sample.pid)
                if last is None or sample.timeStamp > last[0]:
                    busy[sample.pid] = (sample.timeStamp, float(sample.smUtil))
                self._samples_of_processes = max(self._samples_of_processes, int(sample.timeStamp))
        uses = _uses(running)
        return {pid: Use(use.memory_bytes, busy[pid][1] if pid in busy else None) for pid, use in uses.items()}

    def _find_instances(self) -> None:
        mode = self._questions.ask("nvmlDeviceGetMigMode")
        found: list[_Instance] = []
        known = {instance.device.uuid: instance for instance in self._instances}
        if mode is not None and mode[0] == 1:
            for number in range(self._questions.ask("nvmlDeviceGetMaxMigDeviceCount") or 0):
                handle = self._questions.ask("nvmlDeviceGetMigDeviceHandleByIndex", number)
                instance = None if handle is None else self._instance(handle, known)
                if instance is not None:
                    found.append(instance)
        for uuid, instance in known.items():
            if uuid not in {one.device.uuid for one in found}:
                instance.gpm.close()
        self._instances = tuple(found)

    def _instance(self, handle: Any, known: Mapping[str, _Instance]) -> _Instance | None:
        nvml = self._nvml
        try:
            uuid = text(nvml.nvmlDeviceGetUUID(handle))
            place = (int(nvml.nvmlDeviceGetGpuInstanceId(handle)), int(nvml.nvmlDeviceGetComputeInstanceId(handle)))
        except nvml.NVMLError:
            return None  # it was taken away just now
        instance = known.get(uuid)
        if instance is None or instance.device.place != place:
            questions = Questions(nvml, handle, f"GPU {self.device.index}, instance {uuid}", self._report)
            device = Device(self.device.index, uuid, self.device.uuid, place)
            instance = _Instance(device, questions, GpmReader(self._questions, place[0]))
        instance.questions.handle = handle
        return instance

    def _read_instance(self, instance: _Instance, now: float, slow: bool) -> Sample:
        sample: Sample = {}
        instance.questions.now = now
        try:
            _memory(instance.questions.ask("nvmlDeviceGetMemoryInfo"), sample)
            instance.gpm.read(now, sample)
            if slow:
                instance.processes = _uses(instance.questions.ask("nvmlDeviceGetComputeRunningProcesses"))
        except (GpuLost, DriverGone):  # it was taken away, unless the GPU says the same at the next tick
            self._divided_at = None
            return {}
        self._xids.write(self.device.uuid, instance.gpu_instance, sample)
        return sample

    def _lose(self, now: float, error: GpuLost) -> None:
        self.lost_at = now
        self._processes = {}
        self._report(
            f"GPU {self.device.index} ({self.device.uuid}) is lost to the driver ({error}); the others are sampled on"
        )

    def _found_again(self, now: float) -> bool:
        if self.lost_at is None or now - self.lost_at < RETRY_PERIOD:
            return False
        self.lost_at = now
        nvml = self._nvml
        with self.in_call:
            try:
                handle = nvml.nvmlDeviceGetHandleByUUID(self.device.uuid)
                nvml.nvmlDeviceGetMemoryInfo(handle)
            except nvml.NVMLError:
                return False  # still away: that it is lost has been said
        self._questions.handle = handle
        self._gpm = GpmReader(self._questions)
        self._instances, self._divided_at = (), None
        self.lost_at = None
        self._report(f"GPU {self.device.index} ({self.device.uuid}) is back")
        return True


def text(value: str | bytes) -> str:
    """What pynvml gives, of whatever age it is."""
    return value.decode() if isinstance(value, bytes) else value


def _number(value: Any, name: str, into: Sample, factor: float = 1.0) -> None:
    if value is not None:
        into[name] = value * factor if factor != 1.0 else float(value)


def _memory(memory: Any, into: Sample) -> None:
    if memory is None:
        return
    used, total = float(memory.used), float(memory.total)
    into["memory_used_bytes"] = used
    into["memory_total_bytes"] = total
    if total:
        into["memory_percent"] = 100.0 * used / total


def _uses(running: Any) -> dict[int, Use]:
    return {
        int(process.pid): Use(None if process.usedGpuMemory is None else float(process.usedGpuMemory))
        for process in running or ()
    }
