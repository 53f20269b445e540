"""`pulsetrain consumer …`: runs one of the services that read Kafka."""

import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, TypeVar

import click

from pulsetrain_schemas import addresses

if TYPE_CHECKING:
    from pulsetrain_consumers.runtime.service import Process

F = TypeVar("F", bound=Callable[..., None])


@click.group()
def consumer() -> None:
    """Run a service that reads the topics."""


def _service_options(session: str) -> Callable[[F], F]:
    """The options that all services have; `session` is what of the group is missed after the session timeout."""
    options = (
        click.option("--metrics-host", default="127.0.0.1", show_default=True, help="Where the metrics are served."),
        click.option(
            "--metrics-port", type=click.IntRange(0, 65535), default=0, show_default=True, help="0 for a free port."
        ),
        click.option(
            "--port-file", type=click.Path(path_type=Path, dir_okay=False), help="Write the metrics' port to this file."
        ),
        click.option(
            "--session-timeout",
            type=click.FloatRange(6, 300),
            default=10,
            show_default=True,
            help=f"Seconds after which the group misses {session} whose machine died.",
        ),
        click.option("--log-json", is_flag=True, help="Log one JSON object a line."),
    )

    def decorate(function: F) -> F:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


@consumer.command()
@click.option("--group", default="pulsetrain-writer", show_default=True, help="The consumer group.")
@click.option(
    "--max-age",
    type=click.FloatRange(0, 60),
    default=0.25,
    show_default=True,
    help="Seconds that a message waits at most for others to be stored with it.",
)
@_service_options("a writer")
def writer(group: str, max_age: float, **given: Any) -> None:
    """Store what is logged in ClickHouse. Several may run, they share the partitions. SIGTERM ends it in order."""
    from pulsetrain_consumers.writer import service

    def start(common: dict[str, Any], process: "Process") -> None:
        options = service.WriterOptions(group=group, max_age=max_age, **common)
        service.run(options, process)

    _run("writer", f"group {group}, storing in", given, start)


@consumer.command()
@click.option("--group", default="pulsetrain-monitor", show_default=True, help="The consumer group.")
@click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Where alerts are sent, and more. Default: monitor.yaml in PULSETRAIN_HOME, where there is one.",
)
@click.option(
    "--rules",
    "directories",
    type=click.Path(path_type=Path, file_okay=False),
    multiple=True,
    help="A directory of rules; of several, the later counts. Default: rules in PULSETRAIN_HOME, where there is one.",
)
@_service_options("a monitor")
def monitor(group: str, config: Path | None, directories: tuple[Path, ...], **given: Any) -> None:
    """Watch what is logged, and raise alerts. Several may run: one works, the others wait to take its place."""
    from pulsetrain_consumers.monitor import configuration, service

    home = addresses.home(os.environ)
    path = config or home / configuration.FILE_NAME
    known = configuration.Configuration()
    if config is not None or path.exists():
        known = configuration.read(path)
    routes = list(known.routes)
    grafana = addresses.environment("GRAFANA", os.environ)
    if grafana:
        routes.append(configuration.grafana(grafana))
    if not directories and (home / configuration.RULES_NAME).is_dir():
        directories = (home / configuration.RULES_NAME,)
    rules = configuration.read_rules(directories, known.rules)

    def start(common: dict[str, Any], process: "Process") -> None:
        options = service.MonitorOptions(group=group, routes=routes, rules=rules, silences=known.silences, **common)
        service.run(options, process)

    _run("monitor", f"group {group}, remembering in", given, start)


@consumer.command()
@click.option("--group", default="pulsetrain-aggregator", show_default=True, help="The consumer group.")
@click.option(
    "--writers", default="pulsetrain-writer", show_default=True, help="The group that stores what is aggregated."
)
@click.option(
    "--max-age",
    type=click.FloatRange(0, 600),
    default=20,
    show_default=True,
    help="Seconds that a change waits at most for others: the longer, the less is read twice.",
)
@click.option(
    "--threads", type=click.IntRange(1, 64), default=2, show_default=True, help="Of ClickHouse, for a statement."
)
@click.option(
    "--backfill",
    is_flag=True,
    help="Compute the aggregates of all that is stored, and end.",
)
@_service_options("an aggregator")
def aggregator(group: str, writers: str, max_age: float, threads: int, backfill: bool, **given: Any) -> None:
    """Sum up what is stored: by buckets of steps, across ranks, by time. Several may run, they share the partitions."""
    if backfill:
        _backfill(threads, given["log_json"])
        return
    from pulsetrain_consumers.aggregator import service

    def start(common: dict[str, Any], process: "Process") -> None:
        options = service.AggregatorOptions(group=group, writers=writers, max_age=max_age, threads=threads, **common)
        service.run(options, process)

    _run("aggregator", f"group {group}, summing up in", given, start)


def _backfill(threads: int, log_json: bool) -> None:
    """Computes all aggregates from the tables."""
    _configure_logging(log_json)
    from pulsetrain_consumers.aggregator.backfill import backfill
    from pulsetrain_consumers.clickhouse import ClickHouseError, connect

    try:
        address = addresses.clickhouse(os.environ)
        if address is None:
            raise click.ClickException("no local stack is up and PULSETRAIN_CLICKHOUSE is not set: run `pulsetrain up`")
        with connect(address, timeout=3600.0, client_name="pulsetrain-backfill") as client:
            runs, hosts = backfill(client, time.time, threads)
    except (addresses.AddressError, ClickHouseError) as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"the aggregates of {runs} runs and {hosts} hosts are computed")


def _run(name: str, does: str, given: Mapping[str, Any], start: "Callable[[dict[str, Any], Process], None]") -> None:
    """Runs a service in this process until a signal ends it."""
    _configure_logging(given["log_json"])
    stop = threading.Event()
    _stop_on_signals(stop)

    from pulsetrain_consumers.runtime.service import Process
    from pulsetrain_schemas.published import framing

    log = logging.getLogger(f"pulsetrain.{name}")
    try:
        kafka, clickhouse = addresses.kafka(os.environ), addresses.clickhouse(os.environ)
    except addresses.AddressError as error:
        raise click.ClickException(str(error)) from error
    if kafka is None or clickhouse is None:
        missing = "PULSETRAIN_KAFKA" if kafka is None else "PULSETRAIN_CLICKHOUSE"
        raise click.ClickException(f"no local stack is up and {missing} is not set: run `pulsetrain up`, or set it")
    host, port_file = given["metrics_host"], given["port_file"]

    def listening(port: int) -> None:
        log.info("metrics at http://%s:%d/metrics", host, port)
        if port_file is not None:
            written = port_file.with_name(port_file.name + ".part")
            written.write_text(f"{port}\n")
            written.replace(port_file)

    common = {
        "kafka": kafka,
        "clickhouse": clickhouse,
        "home": addresses.home(os.environ),
        "metrics_host": host,
        "metrics_port": given["metrics_port"],
        "session_timeout": given["session_timeout"],
        "framing": framing(),
    }
    try:
        start(common, Process(stop.is_set, listening, lambda: log.info("ready: %s %s", does, clickhouse)))
    except OSError as error:
        where = f"{host}:{given['metrics_port']}"
        raise click.ClickException(f"the metrics cannot be served at {where}: {error.strerror or error}") from error
    log.info("stopped")


def _stop_on_signals(stop: threading.Event) -> None:
    def handle(number: int, frame: FrameType | None) -> None:
        del number, frame
        stop.set()

    signal.signal(signal.SIGTERM, handle)
    signal.signal(signal.SIGINT, handle)


class _JsonLines(logging.Formatter):
    """One JSON object a line: time, level, logger, message."""

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            entry["error"] = self.formatException(record.exc_info)
        return json.dumps(entry)


def _configure_logging(as_json: bool) -> None:
    handler = logging.StreamHandler(sys.stderr)
    text = logging.Formatter("%(asctime)s %(levelname)-7s %(message)s")
    handler.setFormatter(_JsonLines() if as_json else text)
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    logging.getLogger("kafka").setLevel(logging.ERROR)
