"""What timing the phases of a step costs a training loop: `python -m tests.bench.bench_step_timer`.

The time that `run.step_timer()` adds to a step of four phases, with the row that it logs; on the GPU's way what is ours
of it, with events that cost nothing (torch's own are recorded in C++, some microseconds each). Beside it, in the same
run, the least that it can be: perf_counter around each phase by hand, and the same row logged.
"""

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.bench import machine
from tests.bench.bench_log import stop_forwarder

STEPS = 5_000
ROUNDS = 7


class Event:
    """An event that the GPU has always passed."""

    def query(self) -> bool:
        return True

    def elapsed_time(self, _: object) -> float:
        return 1.0


class Marks:
    """Makes one event again and again."""

    def __init__(self) -> None:
        self._event = Event()

    def mark(self) -> Event:
        return self._event

    def release(self, event: Event) -> None:
        pass

    def busy(self) -> bool:
        return False

    def device_name(self) -> str:
        return "NVIDIA H100 80GB HBM3"


def per_step(loop: Callable[[int], None]) -> tuple[float, float]:
    """Microseconds a step of a loop that is given how many to make: the best and the median of some rounds."""
    loop(1_000)
    taken = []
    for _ in range(ROUNDS):
        begun = time.process_time()  # what the process costs; other processes on the machine do not count
        loop(STEPS)
        taken.append((time.process_time() - begun) * 1e6 / STEPS)
    return min(taken), machine.quantile(taken, 0.5)


def bare(steps: int) -> None:
    """The loop itself."""
    for _ in iter(range(steps)):
        pass


def by_hand(log: Callable[..., None]) -> Callable[[int], None]:
    """perf_counter around each phase."""
    clock = time.perf_counter

    def loop(steps: int) -> None:
        before = clock()
        for _ in range(steps):
            a = clock()
            b = clock()
            c = clock()
            d = clock()
            e = clock()
            f = clock()
            g = clock()
            h = clock()
            now = clock()
            whole, before = now - before, now
            log(
                {
                    "hand/step_seconds": whole,
                    "hand/data_wait_seconds": b - a,
                    "hand/forward_seconds": d - c,
                    "hand/backward_seconds": f - e,
                    "hand/optimizer_seconds": h - g,
                    "hand/examples_per_second": 32 / whole,
                    "hand/tokens_per_second": 32_768 / whole,
                    "hand/mfu": 6e9 * 32_768 / whole / 989.5e12,
                },
                commit=False,
            )

    return loop


def timed(timer: object) -> Callable[[int], None]:
    """The loop with a timer."""

    def loop(steps: int) -> None:
        for _ in timer.data(range(steps)):
            with timer.forward():
                pass
            with timer.backward():
                pass
            with timer.optimizer():
                pass
            timer.step()

    return loop


def hooked(run: object) -> Callable[[int], None]:
    """A loop whose model and optimiser are watched; the fake of torch costs what is subtracted."""
    import sys

    from tests import fake_torch

    sys.modules["torch"] = fake_torch.module()

    class Model(fake_torch.Module):
        def forward(self, _: object) -> object:
            return output

    output = fake_torch.Tensor(1, requires_grad=True)
    batch = fake_torch.Tensor(4, 8, floating=False)

    def loop_of(model: object, optimizer: object) -> Callable[[int], None]:
        def loop(steps: int) -> None:
            for _ in range(steps):
                model(batch)
                output.backward()
                optimizer.step()
                output._hooks.clear()

        return loop

    plain = loop_of(Model(), fake_torch.SGD([], 0.1))
    model, optimizer = Model(), fake_torch.SGD([], 0.1)
    run.watch_steps(model, optimizer)
    watched = loop_of(model, optimizer)
    return plain, watched


def main() -> None:
    """Prints everything."""
    print(machine.describe("pulsetrain"))
    print()
    import pulsetrain
    from pulsetrain._run.step_timer import StepTimer

    with tempfile.TemporaryDirectory(prefix="pulsetrain-bench-", ignore_cleanup_errors=True) as folder:
        os.environ.update(PULSETRAIN_HOME=f"{folder}/home", PULSETRAIN_DIR=f"{folder}/runs")
        run = pulsetrain.init(project="bench", mode="offline", settings={"silent": True, "console": "off"})
        options = {"examples": 32, "tokens": 32_768, "parameters": 1e9, "peak_flops": 989.5e12}
        marks = Marks()
        history = run._history
        disabled = pulsetrain.init(project="bench", mode="disabled", reinit="create_new")
        plain, watched = hooked(run)
        loops = {
            "the loop alone": bare,
            "perf_counter by hand, and log()": by_hand(run.log),
            "step_timer": timed(StepTimer(history, **options)),
            "step_timer, every=10": timed(StepTimer(history, every=10, **options)),
            "step_timer on a GPU, our share": timed(StepTimer(history, find_gpu=lambda: marks, **options)),
            "step_timer of a disabled run": timed(StepTimer(disabled._history, **options)),
            "a loop of the fake torch": plain,
            "the same with watch_steps": watched,
        }
        lines = []
        for name, loop in loops.items():
            best, median = per_step(loop)
            lines.append((name, f"{best:.2f}", f"{median:.2f}"))
        print(machine.table(("", "min µs a step", "median µs a step"), lines))
        disabled.finish()
        run.finish()
        stop_forwarder(Path(folder) / "home")


if __name__ == "__main__":
    main()
