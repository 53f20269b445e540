"""GPU samples, from an NVML that is made up and can fail."""

from types import SimpleNamespace

import pytest

from pulsetrain.hardware.nvidia import NvidiaSource, open_nvml, visible


class NVMLError(Exception):
    def __init__(self, value):
        super().__init__(f"NVML error {value}")
        self.value = value


class FakeNvml:
    NVMLError = NVMLError
    NVML_ERROR_NOT_SUPPORTED = 3
    NVML_ERROR_GPU_IS_LOST = 15
    NVML_CLOCK_SM = 1
    NVML_CLOCK_MEM = 2

    def __init__(self, count=2):
        self.count = count
        self.calls = []
        self.errors = {}

    def _call(self, name, handle, value):
        self.calls.append((name, handle))
        if (name, handle) in self.errors:
            raise NVMLError(self.errors[name, handle])
        return value

    def nvmlInit(self):
        if "init" in self.errors:
            raise NVMLError(self.errors["init"])

    def nvmlDeviceGetCount(self):
        return self.count

    def nvmlDeviceGetHandleByIndex(self, index):
        return index

    def nvmlDeviceGetHandleByUUID(self, uuid):
        return int(uuid.rsplit("-", 1)[1])

    def nvmlDeviceGetUUID(self, handle):
        return f"GPU-{handle}".encode()

    def nvmlDeviceGetUtilizationRates(self, handle):
        return self._call("utilization", handle, SimpleNamespace(gpu=90, memory=10))

    def nvmlDeviceGetMemoryInfo(self, handle):
        return self._call("memory", handle, SimpleNamespace(used=40, total=80))

    def nvmlDeviceGetTemperature(self, handle, sensor):
        return self._call("temperature", handle, 60)

    def nvmlDeviceGetPowerUsage(self, handle):
        return self._call("power", handle, 312_500)

    def nvmlDeviceGetClockInfo(self, handle, clock):
        return self._call("clock", handle, 1000 * clock)

    def nvmlDeviceGetCurrentClocksEventReasons(self, handle):
        return self._call("reasons", handle, 4)

    def nvmlDeviceGetFanSpeed(self, handle):
        return self._call("fan", handle, 33)


def test_every_gpu_gives_its_metrics_under_its_index_and_uuid():
    sample = NvidiaSource(FakeNvml()).sample(0.0)
    assert sample["gpu/0/GPU-0/utilization_percent"] == 90.0
    assert sample["gpu/1/GPU-1/power_watts"] == 312.5
    assert sample["gpu/1/GPU-1/memory_percent"] == 50.0
    assert sample["gpu/0/GPU-0/sm_clock_mhz"] == 1000.0
    assert sample["gpu/0/GPU-0/memory_clock_mhz"] == 2000.0
    assert sample["gpu/0/GPU-0/throttle_reasons"] == 4.0
    assert len(sample) == 20


def test_a_metric_that_a_gpu_does_not_have_is_asked_for_once():
    nvml = FakeNvml(count=1)
    nvml.errors["power", 0] = nvml.NVML_ERROR_NOT_SUPPORTED
    said = []
    source = NvidiaSource(nvml, said.append)
    for second in range(3):
        assert "gpu/0/GPU-0/power_watts" not in source.sample(float(second))
    assert nvml.calls.count(("power", 0)) == 1
    assert said == []


def test_another_error_of_a_metric_is_said_once_and_the_metric_comes_back():
    nvml = FakeNvml(count=1)
    nvml.errors["temperature", 0] = 999
    said = []
    source = NvidiaSource(nvml, said.append)
    source.sample(0.0)
    source.sample(1.0)
    assert len(said) == 1
    nvml.errors.clear()
    assert source.sample(2.0)["gpu/0/GPU-0/temperature_celsius"] == 60.0


def test_a_lost_gpu_is_said_once_and_the_others_go_on_until_it_is_back():
    nvml = FakeNvml()
    nvml.errors["utilization", 0] = nvml.NVML_ERROR_GPU_IS_LOST
    nvml.errors["memory", 0] = nvml.NVML_ERROR_GPU_IS_LOST
    said = []
    source = NvidiaSource(nvml, said.append)
    for second in range(40):
        assert {name.split("/")[1] for name in source.sample(float(second))} == {"1"}
    assert len(said) == 1
    nvml.errors.clear()
    assert {name.split("/")[1] for name in source.sample(100.0)} == {"0", "1"}
    assert "is back" in said[1]


def test_the_fan_is_asked_every_ten_seconds_and_shown_every_second():
    nvml = FakeNvml(count=1)
    source = NvidiaSource(nvml)
    samples = [source.sample(float(second)) for second in range(11)]
    assert all("gpu/0/GPU-0/fan_percent" in sample for sample in samples)
    assert nvml.calls.count(("fan", 0)) == 2


def test_a_machine_without_the_package_or_the_driver_has_no_gpu_source():
    def missing(name):
        raise ImportError(name)

    assert open_nvml(missing) is None
    broken = FakeNvml()
    broken.errors["init"] = 9
    said = []
    assert open_nvml(lambda name: broken, said.append) is None
    assert len(said) == 1


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        (None, {0, 1, 2}),
        ("", set()),
        ("-1", set()),
        ("NoDevFiles", set()),
        ("1", {1}),
        ("2,0", {0, 2}),
        ("0,7,1", {0}),
        ("GPU-b", {1}),
        ("GPU-aa, GPU-cc", {0, 2}),
        ("GPU-", set()),
        ("MIG-1234", {0, 1, 2}),
    ],
)
def test_cuda_visible_devices_is_read_as_cuda_reads_it(setting, expected):
    assert visible(setting, [(0, "GPU-aa"), (1, "GPU-bb"), (2, "GPU-cc")]) == expected
