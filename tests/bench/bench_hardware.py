"""What the hardware samplers cost: `python -m tests.bench.bench_hardware`.

The forwarder's telemetry of one run, as it is in earnest (psutil, pynvml, lanes, journal), over eight made-up GPUs of
the H100's kind, whose library takes the processor time that NVML takes: measured on a real one for the utilisation,
the memory, the fan and the PCIe throughput, and assumed to be 12 µs for every other call and field and 137 µs for the
lists of processes. The made-up library's own work in Python is in the figures too; its share is shown. The same
without GPUs is measured beside it, and a GPU's part is the difference by eight.
"""

import os
import tempfile
import time
from pathlib import Path

import psutil

from pulsetrain.forwarder.liveness import created
from pulsetrain.forwarder.tail import read_identity
from pulsetrain.forwarder.telemetry import Telemetry
from tests.bench import machine
from tests.fake_gpus import Process, h100
from tests.fake_nvml import FakeNvml, installed
from tests.journals import points_logged, start_run

GPUS = 8
GOAL_PERCENT = 1.0
SECONDS = {1.0: 25.0, 0.1: 15.0}
"""By period: how long it is measured."""


def measured(folder: Path, period: float, library: FakeNvml | None) -> tuple[float, float, int, int]:
    """(percent of a core, percent of a core inside the made-up library, rows, figures in the fullest row)."""
    with installed(library or FakeNvml()) as nvml:
        journals: list[Path] = []
        telemetry = Telemetry(
            lambda _writer, journal: journals.append(journal),
            psutil=psutil,
            disk=folder,
            nvml=lambda: None if library is None else nvml.nvmlInit() or nvml,
            amdsmi=lambda: None,
        )
        run = start_run(folder, sampling_seconds=period)
        identity = read_identity(run.directory)
        assert identity is not None
        own = (os.getpid(), created(os.getpid()) or 0.0)
        telemetry.attach(identity, folder, os.getpid(), "box", own)
        time.sleep(1.5)  # the drivers are open, and what is asked once is known
        spent, inside, begun = time.process_time(), library.seconds if library else 0.0, time.monotonic()
        time.sleep(SECONDS[period])
        taken = time.monotonic() - begun
        spent, inside = time.process_time() - spent, (library.seconds - inside) if library else 0.0
        telemetry.stop()
        run.close()
        if library is not None:
            library.stop_driver()
    points = points_logged(journals[0])
    widths: dict[int, int] = {}
    for sequence, *_ in points:
        widths[sequence] = widths.get(sequence, 0) + 1
    return 100 * spent / taken, 100 * inside / taken, len(widths), max(widths.values())


def eight() -> FakeNvml:
    """A server's GPUs, with a process on each."""
    gpus = [h100(f"GPU-{number:08x}", processes=[Process(os.getpid())]) for number in range(GPUS)]
    return FakeNvml(*gpus, timings=True)


def main() -> None:
    """Prints everything."""
    print(machine.describe("pulsetrain", "nvidia-ml-py", "psutil"))
    print()
    lines, worst = [], {}
    for period in SECONDS:
        with tempfile.TemporaryDirectory(prefix="pulsetrain-bench-") as folder:
            alone, _, _, _ = measured(Path(folder) / "alone", period, None)
            whole, inside, rows, width = measured(Path(folder) / "gpus", period, eight())
        worst[period] = (whole - alone) / GPUS
        lines.append((f"{1 / period:g} Hz", f"{alone:.2f} %", f"{whole:.2f} %", f"{worst[period]:.3f} %",
                      f"{inside / GPUS:.3f} %", f"{rows}", f"{width}"))  # fmt: skip
    header = ("", "without GPUs", f"with {GPUS}", "each GPU", "of it in the library", "rows", "figures a row")
    print(machine.table(header, lines))
    print(f"\nPercent of one core. The goal is under {GOAL_PERCENT:g} % for each GPU at 1 Hz: "
          f"{'met' if worst[1.0] < GOAL_PERCENT else 'NOT MET'}.")  # fmt: skip


if __name__ == "__main__":
    main()
