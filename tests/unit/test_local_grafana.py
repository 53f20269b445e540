"""Grafana in the local stack: found where it is, with its settings and ours; a plan without it is as before."""

import os
import re
import stat
from pathlib import Path

import pytest

from pulsetrain_local import grafana
from pulsetrain_local.grafana import OF_PROMETHEUS, GrafanaInstallation, NoGrafana, Sources, find_grafana
from pulsetrain_local.home import Home
from pulsetrain_local.stack import Installed, WantedPorts, choose_ports, plan

SOURCES = Sources("clickhouse://pulsetrain:p%40ss@127.0.0.1:9001/pulsetrain")


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A folder like an unpacked archive."""
    home = tmp_path / "grafana"
    (home / "bin").mkdir(parents=True)
    (home / "public").mkdir()
    (home / "bin" / "grafana").write_text("#!/bin/sh\n")
    (home / "bin" / "grafana").chmod(0o755)
    return home


def test_it_is_found_by_its_home_and_on_the_path(installed: Path) -> None:
    found = GrafanaInstallation(installed / "bin" / "grafana", installed)
    assert find_grafana({"PULSETRAIN_GRAFANA_HOME": str(installed)}) == found
    assert find_grafana({"PATH": str(installed / "bin")}) == found
    assert find_grafana({"PATH": ""}) is None
    assert find_grafana({"PATH": str(installed / "bin"), "PULSETRAIN_GRAFANA_HOME": "off"}) is None


def test_a_home_that_is_none_is_said_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(NoGrafana, match=r"PULSETRAIN_GRAFANA_HOME is .*no bin/grafana.*set it to off"):
        find_grafana({"PULSETRAIN_GRAFANA_HOME": str(tmp_path)})


def test_a_binary_without_what_it_serves_is_none(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (installed / "public").rmdir()
    monkeypatch.setattr(grafana, "_PACKAGED", installed / "nowhere")
    assert find_grafana({"PATH": str(installed / "bin")}) is None


def test_it_listens_on_loopback_and_the_users_settings_win(installed: Path, tmp_path: Path) -> None:
    found = GrafanaInstallation(installed / "bin" / "grafana", installed)
    env = {"GF_USERS_DEFAULT_THEME": "dark", "GF_PATHS_PLUGINS": "/plugins"}
    made = grafana.environment(found, tmp_path, 3000, "secret", SOURCES, env)
    assert made["GF_SERVER_HTTP_ADDR"] == "127.0.0.1"
    assert made["GF_USERS_DEFAULT_THEME"] == "dark"
    assert made["GF_PATHS_PLUGINS"] == "/plugins"
    assert made["PULSETRAIN_CLICKHOUSE_PASSWORD"] == "p@ss"
    assert "GF_AUTH_ANONYMOUS_ENABLED" not in made


@pytest.mark.parametrize("prometheus", [None, "http://127.0.0.1:9090"])
def test_what_provisioning_asks_for_is_in_its_environment(
    installed: Path, tmp_path: Path, prometheus: str | None
) -> None:
    found, data = GrafanaInstallation(installed, installed), tmp_path / "data"
    sources = Sources(SOURCES.clickhouse, prometheus)
    grafana.command(found, data, sources)
    made = grafana.environment(found, data, 3000, "secret", sources, {})
    files = sorted(Path(made["GF_PATHS_PROVISIONING"]).rglob("*.yaml"))
    assert len(files) >= 3
    asked = {name for file in files for name in re.findall(r"\$(PULSETRAIN_\w+)", file.read_text())}
    assert {"PULSETRAIN_CLICKHOUSE_HOST", "PULSETRAIN_DASHBOARDS"} < asked <= made.keys()
    assert ("PULSETRAIN_PROMETHEUS" in asked) == (prometheus is not None)
    laid_out = {file.name for file in data.rglob("*") if file.is_file()}
    folders = [grafana.shipped() / name for name in ("provisioning", "dashboards")]
    shipped = {file.name for folder in folders for file in folder.rglob("*") if file.is_file()}
    assert shipped - laid_out == (set() if prometheus else set(OF_PROMETHEUS))


def test_it_is_planned_where_it_is_installed_and_none_is_given(installed: Path, tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    home.create()
    env = {"PULSETRAIN_KAFKA": "127.0.0.1:1", "PATH": os.environ["PATH"]}
    found = GrafanaInstallation(installed / "bin" / "grafana", installed)
    ports = choose_ports(home, WantedPorts())

    def names(env: dict[str, str], found: GrafanaInstallation | None) -> set[str]:
        return {program.name for program in plan(home, ports, None, env, Installed(found)).programs}

    assert names(env, None) == names({**env, "PULSETRAIN_GRAFANA": "http://a:b@c:3000"}, found)
    assert names(env, found) - names(env, None) == {"grafana"}
    reach = plan(home, ports, None, env, Installed(found)).environment
    assert reach["PULSETRAIN_GRAFANA"] == f"http://admin:{home.grafana_password()}@127.0.0.1:{ports.grafana}"
    assert stat.S_IMODE((home.root / "grafana.password").stat().st_mode) == 0o600
