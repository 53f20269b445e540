"""What a training loop writes around its parts, and around its loader, to have a timer measure them."""

from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

T_co = TypeVar("T_co", covariant=True)


class Stopwatch:
    """The phase that is on and since when, the phases around it, and the seconds that each has had."""

    __slots__ = ("clock", "current", "outer", "plain", "seconds", "since")

    def __init__(self, clock: Callable[[], float], current: int, phases: int) -> None:
        self.clock = clock
        self.current = current
        self.outer: list[int] = []
        self.since = clock()
        self.seconds = [0.0] * phases
        self.plain = False
        """Whether a step has begun, and is measured by the clock: then a phase needs nobody else."""

    def charge(self, index: int) -> None:
        """Gives the time since the last change to a phase."""
        now = self.clock()
        self.seconds[index] += now - self.since
        self.since = now


class Phase:
    """A context manager for one phase. It may be entered again and again."""

    __slots__ = ("_enter", "_index", "_leave", "_watch")

    def __init__(
        self, watch: Stopwatch, index: int, enter: Callable[[int], None], leave: Callable[[int], None]
    ) -> None:
        """`enter` and `leave` are asked where it is not plain; the plain case, the common one, is done here."""
        self._watch, self._index, self._enter, self._leave = watch, index, enter, leave

    def __enter__(self) -> None:
        watch = self._watch
        if watch.plain:
            now = watch.clock()
            watch.seconds[watch.current] += now - watch.since
            watch.since = now
            watch.outer.append(watch.current)
            watch.current = self._index
        else:
            self._enter(self._index)

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        watch = self._watch
        if watch.plain and watch.current == self._index and watch.outer:
            now = watch.clock()
            watch.seconds[watch.current] += now - watch.since
            watch.since = now
            watch.current = watch.outer.pop()
        else:
            self._leave(self._index)


class Waited(Generic[T_co]):
    """A loader whose batches are waited for in the phase `data_wait`. It may be gone through again and again."""

    def __init__(self, wait: Phase, loader: Iterable[T_co]) -> None:
        self._wait, self._loader = wait, loader

    def __iter__(self) -> Iterator[T_co]:
        wait = self._wait
        with wait:
            iterator = iter(self._loader)
        while True:
            with wait:
                try:
                    batch = next(iterator)
                except StopIteration:
                    return
            yield batch

    def __len__(self) -> int:
        return len(self._loader)  # type: ignore[arg-type]  # a loader without one has none here either
