"""Prometheus for tests: the binary that `install-tools.sh` unpacked or that is on the PATH, and asking it."""

import shutil
from pathlib import Path
from typing import Any

import requests

from tests.grafana_macros import Range
from tests.stack_fixture import Stack

TOOLS = Path(__file__).parents[1] / ".tools" / "usr" / "bin"


def tool(name: str) -> Path | None:
    """A program of Prometheus's."""
    found = shutil.which(name, path=str(TOOLS)) or shutil.which(name)
    return None if found is None else Path(found)


PROMETHEUS, PROMTOOL = tool("prometheus"), tool("promtool")


def with_prometheus() -> dict[str, str]:
    """The variables of a stack that has one, where there is one."""
    return {} if PROMETHEUS is None else {"PULSETRAIN_PROMETHEUS_HOME": str(PROMETHEUS.parent)}


def asked_of_prometheus(stack: Stack, expression: str, over: Range) -> list[dict[str, Any]]:
    """The lines of an expression over a range."""
    told = {"query": expression, "start": str(over.begin), "end": str(over.end), "step": str(over.interval)}
    answer = requests.get(f"{stack.addresses['PULSETRAIN_PROMETHEUS']}/api/v1/query_range", told, timeout=30).json()
    assert answer["status"] == "success", answer
    found: list[dict[str, Any]] = answer["data"]["result"]
    return found
