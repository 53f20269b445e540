"""Prometheus, where it is installed: started on loopback, with our rules, and looking at the services of this stack.

Looked for in PULSETRAIN_PROMETHEUS_HOME (an unpacked archive), else as `prometheus` on the PATH; "off" starts none. The
rules are the same files as anywhere else, deploy/prometheus/rules; where the services are is written at each start.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path

import yaml

from pulsetrain_local.home import write_private
from pulsetrain_local.ports import HOST, says_ok
from pulsetrain_local.shipped import shipped

KEPT = "15d"


class NoPrometheus(RuntimeError):
    """PULSETRAIN_PROMETHEUS_HOME is not what it is said to be; the text says what is expected."""


def find_prometheus(env: Mapping[str, str]) -> Path | None:
    """The Prometheus of this machine; or None. Raises NoPrometheus where it is said to be, and is not."""
    given = env.get("PULSETRAIN_PROMETHEUS_HOME")
    if given == "off":
        return None
    if given:
        binary = Path(given).expanduser().absolute() / "prometheus"
        if binary.is_file():
            return binary
        raise NoPrometheus(
            f"PULSETRAIN_PROMETHEUS_HOME is {given}, and there is no prometheus in it: correct it, or set it to off"
        )
    found = shutil.which("prometheus", path=env.get("PATH"))
    return None if found is None else Path(found)


def command(binary: Path, directory: Path, port: int, targets: Mapping[str, int]) -> list[str]:
    """Writes the configuration, and gives the command line that serves. `targets` are services with their ports."""
    directory.mkdir(parents=True, exist_ok=True)
    config = directory / "prometheus.yaml"
    write_private(config, configuration(targets))
    return [
        str(binary),
        f"--config.file={config}",
        f"--storage.tsdb.path={directory / 'data'}",
        f"--storage.tsdb.retention.time={KEPT}",
        f"--web.listen-address={HOST}:{port}",
        "--log.level=warn",
    ]


def configuration(targets: Mapping[str, int]) -> str:
    """What is looked at and how often, as a file of Prometheus's. A service's name is its `job`, as in production."""
    jobs = [
        {"job_name": f"pulsetrain-{name}", "static_configs": [{"targets": [f"{HOST}:{port}"]}]}
        for name, port in targets.items()
    ]
    settings = {
        "global": {"scrape_interval": "5s", "evaluation_interval": "15s"},
        "rule_files": [str(rules() / "*.yaml")],
        "scrape_configs": jobs,
    }
    return yaml.safe_dump(settings, sort_keys=False)


def url(port: int) -> str:
    """Its address."""
    return f"http://{HOST}:{port}"


def answers(port: int) -> bool:
    """Whether it serves, and has read what it had kept."""
    return says_ok(port, "/-/ready")


def rules() -> Path:
    """Recording and alert rules."""
    return shipped("shipped_prometheus", "prometheus") / "rules"
