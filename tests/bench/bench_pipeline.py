"""The whole way, from log() to SQL, on a stack of its own: sustained throughput, latency, memory, init().

    python -m tests.bench.bench_pipeline [--seconds 20] [--producers 2]

Everything runs on this machine: the producers, the forwarder, Kafka, the writer and ClickHouse share its cores.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import psutil
from clickhouse_driver import Client

from tests.bench.machine import describe, quantile, table

METRICS = [f"train/metric_{i}" for i in range(10)]
PROBE_PROJECT = "probe"

PRODUCER = """
import sys, time
import pulsetrain
def peak():  # of this program alone: getrusage counts what came before exec too
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
seconds, rate = float(sys.argv[1]), float(sys.argv[2])
keys = [f"train/metric_{i}" for i in range(10)]
run = pulsetrain.init(project=sys.argv[3], settings={"console": "off"})
before = peak()
row = {k: 0.1 * i for i, k in enumerate(keys)}
log, clock, n = run.log, time.perf_counter, 0
cpu, start = time.process_time(), clock()
while clock() - start < seconds:
    for _ in range(100):
        row["train/metric_0"] = n * 1e-6
        log(row)
        n += 1
    if rate:
        ahead = n / rate - (clock() - start)
        if ahead > 0:
            time.sleep(ahead)
logged, cpu = clock() - start, time.process_time() - cpu
grown = peak() - before
run.finish(quiet=True)
print(n * len(keys), logged, grown / 1024, cpu, flush=True)
"""

PROBE = """
import sys, time
import pulsetrain
run = pulsetrain.init(project=sys.argv[2], settings={"console": "off"})
values = {f"m{i}": 1.0 for i in range(10)}
start = time.perf_counter()
for n in range(int(sys.argv[1])):
    values["sent"] = time.time()
    run.log(values)
    ahead = (n + 1) / 100 - (time.perf_counter() - start)
    if ahead > 0:
        time.sleep(ahead)
run.finish(quiet=True)
"""

INIT = """
import time
import pulsetrain
start = time.perf_counter()
run = pulsetrain.init(project="init", settings={"console": "off"})
print((time.perf_counter() - start) * 1e3, flush=True)
run.finish(quiet=True)
"""


@contextlib.contextmanager
def stack(home: Path) -> Iterator[dict[str, str]]:
    """A stack in `home`, for as long as the context lasts. Yields the environment that reaches it."""
    environment = {**os.environ, "PULSETRAIN_HOME": str(home), "PULSETRAIN_DIR": str(home / "runs")}
    for name in ("PULSETRAIN_KAFKA", "PULSETRAIN_CLICKHOUSE"):
        environment.pop(name, None)
    command = [str(Path(sys.executable).with_name("pulsetrain"))]
    subprocess.run([*command, "up", "--detach"], env=environment, check=True)
    try:
        status = subprocess.run(
            [*command, "status", "--json"], env=environment, check=True, capture_output=True, text=True
        )
        yield {**environment, **json.loads(status.stdout)["environment"]}
    finally:
        subprocess.run([*command, "down"], env=environment, check=False)


def client(environment: Mapping[str, str]) -> Client:
    return Client.from_url(environment["PULSETRAIN_CLICKHOUSE"])


def stored(connection: Client, project: str) -> int:
    return int(
        connection.execute("SELECT count() FROM metrics WHERE project = %(project)s", {"project": project})[0][0]
    )


def throughput(environment: Mapping[str, str], producers: int, seconds: float, rate: float) -> list[tuple[str, str]]:
    """Producers that log as fast as asked; the figure is points over the time from the first log() to the last row."""
    connection = client(environment)
    project = f"throughput-{rate:g}"
    home = environment["PULSETRAIN_HOME"]
    memory = PeakMemory("pulsetrain.forwarder", home)
    before = processor_seconds(Path(home))
    arguments = [str(seconds), str(rate), project]
    start = time.perf_counter()
    with memory:
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", PRODUCER, *arguments], env=environment, stdout=subprocess.PIPE, text=True
            )
            for _ in range(producers)
        ]
        outputs = [process.communicate()[0].split() for process in processes]
        logged = sum(int(output[0]) for output in outputs)
        while (count := stored(connection, project)) < logged and time.perf_counter() - start < 10 * seconds + 60:
            time.sleep(0.2)
        took = time.perf_counter() - start
        after = processor_seconds(Path(home))
    spent = {"producers": sum(float(output[3]) for output in outputs)}
    spent |= {name: seconds - before.get(name, 0) for name, seconds in after.items()}
    grown = max(float(output[2]) for output in outputs)
    how = (
        f"{producers} processes, {'as fast as they can' if not rate else f'{rate * 10:g} points/s each'}, {seconds:g} s"
    )
    costs = ", ".join(f"{name} {seconds / logged * 1e6:.2f}" for name, seconds in spent.items())
    return [
        (f"points stored/s ({how})", f"{count / took:,.0f}"),
        ("  logged, stored, lost", f"{logged:,}, {count:,}, {logged - count:,}"),
        ("  behind at the end of logging", f"{max(0.0, took - max(float(o[1]) for o in outputs)):.1f} s"),
        ("  processor seconds for a million points", costs),
        ("  growth of a producer's memory, peak", f"{grown:.1f} MB"),
        ("  forwarder's memory, peak RSS", f"{memory.peak / 1e6:.0f} MB"),
    ]


def processor_seconds(home: Path) -> dict[str, float]:
    """What the processes of the stack in `home`, and its forwarder, have used so far."""
    services = json.loads((home / "stack.json").read_text())["services"]
    pids = {service["name"]: service["pid"] for service in services}
    for status in home.glob("forwarder/*/status.json"):
        pids["forwarder"] = json.loads(status.read_text())["pid"]
    spent = {}
    for name, pid in pids.items():
        with contextlib.suppress(psutil.Error):
            times = psutil.Process(pid).cpu_times()
            spent[name] = times.user + times.system
    return spent


class PeakMemory:
    """The largest RSS (bytes) of the processes with `word` in their command line and this home, while it is entered."""

    def __init__(self, word: str, home: str) -> None:
        self.peak = 0
        self._word, self._home = word, home
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *exc: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(0.5):
            for process in psutil.process_iter(["cmdline"]):
                with contextlib.suppress(psutil.Error):
                    words = process.info["cmdline"] or []
                    if self._word in words and process.environ().get("PULSETRAIN_HOME") == self._home:
                        self.peak = max(self.peak, process.memory_info().rss)


def latency(environment: Mapping[str, str], seconds: int) -> list[tuple[str, str]]:
    """How long a point needs from log() until a SELECT sees it, at 1,000 points/s: asked of ClickHouse every 10 ms."""
    connection = client(environment)
    rows = seconds * 100
    process = subprocess.Popen([sys.executable, "-c", PROBE, str(rows), PROBE_PROJECT], env=environment)
    seen: list[float] = []
    last = -1
    deadline = time.monotonic() + seconds + 30
    while len(seen) < rows and time.monotonic() < deadline:
        fresh = connection.execute(
            "SELECT step, value FROM metrics "
            "WHERE project = %(p)s AND metric = 'sent' AND step > %(last)s ORDER BY step",
            {"p": PROBE_PROJECT, "last": last},
        )
        now = time.time()
        for step, sent in fresh:
            seen.append(now - sent)
            last = step
        time.sleep(0.01)
    process.wait()
    p50, p99 = quantile(seen, 0.5), quantile(seen, 0.99)
    return [
        ("log() to visible in SQL at 1,000 points/s: p50, p99, max", f"{p50:.3f} s, {p99:.3f} s, {max(seen):.3f} s"),
        ("  rows logged, rows seen", f"{rows:,}, {len(seen):,}"),
    ]


def init_time(environment: Mapping[str, str]) -> list[tuple[str, str]]:
    def once() -> float:
        output = subprocess.run(
            [sys.executable, "-c", INIT], env=environment, check=True, capture_output=True, text=True
        ).stdout
        return float(output)

    once()  # starts the forwarder
    times = [once() for _ in range(7)]
    return [("init() with the forwarder up: median, max", f"{quantile(times, 0.5):.0f} ms, {max(times):.0f} ms")]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=20, help="how long the producers log")
    parser.add_argument("--producers", type=int, default=2)
    parser.add_argument(
        "--rates", type=float, nargs="*", default=[0, 15_000], help="rows/s of each producer; 0: no limit"
    )
    options = parser.parse_args()
    print(describe("kafka-python", "clickhouse-driver", "numpy", "chdb"), flush=True)
    with tempfile.TemporaryDirectory(prefix="pulsetrain-bench-") as folder, stack(Path(folder)) as environment:
        rows = init_time(environment)
        rows += latency(environment, seconds=20)
        for rate in options.rates:
            rows += throughput(environment, options.producers, options.seconds, rate)
    print(table(("figure", "measured"), rows))


if __name__ == "__main__":
    main()
