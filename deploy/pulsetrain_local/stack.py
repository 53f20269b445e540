"""What a local stack consists of: Kafka, ClickHouse, the topics, the tables and the services, in the order they need.

`plan` decides what is to run and where, from the environment and from what was chosen before; `Supervisor` runs it.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from pulsetrain_local import clickhouse_server, grafana, kafka, prometheus
from pulsetrain_local.grafana import GrafanaInstallation
from pulsetrain_local.home import Home, read_json, write_json
from pulsetrain_local.java import Java
from pulsetrain_local.kafka_jars import KafkaInstallation
from pulsetrain_local.ports import HOST, free_ports, is_free, require_free, says_ok
from pulsetrain_local.service import Program
from pulsetrain_local.shipped import shipped
from pulsetrain_local.supervisor import Given
from pulsetrain_schemas import addresses

_PORT_OPTIONS = {
    "kafka": "--kafka-port",
    "clickhouse": "--clickhouse-port",
    "clickhouse_http": "--clickhouse-http-port",
    "writer": "--metrics-port",
}


@dataclass(frozen=True, slots=True)
class WantedPorts:
    """Ports that the person asked for; None leaves the choice to us."""

    kafka: int | None = None
    clickhouse: int | None = None
    clickhouse_http: int | None = None
    writer: int | None = None


@dataclass(frozen=True, slots=True)
class Ports:
    """Where everything of one stack listens."""

    kafka: int
    controller: int
    clickhouse: int
    clickhouse_http: int
    writer: int
    monitor: int
    aggregator: int
    grafana: int
    prometheus: int


@dataclass(frozen=True, slots=True)
class Plan:
    """The programs to run, the services that somebody else runs, and the variables that reach them all."""

    programs: tuple[Program, ...]
    given: tuple[Given, ...]
    environment: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class KafkaRuntime:
    """What a broker of our own needs."""

    java: Java
    installation: KafkaInstallation


@dataclass(frozen=True, slots=True)
class Installed:
    """What this machine has beside what we bring: a part of the stack where it is found."""

    grafana: GrafanaInstallation | None = None
    prometheus: Path | None = None


NOTHING_MORE = Installed()


def choose_ports(home: Home, wanted: WantedPorts) -> Ports:
    """The ports asked for, else those of the last time where they are free, else free ones. Raises PortInUse."""
    last = read_json(home.ports)
    names = [field.name for field in fields(Ports)]
    chosen: dict[str, int] = {}
    for name in names:
        asked = getattr(wanted, name, None)
        if asked is not None:
            require_free(asked, name, _PORT_OPTIONS[name])
            chosen[name] = asked
        elif isinstance(last.get(name), int) and is_free(last[name]):
            chosen[name] = last[name]
    missing = [name for name in names if name not in chosen]
    chosen.update(zip(missing, free_ports(len(missing)), strict=True))
    write_json(home.ports, chosen)
    return Ports(**chosen)


def plan(
    home: Home, ports: Ports, runtime: KafkaRuntime | None, env: Mapping[str, str], installed: Installed = NOTHING_MORE
) -> Plan:
    """The stack of this home; `runtime` is None where PULSETRAIN_KAFKA names a Kafka that is used instead of ours.

    Grafana is a part of it where it is installed, unless PULSETRAIN_GRAFANA names another one; so is Prometheus.
    """
    given: list[Given] = []
    programs: list[Program] = []
    reach = {"PULSETRAIN_HOME": str(home.root)}
    child_env = {**env, "PULSETRAIN_HOME": str(home.root), "PYTHONUNBUFFERED": "1"}

    if runtime is None:
        reach["PULSETRAIN_KAFKA"] = env["PULSETRAIN_KAFKA"]
        given.append(Given("kafka", env["PULSETRAIN_KAFKA"]))
    else:
        broker_ports = kafka.BrokerPorts(ports.kafka, ports.controller)
        reach["PULSETRAIN_KAFKA"] = broker_ports.address
        programs.append(_kafka(home, broker_ports, runtime, child_env))

    if url := env.get("PULSETRAIN_CLICKHOUSE"):
        reader_url = reach["PULSETRAIN_CLICKHOUSE"] = url
        given.append(Given("clickhouse", str(addresses.ClickHouseAddress.parse(url))))
    else:
        listens = clickhouse_server.ServerPorts(ports.clickhouse, ports.clickhouse_http)
        programs.append(_clickhouse(home, listens, env, child_env))
        reader_url = _clickhouse_url(listens, clickhouse_server.READER, home.reader_password())
        reach["PULSETRAIN_CLICKHOUSE"] = _clickhouse_url(listens, clickhouse_server.USER, home.clickhouse_password())
        reach["PULSETRAIN_CLICKHOUSE_HTTP"] = f"http://{HOST}:{listens.http}"

    if installed.prometheus is not None:
        targets = {"writer": ports.writer, "monitor": ports.monitor, "aggregator": ports.aggregator}
        programs.append(_prometheus(home, ports.prometheus, installed.prometheus, targets, child_env))
        reach["PULSETRAIN_PROMETHEUS"] = prometheus.url(ports.prometheus)
    if installed.grafana is not None and "PULSETRAIN_GRAFANA" not in env:
        sources = grafana.Sources(reader_url, reach.get("PULSETRAIN_PROMETHEUS"))
        programs.append(_grafana(home, ports.grafana, installed.grafana, sources, child_env))
        reach["PULSETRAIN_GRAFANA"] = grafana.url(ports.grafana, home.grafana_password())

    child_env = {**child_env, **reach}
    programs += [
        _task(home, "topics", [], child_env, after="kafka"),
        _task(home, "migrate", [], child_env, after="clickhouse"),
        _consumer(home, "writer", ports.writer, child_env),
        _consumer(home, "monitor", ports.monitor, child_env, lambda: _rules_options(home)),
        _consumer(home, "aggregator", ports.aggregator, child_env),
    ]
    return Plan(tuple(programs), tuple(given), reach)


def _kafka(home: Home, ports: kafka.BrokerPorts, runtime: KafkaRuntime, env: Mapping[str, str]) -> Program:
    return Program(
        name="kafka",
        command=lambda: kafka.prepare(home.kafka, ports, runtime.java, runtime.installation),
        environment=kafka.broker_environment(env),
        log=home.log("kafka"),
        ready=lambda: kafka.answers(ports.clients),
        address=ports.address,
    )


def _clickhouse(
    home: Home, ports: clickhouse_server.ServerPorts, env: Mapping[str, str], child_env: Mapping[str, str]
) -> Program:
    password, reader_password = home.clickhouse_password(), home.reader_password()
    binary = clickhouse_server.find_binary(env)

    def command() -> list[str]:
        if binary is not None:
            return clickhouse_server.binary_command(binary, home.clickhouse, ports, password, reader_password)
        return clickhouse_server.embedded_command(home.clickhouse, ports, home.password, home.reader_password_file)

    return Program(
        name="clickhouse",
        command=command,
        environment=child_env,
        log=home.log("clickhouse"),
        ready=lambda: clickhouse_server.answers(ports.native, password),
        address=f"{HOST}:{ports.native}",
    )


def _clickhouse_url(ports: clickhouse_server.ServerPorts, user: str, password: str) -> str:
    return addresses.ClickHouseAddress(HOST, ports.native, user, password, clickhouse_server.DATABASE).url()


def _prometheus(home: Home, port: int, binary: Path, targets: Mapping[str, int], env: Mapping[str, str]) -> Program:
    return Program(
        name="prometheus",
        command=lambda: prometheus.command(binary, home.prometheus, port, targets),
        environment=env,
        log=home.log("prometheus"),
        ready=lambda: prometheus.answers(port),
        address=prometheus.url(port),
    )


def _grafana(
    home: Home, port: int, installed: GrafanaInstallation, sources: grafana.Sources, env: Mapping[str, str]
) -> Program:
    password = home.grafana_password()
    return Program(
        name="grafana",
        command=lambda: grafana.command(installed, home.grafana, sources),
        environment=grafana.environment(installed, home.grafana, port, password, sources, env),
        log=home.log("grafana"),
        ready=lambda: grafana.answers(port),
        address=f"http://{HOST}:{port}",
    )


def _consumer(
    home: Home,
    name: str,
    port: int,
    environment: Mapping[str, str],
    options: Callable[[], Sequence[str]] = tuple,
) -> Program:
    """A service that reads Kafka and shows its metrics and health at `port`; `options` are asked at each start."""
    return Program(
        name=name,
        command=lambda: pulsetrain_command("consumer", name, "--metrics-port", str(port), *options()),
        environment=environment,
        log=home.log(name),
        ready=lambda: says_ready(port),
        address=f"http://{HOST}:{port}",
        after=frozenset({"topics", "migrate"}),
    )


def _rules_options(home: Home) -> list[str]:
    """The rules that are shipped, and the user's, which take the place of those of the same name."""
    directories = [shipped_rules(), *([home.rules] if home.rules.is_dir() else [])]
    return [word for directory in directories for word in ("--rules", str(directory))]


def shipped_rules() -> Path:
    """The monitor's rules that come with Pulsetrain."""
    return shipped("rules", "rules")


def _task(home: Home, name: str, arguments: list[str], env: Mapping[str, str], after: str) -> Program:
    command = pulsetrain_command(name, *arguments)
    return Program(name, lambda: command, env, home.log(name), after=frozenset({after}))


def pulsetrain_command(*arguments: str) -> list[str]:
    """The `pulsetrain` command of this very Python, as a command line."""
    return [sys.executable, "-m", "pulsetrain.commands", *arguments]


def says_ready(port: int) -> bool:
    """Whether the service with this metrics port says that it is ready."""
    return says_ok(port, "/readyz")
