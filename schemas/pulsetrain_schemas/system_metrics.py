"""The catalogue of the metrics of hardware: what each is called, its unit, what it means, and W&B's key for it.

Names are those of the column `metric` of the table `system`; a GPU's metrics have its UUID and index beside them. W&B
has the keys `system.…` (its `core/internal/monitor` and `xpu`). An alias says that two names mean the same thing; where
W&B has another unit, `wandb_factor` is what a value of ours is multiplied with to be one of theirs.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

MEBI = 1.0 / (1 << 20)
GIBI = 1.0 / (1 << 30)
_NUMBER = re.compile(r"(?<=/)\d+(?=/)")


@dataclass(frozen=True, slots=True)
class SystemMetric:
    """One metric. In `name` `{i}` stands for the number of a core, in `wandb` for that of a core or a GPU."""

    name: str
    unit: str
    description: str
    scope: Literal["host", "process", "gpu"]
    """What is measured: the machine, the run's processes on it, or one GPU."""
    wandb: str | None = None
    wandb_factor: float = 1.0


def _host(name: str, unit: str, description: str, wandb: str | None = None, factor: float = 1.0) -> SystemMetric:
    return SystemMetric(name, unit, description, "host", wandb, factor)


def _process(name: str, unit: str, description: str, wandb: str | None = None, factor: float = 1.0) -> SystemMetric:
    return SystemMetric(name, unit, description, "process", wandb, factor)


def _gpu(name: str, unit: str, description: str, wandb: str | None = None, factor: float = 1.0) -> SystemMetric:
    return SystemMetric(name, unit, description, "gpu", None if wandb is None else f"system.gpu.{wandb}", factor)


_HOST = (
    _host("cpu_percent", "%", "How busy all cores were together since the sample before"),
    _host("cpu/{i}/percent", "%", "How busy one core was since the look before", "system.cpu.{i}.cpu_percent"),
    _host("load_1m", "1", "Processes that ran or waited to run, on average over a minute"),
    _host("memory_used_bytes", "B", "Memory in use", "system.memory.used"),
    _host("memory_available_bytes", "B", "Memory that programs can have without swapping",
          "system.proc.memory.availableMB", MEBI),
    _host("memory_total_bytes", "B", "All memory"),
    _host("memory_percent", "%", "Share of the memory that is not available", "system.memory_percent"),
    _host("swap_used_bytes", "B", "Swap space in use", "system.swap.used"),
    _host("swap_percent", "%", "Share of the swap space in use", "system.swap.used_percent"),
    _host("disk_used_bytes", "B", "What the disk of the journals holds", "system.disk./.usageGB", GIBI),
    _host("disk_used_percent", "%", "Share of the disk of the journals that is in use", "system.disk./.usagePercent"),
    _host("disk_read_bytes_per_second", "B/s", "Read from all disks"),
    _host("disk_write_bytes_per_second", "B/s", "Written to all disks"),
    _host("network_received_bytes_per_second", "B/s", "Received on all network cards"),
    _host("network_sent_bytes_per_second", "B/s", "Sent on all network cards"),
)  # fmt: skip
_PROCESS = (
    _process("process_cpu_percent", "%", "Processor time of the run's processes; 100 is one core"),
    _process("process_cpu_share_percent", "%", "The same as a share of the cores that the container or the machine has",
             "system.cpu"),
    _process("process_memory_rss_bytes", "B", "Resident memory of the run's processes",
             "system.proc.memory.rssMB", MEBI),
    _process("process_memory_percent", "%", "The same as a share of the container's limit, or of all memory",
             "system.proc.memory.percent"),
    _process("process_threads", "1", "Threads of the run's processes", "system.proc.cpu.threads"),
    _process("process_count", "1", "The run's processes, with all that descend from them"),
    _process("process_open_files", "1", "Open files, sockets and pipes of the run's processes"),
    _process("container_memory_limit_bytes", "B", "The memory that the container may use"),
    _process("container_memory_used_bytes", "B", "What the container uses of it, the page cache included"),
    _process("container_memory_percent", "%", "The same as a share"),
    _process("container_cpu_limit_cores", "cores", "The processor time that the container may use"),
    _process("container_cpu_throttled_ratio", "s/s", "Time that the container's processes were held back, by time"),
)  # fmt: skip
_GPU = (
    _gpu("utilization_percent", "%", "Time in which a kernel ran", "{i}.gpu"),
    _gpu("memory_utilization_percent", "%", "Time in which memory was read or written", "{i}.memory"),
    _gpu("memory_used_bytes", "B", "Memory in use", "{i}.memoryAllocatedBytes"),
    _gpu("memory_total_bytes", "B", "All memory"),
    _gpu("memory_percent", "%", "Share of the memory in use", "{i}.memoryAllocated"),
    _gpu("temperature_celsius", "°C", "Temperature of the chip", "{i}.temp"),
    _gpu("memory_temperature_celsius", "°C", "Temperature of the memory"),
    _gpu("power_watts", "W", "Power drawn, as the driver averages it", "{i}.powerWatts"),
    _gpu("power_instant_watts", "W", "Power drawn at the moment"),
    _gpu("power_percent", "%", "Power drawn as a share of the limit", "{i}.powerPercent"),
    _gpu("power_limit_watts", "W", "The power limit that is enforced", "{i}.enforcedPowerLimitWatts"),
    _gpu("energy_joules", "J", "Energy used since the driver was loaded"),
    _gpu("sm_clock_mhz", "MHz", "Clock of the multiprocessors", "{i}.smClock"),
    _gpu("memory_clock_mhz", "MHz", "Clock of the memory", "{i}.memoryClock"),
    _gpu("graphics_clock_mhz", "MHz", "Clock of the graphics engine", "{i}.graphicsClock"),
    _gpu("fan_percent", "%", "Speed of the fan", "{i}.fanSpeed"),
    _gpu("encoder_utilization_percent", "%", "How busy the video encoder was", "{i}.encoderUtilization"),
    _gpu("decoder_utilization_percent", "%", "How busy the video decoder was"),
    _gpu("throttle_reasons", "bits", "Why the clocks are not higher: nvmlClocksEventReasons"),
    _gpu("throttled_power", "0 or 1", "Held back by the power limit or the power supply"),
    _gpu("throttled_thermal", "0 or 1", "Held back by heat"),
    _gpu("throttled_hardware", "0 or 1", "Held back by the hardware's own protection: heat or power"),
    _gpu("throttled_power_ratio", "s/s", "Time that the power limit held it back, by time"),
    _gpu("throttled_thermal_ratio", "s/s", "Time that heat held it back, by time"),
    _gpu("pcie_sent_bytes_per_second", "B/s", "Sent by the GPU over PCIe"),
    _gpu("pcie_received_bytes_per_second", "B/s", "Received by the GPU over PCIe"),
    _gpu("pcie_replays", "1", "Packets sent again over PCIe since the driver was loaded"),
    _gpu("nvlink_sent_bytes_per_second", "B/s", "Sent over all NVLinks"),
    _gpu("nvlink_received_bytes_per_second", "B/s", "Received over all NVLinks"),
    _gpu("sm_active_percent", "%", "Multiprocessors that had work, on average (GPM)"),
    _gpu("sm_occupancy_percent", "%", "Warps resident, of as many as there can be (GPM)"),
    _gpu("tensor_active_percent", "%", "Time in which tensor cores worked (GPM)"),
    _gpu("dram_active_percent", "%", "Memory bandwidth used, of what there is (GPM)"),
    _gpu("fp64_active_percent", "%", "Time in which FP64 units worked (GPM)"),
    _gpu("fp32_active_percent", "%", "Time in which FP32 units worked (GPM)"),
    _gpu("fp16_active_percent", "%", "Time in which FP16 units worked (GPM)"),
    _gpu("ecc_corrected_errors", "1", "Memory errors corrected since the driver was loaded",
         "{i}.correctedMemoryErrors"),
    _gpu("ecc_uncorrected_errors", "1", "Memory errors not corrected since the driver was loaded",
         "{i}.uncorrectedMemoryErrors"),
    _gpu("ecc_corrected_lifetime_errors", "1", "Memory errors corrected in the GPU's life"),
    _gpu("ecc_uncorrected_lifetime_errors", "1", "Memory errors not corrected in the GPU's life"),
    _gpu("remapped_rows_corrected", "1", "Memory rows replaced because of corrected errors"),
    _gpu("remapped_rows_uncorrected", "1", "Memory rows replaced because of uncorrected errors"),
    _gpu("row_remapping_pending", "0 or 1", "Rows are to be replaced at the next reset"),
    _gpu("row_remapping_failed", "0 or 1", "A row could not be replaced: the GPU should be"),
    _gpu("retired_pages_corrected", "1", "Memory pages retired because of repeated corrected errors"),
    _gpu("retired_pages_uncorrected", "1", "Memory pages retired because of uncorrected errors"),
    _gpu("page_retirement_pending", "0 or 1", "Pages are to be retired at the next reset"),
    _gpu("xid_errors", "1", "XID errors since the forwarder was started; only where one occurred"),
    _gpu("xid_last", "XID", "The number of the last XID error"),
    _gpu("process_memory_bytes", "B", "The GPU's memory that the run's processes have",
         "process.{i}.memoryAllocatedBytes"),
    _gpu("process_utilization_percent", "%", "Time in which a kernel of the run's processes ran", "process.{i}.gpu"),
)  # fmt: skip

HOST_METRICS: Mapping[str, SystemMetric] = {metric.name: metric for metric in (*_HOST, *_PROCESS)}
"""Those of a machine and of a run's processes on it, by name."""
GPU_METRICS: Mapping[str, SystemMetric] = {metric.name: metric for metric in _GPU}
"""Those of a GPU, by name. Some names are a machine's too."""
_BY_WANDB = {metric.wandb: metric for metric in (*_HOST, *_PROCESS, *_GPU) if metric.wandb is not None}


def find(name: str, *, gpu: bool = False) -> SystemMetric | None:
    """The metric that is called so in the table: `gpu` says that a GPU stands beside it."""
    return GPU_METRICS.get(name) if gpu else HOST_METRICS.get(_NUMBER.sub("{i}", name))


def wandb_key(name: str, gpu_index: int | None = None) -> str | None:
    """W&B's key for a metric of the machine, or with its index of a GPU; None where W&B has none."""
    metric = find(name, gpu=gpu_index is not None)
    if metric is None or metric.wandb is None:
        return None
    if gpu_index is not None:
        return metric.wandb.replace("{i}", str(gpu_index))
    number = _NUMBER.search(name)
    return metric.wandb if number is None else metric.wandb.replace("{i}", number.group())


def from_wandb_key(key: str) -> tuple[str, int | None] | None:
    """(our name, index of the GPU or None) for a key of W&B's; None where there is nothing of the kind here.

    The disk's path, which is part of W&B's keys, does not matter: there is one disk here.
    """
    if key.startswith("system.disk."):
        key = f"system.disk./.{key.rpartition('.')[2]}"
    numbers = [part for part in key.split(".") if part.isdecimal()]
    pattern = ".".join("{i}" if part.isdecimal() else part for part in key.split("."))
    metric = _BY_WANDB.get(pattern)
    if metric is None:
        return None
    if metric.scope == "gpu":
        return metric.name, int(numbers[0])
    return metric.name.replace("{i}", numbers[0]) if numbers else metric.name, None
