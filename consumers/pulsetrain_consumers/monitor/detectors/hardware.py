"""What is watched of the hosts and GPUs of a run."""

from dataclasses import dataclass, field

from pulsetrain_consumers.monitor.detectors.affected import Affected
from pulsetrain_consumers.monitor.detectors.gpu import HARDWARE_XIDS, Gpu
from pulsetrain_consumers.monitor.detectors.lasting import Lasting
from pulsetrain_consumers.monitor.detectors.memory_growth import MemoryLeak, OutOfMemorySoon
from pulsetrain_consumers.monitor.detectors.pace import Activity
from pulsetrain_consumers.monitor.detectors.ranks import Rank
from pulsetrain_consumers.monitor.detectors.robust import median
from pulsetrain_consumers.monitor.detectors.system_samples import Summary
from pulsetrain_consumers.monitor.findings import Finding, Severity

GIB = 2.0**30
# A GPU that draws this share of its power under load is at work; one that waits in a collective draws less.
AT_WORK = 0.6
# Per cent of its time in which a GPU that waits for the CPU still does something, and per cent of a core that processes
# at work take at least.
IDLE, COMPUTING = 10.0, 50.0
# Samples and heartbeats older than this, in seconds, say nothing of now.
RECENT = 45.0


def _host_memory() -> OutOfMemorySoon:
    return OutOfMemorySoon(near=0.85, full=0.97, warm_up=60.0)


def _gpu(kind: str, severity: Severity = Severity.WARNING, gather: float = 10.0) -> Affected:
    return Affected(kind, "GPU", severity, gather)


@dataclass(slots=True)
class Host:
    """The state of one host."""

    time: float = field(init=False, default=0.0)
    heard: float = field(init=False, default=0.0)
    processor: float = field(init=False, default=0.0)
    total: float | None = field(init=False, default=None)
    memory: OutOfMemorySoon = field(init=False, default_factory=_host_memory)
    leak: MemoryLeak = field(init=False, default_factory=MemoryLeak)
    disk: Lasting = field(init=False, default_factory=lambda: Lasting(begin=30.0, end=60.0))
    leaking_ranks: list[int] = field(init=False, default_factory=list)


@dataclass(slots=True)
class Hardware:
    """Keeps every GPU and host of a run, and gathers what is wrong into findings about a GPU, a host or the run."""

    gpus: dict[str, Gpu] = field(init=False, default_factory=dict, metadata={"of": Gpu})
    hosts: dict[str, Host] = field(init=False, default_factory=dict, metadata={"of": Host})
    compared: float = field(init=False, default=0.0)
    thermal: Affected = field(init=False, default_factory=lambda: _gpu("thermal_throttle", gather=20.0))
    power: Affected = field(init=False, default_factory=lambda: _gpu("power_throttle", gather=20.0))
    clock: Affected = field(init=False, default_factory=lambda: _gpu("clock_mismatch"))
    idle: Affected = field(init=False, default_factory=lambda: _gpu("gpu_idle", gather=20.0))
    xid: Affected = field(init=False, default_factory=lambda: _gpu("xid", Severity.CRITICAL, 3.0))
    ecc: Affected = field(init=False, default_factory=lambda: _gpu("ecc", Severity.CRITICAL, 3.0))
    lost: Affected = field(init=False, default_factory=lambda: _gpu("gpu_lost", Severity.CRITICAL))
    leak: Affected = field(init=False, default_factory=lambda: _gpu("gpu_memory_leak", gather=60.0))
    full: Affected = field(
        init=False, default_factory=lambda: _gpu("gpu_out_of_memory", Severity.CRITICAL, gather=20.0)
    )
    host_leak: Affected = field(init=False, default_factory=lambda: Affected("memory_leak", "host", gather=60.0))
    host_full: Affected = field(
        init=False, default_factory=lambda: Affected("out_of_memory", "host", Severity.CRITICAL)
    )
    disk: Affected = field(init=False, default_factory=lambda: Affected("disk_full", "host"))

    def observe(self, name: str, rank: int, state: Rank, summary: Summary, busy_run: bool, clock: float) -> None:
        """Takes what a message says of a host, from the sampler of a rank."""
        for uuid, (index, sample) in summary.gpus.items():
            gpu = self.gpus.get(uuid)
            if gpu is None:
                gpu = self.gpus[uuid] = Gpu()
                gpu.host, gpu.index, gpu.rank = name, index, rank
            gpu.heard = clock
            # Each rank's process has a sampler of its own; the same GPU may come from several.
            if sample.time <= gpu.time:
                continue
            gpu.observe(sample, busy_run)
            self._mark(uuid, gpu)
        self._host(name, rank, state, summary, clock)

    def _mark(self, uuid: str, gpu: Gpu) -> None:
        where = f"GPU {gpu.index} of {gpu.host}"
        place = gpu.host, uuid, gpu.rank
        time, degrees = gpu.time, "" if gpu.temperature is None else f" at {gpu.temperature:.0f} °C"
        clock = "" if gpu.clock is None else f", {gpu.clock:.0f} MHz"
        if gpu.thermal.present or self.thermal.troubled:
            text = f"{where} is too hot and throttles{degrees}{clock}"
            self.thermal.mark(uuid, gpu.thermal.present, time, text, gpu.temperature, *place)
        else:
            self.thermal.meet(uuid, gpu.host)
        if gpu.brake.present or self.power.troubled:
            text = f"{where} is slowed for want of power{clock}"
            self.power.mark(uuid, gpu.brake.present, time, text, gpu.clock, *place)
        else:
            self.power.meet(uuid, gpu.host)
        if gpu.idle.present or self.idle.troubled:
            text = (
                f"{where} has done nothing since {gpu.time - (gpu.idle.since or gpu.time):.0f} s, while the run goes on"
            )
            self.idle.mark(uuid, gpu.idle.present, time, text, gpu.utilisation, *place)
        else:
            self.idle.meet(uuid, gpu.host)
        if gpu.xid_at is not None or self.xid.troubled:
            code = gpu.last_xid
            what = "hardware or driver" if code in HARDWARE_XIDS else "application or driver"
            text = f"{where} reports XID {code} ({what})"
            self.xid.mark(uuid, gpu.xid_at is not None, time, text, code, *place)
        if gpu.errors_at is not None or self.ecc.troubled:
            text = f"{where} has {gpu.errors or 0:.0f} uncorrected memory errors"
            self.ecc.mark(uuid, gpu.errors_at is not None, time, text, gpu.errors, *place)
        if gpu.leak.present or self.leak.troubled:
            text = f"memory of {where} grows by {gpu.leak.rate * 3600 / GIB:.2g} GiB/h"
            self.leak.mark(uuid, gpu.leak.present, time, text, gpu.leak.rate, *place)
        if gpu.memory.filling.present or self.full.troubled:
            left = "" if gpu.memory.left is None else f", full in {gpu.memory.left:.0f} s at this pace"
            share = gpu.memory.shares[-1] if gpu.memory.shares else 0.0
            text = f"memory of {where} is {share:.0%} full{left}"
            self.full.mark(uuid, gpu.memory.filling.present, time, text, share, *place)

    def _host(self, name: str, rank: int, state: Rank, summary: Summary, clock: float) -> None:
        host = self.hosts.get(name)
        if host is None:
            host = self.hosts[name] = Host()
        time, said = summary.time, summary.host
        host.heard, host.processor = clock, said.get("process_cpu_percent", host.processor)
        rss = said.get("process_memory_rss_bytes")
        total = said.get("container_memory_limit_bytes") or host.total
        if rss is not None and total:
            leaking = state.rss.observe(time, rss, total)
            if leaking and rank not in host.leaking_ranks:
                host.leaking_ranks.append(rank)
            elif not leaking and rank in host.leaking_ranks:
                host.leaking_ranks.remove(rank)
        if time <= host.time + 0.5:
            return
        host.time = time
        share, used = said.get("memory_percent"), said.get("memory_used_bytes")
        if share is not None and used is not None and share > 0:
            host.total = said.get("memory_total_bytes") or used / share * 100
            host.leak.observe(time, used, host.total)
        if share is not None:
            # In a container the processes end at its limit, long before the machine's memory does.
            share = max(share, said.get("process_memory_percent", 0.0))
            full = host.memory.observe(time, share / 100)
            left = "" if host.memory.left is None else f", full in {host.memory.left:.0f} s at this pace"
            self.host_full.mark(name, full, time, f"memory of {name} is {share:.0f} % full{left}", share, name)
        leaking = host.leak.present or bool(host.leaking_ranks)
        rate = host.leak.rate if host.leak.present else state.rss.rate
        who = f" (process of rank {host.leaking_ranks[0]})" if host.leaking_ranks else ""
        text = f"memory of {name}{who} grows by {rate * 3600 / GIB:.2g} GiB/h"
        self.host_leak.mark(name, leaking, time, text, rate, name)
        disk = said.get("disk_used_percent")
        if disk is not None:
            full = host.disk.observe(time, True if disk >= 98.0 else False if disk < 96.0 else None)
            self.disk.mark(name, full, time, f"the disk of {name} is {disk:.1f} % full", disk, name)

    def recent(self, clock: float) -> dict[str, Gpu]:
        """The GPUs of which there is a sample of now."""
        return {uuid: gpu for uuid, gpu in self.gpus.items() if clock - gpu.heard < RECENT}

    def activity(self, clock: float) -> Activity:
        """What all of it does now."""
        gpus = self.recent(clock).values()
        shares = [share for gpu in gpus if (share := gpu.busy()) is not None]
        if any(share >= AT_WORK for share in shares):
            return Activity.GPU
        idle = all(gpu.utilisation is None or gpu.utilisation < IDLE for gpu in gpus)
        computes = any(host.processor >= COMPUTING for host in self.hosts.values() if clock - host.heard < RECENT)
        if idle and computes:
            return Activity.CPU
        return Activity.NONE if shares else Activity.UNKNOWN

    def look(self, clock: float) -> list[Finding]:
        """Compares GPUs with one another, and says what is new."""
        if clock - self.compared >= 10.0 or clock < self.compared:
            self.compared = clock
            self._compare(clock)
        found: list[Finding] = []
        for group in (
            *(self.thermal, self.power, self.clock, self.idle, self.xid, self.ecc, self.lost),
            *(self.leak, self.full, self.host_leak, self.host_full, self.disk),
        ):
            if group.troubled or group.spoken:
                found += group.tick(clock)
        return found

    def _compare(self, clock: float) -> None:
        if len(self.gpus) < 2:
            return
        peers: dict[int, list[float]] = {}
        for gpu in self.gpus.values():
            if gpu.clock is not None and gpu.utilisation is not None and gpu.utilisation >= 30.0:
                peers.setdefault(_model(gpu), []).append(gpu.clock)
        usual = {model: median(clocks) for model, clocks in peers.items() if len(clocks) >= 3}
        for uuid, gpu in self.gpus.items():
            model = usual.get(_model(gpu))
            if model and clock - gpu.heard < RECENT:
                low = gpu.compare_clock(model)
                text = f"GPU {gpu.index} of {gpu.host} runs at {gpu.clock or 0:.0f} MHz, its peers at {model:.0f}"
                self.clock.mark(uuid, low, gpu.time, text, gpu.clock, gpu.host, uuid, gpu.rank)
            # Gone from the samples while its host goes on sending: the driver has lost it.
            behind = self.hosts[gpu.host].time - gpu.time if gpu.host in self.hosts else 0.0
            if behind > 60.0 or self.lost.troubled:
                text = f"GPU {gpu.index} of {gpu.host} is gone: no sample for {behind:.0f} s"
                self.lost.mark(uuid, behind > 60.0, gpu.time, text, behind, gpu.host, uuid, gpu.rank)


def _model(gpu: Gpu) -> int:
    return round((gpu.memory_total or 0.0) / GIB)
