"""GPM, the counters inside of a Hopper or later: how busy the multiprocessors, tensor cores and memory were.

Each figure is an average between two samples of NVML's, which must lie 100 ms apart or more. The read before is kept
as the first of the two, so that nothing ever waits.
"""

import math
from typing import Any

from pulsetrain.hardware.nvidia_questions import SUCCESS, Questions
from pulsetrain.hardware.sampler import Sample

SHORTEST = 0.1  # seconds between two samples
MIB = float(1 << 20)

METRICS: dict[int, tuple[str, float]] = {
    2: ("sm_active_percent", 1.0),
    3: ("sm_occupancy_percent", 1.0),
    5: ("tensor_active_percent", 1.0),
    10: ("dram_active_percent", 1.0),
    11: ("fp64_active_percent", 1.0),
    12: ("fp32_active_percent", 1.0),
    13: ("fp16_active_percent", 1.0),
    20: ("pcie_sent_bytes_per_second", MIB),
    21: ("pcie_received_bytes_per_second", MIB),
    60: ("nvlink_received_bytes_per_second", MIB),
    61: ("nvlink_sent_bytes_per_second", MIB),
}
"""By nvmlGpmMetricId_t: what it is called here, and its unit's size."""
INSTANCE_METRICS = {1: ("utilization_percent", 1.0), **{id_: METRICS[id_] for id_ in (2, 3, 5, 10, 11, 12, 13)}}
"""Of an instance of MIG, whose utilisation NVML gives in no other way."""


class GpmReader:
    """Reads GPM of one GPU, or with `instance` of that GPU instance of it. Does nothing where there is no GPM."""

    def __init__(self, questions: Questions, instance: int | None = None) -> None:
        self._questions = questions
        self._instance = instance
        self._metrics = METRICS if instance is None else INSTANCE_METRICS
        self._supported: bool | None = None
        self._samples: list[Any] = []
        self._request: Any = None
        self._at: float | None = None

    def read(self, now: float, into: Sample) -> None:
        """Adds the averages since the read before; raises GpuLost and DriverGone."""
        if self._supported is None:
            self._prepare()
        if not self._supported or (self._at is not None and now - self._at < SHORTEST):
            return
        first, second = self._samples
        if self._instance is None:
            taken = self._questions.ask("nvmlGpmSampleGet", second, key="GPM")
        else:
            taken = self._questions.ask("nvmlGpmMigSampleGet", self._instance, second, key=("GPM", self._instance))
        if taken is None:
            self._at = None
            return
        had_first, self._at = self._at is not None, now
        self._samples = [second, first]
        if had_first:
            self._compute(first, second, into)

    def close(self) -> None:
        """Gives NVML its memory back. Not after a restart of the driver, which has freed it."""
        for sample in self._samples:
            self._questions.call("nvmlGpmSampleFree", sample, key="nvmlGpmSampleFree")
        self._samples = []
        self._supported = False

    def _prepare(self) -> None:
        self._supported = False
        support = self._questions.ask("nvmlGpmQueryDeviceSupport")
        if support is None or not support.isSupportedDevice:
            return
        nvml = self._questions.nvml
        request = nvml.c_nvmlGpmMetricsGet_t()
        request.version = nvml.NVML_GPM_METRICS_GET_VERSION
        request.numMetrics = len(self._metrics)
        self._wanted = []
        for place, (metric_id, (name, factor)) in enumerate(self._metrics.items()):
            metric = request.metrics[place]
            metric.metricId = metric_id
            self._wanted.append((metric, name, factor))
        samples = [self._questions.call("nvmlGpmSampleAlloc", key="nvmlGpmSampleAlloc") for _ in range(2)]
        if None not in samples:
            self._samples, self._request, self._supported = samples, request, True

    def _compute(self, first: Any, second: Any, into: Sample) -> None:
        self._request.sample1, self._request.sample2 = first, second
        if self._questions.call("nvmlGpmMetricsGet", self._request, key="nvmlGpmMetricsGet") is None:
            return
        for metric, name, factor in self._wanted:
            if metric.nvmlReturn == SUCCESS:
                value = metric.value
                if math.isfinite(value):
                    into[name] = value * factor
