"""Memory that grows without end, and memory that is about to run out."""

from dataclasses import dataclass, field

from pulsetrain_consumers.monitor.detectors.lasting import Lasting
from pulsetrain_consumers.monitor.detectors.robust import median, rising, thinned

_CELLS = 48


@dataclass(slots=True)
class MemoryLeak:
    """Steady growth over the whole time that is remembered: a quarter of an hour at least.

    The history is thinned to 48 means, and its first fifth is left out. Growth is a leak when nearly all pairs rise
    (Mann and Kendall's S over 0.8), when it goes on (the second half grew by 0.8 of the first), when it came to 3 % of
    all memory, and when memory will be full within `horizon` seconds. Over when a third of the growth is given back.

    A cache that fills looks the same until it slows down. Growth must therefore have lasted for a `share` of the time
    that is left: a leak is told when a third of its way is over, and a cache that takes up to four fifths of what was
    free has slowed down by then.
    """

    seconds: float = 900.0
    horizon: float = 86_400.0
    share: float = 0.4
    cell: float = 20.0
    cells: list[float] = field(init=False, default_factory=list)
    pending: list[float] = field(init=False, default_factory=list)
    width: int = field(init=False, default=1)
    cell_began: float | None = field(init=False, default=None)
    began: float | None = field(init=False, default=None)
    present: bool = field(init=False, default=False)
    floor: float = field(init=False, default=0.0)
    top: float = field(init=False, default=0.0)
    rate: float = field(init=False, default=0.0)

    def observe(self, time: float, used: float, total: float) -> bool:
        """Takes bytes used and in all; says whether there is a leak. `rate` is then its bytes a second."""
        if self.cell_began is None or time < self.cell_began:
            self.cell_began = time
        if self.began is None or time < self.began:
            self.began = time
        self.pending.append(used)
        if time - self.cell_began < self.cell * self.width:
            return self.present
        self.cells.append(sum(self.pending) / len(self.pending))
        self.pending, self.cell_began = [], time
        if len(self.cells) > _CELLS:
            self.cells = thinned(self.cells, _CELLS)
            self.width *= 2
        if self.present:
            self.top = max(self.top, used)
            self.present = used > self.top - (self.top - self.floor) / 3
            if not self.present:
                self.cells, self.width, self.began = [], 1, time
        elif time - self.began >= self.seconds and len(self.cells) >= 24:
            self.present = self._leaks(total)
        return self.present

    def _leaks(self, total: float) -> bool:
        cells = self.cells[len(self.cells) // 5 :]
        growth = cells[-1] - cells[0]
        if growth < 0.03 * total:
            return False
        lasted = (len(cells) - 1) * self.cell * self.width
        self.rate = growth / lasted
        left = (total - cells[-1]) / self.rate
        half = (len(cells) - 1) // 2
        earlier, later = cells[-1 - half] - cells[-1 - 2 * half], cells[-1] - cells[-1 - half]
        if later < 0.8 * earlier or lasted < self.share * left or left > self.horizon:
            return False
        self.floor, self.top = cells[0], cells[-1]
        return rising(cells) > 0.8


@dataclass(slots=True)
class OutOfMemorySoon:
    """Memory that is nearly full and still fills: at the present pace, full within ten minutes.

    The pace is the difference between the medians of the first and the last third of the latest 30 values, ten seconds
    apart at least; nearly all pairs must rise, so the leap of an allocator that takes 95 % once is none. Nothing is
    said in the first `warm_up` seconds, when a model is loaded. With `full`, more than that share for half a minute
    counts too: right for a host, whose kernel then kills; wrong for a GPU, which a good batch size fills to the brim.
    """

    near: float = 0.85
    full: float | None = None
    soon: float = 600.0
    every: float = 10.0
    warm_up: float = 300.0
    times: list[float] = field(init=False, default_factory=list)
    shares: list[float] = field(init=False, default_factory=list)
    began: float | None = field(init=False, default=None)
    left: float | None = field(init=False, default=None)
    filling: Lasting = field(init=False, default_factory=lambda: Lasting(begin=20.0, end=60.0))

    def observe(self, time: float, share: float) -> bool:
        """Takes the share that is used, 0 to 1; says whether it is running out. `left` is then in how many seconds."""
        if self.began is None or time < self.began:
            self.began, self.times, self.shares = time, [], []
        if self.times and time - self.times[-1] < self.every:
            return self.filling.present
        self.times.append(time)
        self.shares.append(share)
        del self.times[:-30], self.shares[:-30]
        self.left = self._seconds_left(share)
        full = self.full is not None and share >= self.full
        if time - self.began < self.warm_up and not full:
            return False
        bad = full or (share >= self.near and self.left is not None and self.left < self.soon)
        fine = share < self.near - 0.02 or (self.full is None and self.left is None)
        return self.filling.observe(time, True if bad else False if fine else None)

    def _seconds_left(self, share: float) -> float | None:
        count = len(self.shares)
        if count < 9 or share < self.near or rising(self.shares) < 0.7:
            return None
        third = count // 3
        climbed = median(self.shares[-third:]) - median(self.shares[:third])
        lasted = median(self.times[-third:]) - median(self.times[:third])
        if climbed < 0.005 or lasted <= 0.0:
            return None
        return (1.0 - share) / (climbed / lasted)
