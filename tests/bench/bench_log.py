"""What logging costs a training loop: `python -m tests.bench.bench_log`.

log() of 10 and of 1,000 floats through the public `pulsetrain.log`, the time that import and init() take, and how much
memory a million rows cost. Beside it, in the same run, the least that a tracker in Python can do: json.dumps, write,
flush; and wandb offline where it is installed.
"""

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil

from tests.bench import machine

CALLS = {10: 100_000, 1_000: 3_000}
ROWS_FOR_MEMORY = 1_000_000
IMPORTS = 10
# In a process of its own: from before the import to after the last row.
MEMORY = f"""
import psutil
process = psutil.Process()
before = process.memory_info().rss
import pulsetrain
pulsetrain.init(project="bench", mode="offline", settings={{"silent": True, "console": "off"}})
data = {{f"train/metric_{{i}}": i * 1.1 for i in range(10)}}
for _ in range({ROWS_FOR_MEMORY}):
    pulsetrain.log(data)
print((process.memory_info().rss - before) / 2**20)
"""
Log = Callable[[Mapping[str, Any]], object]


def row_of(width: int) -> dict[str, float]:
    """A row as a training loop has it."""
    return {f"train/metric_{i}": i * 1.1 for i in range(width)}


def timed(log: Log, data: Mapping[str, Any], calls: int) -> list[float]:
    """Microseconds of each call, after a warm-up."""
    clock = time.perf_counter_ns
    for _ in range(min(1_000, calls)):
        log(data)
    taken = []
    for _ in range(calls):
        begun = clock()
        log(data)
        taken.append((clock() - begun) / 1e3)
    return taken


def figures(name: str, log: Log, share: float = 1.0) -> list[tuple[str, str, str, str, str]]:
    """A line of the table for each width."""
    lines = []
    for width, calls in CALLS.items():
        taken = timed(log, row_of(width), int(calls * share))
        cells = (f"{machine.quantile(taken, q):,.1f}" for q in (0.5, 0.99, 1.0))
        lines.append((name, f"{width:,}", *cells))
    return lines


def json_log(path: Path) -> Log:
    """json.dumps, write, flush."""
    file = path.open("w")

    def log(data: Mapping[str, Any]) -> None:
        file.write(json.dumps(data) + "\n")
        file.flush()

    return log


def import_times(statement: str) -> list[float]:
    """Milliseconds of the import in processes of their own, with compiled bytecode as after an installation."""
    code = f"import time; begun = time.perf_counter(); {statement}; print((time.perf_counter() - begun) * 1e3)"
    with tempfile.TemporaryDirectory() as cache:
        env = {**os.environ, "PYTHONPYCACHEPREFIX": cache}
        env.pop("PYTHONDONTWRITEBYTECODE", None)
        runs = [subprocess.check_output([sys.executable, "-c", code], env=env, text=True) for _ in range(IMPORTS + 1)]
    return [float(run) for run in runs[1:]]


def ours(folder: Path) -> None:
    """All figures of Pulsetrain."""
    import pulsetrain

    imports = import_times("import pulsetrain")
    alone = import_times("pass")
    quiet = {"silent": True, "console": "off"}
    os.environ.update(PULSETRAIN_HOME=str(folder / "home"), PULSETRAIN_DIR=str(folder / "runs"))
    pulsetrain.init(project="bench", mode="offline", settings=quiet).finish()  # the first one starts the forwarder
    inits = []
    for _ in range(10):
        begun = time.perf_counter()
        run = pulsetrain.init(project="bench", mode="offline", settings=quiet)
        inits.append((time.perf_counter() - begun) * 1e3)
        run.finish()
    pulsetrain.init(project="bench", mode="offline", settings=quiet)
    lines = figures("pulsetrain.log", pulsetrain.log)
    lines += figures("json.dumps + write + flush", json_log(folder / "floor.jsonl"), 0.2)
    lines += wandb_figures(folder)
    print(machine.table(("", "floats", "median µs", "p99 µs", "max µs"), lines))
    pulsetrain.finish()
    grown = float(subprocess.check_output([sys.executable, "-c", MEMORY], text=True))
    stop_forwarder(folder / "home")
    print(f"\nimport pulsetrain: min {min(imports):.1f} ms, median {machine.quantile(imports, 0.5):.1f} ms "
          f"(an empty program measures {machine.quantile(alone, 0.5):.1f} ms)")  # fmt: skip
    print(f"init() with a forwarder that runs: min {min(inits):.1f} ms, median {machine.quantile(inits, 0.5):.1f} ms")
    print(f"memory grown by the import, init() and {ROWS_FOR_MEMORY:,} rows of 10 floats: {grown:.1f} MiB")


def stop_forwarder(home: Path) -> None:
    """Ends the forwarder of the benchmark's home, which would wait for further runs."""
    for status in home.glob("forwarder/*/status.json"):
        psutil.Process(json.loads(status.read_text())["pid"]).terminate()


def wandb_figures(folder: Path) -> list[tuple[str, str, str, str, str]]:
    """W&B's log() in offline mode, where it happens to be installed (and is not our stand-in)."""
    if importlib.util.find_spec("wandb") is None:
        return []
    import wandb

    if "pulsetrain" in (getattr(wandb, "__file__", "") or ""):
        return []
    os.environ["WANDB_SILENT"] = "true"
    run = wandb.init(project="bench", mode="offline", dir=str(folder))
    lines = figures(f"wandb {wandb.__version__}, offline", run.log, 0.02)
    run.finish()
    return lines


def main() -> None:
    """Prints everything."""
    print(machine.describe("pulsetrain"))
    print()
    with tempfile.TemporaryDirectory(prefix="pulsetrain-bench-", ignore_cleanup_errors=True) as folder:
        ours(Path(folder))


if __name__ == "__main__":
    main()
