"""`pulsetrain topics`: creates the Kafka topics that are missing, or says how those that exist are different."""

import json
from collections.abc import Sequence

import click

from pulsetrain_schemas import addresses
from pulsetrain_schemas.topics import TopicReport, create_or_check


@click.command()
@click.option("--check", is_flag=True, help="Create nothing; exit with 1 where a topic is missing or different.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option(
    "--replication-factor",
    type=click.IntRange(min=1),
    help="Copies of each partition of a topic that is created (default: the broker's default).",
)
def topics(check: bool, as_json: bool, replication_factor: int | None) -> None:
    """Create the Kafka topics that are missing; say how the others differ.

    Topics that exist are never changed: settings may have been chosen on purpose.
    """
    reports = _ask_kafka(create=not check, replication_factor=replication_factor or -1)
    click.echo(json.dumps([_row(report) for report in reports], indent=2) if as_json else _table(reports))
    if check and any(report.state != "ok" for report in reports):
        raise SystemExit(1)


def _ask_kafka(*, create: bool, replication_factor: int) -> list[TopicReport]:
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
            return create_or_check(admin, create=create, replication_factor=replication_factor)
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
