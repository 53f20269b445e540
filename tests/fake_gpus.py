"""GPUs for the made-up NVML: what they are, what they do, and what they cannot do."""

from dataclasses import dataclass, field
from typing import Any

GIB = 1 << 30


@dataclass
class Process:
    """One that computes on a GPU."""

    pid: int
    memory: int | None = 2 * GIB
    sm: int = 50


@dataclass
class Instance:
    """An instance of MIG."""

    uuid: str
    gpu_instance: int
    compute_instance: int = 0
    used: int = 5 * GIB
    total: int = 20 * GIB
    processes: list[Process] = field(default_factory=list)
    parent: "Gpu" = None  # type: ignore[assignment]
    removed: bool = False


@dataclass
class Gpu:
    """One GPU. `missing` are the functions, and the numbers of fields, that it answers NOT_SUPPORTED to."""

    uuid: str
    missing: frozenset[str | int] = frozenset()
    gpm: bool = False
    utilization: int = 90
    used: int = 40 * GIB
    total: int = 80 * GIB
    watts: float = 312.5
    temperature: int = 60
    reasons: int = 0
    fan: int = 33
    processes: list[Process] = field(default_factory=list)
    instances: list[Instance] = field(default_factory=list)
    mig: bool = False
    rates: dict[int, float] = field(default_factory=dict)
    """By field: how fast the counter grows, per second."""
    fields: dict[int, float] = field(default_factory=dict)
    """By field: a value, in place of the usual one."""
    wraps: int = 1 << 64
    unplugged: bool = False
    errors: dict[str | int, int] = field(default_factory=dict)
    """By function or field: the code that is returned."""
    gpm_values: dict[int, float] = field(default_factory=dict)


def h100(uuid: str, **given: Any) -> Gpu:
    """Everything, and no fan: the air of the server cools it."""
    values = {
        1: 95.0,
        2: 88.0,
        3: 40.0,
        5: 61.0,
        10: 35.0,
        11: 0.0,
        12: 9.0,
        13: 3.0,
        20: 100.0,
        21: 200.0,
        60: 3.0,
        61: 4.0,
    }
    missing = frozenset({"nvmlDeviceGetFanSpeed", 29, 30, 31})
    return Gpu(uuid, missing, gpm=True, gpm_values=values, **given)


def a100(uuid: str, instances: list[Instance] | None = None, **given: Any) -> Gpu:
    """No GPM; can be divided by MIG."""
    missing = frozenset({"nvmlDeviceGetFanSpeed", 29, 30, 31, 191, 197, 198, 186})
    gpu = Gpu(uuid, missing, instances=instances or [], mig=bool(instances), **given)
    for instance in gpu.instances:
        instance.parent = gpu
    return gpu


def old(uuid: str, **given: Any) -> Gpu:
    """A GeForce of years ago: the basics and a fan."""
    missing = frozenset(
        {"nvmlDeviceGetTotalEccErrors", "nvmlDeviceGetTotalEnergyConsumption", "nvmlDeviceGetMigMode"}
        | {"nvmlDeviceGetProcessUtilization", "nvmlDeviceGetEncoderUtilization", "nvmlDeviceGetDecoderUtilization"}
        | {29, 30, 31, 74, 75, 82, 83, 94, 138, 139, 142, 143, 144, 145, 186, 191, 197, 198}
    )
    return Gpu(uuid, missing, **given)
