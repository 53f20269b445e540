"""What a local stack consists of: Kafka, ClickHouse, the topics, the tables and the services, in the order they need.

`plan` decides what is to run and where, from the environment and from what was chosen before; `Supervisor` runs it.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pulsetrain_local import clickhouse_server, grafana, kafka
from pulsetrain_local.home import Home, read_json, write_json
from pulsetrain_local.java import Java
from pulsetrain_local.kafka_jars import KafkaInstallation
from pulsetrain_local.ports import HOST, free_ports, is_free, require_free, says_ok
from pulsetrain_local.service import Program
from pulsetrain_local.supervisor import Given
from pulsetrain_schemas import addresses

_PORT_OPTIONS = {"kafka": "--kafka-port", "clickhouse": "--clickhouse-port", "writer": "--metrics-port"}


@dataclass(frozen=True, slots=True)
class WantedPorts:
    """Ports that the person asked for; None leaves the choice to us."""

    kafka: int | None = None
    clickhouse: int | None = None
    writer: int | None = None


@dataclass(frozen=True, slots=True)
class Ports:
    """Where everything of one stack listens."""

    kafka: int
    controller: int
    clickhouse: int
    writer: int
    monitor: int
    aggregator: int
    grafana: int


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


def choose_ports(home: Home, wanted: WantedPorts) -> Ports:
    """The ports asked for, else those of the last time where they are free, else free ones. Raises PortInUse."""
    last = read_json(home.ports)
    names = ("kafka", "controller", "clickhouse", "writer", "monitor", "aggregator", "grafana")
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
    home: Home,
    ports: Ports,
    runtime: KafkaRuntime | None,
    env: Mapping[str, str],
    installed: grafana.GrafanaInstallation | None = None,
) -> Plan:
    """The stack of this home; `runtime` is None where PULSETRAIN_KAFKA names a Kafka that is used instead of ours.

    Grafana is a part of it where it is `installed`, unless PULSETRAIN_GRAFANA names another one.
    """
    given: list[Given] = []
    services: list[Program] = []
    reach = {"PULSETRAIN_HOME": str(home.root)}
    child_env = {**env, "PULSETRAIN_HOME": str(home.root), "PYTHONUNBUFFERED": "1"}

    if runtime is None:
        kafka_address = env["PULSETRAIN_KAFKA"]
        given.append(Given("kafka", kafka_address))
    else:
        broker_ports = kafka.BrokerPorts(ports.kafka, ports.controller)
        kafka_address = broker_ports.address
        java, installation = runtime.java, runtime.installation
        services.append(
            Program(
                name="kafka",
                command=lambda: kafka.prepare(home.kafka, broker_ports, java, installation),
                environment=kafka.broker_environment(child_env),
                log=home.log("kafka"),
                ready=lambda: kafka.answers(ports.kafka),
                address=kafka_address,
            )
        )
    reach["PULSETRAIN_KAFKA"] = kafka_address

    clickhouse_url = env.get("PULSETRAIN_CLICKHOUSE")
    if clickhouse_url:
        given.append(Given("clickhouse", str(addresses.ClickHouseAddress.parse(clickhouse_url))))
        reader_url = clickhouse_url
    else:
        password = home.clickhouse_password()
        binary = clickhouse_server.find_binary(env)
        command = _clickhouse_command(home, ports.clickhouse, binary, password)
        clickhouse_url, reader_url = (
            addresses.ClickHouseAddress(HOST, ports.clickhouse, user, secret, clickhouse_server.DATABASE).url()
            for user, secret in ((clickhouse_server.USER, password), (clickhouse_server.READER, home.reader_password()))
        )
        services.append(
            Program(
                name="clickhouse",
                command=command,
                environment=child_env,
                log=home.log("clickhouse"),
                ready=lambda: clickhouse_server.answers(ports.clickhouse, password),
                address=f"{HOST}:{ports.clickhouse}",
            )
        )
    reach["PULSETRAIN_CLICKHOUSE"] = clickhouse_url

    if installed is not None and "PULSETRAIN_GRAFANA" not in env:
        services.append(_grafana(home, ports.grafana, installed, reader_url, child_env))
        reach["PULSETRAIN_GRAFANA"] = grafana.url(ports.grafana, home.grafana_password())

    child_env = {**child_env, **reach}
    topics = _task(home, "topics", [], child_env, after="kafka")
    migrations = _task(home, "migrate", [], child_env, after="clickhouse")
    consumers = [
        _consumer(home, "writer", ports.writer, child_env),
        _consumer(home, "monitor", ports.monitor, child_env, lambda: _rules_options(home)),
        _consumer(home, "aggregator", ports.aggregator, child_env),
    ]
    return Plan((*services, topics, migrations, *consumers), tuple(given), reach)


def _grafana(
    home: Home, port: int, installed: grafana.GrafanaInstallation, clickhouse_url: str, env: Mapping[str, str]
) -> Program:
    password = home.grafana_password()
    return Program(
        name="grafana",
        command=lambda: grafana.command(installed),
        environment=grafana.environment(installed, home.grafana, port, password, clickhouse_url, env),
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
    """Where the rules are that come with Pulsetrain: in the installed package, or in `deploy/rules` of a checkout."""
    here = Path(__file__).parent
    installed = here / "rules"
    return installed if installed.is_dir() else here.parent / "rules"


def _clickhouse_command(home: Home, port: int, binary: Path | None, password: str) -> Callable[[], list[str]]:
    if binary is not None:
        return lambda: clickhouse_server.binary_command(binary, home.clickhouse, port, password, home.reader_password())
    home.reader_password()  # the file is there before the server asks for it
    return lambda: clickhouse_server.embedded_command(home.clickhouse, port, home.password, home.reader_password_file)


def _task(home: Home, name: str, arguments: list[str], env: Mapping[str, str], after: str) -> Program:
    command = pulsetrain_command(name, *arguments)
    return Program(name, lambda: command, env, home.log(name), after=frozenset({after}))


def pulsetrain_command(*arguments: str) -> list[str]:
    """The `pulsetrain` command of this very Python, as a command line."""
    return [sys.executable, "-m", "pulsetrain.commands", *arguments]


def says_ready(port: int) -> bool:
    """Whether the service with this metrics port says that it is ready."""
    return says_ok(port, "/readyz")
