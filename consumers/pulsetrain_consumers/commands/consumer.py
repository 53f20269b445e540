"""`pulsetrain consumer …`: runs one of the services that read Kafka."""

import json
import logging
import os
import signal
import sys
import threading
import time
from pathlib import Path
from types import FrameType

import click

from pulsetrain_schemas import addresses


@click.group()
def consumer() -> None:
    """Run a service that reads the topics."""


@consumer.command()
@click.option("--group", default="pulsetrain-writer", show_default=True, help="The consumer group.")
@click.option("--metrics-host", default="127.0.0.1", show_default=True, help="Where the metrics are served.")
@click.option(
    "--metrics-port", type=click.IntRange(0, 65535), default=0, show_default=True, help="Its port; 0 for a free one."
)
@click.option(
    "--port-file", type=click.Path(path_type=Path, dir_okay=False), help="Write the port of the metrics to this file."
)
@click.option(
    "--max-age",
    type=click.FloatRange(0, 60),
    default=0.25,
    show_default=True,
    help="Seconds that a message waits at most for others to be stored with it.",
)
@click.option(
    "--session-timeout",
    type=click.FloatRange(6, 300),
    default=10,
    show_default=True,
    help="Seconds after which the group misses a writer whose machine died.",
)
@click.option("--log-json", is_flag=True, help="Log one JSON object a line.")
def writer(
    group: str,
    metrics_host: str,
    metrics_port: int,
    port_file: Path | None,
    max_age: float,
    session_timeout: float,
    log_json: bool,
) -> None:
    """Store what is logged in ClickHouse. Several may run, they share the partitions. SIGTERM ends it in order."""
    _configure_logging(log_json)
    stop = threading.Event()
    _stop_on_signals(stop)

    from pulsetrain_consumers.writer import service
    from pulsetrain_schemas.published import framing

    log = logging.getLogger("pulsetrain.writer")
    try:
        kafka, clickhouse = addresses.kafka(os.environ), addresses.clickhouse(os.environ)
    except addresses.AddressError as error:
        raise click.ClickException(str(error)) from error
    if kafka is None or clickhouse is None:
        missing = "PULSETRAIN_KAFKA" if kafka is None else "PULSETRAIN_CLICKHOUSE"
        raise click.ClickException(f"no local stack is up and {missing} is not set: run `pulsetrain up`, or set it")
    options = service.WriterOptions(
        kafka=kafka,
        clickhouse=clickhouse,
        home=addresses.home(os.environ),
        group=group,
        metrics_host=metrics_host,
        metrics_port=metrics_port,
        max_age=max_age,
        session_timeout=session_timeout,
        framing=framing(),
    )

    def listening(port: int) -> None:
        log.info("metrics at http://%s:%d/metrics", metrics_host, port)
        if port_file is not None:
            written = port_file.with_name(port_file.name + ".part")
            written.write_text(f"{port}\n")
            written.replace(port_file)

    def ready() -> None:
        log.info("ready: group %s, storing in %s", group, clickhouse)

    try:
        service.run(options, stop.is_set, listening, ready)
    except OSError as error:
        where = f"{metrics_host}:{metrics_port}"
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
