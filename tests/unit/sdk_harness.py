"""Runs without a forwarder: what the SDK's tests share."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pulsetrain._run import lifecycle, link
from pulsetrain.journal.reader import Event, JournalReader, RowBlock, TextRow

PREAMBLE = """
from pulsetrain._run import link
link.Link.announce = lambda *_: None
link.Link.watch = lambda *_: None
import pulsetrain
"""


@pytest.fixture
def sdk(tmp_path, monkeypatch):
    """An environment of its own for init(), no forwarder, no run left over. Gives the folder of the runs."""
    for name in list(os.environ):
        if name.startswith(("PULSETRAIN_", "WANDB_")) or name in ("RANK", "SLURM_PROCID"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PULSETRAIN_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PULSETRAIN_DIR", str(tmp_path / "runs"))
    monkeypatch.setenv("PULSETRAIN_MODE", "offline")
    monkeypatch.setenv("PULSETRAIN_CONSOLE", "off")
    announced = []
    monkeypatch.setattr(link.Link, "announce", lambda _, writer, journal: announced.append((writer, journal)))
    monkeypatch.setattr(link.Link, "watch", lambda _: None)
    yield tmp_path / "runs"
    for active in lifecycle._runs.copy():
        active.run.finish(quiet=True)
    assert lifecycle.current is None


def journals(folder: Path) -> list[Path]:
    """The journals under a folder of runs, in order of their start."""
    found = [path.parent for path in folder.rglob("00000001.journal")]
    return sorted(found, key=lambda path: records(path)[0].time)


def records(journal: Path) -> list:
    with JournalReader(journal) as reader:
        items = list(reader)
        assert reader.damage is None, reader.damage
    return items


def rows(journal: Path) -> list[tuple[int, dict]]:
    """(step, values) of every row, in order; texts as their JSON."""
    result = []
    for item in records(journal):
        if isinstance(item, RowBlock):
            for step, values in zip(item.steps.tolist(), item.values.tolist(), strict=True):
                result.append((step, dict(zip(item.keys, values, strict=True))))
        elif isinstance(item, TextRow):
            result.append((item.step, {**item.numbers, **item.texts}))
    return result


def events(journal: Path, kind: str) -> list[dict]:
    return [item.data for item in records(journal) if isinstance(item, Event) and item.kind == kind]


def python(code: str, timeout: float = 60, **kwargs) -> subprocess.CompletedProcess:
    """Runs a program that imports pulsetrain, with no forwarder."""
    return subprocess.run(
        [sys.executable, "-c", PREAMBLE + code], capture_output=True, text=True, timeout=timeout, **kwargs
    )
