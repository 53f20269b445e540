"""Hardware samples of each live run, once a second, in a journal of their own inside the run's folder.

So they wait for the broker as everything else does, and offline runs have them too. Every ten seconds the journal says
that the run is alive, for a run that logs nothing for a while. One sampler serves all runs: what is the machine's is
sampled once, what is a run's processes' once for each run, and of the GPUs a run has those that its processes may see.
"""

import logging
import threading
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from pulsetrain.forwarder.tail import Identity
from pulsetrain.hardware.host import HostSource, ProcessTreeSource
from pulsetrain.hardware.nvidia import LateNvidiaSource, open_nvml, visible
from pulsetrain.hardware.sampler import Sample, Sampler
from pulsetrain.journal.room import Room
from pulsetrain.journal.writer import JournalFull, JournalWriter

logger = logging.getLogger(__name__)

HEARTBEAT_TICKS = 10
RunKey = tuple[str, str]
"""Project and run id."""


@dataclass(slots=True)
class _Run:
    journal: JournalWriter
    source: str
    pids: dict[str, int] = field(default_factory=dict)
    """By writer: the processes of this machine that log to the run and live."""
    devices: set[str | None] = field(default_factory=set)
    """The CUDA_VISIBLE_DEVICES of its processes."""
    ticks: int = 0
    full: bool = False


class Telemetry:
    """The journals of samples of the runs that are attached. `register` tells the forwarder of a new journal."""

    def __init__(
        self,
        register: Callable[[str, Path], None],
        *,
        psutil: ModuleType | Any,
        disk: Path,
        nvml: Callable[[], ModuleType | Any | None] = open_nvml,
        period: float = 1.0,
    ) -> None:
        self._register = register
        self._psutil = psutil
        self._disk = disk
        self._gpu = LateNvidiaSource(nvml)
        self._period = period
        self._runs: dict[RunKey, _Run] = {}
        self._lock = threading.Lock()
        self._sampler: Sampler | None = None

    def attach(self, identity: Identity, run_directory: Path, pid: int, host: str, own: tuple[int, float]) -> None:
        """Begins to sample for a process that logs to a run; the first one of a run opens its journal.

        `own` is this process, (pid, created). OSError where the journal cannot be made.
        """
        key = (identity.project, identity.run_id)
        self._start_sampler()
        devices = self._visible_devices(pid)
        with self._lock:
            run = self._runs.get(key)
            if run is not None:
                run.pids[identity.writer] = pid
                run.devices.add(devices)
                return
            writer = uuid.uuid4().hex
            journal = JournalWriter(run_directory / writer, writer=writer, refusal=Room(run_directory.parent).refusal)
            journal.event("start", _start(identity, writer, host, own))
            run = self._runs[key] = _Run(journal, f"processes of {identity.run_id} in {identity.project}")
            run.pids[identity.writer] = pid
            run.devices.add(devices)
        if not identity.offline:
            self._register(writer, journal.directory)
        if self._sampler is not None:
            self._sampler.add("host", ProcessTreeSource(run.source, lambda: tuple(run.pids.values()), self._psutil))

    def detach(self, identity: Identity) -> None:
        """One process of the run has ended; after the last the journal is closed."""
        key = (identity.project, identity.run_id)
        with self._lock:
            run = self._runs.get(key)
            if run is None:
                return
            run.pids.pop(identity.writer, None)
            if run.pids:
                return
            del self._runs[key]
            _finish(run.journal)
        if self._sampler is not None:
            self._sampler.remove(run.source)

    def stop(self) -> None:
        """Ends the sampling and closes all journals."""
        if self._sampler is not None:
            self._sampler.stop()
        with self._lock:
            for run in self._runs.values():
                _finish(run.journal)
            self._runs.clear()

    def _start_sampler(self) -> None:
        if self._sampler is not None:
            return
        self._sampler = Sampler(self._deliver, period=self._period)
        self._sampler.add("host", HostSource(self._psutil, self._disk))
        self._sampler.add("gpu", self._gpu)
        self._sampler.start()

    def _visible_devices(self, pid: int) -> str | None:
        try:
            value = self._psutil.Process(pid).environ().get("CUDA_VISIBLE_DEVICES")
        except (self._psutil.Error, OSError):
            return None  # not ours to read: all GPUs count
        return None if value is None else str(value)

    def _deliver(self, time: float, samples: Mapping[str, Sample]) -> None:
        """On the sampler's thread."""
        with self._lock:
            for run in self._runs.values():
                row = dict(samples.get("host", {}))
                row.update(samples.get(run.source, {}))
                row.update(self._chosen(samples.get("gpu", {}), run))
                self._write(run, row, time)

    def _chosen(self, sample: Sample, run: _Run) -> Sample:
        if not sample:
            return {}
        indexes = frozenset[int]().union(*(visible(devices, self._gpu.gpus) for devices in run.devices))
        prefixes = tuple(f"gpu/{index}/" for index in indexes)
        return {name: value for name, value in sample.items() if name.startswith(prefixes)}

    def _write(self, run: _Run, row: Sample, time: float) -> None:
        try:
            if row:
                run.journal.row(tuple(row), row.values(), run.ticks, time)
            if run.ticks % HEARTBEAT_TICKS == 0:
                run.journal.event("heartbeat", {}, time)
            run.full = False
        except JournalFull as error:
            if not run.full:
                run.full = True
                logger.warning("hardware samples are left out until there is room: %s", error)
        run.ticks += 1


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
