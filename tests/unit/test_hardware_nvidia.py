"""NVIDIA GPUs through pynvml, over an NVML that is made up and can fail, and over the real one where there is one."""

import threading
import time

import pynvml
import pytest

from pulsetrain.forwarder.telemetry import uses_of
from pulsetrain.hardware import nvidia_fields, nvidia_gpm, nvidia_gpu
from pulsetrain.hardware.nvidia import open_nvml
from pulsetrain.hardware.nvidia_events import Xids
from pulsetrain.hardware.nvidia_gpu import Use
from pulsetrain.hardware.sampler import Sampler
from pulsetrain_schemas.system_metrics import GPU_METRICS
from tests.fake_gpus import GIB, Process, a100, h100, old
from tests.fake_nvml import DRIVER_NOT_LOADED, GPU_IS_LOST, NO_PERMISSION, TIMEOUT, UNKNOWN
from tests.nvidia_machine import Machine, has_gpus, made_up
from tests.waiting import wait_for

AA, BB, CC = "GPU-aaaa-1", "GPU-bbbb-2", "GPU-cccc-3"


@pytest.fixture
def machine():
    with made_up(h100(AA), a100(BB), old(CC)) as made:
        yield made


@pytest.fixture(params=["made up", "real"])
def any_machine(request):
    """Tests that need no failure hold on real GPUs too."""
    if request.param == "made up":
        with made_up(h100(AA), a100(BB), old(CC)) as made:
            yield made
        return
    if not has_gpus():
        pytest.skip("no NVIDIA GPU here")
    real = Machine(pynvml)
    yield real
    real.source.stop()


def seconds_pass(machine, seconds):
    """On the real machine they do; the made-up one is told the time."""
    if machine.library is None:
        threading.Event().wait(seconds)
        return time.monotonic()
    return machine.now + seconds


# On any machine.


def test_every_gpu_gives_its_metrics_under_its_index_and_uuid(any_machine):
    sample = any_machine.at(time.monotonic())
    for device in any_machine.source.devices:
        assert sample[f"gpu/{device.index}/{device.uuid}/memory_total_bytes"] > 1e9
        assert 0 < sample[f"gpu/{device.index}/{device.uuid}/memory_percent"] <= 100


def test_figures_are_in_the_units_of_their_names(any_machine):
    start = any_machine.at(time.monotonic())
    later = any_machine.at(seconds_pass(any_machine, 1.0))
    for name, value in (start | later).items():
        metric = name.split("/")[3]
        assert metric in GPU_METRICS, f"{metric} is not in the catalogue"
        unit = GPU_METRICS[metric].unit
        if unit == "%":
            assert 0 <= value <= 110, name
        if unit == "°C":
            assert 0 < value < 130, name
        if unit == "W":
            assert 0 < value < 3000, name
        if unit == "MHz":
            assert 0 < value < 20_000, name
        if unit in ("0 or 1", "s/s"):
            assert 0 <= value <= 1, name


def test_every_metric_that_any_gpu_may_give_is_in_the_catalogue():
    fields = {field.metric for field in nvidia_fields.FAST + nvidia_fields.SLOW}
    counters = {name for name, _ in (*nvidia_gpm.METRICS.values(), *nvidia_gpm.INSTANCE_METRICS.values())}
    errors: dict[str, float] = {}
    xids = Xids()
    xids.add(AA, 79, None)
    xids.write(AA, None, errors)
    assert fields | counters | set(errors) | set(nvidia_gpu.THROTTLES) <= set(GPU_METRICS)
    assert set(uses_of({1: Use(1.0, 1.0)}, {1})) <= set(GPU_METRICS)


def test_the_processes_of_a_gpu_are_known_by_their_pids(any_machine):
    any_machine.at(time.monotonic())
    assert set(any_machine.source.processes) == {device.uuid for device in any_machine.source.devices}


def test_a_second_driver_in_the_process_is_no_trouble(any_machine):
    any_machine.nvml.nvmlInit()
    assert any_machine.at(time.monotonic())
    any_machine.nvml.nvmlShutdown()
    assert any_machine.at(seconds_pass(any_machine, 0.2))


# What is measured.


def test_the_basic_metrics_of_each_generation_are_there(machine):
    for uuid in (AA, BB, CC):
        sample = machine.of(uuid, 0.0)
        assert sample["utilization_percent"] == 90.0
        assert sample["power_watts"] == 312.5
        assert sample["power_percent"] == 50.0
        assert sample["memory_used_bytes"] == 40 * GIB
        assert sample["memory_percent"] == 50.0
        assert sample["sm_clock_mhz"] == 1710.0
        assert sample["memory_clock_mhz"] == 2600.0
        assert sample["temperature_celsius"] == 60.0
        machine.now = -20.0


def test_counters_become_rates_and_energy_is_counted(machine):
    gpu = machine.library.gpus[1]
    gpu.rates |= {138: 1e6, 139: 2e6, 74: 0.25e9}  # KiB/s, KiB/s, ns/s
    assert "nvlink_sent_bytes_per_second" not in machine.of(BB, 0.0)
    sample = machine.of(BB, 10.0)
    assert sample["nvlink_sent_bytes_per_second"] == pytest.approx(1024e6)
    assert sample["nvlink_received_bytes_per_second"] == pytest.approx(2048e6)
    assert sample["throttled_power_ratio"] == pytest.approx(0.25)
    assert sample["energy_joules"] == pytest.approx(3125.0)


def test_a_counter_that_wraps_leaves_its_rate_out_once():
    with made_up(h100(AA, wraps=1000, rates={197: 300.0})) as machine:
        machine.library.gpus[0].gpm = False
        machine.at(0.0)
        rates = [machine.of(AA, float(second)).get("pcie_sent_bytes_per_second") for second in range(1, 6)]
        assert rates == [300.0, 300.0, 300.0, None, 300.0]


def test_power_comes_from_the_energy_where_it_is_not_told():
    with made_up(a100(BB)) as machine:
        machine.library.gpus[0].errors["nvmlDeviceGetPowerUsage"] = pynvml.NVML_ERROR_NOT_SUPPORTED
        machine.at(0.0)  # its older field for the energy is asked for at the next one
        assert "power_watts" not in machine.of(BB, 1.0)
        assert machine.of(BB, 3.0)["power_watts"] == pytest.approx(312.5)


def test_throttling_is_a_mask_and_can_be_plotted(machine):
    for reasons, expected in (
        (0x0, (0.0, 0.0, 0.0)),
        (0x1, (0.0, 0.0, 0.0)),
        (0x4, (1.0, 0.0, 0.0)),
        (0x20, (0.0, 1.0, 0.0)),
        (0x48, (0.0, 1.0, 1.0)),
        (0x88, (1.0, 0.0, 1.0)),
    ):
        machine.library.gpus[0].reasons = reasons
        sample = machine.of(AA, 0.0)
        assert sample["throttle_reasons"] == reasons
        found = tuple(sample[name] for name in ("throttled_power", "throttled_thermal", "throttled_hardware"))
        assert found == expected


def test_gpm_gives_what_the_multiprocessors_did_between_two_samples(machine):
    assert "sm_active_percent" not in machine.of(AA, 0.0)
    sample = machine.of(AA, 0.1)
    assert sample["sm_active_percent"] == 88.0
    assert sample["sm_occupancy_percent"] == 40.0
    assert sample["tensor_active_percent"] == 61.0
    assert sample["dram_active_percent"] == 35.0
    assert sample["pcie_received_bytes_per_second"] == 200.0 * (1 << 20)
    assert "sm_active_percent" not in machine.of(BB, 0.2)
    assert machine.library.count("nvmlGpmSampleGet", BB) == 0


def test_gpm_samples_are_never_less_than_100_ms_apart(machine):
    for tick in range(20):
        machine.at(tick * 0.06)
    assert machine.library.count("nvmlGpmSampleGet", AA) == 10
    assert machine.said == []


def test_what_costs_more_is_asked_every_ten_seconds():
    with made_up(old(CC)) as machine:
        samples = [machine.of(CC, float(second)) for second in range(21)]
    assert [second for second, sample in enumerate(samples) if "fan_percent" in sample] == [0, 10, 20]
    assert machine.library.count("nvmlDeviceGetFanSpeed") == 3
    assert machine.library.count("nvmlDeviceGetComputeRunningProcesses_v3") == 3


def test_pcie_throughput_which_sleeps_is_never_asked_for(machine):
    for second in range(30):
        machine.at(float(second))
    assert machine.library.count("nvmlDeviceGetPcieThroughput") == 0


def test_errors_of_the_memory_and_replaced_rows_are_counted(machine):
    machine.library.gpus[0].fields |= {142: 2, 143: 1, 144: 1}
    sample = machine.of(AA, 0.0)
    assert sample["ecc_uncorrected_errors"] == 1.0
    assert sample["ecc_uncorrected_lifetime_errors"] == 11.0
    assert sample["remapped_rows_corrected"] == 2.0
    assert sample["remapped_rows_uncorrected"] == 1.0
    assert sample["row_remapping_pending"] == 1.0


def test_what_each_process_has_of_a_gpu_is_known():
    with made_up(h100(AA, processes=[Process(10, 3 * GIB, 70), Process(11, None, 20)])) as machine:
        machine.at(100.0)
        uses = machine.source.processes[AA]
    assert uses[10].memory_bytes == 3 * GIB
    assert uses[10].utilization_percent == 70.0
    assert uses[11].memory_bytes is None


# What does not work.


def test_a_metric_that_a_gpu_does_not_have_is_asked_for_once():
    with made_up(old(CC)) as machine:
        machine.library.gpus[0].errors["nvmlDeviceGetPowerUsage"] = pynvml.NVML_ERROR_NOT_SUPPORTED
        for second in range(3):
            assert "power_watts" not in machine.of(CC, float(second))
        assert machine.library.count("nvmlDeviceGetPowerUsage") == 1
        assert machine.library.count("nvmlDeviceGetFieldValues") <= 6
        assert machine.said == []


def test_a_driver_that_is_older_than_a_function_is_asked_for_it_once_and_the_older_one_serves():
    with made_up(a100(BB)) as machine:
        machine.library.missing_functions |= {"nvmlDeviceGetCurrentClocksEventReasons", "nvmlGpmQueryDeviceSupport"}
        machine.library.gpus[0].reasons = 4
        assert machine.of(BB, 0.0)["throttle_reasons"] == 4.0
        assert machine.said == []


@pytest.mark.parametrize("code", [UNKNOWN, TIMEOUT])
def test_another_error_of_a_metric_is_said_once_and_the_metric_comes_back(machine, code):
    machine.library.gpus[0].errors["nvmlDeviceGetTemperature"] = code
    machine.at(0.0)
    machine.at(1.0)
    assert len(machine.said) == 1
    assert "nvmlDeviceGetTemperature" in machine.said[0]
    machine.library.gpus[0].errors.clear()
    assert machine.of(AA, 2.0)["temperature_celsius"] == 60.0


def test_what_is_not_permitted_is_said_once_and_tried_every_half_minute(machine):
    machine.library.gpus[0].errors["nvmlGpmSampleGet"] = NO_PERMISSION
    for second in range(60):
        machine.at(float(second))
    assert machine.library.count("nvmlGpmSampleGet", AA) == 2
    assert len(machine.said) == 1


def test_a_gpu_that_falls_off_the_bus_is_said_once_and_the_others_go_on_until_it_is_back(machine):
    gpu = machine.library.gpus[0]
    assert machine.seen(0.0) == {AA, BB, CC}
    gpu.unplugged = True
    for second in range(1, 40):
        assert machine.seen(float(second)) == {BB, CC}
    assert len(machine.said) == 1
    assert AA in machine.said[0]
    gpu.unplugged = False
    assert machine.seen(100.0) == {AA, BB, CC}
    assert "is back" in machine.said[1]
    assert "sm_active_percent" in machine.of(AA, 101.0)


def test_a_field_that_says_the_gpu_is_lost_is_believed(machine):
    machine.library.gpus[1].errors[82] = GPU_IS_LOST
    assert machine.seen(0.0) == {AA, CC}


def test_a_gpu_that_is_put_back_after_the_driver_forgot_it_is_found_again(machine):
    gpu = machine.library.gpus[0]
    machine.at(0.0)
    gpu.unplugged = True
    for second in range(0, 700, 5):
        machine.at(float(second))
    assert {device.uuid for device in machine.source.devices} == {BB, CC}  # NVML was opened again without it
    gpu.unplugged = False
    for second in range(700, 1400, 5):
        machine.at(float(second))
    assert machine.seen(1400.0) == {AA, BB, CC}
    assert [AA in line for line in machine.said] == [True, True]
    assert "is back" in machine.said[-1]


def test_a_driver_that_restarts_is_opened_again_and_its_gpus_are_found_whatever_their_number(machine):
    library = machine.library
    assert machine.seen(0.0) == {AA, BB, CC}
    library.stop_driver()
    for second in range(1, 20):
        assert machine.seen(float(second)) == set()
    assert len(machine.said) == 1
    assert "restarted" in machine.said[0]
    library.start_driver(library.gpus[1], library.gpus[0])
    assert machine.seen(30.0) == {AA, BB}
    assert len(machine.said) == 2
    assert "is back, with 2 GPUs" in machine.said[1]
    indexes = {name.split("/")[2]: name.split("/")[1] for name in machine.at(31.0)}
    assert indexes == {BB: "0", AA: "1"}


def test_a_driver_that_was_restarted_between_two_samples_is_noticed_by_its_invalid_handles(machine):
    machine.at(0.0)
    machine.library.stop_driver()
    machine.library.start_driver()
    machine.nvml.nvmlInit()  # somebody else in the process, so that the library answers, but not to our handles
    assert machine.seen(1.0) == set()
    assert machine.seen(2.0) == {AA, BB, CC}
    assert len(machine.said) == 2


def test_a_machine_without_the_package_or_the_driver_has_no_gpu_source():
    def missing(name):
        raise ImportError(name)

    assert open_nvml(missing) is None
    with made_up() as machine:
        machine.library.init_code = DRIVER_NOT_LOADED
        said = []
        assert open_nvml(report=said.append) is None
        assert len(said) == 1
        assert machine.at(0.0) == {}


# Hangs, on the sampler's own threads.


def sampled(machine, period=0.05, patience=0.2):
    """A sampler that gives out what the machine's GPUs say; what it says itself is with what they say."""
    delivered = []
    sampler = Sampler(
        lambda _at, samples: delivered.append(
            {name.split("/")[2] for sample in samples.values() for name in sample if name.startswith("gpu/")}
        ),
        period=period,
        patience=patience,
        report=machine.said.append,
    )
    machine.source._add, machine.source._remove = sampler.add, sampler.remove
    sampler.add("gpu", machine.source)
    machine.library.clock = time.monotonic
    return sampler, delivered


def test_a_call_that_hangs_costs_its_own_gpu_the_metrics_and_no_other():
    with made_up(h100(AA), a100(BB), old(CC)) as machine:
        sampler, delivered = sampled(machine)
        sampler.start()
        try:
            wait_for(lambda: delivered and delivered[-1] == {AA, BB, CC}, what="all GPUs")
            with machine.library.hang("nvmlDeviceGetMemoryInfo", BB):
                wait_for(lambda: delivered[-1] == {AA, CC}, what="the sample without the GPU that hangs")
                wait_for(lambda: machine.said, what="the word of it")
                mark = len(delivered)
                wait_for(lambda: len(delivered) > mark + 10, what="further samples")
                assert {AA, CC} in delivered[mark:]
                assert "gpu 1 sampler hangs" in machine.said[0]
            wait_for(lambda: delivered[-1] == {AA, BB, CC}, what="its return")
            wait_for(lambda: len(machine.said) == 2, what="the word of its return")
        finally:
            sampler.stop()


def test_a_driver_that_restarts_while_a_call_hangs_is_opened_again_all_the_same(monkeypatch):
    monkeypatch.setattr("pulsetrain.hardware.nvidia.PATIENCE", 0.05)
    monkeypatch.setattr("pulsetrain.hardware.nvidia.REOPEN_PERIOD", 0.1)
    with made_up(h100(AA), a100(BB)) as machine:
        sampler, delivered = sampled(machine)
        sampler.start()
        try:
            wait_for(lambda: delivered and delivered[-1] == {AA, BB}, what="all GPUs")
            with machine.library.hang("nvmlDeviceGetMemoryInfo", BB):
                wait_for(lambda: delivered[-1] == {AA}, what="the sample without the GPU that hangs")
                machine.library.stop_driver()
                wait_for(lambda: delivered[-1] == set(), what="the driver's end")
                del machine.library._hanging["nvmlDeviceGetMemoryInfo", BB]  # only the call of before hangs on
                machine.library.start_driver()
                wait_for(lambda: delivered[-1] == {AA, BB}, what="all GPUs again")
                machine.library._hanging["nvmlDeviceGetMemoryInfo", BB] = threading.Event()
        finally:
            sampler.stop()
