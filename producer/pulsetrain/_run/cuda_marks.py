"""Moments on the GPU: CUDA events that are recorded now and read later, when the GPU has passed them.

Nothing here waits for the GPU, and nothing imports torch: a process that has not imported it has no GPU to measure.
"""

import sys
from typing import Any, Protocol


class Event(Protocol):
    """What of torch.cuda.Event is used."""

    def record(self) -> object:
        """Puts the event after all that is queued on the current stream."""

    def query(self) -> bool:
        """Whether the GPU has passed it. Does not block."""

    def elapsed_time(self, end_event: Any, /) -> float:
        """Milliseconds to another event, which the GPU has passed too."""


class Marks(Protocol):
    """Makes events, and takes them back."""

    def mark(self) -> Event:
        """An event, recorded now."""

    def release(self, event: Event) -> None:
        """It may be recorded again."""

    def busy(self) -> bool:
        """Whether events must not be asked now."""

    def device_name(self) -> str:
        """The GPU's name as the driver says it."""


class CudaMarks:
    """Events of torch.cuda (CUDA, or ROCm under that name), used again once they were read."""

    def __init__(self, cuda: Any) -> None:
        self._cuda = cuda
        self._free: list[Event] = []

    def mark(self) -> Event:
        """An event on the current stream, recorded now. Raises what torch raises."""
        event: Event = self._free.pop() if self._free else self._cuda.Event(enable_timing=True)
        event.record()
        return event

    def release(self, event: Event) -> None:
        """It may be recorded again."""
        self._free.append(event)

    def busy(self) -> bool:
        """While a CUDA graph is captured, asking an event would spoil the capture."""
        return bool(self._cuda.is_current_stream_capturing())

    def device_name(self) -> str:
        """Of the current device."""
        return str(self._cuda.get_device_name())


def find() -> CudaMarks | None:
    """Marks on the GPU, as soon as the process uses one; looking starts nothing."""
    cuda = getattr(sys.modules.get("torch"), "cuda", None)
    try:
        if cuda is not None and cuda.is_initialized():
            return CudaMarks(cuda)
    except Exception:  # noqa: BLE001, S110 - a torch that is half imported, or another one than we know
        pass
    return None


def uses_tfloat32() -> bool:
    """Whether torch multiplies matrices of float32 in a format of less precision."""
    torch: Any = sys.modules.get("torch")
    return torch is not None and torch.get_float32_matmul_precision() != "highest"
