"""`pulsetrain grafana` against a real Grafana that nothing was provisioned in."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from pulsetrain_local import grafana
from pulsetrain_local.ports import free_ports
from pulsetrain_local.tether import tethered
from tests.clickhouse_fixture import READER, READER_PASSWORD, ClickHouse
from tests.waiting import wait_for

GRAFANA_HOME = os.environ.get("PULSETRAIN_GRAFANA_HOME", "")
PASSWORD = "p@ss word"

pytestmark = [
    pytest.mark.clickhouse,
    pytest.mark.timeout(120),
    pytest.mark.skipif(not GRAFANA_HOME, reason="PULSETRAIN_GRAFANA_HOME does not say where a Grafana is"),
]


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """Where it is, with its admin."""
    found = grafana.find_grafana({"PULSETRAIN_GRAFANA_HOME": GRAFANA_HOME})
    assert found is not None
    (port,) = free_ports(1)
    env = {**os.environ, "GF_PATHS_PROVISIONING": str(tmp_path / "nothing")}
    sources = grafana.Sources("clickhouse://a:b@c:1/d")
    env = grafana.environment(found, tmp_path / "data", port, PASSWORD, sources, env)
    command = grafana.command(found, tmp_path / "data", sources)
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(tethered(command, os.getpid()), env=env, stdout=log, stderr=log)
    try:
        wait_for(lambda: grafana.answers(port), 60, "Grafana")
        yield grafana.url(port, PASSWORD)
    finally:
        process.terminate()
        process.wait(30)


def test_what_is_pushed_is_there_and_its_datasource_works(address: str, clickhouse_server: ClickHouse) -> None:
    def pulsetrain(*arguments: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "pulsetrain.commands", "grafana", *arguments]
        env = {**os.environ, "PULSETRAIN_GRAFANA": address}
        return subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)

    server = clickhouse_server
    reader = f"clickhouse://{READER}:{READER_PASSWORD}@{server.host}:{server.port}/default"
    assert pulsetrain("push").returncode == 1
    for _ in range(2):
        pushed = pulsetrain("push", "--clickhouse", reader)
        assert pushed.returncode == 0, pushed.stderr
    same = pulsetrain("diff", "--json")
    assert {one["state"] for one in json.loads(same.stdout)} == {"same"}, same.stdout
    health = requests.get(f"{address}/api/datasources/uid/pulsetrain-clickhouse/health", timeout=30)
    assert health.json()["status"] == "OK"
    found = requests.get(f"{address}/api/search?folderUIDs=pulsetrain", timeout=30).json()
    assert len(found) == len(json.loads(same.stdout))
    requests.delete(f"{address}/api/dashboards/uid/pulsetrain-run", timeout=30).raise_for_status()
    gone = pulsetrain("diff")
    assert gone.returncode == 1
    assert "missing  Pulsetrain / Run" in gone.stdout
