"""What detectors say: that something is wrong with a part of a run, or that it is over."""

from dataclasses import dataclass
from enum import StrEnum


class Severity(StrEnum):
    """How urgent it is: worth knowing, worth looking at today, worth waking somebody."""

    INFO = "info"
    WARNING = "warning"
    CRITICAL = "critical"


@dataclass(frozen=True, slots=True)
class Finding:
    """What a detector says of one subject now: that the trouble is there (present) or over.

    `kind` is a stable word. `subject` is the part of the run: a metric's name, "rank 3", a GPU's UUID, a host; "" for
    the run itself. `message` is one line for a person: what, where, figures with units. `time` is that of the evidence,
    in seconds since the epoch. `has_lasted` says that by the evidence the trouble was there for as long as it has to be
    before its alert fires, however late and fast the evidence came.
    """

    kind: str
    subject: str
    present: bool
    severity: Severity
    message: str
    time: float
    step: int | None = None
    value: float | None = None
    rank: int | None = None
    host: str = ""
    gpu: str = ""
    has_lasted: bool = False
