"""What is watched of one GPU: idleness, throttling, clocks, errors, memory."""

from dataclasses import dataclass, field

from pulsetrain_consumers.monitor.detectors.lasting import Lasting
from pulsetrain_consumers.monitor.detectors.memory_growth import MemoryLeak, OutOfMemorySoon

# NVML's reasons for a clock below the highest (nvmlClocksEventReason...).
SW_POWER_CAP, HW_SLOWDOWN, SW_THERMAL, HW_THERMAL, POWER_BRAKE = 0x4, 0x8, 0x20, 0x40, 0x80
THERMAL = SW_THERMAL | HW_THERMAL
POWER = HW_SLOWDOWN | POWER_BRAKE

# XIDs of the hardware, the driver or the links; the others (13, 31, 43, 45 …) are mostly the application's own.
HARDWARE_XIDS = frozenset({48, 61, 62, 63, 64, 74, 79, 92, 94, 95, 109, 119, 120, 121, 140, 143, 149, 150})


@dataclass(frozen=True, slots=True)
class Sample:
    """The means of a GPU's samples in one message; None for what the device does not tell.

    `thermal`, `power_brake` and `power_cap` are shares of the samples with such a reason to throttle.
    """

    time: float
    utilisation: float | None = None
    power: float | None = None
    temperature: float | None = None
    clock: float | None = None
    memory_used: float | None = None
    memory_total: float | None = None
    thermal: float = 0.0
    power_brake: float = 0.0
    power_cap: float = 0.0
    errors: float | None = None
    xids: float | None = None
    last_xid: int | None = None


@dataclass(slots=True)
class Idle:
    """A GPU that did work, and then does none for five minutes (or 1.5 of its longest idle time before).

    Below 2 % utilisation in every sample mean; a small model that uses a few per cent all the time is not idle. A GPU
    that never worked counts after a quarter of an hour if at least 5 % of its memory are taken: it was meant to be
    used.
    """

    seconds: float = 300.0
    unused: float = 900.0
    worked: bool = field(init=False, default=False)
    since: float | None = field(init=False, default=None)
    longest: float = field(init=False, default=0.0)
    present: bool = field(init=False, default=False)

    def observe(self, sample: Sample, busy_run: bool) -> bool:
        """Takes a sample, and whether the run makes steps meanwhile."""
        if sample.utilisation is None:
            return False
        if sample.utilisation >= 2.0:
            if self.since is not None and not self.present:
                self.longest = max(self.longest, sample.time - self.since)
            self.worked = self.worked or sample.utilisation >= 5.0
            self.since, self.present = None, False
            return False
        # Time in which the run makes no steps (an evaluation on the CPU, a checkpoint) does not count.
        if self.since is None or sample.time < self.since or not (busy_run or self.present):
            self.since = sample.time
        taken = sample.memory_total and (sample.memory_used or 0.0) > 0.05 * sample.memory_total
        limit = max(self.seconds, 1.5 * self.longest) if self.worked else self.unused
        if (self.worked or taken) and sample.time - self.since >= limit:
            self.present = True
        return self.present


def _gpu_memory() -> OutOfMemorySoon:
    return OutOfMemorySoon(near=0.90)


@dataclass(slots=True)
class Gpu:
    """The state of one GPU. `observe` takes its samples; what is wrong stands in the fields afterwards.

    Thermal throttling and power brakes: such a reason in half of the samples for 30 s. The software power cap (0x4)
    alone is normal at full load; it is throttling only where the clock falls below 70 % of what it was under load.
    Errors count from the first sample on: what came before is not of this run. They are over ten minutes after the
    last.
    """

    host: str = field(init=False, default="")
    index: int = field(init=False, default=-1)
    rank: int = field(init=False, default=0)
    time: float = field(init=False, default=0.0)
    heard: float = field(init=False, default=0.0)
    utilisation: float | None = field(init=False, default=None)
    power: float | None = field(init=False, default=None)
    temperature: float | None = field(init=False, default=None)
    clock: float | None = field(init=False, default=None)
    memory_total: float | None = field(init=False, default=None)
    busy_power: float | None = field(init=False, default=None)
    busy_clock: float | None = field(init=False, default=None)
    errors: float | None = field(init=False, default=None)
    errors_at: float | None = field(init=False, default=None)
    xids: float | None = field(init=False, default=None)
    xid_at: float | None = field(init=False, default=None)
    last_xid: int | None = field(init=False, default=None)
    throttled: bool = field(init=False, default=False)
    heat: float = field(init=False, default=0.0)
    thermal: Lasting = field(init=False, default_factory=lambda: Lasting(begin=30.0, end=60.0))
    brake: Lasting = field(init=False, default_factory=lambda: Lasting(begin=30.0, end=60.0))
    slow: Lasting = field(init=False, default_factory=lambda: Lasting(begin=45.0, end=60.0))
    idle: Idle = field(init=False, default_factory=Idle)
    leak: MemoryLeak = field(init=False, default_factory=MemoryLeak)
    memory: OutOfMemorySoon = field(init=False, default_factory=_gpu_memory)

    def observe(self, sample: Sample, busy_run: bool) -> None:
        """Takes a sample, and whether the run makes steps meanwhile."""
        self.time = sample.time
        self.utilisation, self.power, self.clock = sample.utilisation, sample.power, sample.clock
        self.temperature = sample.temperature
        loaded = sample.utilisation is not None and sample.utilisation >= 50.0
        low = (
            loaded
            and sample.power_cap > 0.5
            and sample.clock is not None
            and self.busy_clock is not None
            and sample.clock < 0.7 * self.busy_clock
        )
        # Smoothed over the messages, for a GPU at its limit throttles on and off.
        self.heat += 0.5 * (sample.thermal - self.heat)
        self.thermal.observe(sample.time, self.heat > 0.45)
        self.brake.observe(sample.time, (sample.power_brake > 0.5 and sample.thermal <= 0.5) or low)
        self.throttled = max(sample.thermal, sample.power_brake) > 0.2 or low
        if loaded and not self.throttled:
            self._learn(sample)
        self.idle.observe(sample, busy_run)
        self._count(sample)
        if sample.memory_used is not None and sample.memory_total:
            self.memory_total = sample.memory_total
            self.leak.observe(sample.time, sample.memory_used, sample.memory_total)
            self.memory.observe(sample.time, sample.memory_used / sample.memory_total)

    def busy(self) -> float | None:
        """Its power as a share of what it draws under load; without that, its utilisation, 0 to 1.

        A kernel that only waits (for a collective, for a lock) shows as full utilisation with too little power: no
        work.
        """
        if self.power is not None and self.busy_power:
            share = self.power / self.busy_power
            return 0.0 if share < 0.75 and (self.utilisation or 0.0) >= 98.0 else share
        return None if self.utilisation is None else self.utilisation / 100

    def compare_clock(self, usual: float) -> bool:
        """Takes the median clock of its peers; says whether its own is lower for no reason that it gives."""
        loaded = self.utilisation is not None and self.utilisation >= 30.0
        if self.clock is None or not loaded or self.throttled:
            return self.slow.observe(self.time, False if self.throttled else None)
        share = self.clock / usual
        return self.slow.observe(self.time, True if share < 0.88 else False if share > 0.94 else None)

    def _learn(self, sample: Sample) -> None:
        if sample.power is not None:
            known = self.busy_power
            self.busy_power = sample.power if known is None else known + 0.05 * (sample.power - known)
        if sample.clock is not None:
            known = self.busy_clock
            self.busy_clock = sample.clock if known is None else known + 0.02 * (sample.clock - known)

    def _count(self, sample: Sample) -> None:
        if sample.errors is not None:
            if self.errors is not None and sample.errors > self.errors:
                self.errors_at = sample.time
            self.errors = sample.errors
        # Counted since the forwarder started, and told only where one occurred: without it there was none.
        xids = sample.xids or 0.0
        if self.xids is not None and xids > self.xids:
            self.xid_at, self.last_xid = sample.time, sample.last_xid
        self.xids = xids
        for name in ("errors_at", "xid_at"):
            at = getattr(self, name)
            if at is not None and sample.time - at > 600.0:
                setattr(self, name, None)
