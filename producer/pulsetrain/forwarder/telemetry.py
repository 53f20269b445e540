"""Hardware samples of each live run, once a second, in a journal of their own inside the run's folder.

So they wait for the broker as everything else does, and offline runs have them too. Every ten seconds the journal says
that the run is alive, for a run that logs nothing for a while. One sampler serves all runs, at the pace of the run that
wants the most: what is the machine's is sampled once, what is a run's processes' once for each run, and of the GPUs a
run has those that its processes may see. A row holds the latest of each figure since the row before it.
"""

import logging
import threading
import uuid
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from pulsetrain.forwarder.tail import Identity
from pulsetrain.hardware.amd import AmdSource, open_amdsmi
from pulsetrain.hardware.apple import AppleSource
from pulsetrain.hardware.host import HostSource, ProcessTreeSource
from pulsetrain.hardware.nvidia import NvidiaSource, open_nvml
from pulsetrain.hardware.nvidia_gpu import Use
from pulsetrain.hardware.sampler import Sample, Sampler, Source
from pulsetrain.hardware.visible_devices import Device, Visibility, visible
from pulsetrain.journal.room import Room
from pulsetrain.journal.writer import JournalFull, JournalWriter

logger = logging.getLogger(__name__)

HEARTBEAT_PERIOD = 10.0
SHORTEST_PERIOD, LONGEST_PERIOD = 0.1, 60.0
ALL = Visibility()
GPU_SOURCES = ("gpu", "amd", "apple")
"""How the names of the sources begin whose samples are GPUs'."""
RunKey = tuple[str, str]
"""Project and run id."""


@dataclass(slots=True)
class _Run:
    journal: JournalWriter
    source: str
    processes: ProcessTreeSource
    pids: dict[str, int] = field(default_factory=dict)
    """By writer: the processes of this machine that log to the run and live."""
    devices: set[Visibility] = field(default_factory=set)
    """What its processes may see."""
    periods: dict[str, float] = field(default_factory=dict)
    """By writer: the seconds between two samples that were wished for."""
    row: Sample = field(default_factory=dict)
    """What the next row will hold."""
    rows: int = 0
    written_at: float | None = None
    alive_at: float | None = None
    full: bool = False

    def period(self, default: float) -> float:
        return min(self.periods.values(), default=default)


class Telemetry:
    """The journals of samples of the runs that are attached. `register` tells the forwarder of a new journal."""

    def __init__(
        self,
        register: Callable[[str, Path], None],
        *,
        psutil: ModuleType | Any,
        disk: Path,
        nvml: Callable[[], ModuleType | Any | None] = open_nvml,
        amdsmi: Callable[[], ModuleType | Any | None] = open_amdsmi,
        period: float = 1.0,
    ) -> None:
        self._register = register
        self._psutil = psutil
        self._disk = disk
        self._period = period
        self._runs: dict[RunKey, _Run] = {}
        self._lock = threading.Lock()
        self._sampler: Sampler | None = None
        self._nvidia = NvidiaSource(self._add, self._remove, nvml)
        self._amd = AmdSource(amdsmi)
        self._apple = AppleSource()

    def attach(self, identity: Identity, run_directory: Path, pid: int, host: str, own: tuple[int, float]) -> None:
        """Begins to sample for a process that logs to a run; the first one of a run opens its journal.

        `own` is this process, (pid, created). OSError where the journal cannot be made.
        """
        key = (identity.project, identity.run_id)
        self._start_sampler()
        devices = self._visible_devices(pid) or ALL
        with self._lock:
            run = self._runs.get(key)
            begins = run is None
            if run is None:
                run = self._runs[key] = self._begin(identity, run_directory, host, own)
            run.pids[identity.writer] = pid
            run.devices.add(devices)
            run.periods[identity.writer] = self._wish(identity.sampling_seconds)
            self._set_pace()
        if begins:
            if not identity.offline:
                self._register(run.journal.writer, run.journal.directory)
            self._add("host", run.processes)

    def _begin(self, identity: Identity, run_directory: Path, host: str, own: tuple[int, float]) -> _Run:
        writer = uuid.uuid4().hex
        journal = JournalWriter(run_directory / writer, writer=writer, refusal=Room(run_directory.parent).refusal)
        journal.event("start", _start(identity, writer, host, own))
        source = f"processes of {identity.run_id} in {identity.project}"
        pids: dict[str, int] = {}
        processes = ProcessTreeSource(source, lambda: tuple(pids.values()), self._psutil)
        return _Run(journal, source, processes, pids)

    def detach(self, identity: Identity) -> None:
        """One process of the run has ended; after the last the journal is closed."""
        key = (identity.project, identity.run_id)
        with self._lock:
            run = self._runs.get(key)
            if run is None:
                return
            run.pids.pop(identity.writer, None)
            run.periods.pop(identity.writer, None)
            if not run.pids:
                del self._runs[key]
                _finish(run.journal)
            self._set_pace()
        if not run.pids:
            self._remove(run.source)

    def stop(self) -> None:
        """Ends the sampling and closes all journals."""
        if self._sampler is not None:
            self._sampler.stop()
        self._nvidia.stop()
        with self._lock:
            for run in self._runs.values():
                _finish(run.journal)
            self._runs.clear()

    def _start_sampler(self) -> None:
        if self._sampler is not None:
            return
        self._sampler = Sampler(self._deliver, period=self._period)
        self._sampler.add("host", HostSource(self._psutil, self._disk))
        self._sampler.add("gpu", self._nvidia)
        self._sampler.add("amd", self._amd)
        self._sampler.add("apple", self._apple)
        self._sampler.start()

    def _add(self, lane: str, source: Source) -> None:
        if self._sampler is not None:
            self._sampler.add(lane, source)

    def _remove(self, name: str) -> None:
        if self._sampler is not None:
            self._sampler.remove(name)

    def _wish(self, seconds: float | None) -> float:
        """Whatever a journal says, the forwarder has other things to do too."""
        return self._period if seconds is None else min(max(SHORTEST_PERIOD, seconds), LONGEST_PERIOD)

    def _set_pace(self) -> None:
        """The sampler ticks as often as the run that wants the most, and for the heartbeat."""
        if self._sampler is not None:
            wishes = [run.period(self._period) for run in self._runs.values()]
            self._sampler.period = min(min(wishes, default=self._period), HEARTBEAT_PERIOD)

    def _visible_devices(self, pid: int) -> Visibility | None:
        try:
            env = self._psutil.Process(pid).environ()
        except (self._psutil.Error, OSError):
            return None  # not ours to read: all GPUs count
        cuda = env.get("CUDA_VISIBLE_DEVICES")
        amd = next((env[name] for name in ("HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES") if name in env), cuda)
        return Visibility(cuda, amd)

    def _deliver(self, time: float, samples: Mapping[str, Sample]) -> None:
        """On the sampler's thread."""
        host = samples.get("host", {})
        gpus: Sample = {}
        for name, sample in samples.items():
            if name.startswith(GPU_SOURCES):
                gpus.update(sample)
        with self._lock:
            for run in self._runs.values():
                run.row.update(host)
                run.row.update(samples.get(run.source, {}))
                if gpus:
                    self._add_gpus(run, gpus)
                self._write(run, time)

    def _add_gpus(self, run: _Run, sample: Sample) -> None:
        """Adds the figures of the devices that the run sees, and what its processes have of them."""
        chosen: list[Device] = list(self._apple.devices)
        for source, which in ((self._nvidia, "nvidia"), (self._amd, "amd")):
            devices = source.devices
            uuids = frozenset[str]().union(*(visible(getattr(seen, which), devices) for seen in run.devices))
            chosen += [device for device in devices if device.uuid in uuids]
        prefixes = tuple(f"gpu/{device.index}/{device.uuid}/" for device in chosen)
        run.row.update((name, value) for name, value in sample.items() if name.startswith(prefixes))
        processes = {**self._nvidia.processes, **self._amd.processes}
        for device, prefix in zip(chosen, prefixes, strict=True):
            for name, value in uses_of(processes.get(device.uuid, {}), run.processes.pids).items():
                run.row[prefix + name] = value

    def _write(self, run: _Run, time: float) -> None:
        try:
            if run.row and _is_due(run.written_at, time, run.period(self._period), self._tick):
                run.journal.row(tuple(run.row), run.row.values(), run.rows, time)
                run.row = {}
                run.rows += 1
                run.written_at = time
            if _is_due(run.alive_at, time, HEARTBEAT_PERIOD, self._tick):
                run.journal.event("heartbeat", {}, time)
                run.alive_at = time
            run.full = False
        except JournalFull as error:
            if not run.full:
                run.full = True
                logger.warning("hardware samples are left out until there is room: %s", error)

    @property
    def _tick(self) -> float:
        return self._period if self._sampler is None else self._sampler.period


def uses_of(uses: Mapping[int, Use], pids: Collection[int]) -> Sample:
    """What these processes have of a device together; nothing where none of them uses it."""
    mine = [use for pid, use in uses.items() if pid in pids]
    memory = [use.memory_bytes for use in mine if use.memory_bytes is not None]
    busy = [use.utilization_percent for use in mine if use.utilization_percent is not None]
    sample: Sample = {}
    if memory:
        sample["process_memory_bytes"] = sum(memory)
    if busy:
        sample["process_utilization_percent"] = sum(busy)
    return sample


def _is_due(last: float | None, time: float, period: float, tick: float) -> bool:
    """Whether a period has passed, to half a tick; a clock that was set back begins anew."""
    return last is None or time < last or time - last >= period - tick / 2


def _start(identity: Identity, writer: str, host: str, own: tuple[int, float]) -> dict[str, Any]:
    return {
        "project": identity.project,
        "run_id": identity.run_id,
        "writer": writer,
        "rank": identity.rank,
        "attempt": identity.attempt,
        "attempt_started": identity.attempt_started,
        "primary": identity.primary,
        "role": "system",
        "pid": own[0],
        "pid_created": own[1],
        "host": host,
        "mode": "offline" if identity.offline else "online",
    }


def _finish(journal: JournalWriter) -> None:
    try:
        journal.event("finish", {"state": "finished", "exit_code": None}, last=True)
        journal.close()
    except OSError as error:  # no room, or the run's folder was deleted
        logger.warning("the hardware samples in %s could not be closed: %s", journal.directory, error)
