import math
import os
import subprocess
import sys

import pytest

import pulsetrain
from pulsetrain._run import cuda_marks, gpu_peaks, model_flops
from pulsetrain._run.step_timer import LOOK_EVERY, MAX_FAILURES, MAX_PENDING, StepTimer
from tests import fake_torch
from tests.unit.sdk_harness import rows, sdk

__all__ = ["sdk"]

H100 = 989.5e12


class Clock:
    """Time that passes when it is told to."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now

    def passes(self, seconds):
        self.now += seconds


class GpuEvent:
    def __init__(self, gpu):
        self._gpu = gpu

    def record(self):
        self.at = self._gpu.work

    def query(self):
        self._gpu.asked += 1
        return self.at <= self._gpu.passed

    def elapsed_time(self, end_event):
        assert self.query(), "torch raises here, or waits"
        assert end_event.query(), "torch raises here, or waits"
        return (end_event.at - self.at) * 1e3


class Gpu:
    """Marks on a GPU whose queue has `work` seconds of work, of which it has passed so many."""

    def __init__(self, name="NVIDIA H100 80GB HBM3"):
        self.name, self.work, self.passed, self.asked = name, 0.0, 0.0, 0
        self.free, self.made, self.capturing, self.broken = [], 0, False, False

    def mark(self):
        if self.broken:
            raise RuntimeError("CUDA error: device-side assert triggered")
        if not self.free:
            self.made += 1
        event = self.free.pop() if self.free else GpuEvent(self)
        event.record()
        return event

    def release(self, event):
        assert event not in self.free
        self.free.append(event)

    def busy(self):
        return self.capturing

    def device_name(self):
        return self.name

    def passes(self, seconds):
        """Work for so long is queued."""
        self.work += seconds


@pytest.fixture
def run(sdk):
    return pulsetrain.init(project="p")


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def make(run, clock):
    def made(**options):
        timer = StepTimer(run._history, clock=clock, **{"find_gpu": lambda: None, **options})
        run._timers.append(timer)
        return timer

    return made


def logged(run):
    """(step, values) of the rows, without what begins all names."""
    return [
        (step, {key.removeprefix("pulsetrain/"): round(value, 9) for key, value in row.items()})
        for step, row in rows(run._history.directory)
    ]


def train(timer, time, steps, data=1.0, forward=2.0, backward=4.0, optimizer=0.5, other=0.25):
    """A loop with known times; `time` is a clock or a GPU."""
    for _ in range(steps):
        for phase, seconds in (
            (timer.data_wait(), data),
            (timer.forward(), forward),
            (timer.backward(), backward),
            (timer.optimizer(), optimizer),
        ):
            with phase:
                time.passes(seconds)
        time.passes(other)
        timer.step()


WHOLE = {
    "step_seconds": 7.75,
    "data_wait_seconds": 1.0,
    "forward_seconds": 2.0,
    "backward_seconds": 4.0,
    "optimizer_seconds": 0.5,
}


def test_the_phases_of_a_step_are_logged_and_with_the_rest_they_add_up_to_it(run, make, clock):
    train(make(), clock, 1)
    assert logged(run) == [(0, WHOLE)]


def test_the_names_are_those_that_the_monitor_knows():
    from pulsetrain._run import step_rows
    from pulsetrain_consumers.monitor.detectors.names import JOB_VIEW

    ours = {f"pulsetrain/{name}_seconds" for name in step_rows.NAMES[1:]}
    assert set(JOB_VIEW) <= ours | {step_rows.STEP_SECONDS, step_rows.EXAMPLES, step_rows.TOKENS}
    assert step_rows.MFU == "pulsetrain/mfu"


def test_a_steps_row_has_the_step_of_the_log_that_follows_and_does_not_move_it(run, make, clock):
    timer = make()
    for loss in (0.5, 0.25):
        train(timer, clock, 1)
        run.log({"loss": loss})
    assert [(step, sorted(row)[0]) for step, row in logged(run)] == [
        (0, "backward_seconds"), (0, "loss"), (1, "backward_seconds"), (1, "loss"),
    ]  # fmt: skip
    assert run.step == 2


def test_a_step_that_is_given_is_the_rows(run, make, clock):
    timer = make()
    with timer.forward():
        clock.passes(1)
    timer.step(step=70)
    assert logged(run) == [(70, {"step_seconds": 1.0, "forward_seconds": 1.0})]


def test_a_loop_without_phases_has_the_time_from_step_to_step(run, make, clock):
    timer = make(examples=8)
    clock.passes(1000)
    for _ in range(3):
        timer.step()
        clock.passes(2)
    assert logged(run) == [(0, {"step_seconds": 2.0, "examples_per_second": 4.0})] * 2


def test_what_passes_before_the_first_phase_belongs_to_no_step(run, make, clock):
    timer = make()
    clock.passes(1000)
    train(timer, clock, 1)
    assert logged(run)[0][1]["step_seconds"] == 7.75


def test_a_phase_inside_another_is_counted_once(run, make, clock):
    timer = make()
    with timer.backward():
        clock.passes(3)
        with timer.communication():
            clock.passes(2)
        clock.passes(1)
    timer.step()
    assert logged(run)[0][1] == {"step_seconds": 6.0, "backward_seconds": 4.0, "communication_seconds": 2.0}
    assert not run._history.faults.counts


def test_a_phase_that_came_once_is_in_every_row_from_then_on(run, make, clock):
    timer = make()
    with timer.communication():
        clock.passes(1)
    timer.step()
    clock.passes(1)
    timer.step()
    assert [row["communication_seconds"] for _, row in logged(run)] == [1.0, 0.0]


def test_what_is_no_training_is_left_out_of_the_step_and_logged_by_its_name(run, make, clock):
    timer = make(examples=31)
    with timer.phase("evaluation"):
        clock.passes(50)
        with timer.data_wait():
            clock.passes(1)
        clock.passes(9)
    train(timer, clock, 1, data=0.0)
    _, row = logged(run)[0]
    assert (row["step_seconds"], row["evaluation_seconds"]) == (7.75, 59.0)
    assert row["examples_per_second"] == 4.0
    train(timer, clock, 1)
    assert "evaluation_seconds" not in logged(run)[1][1]


@pytest.mark.parametrize(("name", "key"), [("my checkpoint", "my_checkpoint_seconds"), ("forward", "forward_seconds")])
def test_a_phase_may_have_any_name(run, make, clock, name, key):
    timer = make()
    with timer.phase(name):
        clock.passes(2)
    clock.passes(1)
    timer.step()
    assert logged(run)[0][1][key] == 2.0


def test_a_name_that_there_cannot_be_and_too_many_of_them_cost_their_time_alone(run, make, clock, capsys):
    timer = make()
    for name in ("step", *(f"phase {i}" for i in range(200))):
        with timer.phase(name):
            clock.passes(1)
    clock.passes(3)
    timer.step()
    _, row = logged(run)[0]
    assert row["step_seconds"] == 3.0
    assert len(row) < 100
    assert capsys.readouterr().err.count("there can be no phase 'step'") == 1


def test_with_every_n_a_row_is_the_mean_of_n_steps(run, make, clock):
    timer = make(every=4, tokens=100)
    for i in range(9):
        with timer.forward():
            clock.passes(i)
        if i == 2:
            with timer.phase("evaluation"):
                clock.passes(7)
        timer.step()
        run.log({"loss": 1.0})
    timed = [(step, row) for step, row in logged(run) if "step_seconds" in row]
    first = {"step_seconds": 1.5, "forward_seconds": 1.5, "tokens_per_second": round(400 / 6, 9)}
    second = {"step_seconds": 5.5, "forward_seconds": 5.5, "tokens_per_second": round(400 / 22, 9)}
    assert timed == [(3, {**first, "evaluation_seconds": 7.0}), (7, second)]


def test_what_is_left_of_n_steps_is_logged_when_the_run_ends(run, make, clock):
    timer = make(every=10)
    train(timer, clock, 3)
    with timer.phase("evaluation"):
        clock.passes(5)
    directory = run._history.directory
    run.finish()
    assert [row for _, row in rows(directory)] == [
        {f"pulsetrain/{key}": value for key, value in {**WHOLE, "evaluation_seconds": 5.0}.items()}
    ]


def test_examples_and_tokens_of_a_step_go_before_those_of_the_timer(run, make, clock):
    timer = make(examples=10, tokens=1000)
    for given in ({}, {"examples": 20, "tokens": 5.0}):
        with timer.forward():
            clock.passes(2)
        timer.step(**given)
    first, second = (row for _, row in logged(run))
    assert (first["examples_per_second"], first["tokens_per_second"]) == (5.0, 500.0)
    assert (second["examples_per_second"], second["tokens_per_second"]) == (10.0, 2.5)


def test_a_number_of_examples_that_is_on_a_gpu_or_is_none_is_left_out_and_said_once(run, make, clock, capsys):
    class OnGpu:
        is_cuda = True

        def item(self):
            raise AssertionError("this would wait for the GPU")

    timer = make()
    timer.step()
    for given in (OnGpu(), "many", object()):
        clock.passes(1)
        timer.step(given, given)
    assert [row for _, row in logged(run)] == [{"step_seconds": 1.0}] * 3
    assert capsys.readouterr().err.count("numbers on the CPU; a OnGpu was left out") == 1


def test_mfu_is_the_models_operations_over_the_peak_of_the_gpus(run, make, clock):
    timer = make(
        tokens=1000, parameters=7e9, layers=32, hidden=4096, sequence_length=2048, peak_flops=H100, gpus=8
    )  # fmt: skip
    with timer.forward():
        clock.passes(0.01)
    timer.step()
    _, row = logged(run)[0]
    expected = (6 * 7e9 + 12 * 32 * 4096 * 2048) * 100_000 / (8 * H100)
    assert math.isclose(row["mfu"], expected, rel_tol=1e-6)
    assert 0 < row["mfu"] < 1


def test_the_peak_is_found_by_the_gpus_name_and_the_format(run, make):
    gpu = Gpu()
    timer = make(find_gpu=lambda: gpu, tokens=100, parameters=1e9, dtype="bf16")
    train(timer, gpu, 1)
    gpu.passed = gpu.work
    timer.close()
    assert math.isclose(logged(run)[0][1]["mfu"], 6e9 * 100 / 7.75 / H100, abs_tol=1e-9)


def test_for_a_gpu_that_is_not_known_there_is_no_mfu_and_that_is_said_once(run, make, capsys):
    gpu = Gpu("NVIDIA Rubin R9000")
    timer = make(find_gpu=lambda: gpu, tokens=100, parameters=1e9)
    train(timer, gpu, 3)
    gpu.passed = gpu.work
    timer.close()
    assert len(logged(run)) == 3
    assert all("mfu" not in row for _, row in logged(run))
    assert capsys.readouterr().err.count("no MFU: what NVIDIA Rubin R9000 can do in bfloat16 is not known") == 1


def test_without_a_gpu_or_with_no_peak_wanted_there_is_no_mfu_and_nothing_is_said(run, make, clock, capsys):
    for options in ({}, {"peak_flops": None}):
        train(make(tokens=100, parameters=1e9, **options), clock, 1)
    assert all("mfu" not in row for _, row in logged(run))
    assert "MFU" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "dtype", "teraflops"),
    [
        ("NVIDIA H100 80GB HBM3", "bfloat16", 989.5),
        ("NVIDIA H100 PCIe", "torch.bfloat16", 756.5),
        ("NVIDIA H100 NVL", "fp16", 835.5),
        ("NVIDIA H200", "torch.float8_e4m3fn", 1979),
        ("NVIDIA GH200 480GB", "float8", 1979),
        ("NVIDIA B200", "bf16", 2250),
        ("NVIDIA GB200", "bf16", 2500),
        ("NVIDIA B300 SXM6 AC", "bf16", 2250),
        ("NVIDIA A100-SXM4-40GB", "tfloat32", 156),
        ("NVIDIA A100 80GB PCIe", "float16", 312),
        ("A100-PCIE-40GB", "float64", 19.5),
        ("NVIDIA A10", "bf16", 125),
        ("NVIDIA A10G", "bf16", 70),
        ("NVIDIA L4", "bf16", 121),
        ("NVIDIA L40S", "bf16", 362.05),
        ("Tesla T4", "float16", 65),
        ("Tesla V100-SXM2-16GB", "half", 125),
        ("NVIDIA Tesla V100-PCIE-32GB", "float32", 14),
        ("NVIDIA GeForce RTX 4090", "bf16", 165.2),
        ("AMD Instinct MI300X", "bf16", 1307.4),
        ("Tesla T4", "bf16", None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", "bf16", None),
        ("NVIDIA GeForce RTX 4090 D", "bf16", None),
        ("NVIDIA GeForce RTX 3080 Ti", "bf16", None),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", "bf16", None),
        ("NVIDIA A1000", "bf16", None),
        ("", "bf16", None),
    ],
)
def test_a_gpus_dense_peak(name, dtype, teraflops):
    found = gpu_peaks.peak_flops(name, dtype)
    assert found == (None if teraflops is None else pytest.approx(teraflops * 1e12))


def test_every_peak_has_a_source_and_faster_formats_are_not_slower():
    for gpu in gpu_peaks.GPUS:
        assert gpu.source
        order = [gpu.flops[it] for it in ("float32", "tfloat32", "bfloat16", "float8") if it in gpu.flops]
        assert order == sorted(order)
        assert gpu.flops["float16"] == gpu.flops.get("bfloat16", gpu.flops["float16"])
        assert all(1e12 < value < 1e16 for value in gpu.flops.values())


class Transformer(fake_torch.Module):
    def __init__(self, *, tied):
        super().__init__()
        self.embedding = fake_torch.Embedding(1000, 16)
        self.layer = fake_torch.Linear(16, 16)
        self.head = fake_torch.Linear(16, 1000, bias=False)
        if tied:
            self.head.weight = self.embedding.weight


@pytest.mark.parametrize("tied", [False, True])
def test_embeddings_are_not_counted_as_parameters_but_where_they_are_the_output_layer_too(tied):
    assert model_flops.count_parameters(Transformer(tied=tied)) == 16 * 16 + 16 + 16 * 1000


def test_a_model_says_its_parameters_and_the_shape_of_its_attention(run, make, clock):
    model = Transformer(tied=True)
    model.config = type("Config", (), {"num_hidden_layers": 1, "hidden_size": 16})
    timer = make(model=model, tokens=10, sequence_length=8, peak_flops=1e6)
    clock.passes(1)
    timer.step()
    clock.passes(1)
    timer.step()
    assert logged(run)[0][1]["mfu"] == round((6 * 16_272 + 12 * 16 * 8) * 10 / 1e6, 9)


def test_phases_that_do_not_fit_together_are_counted_and_said_once(run, make, clock, capsys):
    timer = make()
    for _ in range(3):
        forward, backward = timer.forward(), timer.backward()
        forward.__enter__()
        clock.passes(1)
        backward.__enter__()
        clock.passes(2)
        forward.__exit__(None, None, None)
        backward.__exit__(None, None, None)
        timer.optimizer().__enter__()
        clock.passes(4)
        timer.step()
        timer.optimizer().__exit__(None, None, None)
    assert run._history.faults.counts["phases"] == 9
    assert capsys.readouterr().err.count("do not fit together") == 1
    assert [row["step_seconds"] for _, row in logged(run)] == [7.0] * 3


def test_an_exception_in_a_phase_leaves_the_loop_as_it_is(run, make, clock):
    timer = make()

    def fails():
        with timer.forward():
            clock.passes(1)
            raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        fails()
    timer.step()
    assert logged(run) == [(0, {"step_seconds": 1.0, "forward_seconds": 1.0})]
    assert not run._history.faults.counts


class Loader:
    """Takes a second for a batch, and two to begin."""

    def __init__(self, clock, batches):
        self._clock, self._batches = clock, batches

    def __iter__(self):
        self._clock.passes(2)
        for batch in range(self._batches):
            self._clock.passes(1)
            yield batch

    def __len__(self):
        return self._batches


def test_the_loaders_batches_are_waited_for_in_a_phase_of_their_own(run, make, clock):
    timer = make()
    data = timer.data(Loader(clock, 2))
    assert len(data) == 2
    for _ in range(2):
        seen = []
        for batch in data:
            seen.append(batch)
            clock.passes(10)
            timer.step()
        assert seen == [0, 1]
    assert [row["data_wait_seconds"] for _, row in logged(run)] == [3.0, 1.0, 3.0, 1.0]
    assert [row["step_seconds"] for _, row in logged(run)] == [13.0, 11.0] * 2


def test_a_loader_without_a_length_one_that_is_left_and_one_that_raises_are_as_without_the_timer(make, run):
    timer = make()
    assert list(timer.data(iter([1, 2]))) == [1, 2]
    with pytest.raises(TypeError):
        len(timer.data(iter([])))
    for _ in timer.data([1, 2, 3]):
        break

    def broken():
        yield 1
        raise OSError("a file is gone")

    with pytest.raises(OSError, match="a file is gone"):
        list(timer.data(broken()))
    with pytest.raises(TypeError):
        list(timer.data(5))
    assert not run._history.faults.counts


def test_on_a_gpu_a_step_is_logged_when_the_gpu_has_passed_it_with_the_step_it_belongs_to(run, make, clock):
    gpu = Gpu()
    timer = make(find_gpu=lambda: gpu, examples=31)
    for i in range(4):
        train(timer, gpu, 1)
        clock.passes(0.001)  # the CPU is far ahead
        run.log({"loss": i})
        gpu.passed = gpu.work - 10.0  # a step and a part of one
    timer.close()
    timed = [(step, row) for step, row in logged(run) if "step_seconds" in row]
    assert timed == [(step, {**WHOLE, "examples_per_second": 4.0}) for step in range(2)]
    assert run.step == 4


def test_events_are_used_again(run, make):
    gpu = Gpu()
    timer = make(find_gpu=lambda: gpu)
    for _ in range(50):
        train(timer, gpu, 1)
        gpu.passed = gpu.work
    assert gpu.made <= 2 * 9 + 2
    assert gpu.asked <= 50 * 40


@pytest.mark.parametrize("before", [0, 1, LOOK_EVERY])
def test_a_process_that_begins_to_use_a_gpu_is_measured_by_it_soon(run, make, clock, before):
    gpu = Gpu()
    found = []
    timer = make(find_gpu=lambda: found[0] if found else None)
    train(timer, clock, before)
    found.append(gpu)
    train(timer, clock, {0: 0, 1: LOOK_EVERY, LOOK_EVERY: 1}[before])
    train(timer, gpu, 2)
    gpu.passed = gpu.work
    timer.close()
    assert set(map(str, logged(run))) == {str((0, WHOLE))}


def test_while_a_graph_is_captured_no_event_is_asked(run, make):
    gpu = Gpu()
    gpu.capturing = True
    timer = make(find_gpu=lambda: gpu)
    train(timer, gpu, 2)
    gpu.passed = gpu.work
    assert gpu.asked == 0
    gpu.capturing = False
    train(timer, gpu, 1)
    assert len(logged(run)) == 2


def test_events_that_fail_spoil_their_steps_and_after_some_the_cpus_clock_is_taken(run, make, clock, capsys):
    gpu = Gpu()
    timer = make(find_gpu=lambda: gpu)
    gpu.broken = True
    train(timer, clock, MAX_FAILURES + 2)
    assert logged(run)[-1] == (0, WHOLE)
    assert run._history.faults.counts["gpu events"] == MAX_FAILURES
    assert capsys.readouterr().err.count("the events of the GPU fail") == 1


def test_events_that_fail_once_cost_a_step_and_the_gpu_goes_on_being_asked(run, make):
    gpu = Gpu()
    timer = make(find_gpu=lambda: gpu)
    with timer.forward():
        gpu.passes(1)
        gpu.broken = True
    gpu.broken = False
    timer.step()
    train(timer, gpu, 2)
    gpu.passed = gpu.work
    timer.close()
    assert logged(run) == [(0, WHOLE)] * 2


def test_a_gpu_that_never_comes_on_costs_bounded_memory(run, make):
    gpu = Gpu()
    timer = make(find_gpu=lambda: gpu)
    train(timer, gpu, MAX_PENDING + 10)
    assert len(timer._pending) == MAX_PENDING
    assert run._history.faults.counts["gpu behind"] == 10


def test_torchs_own_events_are_made_as_torch_wants_it(monkeypatch):
    made = []

    class Event:
        def __init__(self, enable_timing=False):
            assert enable_timing
            made.append(self)

        def record(self):
            self.recorded = True

    torch = fake_torch.module()
    torch.cuda.Event = Event
    monkeypatch.setitem(sys.modules, "torch", torch)
    assert cuda_marks.find() is None
    torch.cuda.is_initialized = lambda: True
    marks = cuda_marks.find()
    event = marks.mark()
    marks.release(event)
    assert marks.mark() is event
    assert len(made) == 1
    monkeypatch.delitem(sys.modules, "torch")
    assert cuda_marks.find() is None


def test_with_a_run_that_is_disabled_or_has_finished_nothing_happens(sdk):
    run = pulsetrain.init(project="p", mode="disabled")
    timer = run.step_timer(examples=4)
    for batch in timer.data([1, 2]):
        with timer.forward(), timer.phase("evaluation"):
            pass
        timer.step(batch)
    assert run.step == 0
    run.finish()
    run = pulsetrain.init(project="p")
    timer = run.step_timer(every=2)
    with timer.forward():
        pass
    timer.step()
    directory = run._history.directory
    run.finish()
    assert len(rows(directory)) == 1
    with timer.forward():
        timer.step()
    timer.close()
    assert len(rows(directory)) == 1


@pytest.mark.parametrize(
    "options",
    [
        {"every": 0},
        {"every": "often"},
        {"gpus": 0},
        {"gpus": None},
        {"examples": -1},
        {"tokens": "1000"},
        {"parameters": float("nan")},
        {"peak_flops": "much"},
        {"peak_flops": 0},
        {"layers": [1]},
        {"model": object()},
        {"model": 7_000_000_000},
    ],
    ids=lambda options: "-".join(f"{name}-{type(value).__name__}" for name, value in options.items()),
)
def test_misuse_raises_when_the_timer_is_made(run, options):
    with pytest.raises(pulsetrain.UsageError):
        run.step_timer(**options)


def test_a_forked_child_does_not_log_what_its_parent_measured(run, make, clock):
    timer = make(every=10)
    train(timer, clock, 1)
    child = os.fork()
    if child == 0:
        timer.close()
        os._exit(0)
    os.waitpid(child, 0)
    assert logged(run) == []
    timer.close()
    assert len(logged(run)) == 1


def test_importing_pulsetrain_does_not_load_the_timer():
    code = "import sys, pulsetrain; print([name for name in sys.modules if 'step_timer' in name or 'torch' in name])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_it_shows_from_outside_whether_the_loop_waits_for_data_and_how_many_steps_have_ended(make, clock):
    timer, seen = make(), []

    class Slow:
        def __iter__(self):
            for batch in range(3):
                seen.append((timer.steps, timer.waits))
                yield batch

    for _ in timer.data(Slow()):
        assert not timer.waits
        with timer.forward():
            assert not timer.waits
        timer.step()
    assert seen == [(0, True), (1, True), (2, True)]
    assert (timer.steps, timer.waits) == (3, False)
