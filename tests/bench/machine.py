"""What every benchmark prints first: the machine and the versions that a figure belongs to; how figures are shown."""

import importlib.metadata
import os
import platform
from collections.abc import Iterable, Sequence
from pathlib import Path

import psutil


def describe(*distributions: str) -> str:
    """One line: processor, usable cores, memory, system, Python, and the versions of the distributions named."""
    versions = [f"{name} {importlib.metadata.version(name)}" for name in distributions]
    parts = [
        f"{processor()} × {len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()}",
        f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        f"{platform.system()} {platform.release()}",
        f"Python {platform.python_version()}",
        *versions,
    ]
    return ", ".join(parts)


def processor() -> str:
    """The processor's name where the system tells it, else its architecture."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()


def quantile(values: Sequence[float], q: float) -> float:
    """The value below which the share `q` of the values lies (nearest rank)."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(q * len(ordered)))]


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table, padded so that it reads as text too."""
    lines = [list(header), *map(list, rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    padded = ([cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in lines)
    shown = ["| " + " | ".join(cells) + " |" for cells in padded]
    shown.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(shown)
