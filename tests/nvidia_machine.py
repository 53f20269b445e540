"""A machine with NVIDIA GPUs for tests: the made-up one, or the real one where there is one."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pynvml

from pulsetrain.hardware.nvidia import NvidiaSource, open_nvml
from pulsetrain.hardware.sampler import Sample, Source
from tests.fake_gpus import Gpu
from tests.fake_nvml import FakeNvml, installed


class Machine:
    """`NvidiaSource` without a sampler: each of its sources is asked in turn when the time is set."""

    def __init__(self, nvml: Any, library: FakeNvml | None = None) -> None:
        self.nvml = nvml
        self.library = library
        self.now = 0.0
        self.said: list[str] = []
        self.sources: dict[str, Source] = {}
        self.source = NvidiaSource(
            lambda _lane, source: self.sources.__setitem__(source.name, source),
            lambda name: self.sources.pop(name),
            open_nvml,
            self.said.append,
        )

    def at(self, now: float) -> Sample:
        """The sample of that moment."""
        self.now = now
        self.source.sample(now)
        sample: Sample = {}
        for source in list(self.sources.values()):
            sample.update(source.sample(now))
        return sample

    def of(self, uuid: str, now: float) -> Sample:
        """What the sample of that moment says of one device."""
        parts = ([*name.split("/", 3), value] for name, value in self.at(now).items())
        return {metric: value for _, _, device, metric, value in parts if device == uuid}

    def seen(self, now: float) -> set[str]:
        """The UUIDs of the devices in the sample of that moment."""
        return {name.split("/")[2] for name in self.at(now)}


@contextmanager
def made_up(*gpus: Gpu, timings: bool = False) -> Iterator[Machine]:
    """A machine with these GPUs, whose clock is that of the samples."""
    library = FakeNvml(*gpus, timings=timings)
    with installed(library) as nvml:
        machine = Machine(nvml, library)
        library.clock = lambda: machine.now
        try:
            yield machine
        finally:
            machine.source.stop()
            library.stop_driver()  # the thread that waits for events leaves


def has_gpus() -> bool:
    """Whether NVML starts here."""
    try:
        pynvml.nvmlInit()
        return bool(pynvml.nvmlDeviceGetCount())
    except pynvml.NVMLError:
        return False
