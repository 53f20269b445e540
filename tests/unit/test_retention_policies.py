"""From policies to TTLs: by project, by kind, with a default for the others, whatever a project is called."""

from datetime import UTC, datetime

from pulsetrain_consumers.retention.policies import OTHER_PROJECTS, Policy, ttls
from pulsetrain_consumers.retention.tables import TABLES_OF_RUNS

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def policy(project: str, kind: str, days: int | None) -> Policy:
    return Policy(project, kind, days, NOW, "me")


def test_without_a_policy_no_table_has_a_ttl() -> None:
    assert ttls([]) == {}
    assert ttls([policy("a", "runs", None)]) == {}


def test_projects_of_the_same_days_share_an_expression() -> None:
    made = ttls([policy("a", "runs", 30), policy("b", "runs", 90), policy("c", "runs", 30)])
    assert made.keys() == TABLES_OF_RUNS.keys()
    assert made["metrics"] == (
        "toDateTime(attempt_started) + INTERVAL 30 DAY DELETE WHERE project IN ('a', 'c'), "
        "toDateTime(attempt_started) + INTERVAL 90 DAY DELETE WHERE project IN ('b')"
    )


def test_the_others_are_those_that_have_no_policy_of_that_kind() -> None:
    made = ttls([policy(OTHER_PROJECTS, "runs", 700), policy("a", "runs", None), policy("b", "logs", 3)])
    assert made["run_events"] == "toDateTime(attempt_started) + INTERVAL 700 DAY DELETE WHERE project NOT IN ('a')"
    assert made["logs"].endswith("toDateTime(ts) + INTERVAL 3 DAY DELETE WHERE project IN ('b')")


def test_samples_and_logs_go_by_themselves() -> None:
    made = ttls([policy("a", "samples", 14)])
    assert made == {"system": "toDateTime(ts) + INTERVAL 14 DAY DELETE WHERE project IN ('a')"}


def test_a_hostile_name_stays_within_its_quotes() -> None:
    made = ttls([policy("\\' OR 1=1 --", "logs", 3)])
    assert made["logs"] == "toDateTime(ts) + INTERVAL 3 DAY DELETE WHERE project IN ('\\\\\\' OR 1=1 --')"
