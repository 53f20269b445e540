"""The functions of NVML that ask about a device, for `tests.fake_nvml`: arguments as in nvml.h, the device resolved.

They get ctypes arguments and write their answers through the pointers.
"""

import ctypes
from collections.abc import Callable
from typing import Any

import pynvml

from tests.fake_gpus import Gpu, Instance

SUCCESS = pynvml.NVML_SUCCESS
INVALID_ARGUMENT = pynvml.NVML_ERROR_INVALID_ARGUMENT
NOT_SUPPORTED = pynvml.NVML_ERROR_NOT_SUPPORTED
NOT_FOUND = pynvml.NVML_ERROR_NOT_FOUND
INSUFFICIENT_SIZE = pynvml.NVML_ERROR_INSUFFICIENT_SIZE
DOUBLE, UINT, ULONGLONG = pynvml.NVML_VALUE_TYPE_DOUBLE, pynvml.NVML_VALUE_TYPE_UNSIGNED_INT, 3
NO_INSTANCE = 0xFFFFFFFF
OF_INSTANCES = {
    "nvmlDeviceGetUUID",
    "nvmlDeviceGetMemoryInfo",
    "nvmlDeviceGetGpuInstanceId",
    "nvmlDeviceGetComputeInstanceId",
    "nvmlDeviceGetComputeRunningProcesses_v3",
}
"""What an instance of MIG answers to; to all else NOT_SUPPORTED."""


def address_of(handle: Any) -> int:
    """A handle is a pointer to something that only the library knows."""
    return ctypes.cast(handle, ctypes.c_void_p).value or 0


def point(reference: Any, address: int) -> None:
    """Writes a handle where the caller wants it."""
    ctypes.cast(reference, ctypes.POINTER(ctypes.c_void_p))[0] = address


class DeviceFunctions:
    """Those functions. The library that inherits them knows the handles and the time."""

    clock: Callable[[], float]
    _next: int
    _snapshots: dict[int, tuple[float, dict[int, float]]]

    def _handle(self, device: Gpu | Instance) -> int:
        raise NotImplementedError

    def _DeviceGetUUID(self, device: Gpu | Instance, buffer: Any, length: Any) -> int:
        buffer.value = device.uuid.encode()
        return SUCCESS

    def _DeviceGetUtilizationRates(self, gpu: Gpu, rates: Any) -> int:
        if gpu.mig:
            return NOT_SUPPORTED
        rates._obj.gpu, rates._obj.memory = gpu.utilization, gpu.utilization // 9
        return SUCCESS

    def _DeviceGetMemoryInfo(self, device: Gpu | Instance, memory: Any) -> int:
        memory._obj.used, memory._obj.total = device.used, device.total
        memory._obj.free = device.total - device.used
        return SUCCESS

    def _DeviceGetTemperature(self, gpu: Gpu, sensor: Any, temperature: Any) -> int:
        temperature._obj.value = gpu.temperature
        return SUCCESS

    def _DeviceGetPowerUsage(self, gpu: Gpu, milliwatts: Any) -> int:
        milliwatts._obj.value = round(gpu.watts * 1000)
        return SUCCESS

    def _DeviceGetEnforcedPowerLimit(self, gpu: Gpu, milliwatts: Any) -> int:
        milliwatts._obj.value = 625_000
        return SUCCESS

    def _DeviceGetClockInfo(self, gpu: Gpu, kind: Any, clock: Any) -> int:
        clock._obj.value = {0: 1700, 1: 1710, 2: 2600}[kind.value]
        return SUCCESS

    def _DeviceGetCurrentClocksEventReasons(self, gpu: Gpu, reasons: Any) -> int:
        reasons._obj.value = gpu.reasons
        return SUCCESS

    _DeviceGetCurrentClocksThrottleReasons = _DeviceGetCurrentClocksEventReasons

    def _DeviceGetFanSpeed(self, gpu: Gpu, percent: Any) -> int:
        percent._obj.value = gpu.fan
        return SUCCESS

    def _DeviceGetPcieThroughput(self, gpu: Gpu, counter: Any, kib: Any) -> int:
        kib._obj.value = 1
        return SUCCESS

    def _DeviceGetEncoderUtilization(self, gpu: Gpu, percent: Any, period: Any) -> int:
        percent._obj.value = 5
        return SUCCESS

    def _DeviceGetDecoderUtilization(self, gpu: Gpu, percent: Any, period: Any) -> int:
        percent._obj.value = 6
        return SUCCESS

    def _DeviceGetTotalEccErrors(self, gpu: Gpu, kind: Any, counter: Any, errors: Any) -> int:
        errors._obj.value = 10 * counter.value + kind.value
        return SUCCESS

    def _DeviceGetFieldValues(self, gpu: Gpu, count: Any, values: Any) -> int:
        for value in list(values._obj)[: count.value]:
            number = value.fieldId
            code = gpu.errors.get(number, NOT_SUPPORTED if number in gpu.missing else SUCCESS)
            if number in (138, 139) and value.scopeId != NO_INSTANCE:
                code = INVALID_ARGUMENT
            value.nvmlReturn = code
            if code == SUCCESS:
                value.valueType, member, made = self._field(gpu, number)
                setattr(value.value, member, made)
        return SUCCESS

    def _field(self, gpu: Gpu, number: int) -> tuple[int, str, float]:
        if number in gpu.fields:
            return DOUBLE, "dVal", gpu.fields[number]
        if number in (83, 191):
            return ULONGLONG, "ullVal", int(gpu.watts * 1000 * self.clock())
        if number in (74, 75, 138, 139, 197, 198):
            return ULONGLONG, "ullVal", int(gpu.rates.get(number, 1000.0) * self.clock()) % gpu.wraps
        return UINT, "uiVal", {82: 70, 186: round(gpu.watts * 1000)}.get(number, 0)

    def _DeviceGetComputeRunningProcesses_v3(self, device: Gpu | Instance, count: Any, infos: Any) -> int:
        if not device.processes:
            count._obj.value = 0
            return SUCCESS
        if infos is None or count._obj.value < len(device.processes):
            count._obj.value = len(device.processes)
            return INSUFFICIENT_SIZE
        count._obj.value = len(device.processes)
        for info, process in zip(infos, device.processes, strict=False):
            info.pid = process.pid
            info.usedGpuMemory = (1 << 64) - 1 if process.memory is None else process.memory
        return SUCCESS

    def _DeviceGetProcessUtilization(self, gpu: Gpu, samples: Any, count: Any, since: Any) -> int:
        if gpu.mig:
            return NOT_SUPPORTED
        if not gpu.processes:
            return NOT_FOUND
        if samples is None:
            count._obj.value = 2 * len(gpu.processes)
            return INSUFFICIENT_SIZE
        now = int(self.clock() * 1e6) + 1
        for sample, process in zip(samples, gpu.processes, strict=False):
            sample.pid, sample.timeStamp, sample.smUtil = process.pid, now, process.sm
        return SUCCESS  # the rest is left as it is, as NVML does

    def _DeviceGetMigMode(self, gpu: Gpu, current: Any, pending: Any) -> int:
        current._obj.value = pending._obj.value = int(gpu.mig)
        return SUCCESS

    def _DeviceGetMaxMigDeviceCount(self, gpu: Gpu, count: Any) -> int:
        count._obj.value = 7
        return SUCCESS

    def _DeviceGetMigDeviceHandleByIndex(self, gpu: Gpu, index: Any, device: Any) -> int:
        there = [instance for instance in gpu.instances if not instance.removed]
        if index.value >= len(there):
            return NOT_FOUND
        point(device, self._handle(there[index.value]))
        return SUCCESS

    def _DeviceGetGpuInstanceId(self, device: Gpu | Instance, number: Any) -> int:
        if not isinstance(device, Instance):
            return NOT_SUPPORTED
        number._obj.value = device.gpu_instance
        return SUCCESS

    def _DeviceGetComputeInstanceId(self, device: Gpu | Instance, number: Any) -> int:
        if not isinstance(device, Instance):
            return NOT_SUPPORTED
        number._obj.value = device.compute_instance
        return SUCCESS

    # GPM.

    def _GpmQueryDeviceSupport(self, gpu: Gpu, support: Any) -> int:
        assert support._obj.version == pynvml.NVML_GPM_SUPPORT_VERSION
        support._obj.isSupportedDevice = int(gpu.gpm)
        return SUCCESS

    def _GpmSampleAlloc(self, sample: Any) -> int:
        self._next += 0x10
        point(sample, self._next)
        self._snapshots[self._next] = (-1.0, {})
        return SUCCESS

    def _GpmSampleFree(self, sample: Any) -> int:
        return SUCCESS if self._snapshots.pop(address_of(sample), None) else INVALID_ARGUMENT

    def _GpmSampleGet(self, gpu: Gpu, sample: Any) -> int:
        if not gpu.gpm:
            return NOT_SUPPORTED
        self._snapshots[address_of(sample)] = (self.clock(), dict(gpu.gpm_values))
        return SUCCESS

    def _GpmMigSampleGet(self, gpu: Gpu, instance: int, sample: Any) -> int:
        if instance not in {one.gpu_instance for one in gpu.instances}:
            return INVALID_ARGUMENT
        return self._GpmSampleGet(gpu, sample)

    def _GpmMetricsGet(self, request: Any) -> int:
        wanted = request._obj
        first, second = (self._snapshots[address_of(one)] for one in (wanted.sample1, wanted.sample2))
        if wanted.version != 1 or second[0] - first[0] < 0.0999:  # nvml.h: at least 100 ms apart
            return INVALID_ARGUMENT
        for place in range(wanted.numMetrics):
            metric = wanted.metrics[place]
            known = metric.metricId in second[1]
            metric.nvmlReturn = SUCCESS if known else NOT_SUPPORTED
            metric.value = second[1].get(metric.metricId, 0.0)
        return SUCCESS
