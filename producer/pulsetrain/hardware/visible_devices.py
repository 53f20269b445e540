"""Which GPUs a process may use, by the variables that CUDA and HIP read."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Device:
    """Something that a process can be given to compute on: a GPU, or an instance of one that MIG has divided."""

    index: int
    """As the driver numbers GPUs, in PCI order; an instance has its GPU's."""
    uuid: str
    parent: str | None = None
    """The UUID of the GPU that it is an instance of."""
    place: tuple[int, int] | None = None
    """Of an instance: the ids of the GPU instance and of the compute instance."""


@dataclass(frozen=True, slots=True)
class Visibility:
    """What a process was started with; None where a variable is not set."""

    nvidia: str | None = None
    """CUDA_VISIBLE_DEVICES."""
    amd: str | None = None
    """HIP_VISIBLE_DEVICES, else ROCR_VISIBLE_DEVICES, else CUDA_VISIBLE_DEVICES, which HIP reads too."""


def visible(setting: str | None, devices: Sequence[Device]) -> frozenset[str]:
    """The UUIDs of the devices that a process with this CUDA_VISIBLE_DEVICES uses; all where it is unset.

    As CUDA does, reading stops at the first entry that names no device, or more than one. A GPU brings its instances;
    an instance, named by `MIG-<uuid>` or as older drivers do by `MIG-<UUID of the GPU>/<GPU instance>/<compute
    instance>`, comes alone. Numbers are taken in PCI order, which is CUDA's own only with
    CUDA_DEVICE_ORDER=PCI_BUS_ID or where all GPUs are of one model.
    """
    if setting is None:
        return frozenset(device.uuid for device in devices)
    chosen: set[str] = set()
    for entry in (part.strip() for part in setting.split(",")):
        named = [device for device in devices if _names(entry, device)]
        if len(named) != 1:
            break
        chosen.add(named[0].uuid)
        chosen.update(device.uuid for device in devices if device.parent == named[0].uuid)
    return frozenset(chosen)


def _names(entry: str, device: Device) -> bool:
    if device.parent is None:
        return entry == str(device.index) or (
            not entry.isdecimal() and len(entry) > len("GPU-") and device.uuid.startswith(entry)
        )
    if device.place is not None and entry == "MIG-{}/{}/{}".format(device.parent, *device.place):
        return True
    return entry.startswith("MIG-") and len(entry) > len("MIG-") and device.uuid.startswith(entry)
