"""One rank of a job that has all that dashboards show: python job.py PROJECT RUN RANK LEARNING_RATE"""

import math
import os
import sys
import threading
import time

import pulsetrain

project, run_id, rank, rate = sys.argv[1:]
os.environ |= {"RANK": rank, "WORLD_SIZE": "2"}
told = threading.Event()
with pulsetrain.init(
    project=project, id=run_id, name=f"lr={rate}", config={"lr": float(rate), "layers": 2, "max_steps": 2_000}
) as run:
    run.on_alert(lambda alert: told.set() if alert.kind == "nan" else None)
    timer = run.step_timer()
    began = time.monotonic()
    for step in range(2_000):
        with timer.data_wait():
            pass
        with timer.forward():
            time.sleep(0.01 + 0.005 * int(rank))
        timer.step()
        run.log({"train/loss": 1 / (step + 1) if step < 100 else math.nan, "val/accuracy": 1 - 1 / (step + 1)})
        if step % 20 == 0:
            print(f"step {step} of {project}/{run_id}")
        if told.is_set() and time.monotonic() - began > 6.0:
            break
