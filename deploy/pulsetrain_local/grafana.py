"""Grafana, where it is installed: started with our dashboards, and pointed at the ClickHouse of this stack.

Looked for in PULSETRAIN_GRAFANA_HOME (an unpacked archive, or a tree that Grafana was built in), else as `grafana` on
the PATH; "off" starts none. It reads the same provisioning files as anywhere else, deploy/grafana, and what they need
comes by its environment. The plugin grafana-clickhouse-datasource has to be in its plugin folder. GF_* variables of the
user's win over ours.
"""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from pulsetrain_local.ports import HOST, says_ok
from pulsetrain_local.shipped import shipped as shipped_folder
from pulsetrain_schemas.addresses import ClickHouseAddress

USER = "admin"
OF_PROMETHEUS = ("prometheus.yaml", "services.json")
"""The files that need Prometheus: its data source, and the dashboard that shows what it has."""
PLUGIN = "grafana-clickhouse-datasource"
_BINARIES = ("bin/grafana", "bin/linux-amd64/grafana", "bin/linux-arm64/grafana", "bin/darwin-arm64/grafana")
_PACKAGED = Path("/usr/share/grafana")  # where the packages of Linux distributions put what belongs to the binary


class NoGrafana(RuntimeError):
    """PULSETRAIN_GRAFANA_HOME is not what it is said to be; the text says what is expected."""


@dataclass(frozen=True, slots=True)
class GrafanaInstallation:
    """A binary, and the folder with what it serves (`public`, `conf`)."""

    binary: Path
    home: Path

    def plugins(self, env: Mapping[str, str]) -> Path:
        """The folder that it takes plugins from."""
        return Path(env.get("GF_PATHS_PLUGINS") or self.home / "data" / "plugins")


def find_grafana(env: Mapping[str, str]) -> GrafanaInstallation | None:
    """The Grafana of this machine; None where there is none. Raises NoGrafana where it is said to be, and is not."""
    given = env.get("PULSETRAIN_GRAFANA_HOME")
    if given == "off":
        return None
    if given:
        home = Path(given).expanduser().absolute()
        for name in _BINARIES:
            if (home / name).is_file():
                return GrafanaInstallation(home / name, home)
        raise NoGrafana(
            f"PULSETRAIN_GRAFANA_HOME is {given}, and there is no bin/grafana in it: correct it, or set it to off"
        )
    found = shutil.which("grafana", path=env.get("PATH"))
    if found is None:
        return None
    binary = Path(found).resolve()
    beside = binary.parents[1]
    homes = (home for home in (beside, _PACKAGED) if (home / "public").is_dir())
    return next((GrafanaInstallation(binary, home) for home in homes), None)


@dataclass(frozen=True, slots=True)
class Sources:
    """What the dashboards show: the URL of ClickHouse, and that of Prometheus where there is one."""

    clickhouse: str = field(repr=False)
    prometheus: str | None = None


def command(installation: GrafanaInstallation, data: Path, sources: Sources) -> list[str]:
    """Lays out what Grafana is provisioned with, and gives the command line that serves."""
    _lay_out(data, sources)
    return [str(installation.binary), "server", "--homepath", str(installation.home)]


def environment(
    installation: GrafanaInstallation,
    data: Path,
    port: int,
    password: str,
    sources: Sources,
    env: Mapping[str, str],
) -> dict[str, str]:
    """`env` with Grafana's settings, on loopback, and what the provisioning files ask for."""
    clickhouse = ClickHouseAddress.parse(sources.clickhouse)
    ours = {
        "GF_PATHS_DATA": str(data),
        "GF_PATHS_LOGS": str(data / "log"),
        "GF_PATHS_PLUGINS": str(installation.plugins(env)),
        "GF_PATHS_PROVISIONING": str(data / "provisioning"),
        "GF_SERVER_HTTP_ADDR": HOST,
        "GF_SECURITY_ADMIN_USER": USER,
        "GF_SECURITY_ADMIN_PASSWORD": password,
        "GF_USERS_DEFAULT_THEME": "system",
        "PULSETRAIN_ALERT_EMAIL": "root@localhost",
        # Nothing leaves the machine, and nothing is fetched.
        "GF_ANALYTICS_REPORTING_ENABLED": "false",
        "GF_ANALYTICS_CHECK_FOR_UPDATES": "false",
        "GF_ANALYTICS_CHECK_FOR_PLUGIN_UPDATES": "false",
        "GF_NEWS_NEWS_FEED_ENABLED": "false",
        "GF_PLUGINS_PREINSTALL_DISABLED": "true",
    }
    wanted = {
        "GF_SERVER_HTTP_PORT": str(port),
        "PULSETRAIN_DASHBOARDS": str(data / "dashboards"),
        "PULSETRAIN_CLICKHOUSE_HOST": clickhouse.host,
        "PULSETRAIN_CLICKHOUSE_PORT": str(clickhouse.port),
        "PULSETRAIN_CLICKHOUSE_USER": clickhouse.user,
        "PULSETRAIN_CLICKHOUSE_PASSWORD": clickhouse.password,
        "PULSETRAIN_CLICKHOUSE_DATABASE": clickhouse.database,
        "PULSETRAIN_CLICKHOUSE_SECURE": "true" if clickhouse.secure else "false",
    }
    if sources.prometheus is not None:
        wanted["PULSETRAIN_PROMETHEUS"] = sources.prometheus
    return {**ours, **env, **wanted}


def _lay_out(data: Path, sources: Sources) -> None:
    """Copies the shipped files to where Grafana reads them; where there is no Prometheus, without those that ask it."""
    for name in ("provisioning", "dashboards"):
        shutil.rmtree(data / name, ignore_errors=True)
        left_out = shutil.ignore_patterns(*(() if sources.prometheus is not None else OF_PROMETHEUS))
        shutil.copytree(shipped() / name, data / name, ignore=left_out)


def url(port: int, password: str) -> str:
    """Its address with the user who may do all, as PULSETRAIN_GRAFANA has it."""
    return f"http://{USER}:{quote(password, safe='')}@{HOST}:{port}"


def answers(port: int) -> bool:
    """Whether it serves."""
    return says_ok(port, "/api/health")


def shipped() -> Path:
    """Dashboards and provisioning."""
    return shipped_folder("shipped_grafana", "grafana")
