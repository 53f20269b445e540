"""What every test has: a home and a run directory of its own, and an environment that names nothing of the user's."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

# How long an example takes says how busy the machine is.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")

pytest_plugins = ["tests.stack_fixture", "tests.clickhouse_fixture"]


@pytest.fixture(autouse=True)
def own_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No PULSETRAIN_* or WANDB_* of the user reaches a test; each test has a home and a run directory of its own."""
    for name in list(os.environ):
        if name.startswith(("PULSETRAIN_", "WANDB_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PULSETRAIN_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PULSETRAIN_DIR", str(tmp_path / "runs"))
    # Whatever is on the PATH of this machine: a stack is what a test asks for.
    for name in ("PULSETRAIN_GRAFANA_HOME", "PULSETRAIN_PROMETHEUS_HOME"):
        monkeypatch.setenv(name, "off")
