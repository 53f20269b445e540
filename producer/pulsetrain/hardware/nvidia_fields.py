"""The figures that NVML gives by number, many in one call: nvmlDeviceGetFieldValues.

A field that a GPU does not have is dropped from the call, or replaced by an older one of the same meaning.
"""

from dataclasses import dataclass
from typing import Literal

from pulsetrain.hardware.nvidia_questions import SUCCESS, Questions
from pulsetrain.hardware.rates import Rates
from pulsetrain.hardware.sampler import Sample

ALL_LINKS = 0xFFFFFFFF
KIB = 1024.0
_VALUE_MEMBERS = ("dVal", "uiVal", "ulVal", "ullVal", "sllVal", "siVal", "usVal")
"""By nvmlValueType_t: the member of the union that holds the value."""


@dataclass(frozen=True, slots=True)
class Field:
    """A metric and the numbers of the fields that give it, the best one first (NVML_FI_* in nvml.h)."""

    metric: str
    ids: tuple[int, ...]
    factor: float = 1.0
    kind: Literal["value", "rate", "share"] = "value"
    """A rate is per second; a share is a rate of time in time, between 0 and 1."""
    scope: int = 0


FAST = (
    Field("power_instant_watts", (186,), 1e-3),
    Field("energy_joules", (191, 83), 1e-3),  # mJ since the driver was loaded
    Field("memory_temperature_celsius", (82,)),
    Field("throttled_power_ratio", (74,), 1e-9, "share"),  # ns that the power limit held the clocks down
    Field("throttled_thermal_ratio", (75,), 1e-9, "share"),
    Field("pcie_sent_bytes_per_second", (197,), 1.0, "rate"),
    Field("pcie_received_bytes_per_second", (198,), 1.0, "rate"),
    Field("nvlink_sent_bytes_per_second", (138,), KIB, "rate", ALL_LINKS),
    Field("nvlink_received_bytes_per_second", (139,), KIB, "rate", ALL_LINKS),
)
SLOW = (
    Field("remapped_rows_corrected", (142,)),
    Field("remapped_rows_uncorrected", (143,)),
    Field("row_remapping_pending", (144,)),
    Field("row_remapping_failed", (145,)),
    Field("retired_pages_corrected", (29,)),
    Field("retired_pages_uncorrected", (30,)),
    Field("page_retirement_pending", (31,)),
    Field("pcie_replays", (94,)),
)


class FieldReader:
    """Reads the fields of one GPU. `metrics` that something else gives better are left out."""

    def __init__(self, questions: Questions, fields: tuple[Field, ...]) -> None:
        self._questions = questions
        self._rates = Rates()
        self._fields: list[tuple[Field, int]] = [(field, 0) for field in fields]

    def leave_out(self, metrics: frozenset[str]) -> None:
        """Asks for these no more."""
        self._fields = [(field, which) for field, which in self._fields if field.metric not in metrics]

    def read(self, now: float, into: Sample) -> None:
        """Adds what the GPU has; raises GpuLost and DriverGone."""
        if not self._fields:
            return
        ids = tuple((field.ids[which], field.scope) for field, which in self._fields)
        values = self._questions.ask("nvmlDeviceGetFieldValues", ids)
        if values is None:
            return
        kept = []
        for (field, which), value in zip(self._fields, values, strict=True):
            code = value.nvmlReturn
            if code == SUCCESS:
                number = float(getattr(value.value, _VALUE_MEMBERS[value.valueType])) * field.factor
                self._add(field, number, now, into)
            elif self._questions.learn(("field", field.ids[which]), code, f"NVML error {code}"):
                if which + 1 < len(field.ids):
                    kept.append((field, which + 1))
                continue
            kept.append((field, which))
        self._fields = kept

    def _add(self, field: Field, number: float, now: float, into: Sample) -> None:
        if field.kind == "value":
            into[field.metric] = number
            return
        self._rates.update(field.metric, number, now, into)
        if field.kind == "share" and field.metric in into:
            into[field.metric] = min(into[field.metric], 1.0)
