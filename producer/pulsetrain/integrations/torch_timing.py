"""Times the steps of a training loop in PyTorch without a change to the loop: hooks of the model and the optimiser.

Where a phase begins and ends:

- data_wait: while the loader is asked for its next batch. The loader is given a class that says so.
- forward: from before the model's forward to after it. A loss that is reckoned outside of the model is in neither pass.
- backward: from the first gradient of one of the model's outputs to the end of that backward pass, which the autograd
  engine tells (as it tells DDP and FSDP). A full backward hook would not do: for a model whose inputs need no gradient
  it is called at the beginning.
- optimizer: from before its step to after it; there the step of the timer ends. Several passes before one step of the
  optimiser are one step, and what a GradScaler skips is part of the next one.

Evaluation is what passes from the last training step to the next one, if the model is called in eval mode in between.
Communication that overlaps with the backward pass (DDP, FSDP) is part of that: no hook shows the wait alone. A
`with watch.timer.communication():` around what the loop itself exchanges is counted as such.
"""

import itertools
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from pulsetrain._run.errors import UsageError
from pulsetrain._run.faults import Faults
from pulsetrain._run.step_rows import BACKWARD, DATA_WAIT, FORWARD, OPTIMIZER, OTHER
from pulsetrain._run.step_timer import StepTimer

EVALUATION = "evaluation"
# Outputs of a model that are watched for their gradients.
MAX_OUTPUTS = 8


class StepWatch:
    """Hooks that fill a timer. Made by `Run.watch_steps()`; `remove()` takes them off again.

    A copy of the model (an average of its weights, say) and a pickled one are not watched.
    """

    def __init__(
        self, timer: StepTimer, model: Any, optimizers: Iterable[Any], loader: Any = None, *, faults: Faults
    ) -> None:
        """Raises UsageError where the model or an optimiser has no such hooks (torch 2.0 has)."""
        self.timer = timer
        self._torch: Any = sys.modules.get("torch")
        self._faults = faults
        self._evaluation = timer.number_of(EVALUATION)
        self._optimizers = tuple(optimizers)
        # What the timer was told is not measured.
        self._measured_length = not timer.utilisation.sequence_length
        self._examples = 0
        self._tokens = 0
        self._in_forward = False
        self._in_backward = False
        # A model that is trained in eval mode (frozen statistics) is known by its backward passes.
        self._trained_in_eval = False
        self._handles: list[Any] = []
        self._loader: tuple[Any, type] | None = None
        if not self._optimizers:
            raise UsageError("watch_steps() takes the optimiser that ends a step, or several")
        try:
            self._handles.append(model.register_forward_pre_hook(Hook(self.before_forward), with_kwargs=True))
            self._handles.append(model.register_forward_hook(Hook(self.after_forward)))
            for optimizer in self._optimizers:
                self._handles.append(optimizer.register_step_pre_hook(Hook(self.before_optimizer)))
                self._handles.append(optimizer.register_step_post_hook(Hook(self.after_optimizer)))
        except (AttributeError, TypeError) as error:
            self.remove()
            raise UsageError(f"watch_steps() takes a module and optimisers of torch 2.0 or later: {error}") from error
        if loader is not None:
            self._watch_loader(loader)

    def remove(self) -> None:
        """Takes the hooks off the model, the optimisers and the loader."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        if self._loader is not None:
            loader, kind = self._loader
            loader.__class__ = kind
            self._loader = None

    def before_forward(self, module: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Hook: a forward pass begins."""
        trains = module.training or self._trained_in_eval
        if trains and self._torch.is_grad_enabled():
            self._measure(args, kwargs)
            self._in_forward, self._in_backward = True, False
            self.timer.switch(FORWARD)
        elif not module.training and self.timer.training:
            # What came since the step before belongs to the evaluation too.
            self.timer.switch(self._evaluation, charged=self._evaluation)

    def after_forward(self, module: Any, _args: tuple[Any, ...], output: Any) -> None:
        """Hook: a forward pass has ended."""
        if self._in_forward:
            self._in_forward = False
            self.timer.switch(OTHER)
        elif module.training or not self._torch.is_grad_enabled():
            return
        try:
            for tensor in itertools.islice(_tensors(output), MAX_OUTPUTS):
                if tensor.requires_grad:
                    tensor.register_hook(self.backward_begins)
            if not self.timer.dtype_given and self._torch.is_autocast_enabled():
                self.timer.utilisation.dtype = self._autocast_dtype()
        except Exception as error:  # noqa: BLE001 - an output may be anything
            self._faults.note("output", f"the beginning of a backward pass cannot be told: {error!r}")

    def backward_begins(self, _gradient: Any) -> None:
        """Hook: the gradient of an output is there, the first of this pass or a further one."""
        if self._in_backward:
            return
        self._in_backward = True
        if not self.timer.training:
            self._trained_in_eval = True
        self.timer.switch(BACKWARD)
        try:
            self._torch.autograd.Variable._execution_engine.queue_callback(self.backward_ends)  # noqa: SLF001
        except Exception as error:  # noqa: BLE001 - a torch that has none: then the optimiser's step ends it
            self._faults.note("backward", f"the end of a backward pass is not told by this torch: {error!r}")

    def backward_ends(self) -> None:
        """Callback: the autograd engine is through."""
        if self._in_backward:
            self._in_backward = False
            self.timer.switch(OTHER)

    def before_optimizer(self, _optimizer: Any, _args: Any, _kwargs: Any) -> None:
        """Hook: an optimiser's step begins."""
        self._in_backward = False
        self.timer.switch(OPTIMIZER)

    def after_optimizer(self, optimizer: Any, _args: Any, _kwargs: Any) -> None:
        """Hook: an optimiser's step has ended; with that of the last one, so has the step."""
        timer = self.timer
        timer.switch(OTHER)
        if optimizer is self._optimizers[-1]:
            examples, self._examples = self._examples, 0
            tokens, self._tokens = self._tokens, 0
            timer.step(timer.examples or examples, timer.tokens or tokens)

    def waiting(self, get: Callable[[], Any]) -> Any:
        """What `get` returns, waited for in the phase data_wait."""
        timer = self.timer
        if not timer.training:
            timer.switch(OTHER, charged=self._evaluation)
        timer.enter(DATA_WAIT)
        try:
            return get()
        finally:
            timer.leave(DATA_WAIT)

    def _measure(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Counts a batch: its examples are the first dimension, its tokens the items of a batch of whole numbers."""
        try:
            batch = kwargs.get("input_ids")
            if batch is None:
                first = args[0] if args else None
                batch = first if _is_tensor(first) else next(_tensors((args, kwargs)), None)
            if batch is None or not batch.shape:
                return
            self._examples += int(batch.shape[0])
            if len(batch.shape) == 2 and not (batch.is_floating_point() or batch.is_complex()):
                self._tokens += int(batch.shape[0]) * int(batch.shape[1])
                if self._measured_length:
                    self.timer.utilisation.sequence_length = int(batch.shape[1])
        except Exception as error:  # noqa: BLE001 - a model may be called with anything
            self._faults.note("batch", f"the size of a batch could not be told, give examples= and tokens=: {error!r}")

    def _autocast_dtype(self) -> Any:
        torch = self._torch
        newer = getattr(torch, "get_autocast_dtype", None)
        return torch.get_autocast_gpu_dtype() if newer is None else newer("cuda")

    def _watch_loader(self, loader: Any) -> None:
        kind = type(loader)
        try:
            loader.__class__ = _timed(kind, self)
        except TypeError as error:
            text = f"a {kind.__name__} cannot be watched for data_wait; loop over watch.timer.data(loader): {error}"
            self._faults.note("loader", text)
        else:
            self._loader = loader, kind


class Hook:
    """A hook of a watch. A copy or a pickle of what it hangs on has one that does nothing."""

    __slots__ = ("_call",)

    def __init__(self, call: Callable[..., None]) -> None:
        self._call = call

    def __call__(self, *args: Any) -> None:
        self._call(*args)

    def __reduce__(self) -> tuple[Any, ...]:
        return Unwatched, ()


class Unwatched:
    """What a copy has in the place of a hook."""

    def __call__(self, *_: Any) -> None:
        """Does nothing."""


class TimedIterator:
    """An iterator of a loader, which is waited for; else like that one."""

    def __init__(self, iterator: Iterator[Any], waiting: Callable[[Callable[[], Any]], Any]) -> None:
        self._iterator, self._waiting = iterator, waiting

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        return self._waiting(self._iterator.__next__)

    def __len__(self) -> int:
        return len(self._iterator)  # type: ignore[arg-type]  # as the iterator has it, or has it not

    def __getattr__(self, name: str) -> Any:
        return getattr(self._iterator, name)


def _timed(kind: Any, watch: StepWatch) -> Any:
    """A class like a loader's, whose iterators are timed. A copy and a pickle are of the loader's own class."""

    def iterate(loader: Any) -> Iterator[Any]:
        return TimedIterator(watch.waiting(lambda: kind.__iter__(loader)), watch.waiting)

    def reduce(loader: Any, protocol: Any) -> Any:
        reduced = kind.__reduce_ex__(loader, protocol)
        if not isinstance(reduced, tuple):
            return reduced
        return (reduced[0], tuple(kind if it is timed else it for it in reduced[1]), *reduced[2:])

    if not hasattr(kind, "__iter__"):
        raise TypeError("it has no __iter__")
    body = {"__iter__": iterate, "__reduce_ex__": reduce, "__module__": kind.__module__, "__doc__": kind.__doc__}
    timed = type(kind.__name__, (kind,), body)
    return timed


def _is_tensor(value: Any) -> bool:
    return hasattr(value, "requires_grad") and hasattr(value, "shape")


def _tensors(value: Any, depth: int = 3) -> Iterator[Any]:
    """The tensors in nested sequences and dictionaries."""
    if _is_tensor(value):
        yield value
    elif depth and isinstance(value, list | tuple | dict | Mapping):
        for item in value if isinstance(value, list | tuple) else value.values():
            yield from _tensors(item, depth - 1)
