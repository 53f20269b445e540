"""The compose file: what docker compose says of it, where that is here, and what holds without it."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.deploy_files import DEPLOY, compose, is_pinned, known_variables, parse, pulsetrain_commands

SERVICES = sorted(compose()["services"])
OURS = ("setup", "writer", "aggregator", "monitor", "grafana")
SECRETS = (
    "CLICKHOUSE_WRITER_PASSWORD",
    "CLICKHOUSE_READER_PASSWORD",
    "CLICKHOUSE_GRAFANA_PASSWORD",
    "GRAFANA_ADMIN_PASSWORD",
)
VARIABLE = re.compile(r"\$\{(\w+)(:[?-][^}]*)?\}")


def _docker_compose() -> list[str]:
    """How docker compose is called here. Skips the test where it is not."""
    for command in (["docker", "compose"], ["docker-compose"]):
        if (
            shutil.which(command[0])
            and subprocess.run([*command, "version"], capture_output=True, check=False).returncode == 0
        ):
            return command
    pytest.skip("docker compose is not here: the file is checked by its structure alone")


def _config(env_file: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    command = [*_docker_compose(), "-f", str(DEPLOY / "compose.yaml"), "--env-file", str(env_file), *options, "config"]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(Path.home())},
    )


def _environment(without: str = "") -> str:
    """.env.example as a person fills it in, but for one secret."""
    text = (DEPLOY / ".env.example").read_text()
    for name in SECRETS:
        text = text.replace(f"{name}=\n", f"{name}={'' if name == without else 'of-' + name.lower()}\n")
    return text


def test_docker_compose_takes_it_with_every_service_and_every_password_in_its_place(tmp_path: Path):
    (tmp_path / ".env").write_text(_environment())
    done = _config(tmp_path / ".env", "--profile", "registry")
    assert done.returncode == 0, done.stderr
    services = yaml.safe_load(done.stdout)["services"]
    assert sorted(services) == SERVICES
    url = "clickhouse://writer:of-clickhouse_writer_password@clickhouse:9000/pulsetrain"
    for name in ("setup", "writer", "aggregator", "monitor"):
        assert services[name]["environment"]["PULSETRAIN_CLICKHOUSE"] == url
    assert services["grafana"]["environment"]["PULSETRAIN_CLICKHOUSE_PASSWORD"] == "of-clickhouse_grafana_password"


@pytest.mark.parametrize("missing", SECRETS)
def test_docker_compose_refuses_to_start_without_a_secret_and_says_which(missing: str, tmp_path: Path):
    (tmp_path / ".env").write_text(_environment(without=missing))
    done = _config(tmp_path / ".env")
    assert done.returncode != 0
    assert missing in done.stderr


def test_every_variable_is_in_the_example_and_every_secret_is_empty_there():
    written = dict(
        line.split("=", 1) for line in (DEPLOY / ".env.example").read_text().splitlines() if re.match(r"\w+=", line)
    )
    text = "\n".join(
        line for line in (DEPLOY / "compose.yaml").read_text().splitlines() if not line.lstrip().startswith("#")
    )
    used = VARIABLE.findall(text)
    assert {name for name, _ in used} == set(written)
    demanded = {name for name, rest in used if rest.startswith(":?")}
    assert demanded == set(SECRETS)
    for name, rest in used:
        assert rest, f"{name} has neither a default nor is it demanded"
        assert rest.startswith(":?") or rest[2:] == written[name], f"{name} has another default than the example says"
    assert not any(written[name] for name in SECRETS)


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_is_bounded_and_locked_down(name: str):
    service = compose()["services"][name]
    limits = service["deploy"]["resources"]["limits"]
    assert set(limits) == {"cpus", "memory", "pids"}
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["logging"]["options"]["max-size"]
    assert service["logging"]["options"]["max-file"]
    assert not service["user"].startswith(("0", "root"))
    # The schema registry's start script writes into its image; all others are read-only.
    assert service["read_only"] is (name != "schema-registry")
    assert "privileged" not in service
    assert "network_mode" not in service


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_says_how_it_is_and_comes_back_but_for_the_one_that_ends(name: str):
    service = compose()["services"][name]
    if name == "setup":
        assert service["healthcheck"] == {"disable": True}
        assert service["restart"] == "no"
    else:
        assert service["healthcheck"]["test"][0] in ("CMD", "CMD-SHELL")
        assert {"interval", "timeout", "start_period", "retries"} <= set(service["healthcheck"])
        assert service["restart"] == "unless-stopped"


@pytest.mark.parametrize("name", SERVICES)
def test_images_have_a_version_and_ours_can_be_built_here(name: str):
    service = compose()["services"][name]
    assert is_pinned(service["image"]), service["image"]
    assert ("build" in service) == (name in OURS)
    if "build" in service:
        context = DEPLOY / service["build"]["context"]
        dockerfile = context / service["build"]["dockerfile"]
        assert dockerfile.is_file()
        target = service["build"].get("target")
        assert target is None or f" AS {target}\n" in dockerfile.read_text()


@pytest.mark.parametrize("name", SERVICES)
def test_ports_are_published_on_loopback_unless_somebody_says_otherwise(name: str):
    for port in compose()["services"][name].get("ports", ()):
        assert port.startswith("${BIND_ADDRESS:-127.0.0.1}:"), port


@pytest.mark.parametrize("name", SERVICES)
def test_what_is_mounted_is_there_and_what_is_ours_is_read_only(name: str):
    declared = set(compose()["volumes"])
    for volume in compose()["services"][name].get("volumes", ()):
        source, _, rest = volume.partition(":")
        if source.startswith("."):
            assert (DEPLOY / source).exists(), source
            assert rest.endswith(":ro"), volume
        else:
            assert source in declared


def test_every_volume_is_used():
    used = {
        volume.partition(":")[0] for service in compose()["services"].values() for volume in service.get("volumes", ())
    }
    assert set(compose()["volumes"]) <= used


@pytest.mark.parametrize("name", SERVICES)
def test_what_it_waits_for_can_come_about(name: str):
    for other, wanted in compose()["services"][name].get("depends_on", {}).items():
        service = compose()["services"][other]
        if wanted["condition"] == "service_healthy":
            assert "test" in service["healthcheck"]
        else:
            assert wanted["condition"] == "service_completed_successfully"
            assert service["restart"] == "no"


def test_every_call_of_pulsetrain_is_one_that_it_takes():
    found = [
        words for service in compose()["services"].values() for words in pulsetrain_commands(service.get("command", ()))
    ]
    assert len(found) == 5  # topics, migrate, and three services
    for words in found:
        parse(words)


@pytest.mark.parametrize("name", ["writer", "aggregator", "monitor"])
def test_the_port_that_is_scraped_and_asked_for_health_is_the_one_that_is_served(name: str):
    service = compose()["services"][name]
    given = parse(service["command"]).params
    assert (given["metrics_host"], given["metrics_port"]) == ("0.0.0.0", 9464)
    assert "127.0.0.1:9464/readyz" in " ".join(service["healthcheck"]["test"])
    scraped = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yaml").read_text())["scrape_configs"]
    (discovery,) = next(one for one in scraped if one["job_name"] == f"pulsetrain-{name}")["dns_sd_configs"]
    assert (discovery["names"], discovery["port"]) == ([name], 9464)


@pytest.mark.parametrize("name", SERVICES)
def test_every_variable_of_ours_is_one_that_something_reads(name: str):
    ours = {one for one in compose()["services"][name].get("environment", ()) if one.startswith("PULSETRAIN_")}
    assert ours <= known_variables()


def test_grafana_is_told_everything_that_its_provisioning_asks_for():
    provisioned = "".join(path.read_text() for path in (DEPLOY / "grafana" / "provisioning").rglob("*.yaml"))
    asked = set(re.findall(r"\$(PULSETRAIN_\w+)", re.sub(r"(?m)^#.*", "", provisioned)))
    # Where its image has the dashboards, the image says itself.
    assert asked - {"PULSETRAIN_DASHBOARDS"} <= set(compose()["services"]["grafana"]["environment"])


def test_the_jobs_of_prometheus_are_those_that_its_rules_know():
    text = (DEPLOY / "prometheus" / "rules" / "pulsetrain.yaml").read_text()
    named = set(re.findall(r'job="([\w-]+)"', text))
    scraped = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yaml").read_text())["scrape_configs"]
    assert named <= {one["job_name"] for one in scraped}
    assert named


def test_prometheus_scrapes_services_that_there_are():
    config = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yaml").read_text())
    names = {
        name for one in config["scrape_configs"] for found in one.get("dns_sd_configs", ()) for name in found["names"]
    }
    assert names <= set(SERVICES)
    assert config["rule_files"] == ["rules/*.yaml"]


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not here")
def test_prometheus_takes_its_configuration():
    command = ["promtool", "check", "config", str(DEPLOY / "prometheus" / "prometheus.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
