"""The step watch, with a fake of PyTorch, and with PyTorch itself where it is installed."""

import copy
import importlib.util
import pickle
import sys
import types

import pytest

import pulsetrain
from pulsetrain._run.step_timer import StepTimer
from pulsetrain.integrations.torch_timing import Hook, StepWatch
from tests import fake_torch
from tests.unit.sdk_harness import rows, sdk
from tests.unit.test_sdk_step_timer import Clock

__all__ = ["sdk"]

CLOCK = Clock()
FORWARD, BACKWARD, OPTIMIZER, DATA = 2.0, 4.0, 0.5, 1.0


def with_fake():
    """The kit of the tests, of the fake."""

    class Model(fake_torch.Module):
        def __init__(self):
            super().__init__()
            self.weight = fake_torch.Parameter(3)
            self.outputs = 1

        def forward(self, batch=None, input_ids=None, **_):
            CLOCK.passes(FORWARD)
            made = [fake_torch.Function.node(slowly, [self.weight], (3,)) for _ in range(self.outputs)]
            return {"logits": made[0], "more": made[1:]} if self.outputs > 1 else made[0]

    def slowly(gradient):
        CLOCK.passes(BACKWARD)
        return gradient

    class Sgd(fake_torch.SGD):
        def _step(self):
            CLOCK.passes(OPTIMIZER)

    return types.SimpleNamespace(
        torch=fake_torch.module(),
        Model=Model,
        optimizer=lambda model: Sgd(model.parameters(), lr=0.1),
        floats=lambda *shape: fake_torch.Tensor(*shape),
        integers=lambda *shape: fake_torch.Tensor(*shape, floating=False),
        DataLoader=fake_torch.DataLoader,
        loss=lambda output: output.sum(),
    )


def with_torch():
    """The same of torch."""
    import torch

    class Slowly(torch.autograd.Function):
        @staticmethod
        def forward(ctx, weight):
            return weight.clone()

        @staticmethod
        def backward(ctx, gradient):
            CLOCK.passes(BACKWARD)
            return gradient

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(3))
            self.outputs = 1

        def forward(self, batch=None, input_ids=None, **_):
            CLOCK.passes(FORWARD)
            made = [Slowly.apply(self.weight) for _ in range(self.outputs)]
            return {"logits": made[0], "more": made[1:]} if self.outputs > 1 else made[0]

    class Sgd(torch.optim.SGD):
        def step(self, closure=None):
            CLOCK.passes(OPTIMIZER)
            return super().step(closure)

    return types.SimpleNamespace(
        torch=torch,
        Model=Model,
        optimizer=lambda model: Sgd(model.parameters(), lr=0.1),
        floats=lambda *shape: torch.zeros(*shape),
        integers=lambda *shape: torch.zeros(*shape, dtype=torch.int64),
        DataLoader=torch.utils.data.DataLoader,
        loss=lambda output: output.sum(),
    )


@pytest.fixture(params=["fake", "torch"])
def kit(request, monkeypatch):
    if request.param == "torch":
        if importlib.util.find_spec("torch") is None:
            pytest.skip("torch is not installed")
        return with_torch()
    made = with_fake()
    monkeypatch.setitem(sys.modules, "torch", made.torch)
    return made


@pytest.fixture
def run(sdk):
    return pulsetrain.init(project="p")


class Job:
    """A model, its optimiser and a loader, watched on the test's clock."""

    def __init__(self, run, kit, *, batches=(), **options):
        self.run, self.kit = run, kit
        self.model = kit.Model()
        self.optimizer = kit.optimizer(self.model)
        self.loader = kit.DataLoader(Slow(batches), batch_size=None)
        timer = StepTimer(run._history, clock=CLOCK, **options)
        run._timers.append(timer)
        self.watch = StepWatch(timer, self.model, [self.optimizer], self.loader, faults=run._history.faults)

    def passes(self, batch=None, count=1, **kwargs):
        for _ in range(count):
            output = self.model(self.kit.floats(6, 5) if batch is None and not kwargs else batch, **kwargs)
            output = output["logits"] if isinstance(output, dict) else output
            self.kit.loss(output).backward()

    def step(self, *args, **kwargs):
        self.passes(*args, **kwargs)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def rows(self):
        return [
            {key.removeprefix("pulsetrain/"): round(value, 9) for key, value in row.items()}
            for _, row in rows(self.run._history.directory)
        ]


class Slow:
    """A data set whose items take a second."""

    def __init__(self, items):
        self._items = items

    def __len__(self):
        return len(self._items)

    def __getitem__(self, index):
        if index >= len(self._items):
            raise IndexError(index)
        CLOCK.passes(DATA)
        return self._items[index]


STEP = {"step_seconds": 6.5, "forward_seconds": 2.0, "backward_seconds": 4.0, "optimizer_seconds": 0.5}


def test_the_passes_and_the_optimiser_of_a_loop_that_stays_as_it_is_are_timed(run, kit):
    job = Job(run, kit)
    for _ in range(3):
        job.step()
    assert job.rows() == [{**STEP, "examples_per_second": round(6 / 6.5, 9)}] * 3
    assert not run._history.faults.counts


def test_what_comes_between_the_passes_is_in_the_step_and_in_none_of_them(run, kit):
    job = Job(run, kit)
    for _ in range(2):
        loss = kit.loss(job.model(kit.floats(6, 5)))
        CLOCK.passes(10)
        loss.backward()
        CLOCK.passes(20)
        job.optimizer.step()
        CLOCK.passes(40)
    first, second = job.rows()
    assert [first[key] for key in STEP] == [36.5, 2.0, 4.0, 0.5]
    assert [second[key] for key in STEP] == [76.5, 2.0, 4.0, 0.5]


def test_several_passes_before_one_step_of_the_optimiser_are_one_step(run, kit):
    job = Job(run, kit)
    job.step(count=4)
    assert job.rows() == [
        {
            "step_seconds": 24.5,
            "forward_seconds": 8.0,
            "backward_seconds": 16.0,
            "optimizer_seconds": 0.5,
            "examples_per_second": round(24 / 24.5, 9),
        }
    ]


def test_the_loader_is_waited_for_and_is_what_it_was_for_everybody_else(run, kit):
    batches = [kit.floats(6, 5) for _ in range(3)]
    job = Job(run, kit, batches=batches)
    for _ in range(2):
        for batch in job.loader:
            job.step(batch)
    assert [row["data_wait_seconds"] for row in job.rows()] == [1.0] * 6
    assert [row["step_seconds"] for row in job.rows()] == [7.5] * 6
    assert isinstance(job.loader, kit.DataLoader)
    assert type(job.loader).__name__ == "DataLoader"
    assert len(job.loader) == 3
    assert kit.torch.__version__ == "fake" or len(iter(job.loader)) == 3
    assert type(copy.copy(job.loader)) is kit.DataLoader
    assert type(pickle.loads(pickle.dumps(kit.DataLoader([1], batch_size=None)))) is kit.DataLoader
    job.watch.remove()
    assert type(job.loader) is kit.DataLoader


def test_a_loader_that_cannot_be_watched_is_left_alone_and_the_way_out_is_said(run, kit, capsys):
    model = kit.Model()
    watch = run.watch_steps(model, kit.optimizer(model), [1, 2])
    assert "loop over watch.timer.data(loader)" in capsys.readouterr().err
    assert list(watch.timer.data([1, 2])) == [1, 2]


def test_evaluation_is_no_step_and_in_none_whatever_it_does_between_the_passes(run, kit):
    batches = [kit.floats(6, 5) for _ in range(2)]
    job = Job(run, kit, batches=batches)
    for _ in range(2):
        for batch in job.loader:
            job.step(batch)
        job.model.eval()
        CLOCK.passes(100)
        for _ in range(3):
            with kit.torch.no_grad():
                job.model(kit.floats(6, 5))
            CLOCK.passes(1)
        job.model.train()
    got = job.rows()
    assert [row["step_seconds"] for row in got] == [7.5] * 4
    # The loader's end, the gap, three passes and what came after each.
    assert [row.get("evaluation_seconds") for row in got] == [None, None, 100 + 3 * (FORWARD + 1), None]


def test_passes_without_gradients_in_train_mode_are_no_passes(run, kit):
    job = Job(run, kit)
    with kit.torch.no_grad():
        job.model(kit.floats(99, 5))
    job.step()
    (row,) = job.rows()
    assert row["forward_seconds"] == 2.0
    assert row["examples_per_second"] == round(6 / row["step_seconds"], 9)


def test_a_model_that_is_trained_in_eval_mode_is_recognised_by_its_backward_passes(run, kit):
    job = Job(run, kit)
    job.model.eval()
    for _ in range(3):
        job.step()
    assert job.rows()[1:] == [{**STEP, "examples_per_second": round(6 / 6.5, 9)}] * 2


def test_of_several_outputs_the_first_gradient_begins_the_backward_pass(run, kit):
    job = Job(run, kit)
    job.model.outputs = 12
    job.step()
    assert job.rows()[0]["backward_seconds"] == 4.0


@pytest.mark.parametrize("way", ["positional", "keyword", "in a dictionary"])
def test_a_batch_of_whole_numbers_is_so_many_tokens(run, kit, way):
    job = Job(run, kit, parameters=10, layers=2, hidden=3, peak_flops=1e4)
    ids = kit.integers(4, 32)
    mask = kit.floats(4, 1, 32, 32)
    if way == "positional":
        job.step(ids)
    elif way == "keyword":
        job.step(attention_mask=mask, input_ids=ids)
    else:
        job.step({"ids": ids, "mask": mask})
    (row,) = job.rows()
    assert row["tokens_per_second"] == round(128 / 6.5, 9)
    assert row["examples_per_second"] == round(4 / 6.5, 9)
    assert row["mfu"] == round((60 + 12 * 2 * 3 * 32) * 128 / 6.5 / 1e4, 9)


def test_what_is_given_goes_before_what_the_batch_shows(run, kit):
    job = Job(run, kit, examples=650, parameters=10, layers=2, hidden=3, sequence_length=16, peak_flops=1e4)
    job.step(kit.integers(4, 32))
    (row,) = job.rows()
    assert (row["examples_per_second"], row["tokens_per_second"]) == (100.0, round(128 / 6.5, 9))
    assert row["mfu"] == round((60 + 12 * 2 * 3 * 16) * 128 / 6.5 / 1e4, 9)


def test_the_format_of_autocast_is_that_of_the_peak_unless_one_is_given(run, kit, monkeypatch):
    monkeypatch.setattr(kit.torch, "is_autocast_enabled", lambda: True)
    monkeypatch.setattr(kit.torch, "get_autocast_dtype", lambda device: f"torch.float16 of {device}", raising=False)
    for options, expected in (({}, "torch.float16 of cuda"), ({"dtype": "fp8"}, "fp8")):
        job = Job(run, kit, **options)
        job.step()
        assert job.watch.timer.utilisation.dtype == expected


def test_a_batch_of_another_kind_has_no_size_and_hurts_nobody(run, kit):
    job = Job(run, kit)
    for batch in ("text", [], object(), {"a": {"b": {"c": {"d": kit.floats(3)}}}}):
        job.step(batch)
    assert all("examples_per_second" not in row for row in job.rows())


def test_of_several_optimisers_the_last_one_ends_the_step(run, kit):
    model = kit.Model()
    first, last = kit.optimizer(model), kit.optimizer(model)
    timer = StepTimer(run._history, clock=CLOCK)
    StepWatch(timer, model, [first, last], faults=run._history.faults)
    for _ in range(2):
        kit.loss(model(kit.floats(6, 5))).backward()
        first.step()
        last.step()
    got = [row for _, row in rows(run._history.directory)]
    assert [row["pulsetrain/optimizer_seconds"] for row in got] == [1.0, 1.0]


def test_a_pass_that_fails_in_the_middle_leaves_the_next_ones_right(run, kit):
    job = Job(run, kit)
    job.step()
    with pytest.raises(TypeError):
        job.model(1, 2, 3, 4, 5)
    job.step()
    assert job.rows()[1]["backward_seconds"] == 4.0
    assert not run._history.faults.counts


def test_communication_that_the_loop_does_itself_may_be_named(run, kit):
    job = Job(run, kit)
    job.passes()
    with job.watch.timer.communication():
        CLOCK.passes(3)
    job.optimizer.step()
    assert job.rows()[0]["communication_seconds"] == 3.0


def test_a_copy_of_the_model_is_not_watched(run, kit):
    job = Job(run, kit)
    average = copy.deepcopy(job.model)
    average(kit.floats(500, 5))
    CLOCK.passes(1)
    job.step()
    (row,) = job.rows()
    assert (row["forward_seconds"], row["examples_per_second"]) == (2.0, round(6 / row["step_seconds"], 9))
    assert pickle.loads(pickle.dumps(Hook(job.watch.before_forward)))(job.model, (), {}) is None


def test_after_remove_nothing_is_logged(run, kit):
    job = Job(run, kit)
    job.step()
    job.watch.remove()
    job.step()
    assert len(job.rows()) == 1


def test_the_runs_own_method_watches_and_logs_beside_the_loops_rows(run, kit):
    model = kit.Model()
    optimizer = kit.optimizer(model)
    run.watch_steps(model, optimizer, examples=2)
    for _ in range(2):
        kit.loss(model(kit.floats(6, 5))).backward()
        optimizer.step()
        run.log({"loss": 1.0})
    got = rows(run._history.directory)
    assert [step for step, _ in got] == [0, 0, 1, 1]
    assert "pulsetrain/examples_per_second" in got[0][1]


def test_what_cannot_be_watched_is_misuse(run, kit):
    model = kit.Model()
    for arguments in ((model, []), (model, object()), (object(), kit.optimizer(model)), (None, kit.optimizer(model))):
        with pytest.raises(pulsetrain.UsageError):
            run.watch_steps(*arguments)


def test_on_a_disabled_run_the_loop_goes_on_as_ever(sdk, kit):
    run = pulsetrain.init(project="p", mode="disabled")
    model = kit.Model()
    optimizer = kit.optimizer(model)
    run.watch_steps(model, optimizer, kit.DataLoader([1, 2], batch_size=None))
    kit.loss(model(kit.floats(6, 5))).backward()
    optimizer.step()
    assert run.step == 0
