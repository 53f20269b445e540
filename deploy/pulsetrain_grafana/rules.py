"""Alert rules of Grafana's own about the pipeline. What goes wrong with runs is the monitor's.

Grafana looks once a minute. Whom it tells is for its notification policies to say, by the labels.
"""

from dataclasses import dataclass
from typing import Any

import yaml

from pulsetrain_grafana.dashboards import pipeline
from pulsetrain_grafana.queries import CLICKHOUSE, Format, Query
from pulsetrain_grafana.sql import sql

CONTACT_POINT = "Pulsetrain"
_HEADING = "# Alert rules about the pipeline. Made by `python -m pulsetrain_grafana` from its rules.py: change that.\n"


@dataclass(frozen=True, slots=True)
class Rule:
    """Fires while the figure that the query gives is above `limit`, once it has been for `hold` (5m)."""

    name: str
    title: str
    summary: str
    query: str
    limit: float
    hold: str
    severity: str
    seconds: int = 3600
    """The time range of the query, until now."""


RULES = (
    Rule(
        "missing",
        "Values are missing",
        "Writers that have ended logged what is not stored. `pulsetrain verify` says whose it is, and where.",
        pipeline.MISSING,
        0,
        "5m",
        "critical",
    ),
    Rule(
        "dead-letters",
        "Messages could not be read",
        "`pulsetrain dlq list` shows them with their reasons; `replay` stores them once that is mended.",
        sql("SELECT countIf(state = 'waiting') AS letters FROM dead_letters"),
        0,
        "0s",
        "warning",
    ),
    Rule(
        "late",
        "What is logged is stored late",
        "One message in a hundred took over a minute from log() to ClickHouse: a writer is behind or gone.",
        sql(f"""
            SELECT ifNotFinite(quantile(0.99)({pipeline.DELAY}), 0) AS seconds
            FROM stored_batches
            WHERE $__timeFilter(stored_at) AND topic LIKE '%metrics'
        """),
        60,
        "5m",
        "warning",
        600,
    ),
    Rule(
        "silent",
        "Runs go on and nothing is stored",
        "Processes said that they live, and nothing was stored for half an hour: look at the writers and their log.",
        sql("""
            SELECT if(stored = 0 AND writers > 0, writers, 0) AS writers
            FROM
            (
                SELECT uniqExact(writer) AS writers FROM run_events
                WHERE kind = 'heartbeat' AND points > 0 AND ts >= $__toTime - INTERVAL 5 MINUTE
            ) AS alive
            CROSS JOIN
            (
                SELECT count() AS stored FROM stored_batches WHERE stored_at >= $__toTime - INTERVAL 30 MINUTE
            ) AS batches
        """),
        0,
        "10m",
        "critical",
    ),
    Rule(
        "parts",
        "A table has too many parts",
        "More than 300 parts in one partition slow inserts down, and 3,000 stop them: merges do not keep up.",
        sql("""
            SELECT max(parts) AS parts
            FROM
            (
                SELECT count() AS parts FROM system.parts WHERE active AND database = currentDatabase()
                GROUP BY table, partition
            )
        """),
        300,
        "10m",
        "warning",
    ),
)


class _Dumper(yaml.SafeDumper):
    """Texts of several lines as blocks, as a person would write them."""


_Dumper.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None),
)


def written() -> str:
    """The file that Grafana is provisioned with."""
    group = {
        "orgId": 1,
        "name": "pipeline",
        "folder": "Pulsetrain",
        "interval": "1m",
        "rules": [_document(rule) for rule in RULES],
    }
    text: str = yaml.dump(
        {"apiVersion": 1, "groups": [group]}, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120
    )
    return _HEADING + text


def _document(rule: Rule) -> dict[str, Any]:
    return {
        "uid": f"pulsetrain-{rule.name}",
        "title": rule.title,
        "condition": "B",
        "data": [
            {
                "refId": "A",
                "datasourceUid": CLICKHOUSE.uid,
                "relativeTimeRange": {"from": rule.seconds, "to": 0},
                "model": Query(rule.query, Format.TABLE, "A").to_json(),
            },
            {
                "refId": "B",
                "datasourceUid": "__expr__",
                "model": {
                    "refId": "B",
                    "type": "threshold",
                    "datasource": {"type": "__expr__", "uid": "__expr__"},
                    "expression": "A",
                    "conditions": [{"evaluator": {"type": "gt", "params": [rule.limit]}}],
                },
            },
        ],
        "for": rule.hold,
        "noDataState": "OK",
        "execErrState": "Error",
        "labels": {"severity": rule.severity, "source": "pulsetrain"},
        "annotations": {"summary": rule.summary},
        # Straight to the contact point, whatever the policies of this Grafana are for others' alerts.
        "notification_settings": {"receiver": CONTACT_POINT, "group_by": ["alertname"]},
    }
