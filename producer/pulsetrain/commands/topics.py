"""`pulsetrain topics`: creates the Kafka topics that are missing, or says how those that exist are different."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace

import click

from pulsetrain_schemas import addresses
from pulsetrain_schemas.topics import GROWING, PREFIX, TOPICS, TopicReport, create_or_check, grow

_MOST_PARTITIONS = 10_000


@click.command()
@click.option("--check", is_flag=True, help="Create nothing; exit with 1 where a topic is missing or different.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option(
    "--replication-factor",
    type=click.IntRange(min=1),
    help="Copies of each partition of a topic that is created (default: the broker's default).",
)
@click.option(
    "--partitions",
    "wanted",
    multiple=True,
    metavar="TOPIC=N",
    help=f"Have at least so many partitions ({', '.join(GROWING)}): so many services can share the work. "
    "May come several times.",
)
def topics(check: bool, as_json: bool, replication_factor: int | None, wanted: tuple[str, ...]) -> None:
    """Create the Kafka topics that are missing; say how the others differ.

    \b
      pulsetrain topics --replication-factor 3 --partitions metrics=16 --partitions system=8

    Topics that exist are never changed, for settings may have been chosen on purpose; but partitions are added where
    that is asked for. A run that goes on meanwhile may move to another partition: nothing of it is lost.
    """
    numbers = dict(_number(text) for text in wanted)
    reports = _ask_kafka(numbers, create=not check, replication_factor=replication_factor or -1)
    click.echo(json.dumps([_row(report) for report in reports], indent=2) if as_json else _table(reports))
    if check and any(report.state != "ok" for report in reports):
        raise SystemExit(1)


def _number(text: str) -> tuple[str, int]:
    name, _, number = text.partition("=")
    name = name.removeprefix(PREFIX)
    if name not in GROWING:
        raise click.BadParameter(f"{name!r} is none of {', '.join(GROWING)}", param_hint="--partitions")
    if not number.isdecimal() or not 0 < int(number) <= _MOST_PARTITIONS:
        raise click.BadParameter(f"{text!r} is not TOPIC=N, as metrics=16", param_hint="--partitions")
    return name, int(number)


def _ask_kafka(partitions: Mapping[str, int], *, create: bool, replication_factor: int) -> list[TopicReport]:
    from kafka.admin import KafkaAdminClient
    from kafka.errors import KafkaError

    try:
        address = addresses.kafka()
    except addresses.AddressError as error:
        raise click.ClickException(str(error)) from error
    if address is None:
        raise click.ClickException(
            "no Kafka is known; set PULSETRAIN_KAFKA=host:port, or start a local one: pulsetrain up"
        )
    try:
        with KafkaAdminClient(
            **address.client_config(), client_id="pulsetrain-topics", bootstrap_timeout_ms=10_000
        ) as admin:
            wanted = [
                replace(topic, partitions=partitions.get(name, topic.partitions)) for name, topic in TOPICS.items()
            ]
            found = create_or_check(admin, wanted, create=create, replication_factor=replication_factor)
            if not create or not grow(admin, [report for report in found if report.topic.name in partitions]):
                return found
            return create_or_check(admin, wanted, create=False)
    except (KafkaError, OSError) as error:
        raise click.ClickException(
            f"Kafka at {address} cannot be asked about its topics: {error}; is it up, and are its address and the "
            "PULSETRAIN_KAFKA_* settings right?"
        ) from error


def _row(report: TopicReport) -> dict[str, object]:
    return {
        "topic": report.topic.kafka_name,
        "state": report.state,
        "partitions": report.partitions,
        "config": report.topic.config(),
        "differences": [
            {"setting": difference.setting, "expected": difference.expected, "found": difference.found}
            for difference in report.differences
        ],
    }


def _table(reports: Sequence[TopicReport]) -> str:
    width = max(len(report.topic.kafka_name) for report in reports)
    lines = []
    for report in reports:
        topic = report.topic
        kept = "kept for ever" if topic.retention is None else f"kept {topic.retention.days} days"
        partitions = f"{report.partitions} partition{'' if report.partitions == 1 else 's'}"
        lines.append(f"{topic.kafka_name:{width}}  {report.state:9}  {partitions:13}  {kept}")
        lines.extend(f"{'':{width}}  {difference}" for difference in report.differences)
    return "\n".join(lines)
