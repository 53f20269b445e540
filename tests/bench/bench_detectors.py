"""What the detectors of the monitor cost: python -m tests.bench.bench_detectors [--runs N] [--seconds S]

Messages of 1,000 runs with ten metrics each, a row every 100 ms, a message each second: two of the metrics are followed
point by point (a loss and a gradient norm), three are of the job's own view. The clock covers decoding,
`RunWatch.metrics`, and a tick a second for each run. The memory of a series is the growth of the process, watches and
all, over their number.
"""

import argparse
import gc
import json
import time

import numpy as np
import psutil

from pulsetrain_consumers.monitor.watch import RunWatch
from pulsetrain_schemas.events import MetricBatch, Origin, decode, encode
from tests.bench.machine import describe, table

KEYS = [
    *("train/loss", "train/grad_norm", "pulsetrain/step_seconds", "pulsetrain/data_wait_seconds"),
    *("pulsetrain/tokens_per_second", "lr", "train/accuracy", "epoch", "throughput/total", "memory"),
]
ROWS = 10
STARTED = 1_700_000_000


def payloads(run: int, messages: int) -> list[bytes]:
    """Messages of a run, a second apart."""
    rng = np.random.default_rng(run)
    made = []
    for message in range(messages):
        rows = np.arange(message * ROWS, (message + 1) * ROWS)
        values = rng.normal(1.0, 0.02, (ROWS, len(KEYS)))
        values[:, 0] = 2 + 5 * (1 + rows / 5) ** -0.3 * values[:, 0]
        values[:, 2], values[:, 3] = 0.1 * values[:, 2], 0.005
        batch = MetricBatch(
            Origin(
                "bench", f"run-{run}", f"writer-{run}", 0, 0, STARTED * 1_000_000, int(rows[0]) + 1, int(rows[-1]) + 1
            ),
            KEYS,
            np.array([len(KEYS)]),
            np.arange(len(KEYS)),
            rows + 1,
            rows,
            (STARTED * 10 + rows) * 100_000,
            np.zeros(ROWS, np.int64),
            values.reshape(-1),
        )
        made.append(encode(batch))
    return made


def main() -> None:
    """Prints the machine and the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=1_000)
    parser.add_argument("--seconds", type=int, default=20, help="of the simulated stream")
    options = parser.parse_args()
    print(describe("numpy"))
    # The payloads of a few runs serve all: what differs is the watch that they go to.
    made = [payloads(run, options.seconds) for run in range(20)]
    process = psutil.Process()
    gc.collect()
    before = process.memory_info().rss
    watches = [RunWatch("bench", f"run-{run}") for run in range(options.runs)]
    found, decoding, watching, ticking = 0, 0.0, 0.0, 0.0
    for second in range(options.seconds):
        now = float(STARTED + second)
        for run, watch in enumerate(watches):
            payload = made[run % len(made)][second]
            started = time.process_time()
            batch = decode(payload, MetricBatch)
            decoded = time.process_time()
            found += len(watch.metrics(batch))
            watched = time.process_time()
            found += len(watch.tick(now))
            ticking += time.process_time() - watched
            watching += watched - decoded
            decoding += decoded - started
    points = options.runs * options.seconds * ROWS * len(KEYS)
    gc.collect()
    memory = (process.memory_info().rss - before) / (options.runs * len(KEYS))
    state = len(json.dumps(watches[0].state()))
    whole = decoding + watching + ticking
    rows = [
        ["points/s a core, all together", f"{points / whole:,.0f}"],
        ["  decoding alone", f"{points / decoding:,.0f}"],
        ["  detectors alone", f"{points / watching:,.0f}"],
        ["  ticks, share of the time", f"{ticking / whole:.0%}"],
        ["bytes of memory a series", f"{memory:,.0f}"],
        ["bytes of a run's state as JSON", f"{state:,}"],
        ["findings (there should be none)", str(found)],
    ]
    print(table([f"{options.runs:,} runs × {len(KEYS)} metrics, {points:,} points", ""], rows))


if __name__ == "__main__":
    main()
