"""For how long the data of a project is kept: policies, and the TTLs that ClickHouse is given for them.

A run is as old as the attempt that a row belongs to, so what belongs together goes together. Samples of the hardware
and lines of the console may be kept for less long; they go row by row. ClickHouse takes what is past its time away when
it merges parts, some hours later.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from pulsetrain_consumers.clickhouse import Client
from pulsetrain_consumers.clickhouse.cluster import home_of
from pulsetrain_consumers.retention.tables import BULKY, KINDS, TABLES_OF_RUNS
from pulsetrain_schemas.errors import UserError
from pulsetrain_schemas.sql import literal

OTHER_PROJECTS = ""
"""As a project's name: all that have no policy of this kind of their own."""


class UnsafePolicy(UserError):
    """A policy would take runs away that are still going on."""


@dataclass(frozen=True, slots=True)
class Policy:
    """`days` for which this kind of data of a project is kept; None for ever."""

    project: str
    kind: str
    days: int | None
    set_at: datetime
    actor: str


def policies(client: Client) -> list[Policy]:
    """The policies that hold, by project and kind. Raises ClickHouseError."""
    rows = client.query(
        "SELECT project, kind, argMax((days, actor), set_at) AS latest, max(set_at) FROM retention "
        "GROUP BY project, kind ORDER BY project, kind"
    ).rows
    return [Policy(project, kind, days, set_at, actor) for project, kind, (days, actor), set_at in rows]


def set_policy(
    client: Client, project: str, days: Mapping[str, int | None], actor: str, *, force: bool = False
) -> None:
    """Keeps these kinds of a project's data for so many days from now on, and gives the tables their TTLs.

    Raises UnsafePolicy where runs of the project have taken longer than half of that, ClickHouseError.
    """
    kept = days.get("runs")
    if kept is not None and not force:
        longest = _longest(client, project)
        if longest > kept / 2:
            raise UnsafePolicy(
                f"the longest attempt at a run here took {longest:.1f} days, and with --runs {kept} one like it may "
                "vanish while it goes on: keep runs for at least twice as long, or say --force"
            )
    for kind, value in days.items():
        client.execute(
            "INSERT INTO retention SELECT %(project)s, %(kind)s, %(days)s, now64(6), %(actor)s",
            {"project": project, "kind": kind, "days": value, "actor": actor},
        )
    apply(client)


def apply(client: Client) -> None:
    """Gives each table the TTL that the policies ask for. Raises ClickHouseError."""
    wanted, home = ttls(policies(client)), home_of(client)
    present = dict(
        client.query(
            "SELECT name, create_table_query FROM system.tables WHERE database = %(home)s", {"home": home.database}
        ).rows
    )
    for table in TABLES_OF_RUNS:
        ttl = wanted.get(table)
        there = " TTL " in present[table]
        if ttl is not None:
            # ClickHouse tells by it of what there is as well, in the background (materialize_ttl_after_modify).
            client.execute(f"ALTER TABLE {home.of(table)} MODIFY TTL {ttl}")
        elif there:
            client.execute(f"ALTER TABLE {home.of(table)} REMOVE TTL")


def ttls(known: Sequence[Policy]) -> dict[str, str]:
    """By table the TTL expressions for these policies, in SQL; a table that keeps everything has none."""
    by_kind = {kind: [policy for policy in known if policy.kind == kind] for kind in KINDS}
    made: dict[str, list[str]] = {}
    for table, column in TABLES_OF_RUNS.items():
        made.setdefault(table, []).extend(_expressions(by_kind["runs"], column))
    for kind, (table, column) in BULKY.items():
        made[table].extend(_expressions(by_kind[kind], column))
    return {table: ", ".join(expressions) for table, expressions in made.items() if expressions}


def _expressions(known: Sequence[Policy], column: str) -> list[str]:
    own = sorted(policy.project for policy in known if policy.project != OTHER_PROJECTS)
    by_days: dict[int, list[str]] = {}
    made = []
    for policy in known:
        if policy.days is None:
            continue
        if policy.project == OTHER_PROJECTS:
            condition = f"project NOT IN ({_listed(own)})" if own else "1"
            made.append(f"toDateTime({column}) + INTERVAL {policy.days} DAY DELETE WHERE {condition}")
        else:
            by_days.setdefault(policy.days, []).append(policy.project)
    return [
        f"toDateTime({column}) + INTERVAL {days} DAY DELETE WHERE project IN ({_listed(sorted(projects))})"
        for days, projects in sorted(by_days.items())
    ] + made


def _listed(projects: Sequence[str]) -> str:
    return ", ".join(map(literal, projects))


def _longest(client: Client, project: str) -> float:
    """Days that the longest attempt took, of a project's runs or of all."""
    seconds = client.query(
        "SELECT max(toUnixTimestamp(ts) - toUnixTimestamp(attempt_started)) FROM run_events "
        "WHERE %(project)s = '' OR project = %(project)s",
        {"project": project},
    ).one()
    return float(seconds or 0) / 86_400
