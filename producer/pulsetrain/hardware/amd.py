"""AMD's GPUs through AMD SMI (the package amdsmi, which comes with ROCm; imported only where it is installed).

Metrics have the names of NVIDIA's where they mean the same. What a GPU does not have, amdsmi raises for or answers
"N/A" to: it is left out, and what is not supported is asked for once. Units are those of amdsmi's reference: VRAM in
MiB, power in W, clocks in MHz, energy in steps of `counter_resolution` µJ, temperatures in °C; see `_celsius`.
"""

import importlib
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from pulsetrain.hardware.nvidia_gpu import Use
from pulsetrain.hardware.rates import Rates
from pulsetrain.hardware.sampler import Sample
from pulsetrain.hardware.visible_devices import Device

SLOW_PERIOD = 10.0
RETRY_PERIOD = 30.0
MIB = float(1 << 20)

# amdsmi_status_t, as amdsmi.h has them.
NOT_SUPPORTED = 2
NOT_YET_IMPLEMENTED = 3
_NEVER = frozenset({NOT_SUPPORTED, NOT_YET_IMPLEMENTED})

logger = logging.getLogger(__name__)


def open_amdsmi(
    import_module: Callable[[str], ModuleType] = importlib.import_module,
    report: Callable[[str], None] = logger.info,
) -> ModuleType | None:
    """AMD SMI, initialised; None where the package or the driver is missing."""
    try:
        amdsmi = import_module("amdsmi")
    except Exception:  # noqa: BLE001 - the package raises what it likes where ROCm's library is missing
        return None
    try:
        amdsmi.amdsmi_init()
    except amdsmi.AmdSmiException as error:
        report(f"no telemetry of AMD GPUs: AMD SMI does not start: {error}")
        return None
    return amdsmi


@dataclass(slots=True)
class _Gpu:
    device: Device
    handle: Any
    never: set[str] = field(default_factory=set)
    said: set[str] = field(default_factory=set)
    rates: Rates = field(default_factory=Rates)
    answered: bool = True
    lost_at: float | None = None
    slow_at: float | None = None
    uses: Mapping[int, Use] = field(default_factory=dict)


class AmdSource:
    """All AMD GPUs. The library is opened at the first sample, on the thread that samples: it may hang.

    A GPU that answers nothing at all any more is said once and asked again every half minute.
    """

    name = "amd"

    def __init__(
        self,
        open_library: Callable[[], ModuleType | Any | None] = open_amdsmi,
        report: Callable[[str], None] = logger.warning,
    ) -> None:
        self._open = open_library
        self._report = report
        self._amdsmi: ModuleType | Any | None = None
        self._opened = False
        self._gpus: tuple[_Gpu, ...] = ()

    @property
    def devices(self) -> tuple[Device, ...]:
        """The GPUs that are known now."""
        return tuple(gpu.device for gpu in self._gpus)

    @property
    def processes(self) -> Mapping[str, Mapping[int, Use]]:
        """By the UUID of a GPU: what each process has of it, as of the last ten seconds."""
        return {gpu.device.uuid: gpu.uses for gpu in self._gpus}

    def sample(self, now: float) -> Sample:
        if not self._opened:
            self._amdsmi = self._open()
            self._opened = True
            if self._amdsmi is not None:
                self._find(self._amdsmi)
        sample: Sample = {}
        if self._amdsmi is not None:
            for gpu in self._gpus:
                prefix = f"gpu/{gpu.device.index}/{gpu.device.uuid}/"
                for name, value in self._sample_one(self._amdsmi, gpu, now).items():
                    sample[prefix + name] = value
        return sample

    def _find(self, amdsmi: ModuleType | Any) -> None:
        found = []
        for index, handle in enumerate(amdsmi.amdsmi_get_processor_handles()):
            try:
                uuid = str(amdsmi.amdsmi_get_gpu_device_uuid(handle))
            except amdsmi.AmdSmiException as error:
                self._report(f"AMD GPU {index} cannot be read: {error}")
                continue
            found.append(_Gpu(Device(index, uuid), handle))
        self._gpus = tuple(found)

    def _sample_one(self, amdsmi: ModuleType | Any, gpu: _Gpu, now: float) -> Sample:
        if gpu.lost_at is not None and now - gpu.lost_at < RETRY_PERIOD:
            return {}
        gpu.answered = False
        found: Sample = {}
        self._read_fast(amdsmi, gpu, now, found)
        if gpu.slow_at is None or now - gpu.slow_at >= SLOW_PERIOD:
            gpu.slow_at = now
            self._read_slow(gpu, found)
        if not gpu.answered:
            if gpu.lost_at is None:
                self._report(f"AMD GPU {gpu.device.index} ({gpu.device.uuid}) answers nothing; the others go on")
            gpu.lost_at = now
        elif gpu.lost_at is not None:
            gpu.lost_at = None
            self._report(f"AMD GPU {gpu.device.index} ({gpu.device.uuid}) is back")
        return found

    def _read_fast(self, amdsmi: ModuleType | Any, gpu: _Gpu, now: float, into: Sample) -> None:
        activity = self._ask(gpu, "amdsmi_get_gpu_activity") or {}
        _number(activity.get("gfx_activity"), "utilization_percent", into)
        _number(activity.get("umc_activity"), "memory_utilization_percent", into)
        memory = self._ask(gpu, "amdsmi_get_gpu_vram_usage") or {}
        _number(memory.get("vram_used"), "memory_used_bytes", into, MIB)
        _number(memory.get("vram_total"), "memory_total_bytes", into, MIB)
        if into.get("memory_total_bytes") and "memory_used_bytes" in into:
            into["memory_percent"] = 100.0 * into["memory_used_bytes"] / into["memory_total_bytes"]
        self._read_power(gpu, now, into)
        kinds, current = amdsmi.AmdSmiTemperatureType, amdsmi.AmdSmiTemperatureMetric.CURRENT
        for kind, name in (
            (kinds.HOTSPOT, "temperature_celsius"),  # what throttles; some have no sensor at the edge
            (kinds.VRAM, "memory_temperature_celsius"),
        ):
            _number(_celsius(self._ask(gpu, "amdsmi_get_temp_metric", kind, current)), name, into)
        for clock, name in ((amdsmi.AmdSmiClkType.GFX, "sm_clock_mhz"), (amdsmi.AmdSmiClkType.MEM, "memory_clock_mhz")):
            _number((self._ask(gpu, "amdsmi_get_clock_info", clock) or {}).get("clk"), name, into)

    def _read_power(self, gpu: _Gpu, now: float, into: Sample) -> None:
        power = self._ask(gpu, "amdsmi_get_power_info") or {}
        # The MI300s tell the current power alone, older ones the average alone; the other one is then N/A or 0.
        for name in ("current_socket_power", "average_socket_power"):
            value = power.get(name)
            if isinstance(value, int | float) and value and "power_watts" not in into:
                into["power_watts"] = float(value)
        energy = self._ask(gpu, "amdsmi_get_energy_count") or {}
        count, step = energy.get("energy_accumulator", energy.get("power")), energy.get("counter_resolution")
        if isinstance(count, int | float) and isinstance(step, int | float):
            into["energy_joules"] = count * step * 1e-6
            if "power_watts" not in into:
                gpu.rates.update("power_watts", into["energy_joules"], now, into)

    def _read_slow(self, gpu: _Gpu, into: Sample) -> None:
        speed, top = self._ask(gpu, "amdsmi_get_gpu_fan_speed", 0), self._ask(gpu, "amdsmi_get_gpu_fan_speed_max", 0)
        if isinstance(speed, int | float) and isinstance(top, int | float) and top:
            into["fan_percent"] = 100.0 * speed / top
        errors = self._ask(gpu, "amdsmi_get_gpu_total_ecc_count") or {}
        _number(errors.get("correctable_count"), "ecc_corrected_errors", into)
        _number(errors.get("uncorrectable_count"), "ecc_uncorrected_errors", into)
        gpu.uses = _uses(self._ask(gpu, "amdsmi_get_gpu_process_list") or ())

    def _ask(self, gpu: _Gpu, function: str, *arguments: Any) -> Any:
        key = f"{function}{arguments}"
        call = getattr(self._amdsmi, function, None)
        if call is None or key in gpu.never:
            return None
        try:
            answer = call(gpu.handle, *arguments)
        except Exception as error:  # noqa: BLE001 - amdsmi raises KeyError and the like of what it does not understand
            get_code = getattr(error, "get_error_code", None)
            code = get_code() if get_code is not None else None
            if code in _NEVER:
                gpu.never.add(key)
                gpu.answered = True  # it is there, and says so
            elif key not in gpu.said:
                gpu.said.add(key)
                self._report(f"AMD GPU {gpu.device.index}: {function} cannot be read: {error}")
            return None
        gpu.answered = True
        return answer


def _uses(processes: Iterable[Any]) -> Mapping[int, Use]:
    uses = {}
    for process in processes:
        memory = process.get("memory_usage", {}).get("vram_mem") if isinstance(process, dict) else None
        if isinstance(memory, int | float):  # a handle in older releases, "N/A" in some
            uses[int(process["pid"])] = Use(float(memory))
    return uses


def _celsius(value: Any) -> Any:
    """The reference says millidegrees, the library has given degrees since ROCm 6: the size tells them apart."""
    return value / 1000 if isinstance(value, int | float) and value > 1000 else value


def _number(value: Any, name: str, into: Sample, factor: float = 1.0) -> None:
    if isinstance(value, int | float):  # else "N/A"
        into[name] = value * factor
