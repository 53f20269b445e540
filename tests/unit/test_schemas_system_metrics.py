"""The catalogue of hardware metrics, and W&B's keys for them."""

import pytest

from pulsetrain_schemas.system_metrics import GPU_METRICS, HOST_METRICS, find, from_wandb_key, wandb_key


@pytest.mark.parametrize(
    ("key", "found"),
    [
        ("system.cpu", ("process_cpu_share_percent", None)),
        ("system.cpu.12.cpu_percent", ("cpu/12/percent", None)),
        ("system.memory_percent", ("memory_percent", None)),
        ("system.proc.memory.rssMB", ("process_memory_rss_bytes", None)),
        ("system.proc.memory.availableMB", ("memory_available_bytes", None)),
        ("system.proc.cpu.threads", ("process_threads", None)),
        ("system.disk./.usagePercent", ("disk_used_percent", None)),
        ("system.disk./mnt/v1.5/data.usageGB", ("disk_used_bytes", None)),
        ("system.gpu.0.gpu", ("utilization_percent", 0)),
        ("system.gpu.3.memoryAllocated", ("memory_percent", 3)),
        ("system.gpu.11.temp", ("temperature_celsius", 11)),
        ("system.gpu.0.powerWatts", ("power_watts", 0)),
        ("system.gpu.process.2.memoryAllocatedBytes", ("process_memory_bytes", 2)),
        ("system.gpu.0.madeUp", None),
        ("loss", None),
    ],
)
def test_a_key_of_wandb_names_a_metric_of_ours(key, found):
    assert from_wandb_key(key) == found


@pytest.mark.parametrize("metric", [*HOST_METRICS.values(), *GPU_METRICS.values()], ids=lambda metric: metric.name)
def test_the_two_ways_between_the_names_are_inverse(metric):
    name = metric.name.replace("{i}", "5")
    index = 7 if metric.scope == "gpu" else None
    key = wandb_key(name, index)
    assert (key is None) == (metric.wandb is None)
    if key is not None:
        assert from_wandb_key(key) == (name, index)


def test_a_gpus_metric_is_not_taken_for_the_machines_of_the_same_name():
    assert wandb_key("memory_percent") == "system.memory_percent"
    assert wandb_key("memory_percent", 1) == "system.gpu.1.memoryAllocated"
    assert find("memory_percent").scope == "host"
    assert find("memory_percent", gpu=True).scope == "gpu"
    assert find("utilization_percent") is None


def test_every_metric_says_what_it_is_and_wandb_has_no_key_twice():
    metrics = [*HOST_METRICS.values(), *GPU_METRICS.values()]
    assert all(metric.unit and metric.description for metric in metrics)
    keys = [metric.wandb for metric in metrics if metric.wandb]
    assert len(keys) == len(set(keys))
