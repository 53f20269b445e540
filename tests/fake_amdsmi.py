"""The package amdsmi, made up: what its reference says of the functions that are called, and of their errors."""

from enum import IntEnum
from typing import Any

NOT_SUPPORTED, NO_PERM, DRIVER_NOT_LOADED, UNKNOWN_ERROR = 2, 10, 34, 0xFFFFFFFF


class AmdSmiException(Exception):
    """The root of the package's errors."""


class AmdSmiLibraryException(AmdSmiException):
    """With the library's code."""

    def __init__(self, err_code: int) -> None:
        super().__init__(err_code)
        self.err_code = err_code

    def get_error_code(self) -> int:
        return self.err_code


class AmdSmiParameterException(AmdSmiException):
    """For an argument of the wrong type."""


class AmdSmiClkType(IntEnum):
    GFX = 1
    MEM = 5


class AmdSmiTemperatureType(IntEnum):
    EDGE = 0
    HOTSPOT = 1
    VRAM = 2


class AmdSmiTemperatureMetric(IntEnum):
    CURRENT = 0


class FakeAmdsmi:
    """The module. `errors` gives by function the code that is raised; those in `gone` answer nothing."""

    AmdSmiException = AmdSmiException
    AmdSmiLibraryException = AmdSmiLibraryException
    AmdSmiClkType = AmdSmiClkType
    AmdSmiTemperatureType = AmdSmiTemperatureType
    AmdSmiTemperatureMetric = AmdSmiTemperatureMetric

    def __init__(self, count: int = 2) -> None:
        self.count = count
        self.errors: dict[str, int] = {}
        self.gone: set[int] = set()
        self.calls: list[str] = []
        self.seconds = 0.0
        self.power = {"current_socket_power": 550, "average_socket_power": "N/A", "power_limit": 750_000_000}

    def _called(self, name: str, handle: int | None = None) -> None:
        self.calls.append(name)
        if name in self.errors:
            raise AmdSmiLibraryException(self.errors[name])
        if handle in self.gone:
            raise AmdSmiLibraryException(UNKNOWN_ERROR)

    def amdsmi_init(self) -> None:
        self._called("amdsmi_init")

    def amdsmi_get_processor_handles(self) -> list[int]:
        return [100 + index for index in range(self.count)]

    def amdsmi_get_gpu_device_uuid(self, handle: int) -> str:
        return f"{handle:x}ff-0000"

    def amdsmi_get_gpu_activity(self, handle: int) -> dict[str, Any]:
        self._called("amdsmi_get_gpu_activity", handle)
        return {"gfx_activity": 97, "umc_activity": 40, "mm_activity": "N/A"}

    def amdsmi_get_gpu_vram_usage(self, handle: int) -> dict[str, Any]:
        self._called("amdsmi_get_gpu_vram_usage", handle)
        return {"vram_total": 196_592, "vram_used": 49_148}

    def amdsmi_get_power_info(self, handle: int) -> dict[str, Any]:
        self._called("amdsmi_get_power_info", handle)
        return self.power

    def amdsmi_get_energy_count(self, handle: int) -> dict[str, Any]:
        self._called("amdsmi_get_energy_count", handle)
        count = round(self.seconds * 550e6 / 15.3)
        return {"power": count, "energy_accumulator": count, "counter_resolution": 15.3, "timestamp": 0}

    def amdsmi_get_temp_metric(self, handle: int, kind: Any, metric: Any) -> int:
        if not isinstance(kind, AmdSmiTemperatureType) or not isinstance(metric, AmdSmiTemperatureMetric):
            raise AmdSmiParameterException(kind)
        self._called("amdsmi_get_temp_metric", handle)
        return {AmdSmiTemperatureType.HOTSPOT: 58, AmdSmiTemperatureType.VRAM: 49}[kind]

    def amdsmi_get_clock_info(self, handle: int, kind: Any) -> dict[str, Any]:
        if not isinstance(kind, AmdSmiClkType):
            raise AmdSmiParameterException(kind)
        self._called("amdsmi_get_clock_info", handle)
        return {"clk": 2100 if kind is AmdSmiClkType.GFX else 1300, "min_clk": 132, "max_clk": 2100}

    def amdsmi_get_gpu_fan_speed(self, handle: int, sensor: int) -> int:
        self._called("amdsmi_get_gpu_fan_speed", handle)
        return 51

    def amdsmi_get_gpu_fan_speed_max(self, handle: int, sensor: int) -> int:
        self._called("amdsmi_get_gpu_fan_speed_max", handle)
        return 255

    def amdsmi_get_gpu_total_ecc_count(self, handle: int) -> dict[str, int]:
        self._called("amdsmi_get_gpu_total_ecc_count", handle)
        return {"correctable_count": 3, "uncorrectable_count": 1, "deferred_count": 0}

    def amdsmi_get_gpu_process_list(self, handle: int) -> list[dict[str, Any]]:
        self._called("amdsmi_get_gpu_process_list", handle)
        usage = {"gtt_mem": 0, "cpu_mem": 0, "vram_mem": 4096}
        return [{"name": "python", "pid": 77, "mem": 4096, "engine_usage": {"gfx": 0, "enc": 0}, "memory_usage": usage}]
