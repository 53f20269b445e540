"""Prometheus in the local stack: found where it is, on loopback, looking at the services of the stack."""

from pathlib import Path

import pytest
import yaml

from pulsetrain_local import prometheus
from pulsetrain_local.home import Home
from pulsetrain_local.prometheus import NoPrometheus, find_prometheus
from pulsetrain_local.stack import Installed, WantedPorts, choose_ports, plan

ENV = {"PULSETRAIN_KAFKA": "127.0.0.1:1", "PATH": ""}


@pytest.fixture
def binary(tmp_path: Path) -> Path:
    """What stands in an unpacked archive."""
    (tmp_path / "archive").mkdir()
    program = tmp_path / "archive" / "prometheus"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    return program


def test_it_is_found_by_its_home_and_on_the_path(binary: Path) -> None:
    home = str(binary.parent)
    assert find_prometheus({"PULSETRAIN_PROMETHEUS_HOME": home}) == find_prometheus({"PATH": home}) == binary
    assert find_prometheus({"PATH": ""}) is None
    assert find_prometheus({"PATH": home, "PULSETRAIN_PROMETHEUS_HOME": "off"}) is None


def test_a_home_that_is_none_is_said_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(NoPrometheus, match=r"PULSETRAIN_PROMETHEUS_HOME is .*no prometheus.*set it to off"):
        find_prometheus({"PULSETRAIN_PROMETHEUS_HOME": str(tmp_path)})


def test_it_looks_at_every_service_that_shows_metrics_and_has_the_shipped_rules(binary: Path, tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    home.create()
    made = plan(home, choose_ports(home, WantedPorts()), None, ENV, Installed(prometheus=binary))
    (program,) = (program for program in made.programs if program.name == "prometheus")
    command = program.command()
    assert command[0] == str(binary)
    (listens,) = (word for word in command if word.startswith("--web.listen-address="))
    assert listens.startswith("--web.listen-address=127.0.0.1:")
    (config,) = (word.partition("=")[2] for word in command if word.startswith("--config.file="))
    read = yaml.safe_load(Path(config).read_text())
    looked_at = {
        job["job_name"]: f"http://{target}"
        for job in read["scrape_configs"]
        for group in job["static_configs"]
        for target in group["targets"]
    }
    services = {f"pulsetrain-{name}" for name in ("writer", "monitor", "aggregator")}
    assert looked_at == {f"pulsetrain-{p.name}": p.address for p in made.programs if f"pulsetrain-{p.name}" in services}
    assert read["rule_files"] == [str(prometheus.rules() / "*.yaml")]
    assert list(prometheus.rules().glob("*.yaml"))
    assert made.environment["PULSETRAIN_PROMETHEUS"] == program.address
