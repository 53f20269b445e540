"""AMD GPUs, from an amdsmi that is made up and can fail."""

import pytest

from pulsetrain.hardware.amd import AmdSource, open_amdsmi
from pulsetrain_schemas.system_metrics import GPU_METRICS
from tests.fake_amdsmi import DRIVER_NOT_LOADED, NO_PERM, NOT_SUPPORTED, FakeAmdsmi

FIRST, SECOND = "64ff-0000", "65ff-0000"


def make(**given):
    amdsmi, said = FakeAmdsmi(**given), []
    return amdsmi, AmdSource(lambda: amdsmi, said.append), said


def of(sample, uuid):
    return {name.split("/")[3]: value for name, value in sample.items() if f"/{uuid}/" in name}


def test_an_amd_gpu_has_the_metrics_of_an_nvidia_one_in_the_same_units():
    _, source, said = make()
    sample = source.sample(0.0)
    assert of(sample, SECOND) == {
        "utilization_percent": 97.0,
        "memory_utilization_percent": 40.0,
        "memory_used_bytes": 49_148.0 * (1 << 20),
        "memory_total_bytes": 196_592.0 * (1 << 20),
        "memory_percent": 25.0,
        "power_watts": 550.0,
        "energy_joules": 0.0,
        "temperature_celsius": 58.0,
        "memory_temperature_celsius": 49.0,
        "sm_clock_mhz": 2100.0,
        "memory_clock_mhz": 1300.0,
        "fan_percent": 20.0,
        "ecc_corrected_errors": 3.0,
        "ecc_uncorrected_errors": 1.0,
    }
    assert f"gpu/0/{FIRST}/power_watts" in sample
    assert set(of(sample, FIRST)) <= set(GPU_METRICS)
    assert source.processes[FIRST][77].memory_bytes == 4096.0
    assert said == []


def test_power_is_the_average_or_comes_from_the_energy_where_the_current_one_is_not_told():
    amdsmi, source, _ = make()
    amdsmi.power = {"current_socket_power": "N/A", "average_socket_power": 300}
    assert of(source.sample(0.0), FIRST)["power_watts"] == 300.0
    amdsmi.power = {"current_socket_power": "N/A", "average_socket_power": "N/A"}
    source.sample(1.0)
    amdsmi.seconds = 2.0
    assert of(source.sample(3.0), FIRST)["power_watts"] == pytest.approx(550.0)


def test_what_is_not_supported_is_asked_for_once_and_other_errors_are_said_once():
    amdsmi, source, said = make(count=1)
    amdsmi.errors = {"amdsmi_get_power_info": NOT_SUPPORTED, "amdsmi_get_gpu_activity": NO_PERM}
    for second in range(3):
        assert "utilization_percent" not in of(source.sample(float(second)), FIRST)
    assert amdsmi.calls.count("amdsmi_get_power_info") == 1
    assert amdsmi.calls.count("amdsmi_get_gpu_activity") == 3
    assert len(said) == 1


def test_a_gpu_that_answers_nothing_is_said_once_and_the_others_go_on_until_it_is_back():
    amdsmi, source, said = make()
    source.sample(0.0)
    amdsmi.gone = {100}
    for second in range(1, 40):
        assert {name.split("/")[2] for name in source.sample(float(second))} == {SECOND}
    assert sum("answers nothing" in line for line in said) == 1
    amdsmi.gone = set()
    assert {name.split("/")[2] for name in source.sample(100.0)} == {FIRST, SECOND}
    assert "is back" in said[-1]


def test_a_machine_without_the_package_or_the_driver_has_no_amd_gpus():
    def missing(name):
        raise ImportError(name)

    def broken(name):
        raise OSError("libamd_smi.so: cannot open shared object file")

    assert open_amdsmi(missing) is None
    assert open_amdsmi(broken) is None
    amdsmi, said = FakeAmdsmi(), []
    amdsmi.errors["amdsmi_init"] = DRIVER_NOT_LOADED
    assert open_amdsmi(lambda name: amdsmi, said.append) is None
    assert len(said) == 1
    source = AmdSource(lambda: None)
    assert source.sample(0.0) == {}
    assert source.devices == ()
