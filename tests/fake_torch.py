"""As much of PyTorch as the step watch meets, in plain Python: modules and their hooks, autograd, optimisers.

Names, signatures and the order of hooks are those of torch 2.6, against which the same tests run where it is installed.
"""

import contextlib
import types
from collections import OrderedDict

_state = {"grad": True}
_running = []


class RemovableHandle:
    def __init__(self, hooks, hook):
        self._hooks, self._hook = hooks, hook
        hooks.append(hook)

    def remove(self):
        if self._hook in self._hooks:
            self._hooks.remove(self._hook)


class Tensor:
    is_cuda = False

    def __init__(self, *shape, requires_grad=False, floating=True, made_by=None):
        self.shape, self.requires_grad, self._floating, self._made_by = shape, requires_grad, floating, made_by
        self.dtype = types.SimpleNamespace(is_floating_point=floating)
        self._hooks = []

    def is_floating_point(self):
        return self._floating

    def is_complex(self):
        return False

    def numel(self):
        count = 1
        for size in self.shape:
            count *= size
        return count

    def register_hook(self, hook):
        if not self.requires_grad:
            raise RuntimeError("cannot register a hook on a tensor that doesn't require gradient")
        return RemovableHandle(self._hooks, hook)

    def sum(self):
        return Function.node(lambda grad: grad, [self])

    def backward(self):
        callbacks = []
        _running.append(callbacks)
        try:
            self._backward(1.0)
            for callback in callbacks:
                callback()
        finally:
            _running.pop()

    def _backward(self, grad):
        for hook in self._hooks:
            grad = hook(grad) or grad
        if self._made_by is not None:
            step, inputs = self._made_by
            grad = step(grad)
            for tensor in inputs:
                if tensor.requires_grad:
                    tensor._backward(grad)


class Parameter(Tensor):
    def __init__(self, *shape):
        super().__init__(*shape, requires_grad=True)


class Function:
    """Operations with a backward of their own; `node` is short for what torch.autograd.Function does."""

    @staticmethod
    def node(backward, inputs, shape=()):
        needed = _state["grad"] and any(it.requires_grad for it in inputs)
        return Tensor(*shape, requires_grad=needed, made_by=(backward, inputs) if needed else None)


class Module:
    def __init__(self):
        self.training = True
        self._forward_pre_hooks, self._forward_hooks = [], []

    def train(self, mode=True):
        for module in self.modules():
            module.training = mode
        return self

    def eval(self):
        return self.train(False)

    def register_forward_pre_hook(self, hook, *, prepend=False, with_kwargs=False):
        assert with_kwargs
        return RemovableHandle(self._forward_pre_hooks, hook)

    def register_forward_hook(self, hook, *, prepend=False, with_kwargs=False, always_call=False):
        return RemovableHandle(self._forward_hooks, hook)

    def __call__(self, *args, **kwargs):
        for hook in self._forward_pre_hooks:
            changed = hook(self, args, kwargs)
            if changed is not None:
                args, kwargs = changed
        result = self.forward(*args, **kwargs)
        for hook in self._forward_hooks:
            changed = hook(self, args, result)
            result = result if changed is None else changed
        return result

    def modules(self):
        seen = OrderedDict.fromkeys([self])
        for value in vars(self).values():
            if isinstance(value, Module):
                seen.update(OrderedDict.fromkeys(value.modules()))
        return iter(seen)

    def parameters(self, recurse=True):
        owners = self.modules() if recurse else [self]
        found = OrderedDict(
            (id(it), it) for owner in owners for it in vars(owner).values() if isinstance(it, Parameter)
        )
        return iter(found.values())


class Linear(Module):
    def __init__(self, in_features, out_features, bias=True):
        super().__init__()
        self.weight = Parameter(out_features, in_features)
        if bias:
            self.bias = Parameter(out_features)


class Embedding(Module):
    def __init__(self, num_embeddings, embedding_dim):
        super().__init__()
        self.num_embeddings, self.embedding_dim = num_embeddings, embedding_dim
        self.weight = Parameter(num_embeddings, embedding_dim)


class SGD:
    def __init__(self, parameters, lr):
        self._before, self._after = [], []

    def register_step_pre_hook(self, hook):
        return RemovableHandle(self._before, hook)

    def register_step_post_hook(self, hook):
        return RemovableHandle(self._after, hook)

    def zero_grad(self):
        pass

    def step(self, closure=None):
        for hook in self._before:
            hook(self, (self,), {})
        self._step()
        for hook in self._after:
            hook(self, (self,), {})

    def _step(self):
        pass


class DataLoader:
    def __init__(self, dataset, batch_size=None):
        self.dataset = dataset

    def __iter__(self):
        return iter(self.dataset)

    def __len__(self):
        return len(self.dataset)


@contextlib.contextmanager
def no_grad():
    before, _state["grad"] = _state["grad"], False
    try:
        yield
    finally:
        _state["grad"] = before


def module():
    """The module `torch`."""
    fake = types.ModuleType("torch")
    engine = types.SimpleNamespace(queue_callback=lambda callback: _running[-1].append(callback))
    fake.__version__ = "fake"
    fake.autograd = types.SimpleNamespace(Variable=types.SimpleNamespace(_execution_engine=engine))
    fake.cuda = types.SimpleNamespace(is_initialized=lambda: False)
    fake.is_grad_enabled = lambda: _state["grad"]
    fake.is_autocast_enabled = lambda: False
    fake.no_grad = no_grad
    return fake
