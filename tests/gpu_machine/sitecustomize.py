"""Two GPUs for the forwarders of a stack: with this folder on PYTHONPATH, and the project, they find a made-up NVML."""

import sys

if "pulsetrain.forwarder" in sys.orig_argv:
    from tests.fake_gpus import h100
    from tests.fake_nvml import FakeNvml, installed

    # Kept for the life of the process.
    MACHINE = installed(FakeNvml(h100("GPU-made-up-0"), h100("GPU-made-up-1", utilization=2, watts=90.0)))
    MACHINE.__enter__()
