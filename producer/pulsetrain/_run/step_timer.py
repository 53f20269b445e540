"""How long the parts of a training step take: waiting for data, forward, backward, optimiser, communication.

A timer always is in one phase. Entering and leaving one charges the time since the last change to the phase that was
on until then, so phases that are nested are not counted twice, and the phases of a step add up to it. On the CPU the
clock is read; once the process uses a GPU, an event is recorded on its stream instead, and read when the GPU has
passed it, a step or more later: the GPU's own time, for which nobody waits. Waiting for data is then what the GPU felt
of it, which is nothing as long as it had work queued.
"""

import os
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from pulsetrain._run import cuda_marks, model_flops
from pulsetrain._run.errors import UsageError
from pulsetrain._run.history import NoHistory
from pulsetrain._run.step_phases import Phase, Stopwatch, Waited
from pulsetrain._run.step_rows import (
    ASIDE,
    BACKWARD,
    COMMUNICATION,
    DATA_WAIT,
    FIRST_NAMED,
    FORWARD,
    IDLE,
    OPTIMIZER,
    OTHER,
    StepRows,
)
from pulsetrain._run.values import number

if TYPE_CHECKING:
    from pulsetrain._run.cuda_marks import Event, Marks
    from pulsetrain._run.history import History

T = TypeVar("T")

# Steps that the GPU may be behind before the oldest is given up; the driver's queue is full long before.
MAX_PENDING = 256
# Steps on the CPU's clock between two looks for a GPU.
LOOK_EVERY = 32
# Phases of one step; more are those of a loop that never calls step().
MAX_SEGMENTS = 100_000
# So many times may the GPU's events fail (a captured graph spoils those of a step) before the CPU's clock is taken.
MAX_FAILURES = 8


class _Pending(NamedTuple):
    """A step that the GPU may not have come to the end of: its first event, then what each phase ended with."""

    start: "Event"
    segments: "list[tuple[int, Event]]"
    examples: float
    tokens: float
    at: int


class StepTimer:
    """Measures the steps of one training loop and logs them with the run's rows. Made by `Run.step_timer()`.

        timer = run.step_timer(examples=32)
        for batch in timer.data(loader):
            with timer.forward():
                loss = model(batch)
            with timer.backward():
                loss.backward()
            with timer.optimizer():
                optimizer.step()
            timer.step()
            run.log({"loss": loss})

    A timer belongs to the thread that trains. Nothing that it does raises, but what the loader raises.
    """

    def __init__(
        self,
        history: "History | NoHistory",
        *,
        examples: float | None = None,
        tokens: float | None = None,
        parameters: float | None = None,
        model: Any = None,
        layers: int | None = None,
        hidden: int | None = None,
        sequence_length: int | None = None,
        peak_flops: float | str | None = "auto",
        dtype: Any = None,
        gpus: int = 1,
        every: int = 1,
        clock: Callable[[], float] = time.perf_counter,
        find_gpu: "Callable[[], Marks | None]" = cuda_marks.find,
    ) -> None:
        """As Run.step_timer; `clock` gives seconds, `find_gpu` the way to mark moments on the GPU, if there is one."""
        self.examples = _checked("examples", examples)
        self.tokens = _checked("tokens", tokens)
        self.dtype_given = dtype is not None
        if not (peak_flops is None or peak_flops == "auto"):
            peak_flops = _checked("peak_flops", peak_flops, least=1)
        known, shape = _checked("parameters", parameters), (0, 0)
        if model is not None:
            try:
                known = known or model_flops.count_parameters(model)
                dtype, shape = dtype or model_flops.dtype_of(model), model_flops.attention_of(model)
            except (AttributeError, TypeError) as error:
                raise UsageError(f"model is a torch module, not {type(model).__name__}: {error}") from error
        self.utilisation = model_flops.Utilisation(
            parameters=known,
            layers=_checked("layers", layers) or shape[0],
            hidden=_checked("hidden", hidden) or shape[1],
            sequence_length=_checked("sequence_length", sequence_length),
            peak=peak_flops,
            dtype=dtype,
            gpus=_checked("gpus", gpus, least=1),
            device_name=lambda: None if self._marks is None else self._marks.device_name(),
            note=history.faults.note,
        )
        """How MFU is reckoned; the length of the sequences and the format may change while it trains."""

        self._history = history
        self._rows = StepRows(history, int(_checked("every", every, least=1)), self.utilisation.at)
        self._find_gpu = find_gpu
        self._pid = os.getpid()
        self._off = isinstance(history, NoHistory)
        self._marks: Marks | None = None
        self._failures, self._spoilt = 0, False
        self._start: Event | None = None
        self._segments: list[tuple[int, Event]] = []
        self._pending: deque[_Pending] = deque()

        self.steps = 0
        """How many steps have ended."""
        self._watch = Stopwatch(clock, IDLE, FIRST_NAMED)
        self._until_look = 0
        self._named: dict[str, int] = {}
        self._phases = [self._new_phase(index) for index in range(FIRST_NAMED)]

    def data(self, loader: Iterable[T]) -> Iterable[T]:
        """The loader's batches, each waited for in the phase data_wait. It has the loader's length."""
        return Waited(self._phases[DATA_WAIT], loader)

    def data_wait(self) -> Phase:
        """The phase in which the loop waits for data, for those who cannot use `data()`."""
        return self._phases[DATA_WAIT]

    def forward(self) -> Phase:
        """The forward pass, with the loss."""
        return self._phases[FORWARD]

    def backward(self) -> Phase:
        """The backward pass."""
        return self._phases[BACKWARD]

    def optimizer(self) -> Phase:
        """The optimiser's step."""
        return self._phases[OPTIMIZER]

    def communication(self) -> Phase:
        """What is exchanged with other ranks, as far as the step waits for it."""
        return self._phases[COMMUNICATION]

    def phase(self, name: str) -> Phase:
        """Something that is no training: evaluation, a checkpoint. It is left out of the step's time and the rates.

        Its seconds are logged as `pulsetrain/NAME_seconds`, with the next row of the timer, and not divided by `every`.
        """
        return self._phases[self.number_of(name)]

    def step(self, examples: float | None = None, tokens: float | None = None, *, step: int | None = None) -> None:
        """Ends a step, of which so many examples and tokens of this process were worked through.

        Both are what the timer was made with, where they are not given. The row belongs to the run's current step, that
        of the next `run.log()` without one; `step` says another. With `every=N`, the last of N steps has the row.
        """
        history = self._history
        if self._off or history.finished:
            self._stop()
            return
        watch = self._watch
        if watch.current == IDLE:  # nothing was measured yet: the first step begins here
            self._begin()
            return
        self.steps += 1
        at = history.step if step is None else step
        done = self.examples if examples is None else self._count(examples)
        read = self.tokens if tokens is None else self._count(tokens)
        if watch.outer:
            self._note_unbalanced("step() came inside a phase")
        if self._marks is not None:
            self._end_gpu_step(done, read, at)
            return
        watch.charge(watch.current)
        seconds = watch.seconds
        watch.seconds = [0.0] * len(seconds)
        if self._spoilt:
            self._spoilt = False
        else:
            self._rows.add(seconds, done, read, at)
        self._until_look -= 1
        if self._until_look <= 0:
            self._until_look = LOOK_EVERY
            self._look_for_gpu()

    def close(self) -> None:
        """Logs what has been measured and not logged: steps that the GPU has passed, the rest of `every`.

        The run does it when it ends. A step that is under way or that the GPU is still at is left out.
        """
        if self._off or os.getpid() != self._pid:
            return
        self._read_gpu()
        self._rows.flush(self._watch.seconds)
        self._stop()

    def enter(self, index: int) -> None:
        """Begins a phase; the one that was on goes on after it."""
        watch = self._watch
        if watch.current == IDLE:
            self._begin()
        self._charge(watch.current)
        watch.outer.append(watch.current)
        watch.current = index

    def leave(self, index: int) -> None:
        """Ends a phase. One that is not on is counted as a fault; those that were begun in it end too."""
        watch = self._watch
        outer = watch.outer
        if watch.current != index or not outer:
            self._note_unbalanced(f"{self._rows.keys[index]} ended, and was not what was begun last")
            if index not in outer:
                return
            while watch.current != index:
                watch.current = outer.pop()
        self._charge(index)
        watch.current = outer.pop() if outer else OTHER

    def switch(self, index: int, charged: int | None = None) -> None:
        """Goes into a phase, whatever was on before. The time until now is charged to that, or to `charged`."""
        watch = self._watch
        if watch.current == IDLE:
            self._begin()
        self._charge(watch.current if charged is None else charged)
        if watch.outer:
            watch.outer.clear()
        watch.current = index

    @property
    def waits(self) -> bool:
        """Whether the loop waits for data at this moment."""
        return self._watch.current == DATA_WAIT

    @property
    def training(self) -> bool:
        """Whether what is on now belongs to the steps, and is no other phase."""
        return self._watch.current < ASIDE

    def number_of(self, name: str) -> int:
        """Of the phase with this name, for enter(), leave() and switch()."""
        known = self._named.get(name)
        if known is not None:
            return known
        index = self._rows.add_phase("_".join(str(name).split()))
        if index is None:
            self._history.faults.note("phase", f"there can be no phase {str(name)[:80]!r}; its time is not logged")
            return ASIDE
        while len(self._phases) <= index:
            self._watch.seconds.append(0.0)
            self._phases.append(self._new_phase(len(self._phases)))
        self._named[name] = index
        return index

    def _new_phase(self, index: int) -> Phase:
        enter, leave = (_nothing, _nothing) if self._off else (self.enter, self.leave)
        return Phase(self._watch, index, enter, leave)

    def _begin(self) -> None:
        watch = self._watch
        watch.current, watch.since, watch.plain = OTHER, watch.clock(), True
        self._look_for_gpu()

    def _stop(self) -> None:
        self._find_gpu = _no_gpu
        self._marks, self._start, self._segments = None, None, []
        self._watch.plain = self._watch.current != IDLE and not self._off
        self._pending.clear()

    def _count(self, value: Any) -> float:
        if type(value) is int or type(value) is float:
            return value
        # Reading a number of the GPU would wait for it.
        found = None if getattr(value, "is_cuda", False) else number(value)
        if found is None:
            kind = type(value).__name__
            self._history.faults.note("examples", f"examples and tokens are numbers on the CPU; a {kind} was left out")
            return 0.0
        return found

    def _note_unbalanced(self, what: str) -> None:
        self._history.faults.note("phases", f"the phases of a step timer do not fit together: {what}")

    def _look_for_gpu(self) -> None:
        marks = self._find_gpu()
        if marks is None:
            return
        try:
            self._start, self._marks, self._watch.plain = marks.mark(), marks, False
        except Exception as error:  # noqa: BLE001 - whatever the driver says, the CPU's clock is there
            self._lose_gpu(error)

    def _charge(self, index: int) -> None:
        marks = self._marks
        if marks is None:
            self._watch.charge(index)
            return
        try:
            self._segments.append((index, marks.mark()))
        except Exception as error:  # noqa: BLE001 - as above
            self._lose_gpu(error)
        if len(self._segments) > MAX_SEGMENTS:
            self._note_unbalanced("step() is never called")
            self._segments = self._segments[-1:]

    def _lose_gpu(self, error: Exception) -> None:
        """Leaves out the steps that the GPU is at, and this one; after several times, the CPU's clock is taken."""
        self._failures += 1
        self._history.faults.note("gpu events", f"steps are left out, for the events of the GPU fail: {error!r}")
        self._marks, self._start, self._segments = None, None, []
        self._pending.clear()
        self._watch.since, self._watch.plain = self._watch.clock(), True
        self._spoilt, self._until_look = True, 0
        if self._failures >= MAX_FAILURES:
            self._find_gpu = _no_gpu

    def _end_gpu_step(self, examples: float, tokens: float, at: int) -> None:
        self._charge(self._watch.current)
        if self._start is None or not self._segments:
            return
        self._pending.append(_Pending(self._start, self._segments, examples, tokens, at))
        self._start, self._segments = self._segments[-1][1], []
        if len(self._pending) > MAX_PENDING:
            self._pending.popleft()
            self._history.faults.note("gpu behind", f"a step was left out: the GPU is {MAX_PENDING} steps behind")
        self._read_gpu()

    def _read_gpu(self) -> None:
        """Takes the steps that the GPU has passed."""
        marks, pending = self._marks, self._pending
        if marks is None or not pending:
            return
        try:
            if marks.busy():
                return
            while pending and pending[0].segments[-1][1].query():
                step = pending.popleft()
                last, seconds = step.start, [0.0] * len(self._phases)
                for phase, event in step.segments:
                    # Of events on two streams the later one may be passed first.
                    seconds[phase] += max(last.elapsed_time(event), 0.0) / 1e3
                    marks.release(last)
                    last = event
                self._rows.add(seconds, step.examples, step.tokens, step.at)
        except Exception as error:  # noqa: BLE001 - as above
            self._lose_gpu(error)


def _nothing(_: int) -> None:
    """What the phases of a disabled run do."""


def _no_gpu() -> None:
    """Where none is looked for."""


def _checked(name: str, value: Any, least: int = 0) -> float:
    """The number given, 0 for None. Raises UsageError for what is no number, or too small."""
    if value is None and not least:
        return 0
    found = None if isinstance(value, str) else number(value)
    if found is None or not least <= found < float("inf"):
        raise UsageError(f"{name} is a number of {least} and more, not {value!r}")
    return found
