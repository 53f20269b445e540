"""The tables on a cluster of ClickHouse: what is made there of the statements of the migrations.

On replicas of one shard the tables are the same, with engines that replicate. Over several shards they lie in a
database of their own on each, and the database that people ask has tables of the same names, distributed over these;
the views, and the small tables that every node is to have whole, are in it as they are. A run is in one shard, with all
that belongs to it. Nothing here talks to a server.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from pulsetrain_schemas.sql import identifier, literal

# Where a table says how it stores: `ENGINE = ReplacingMergeTree(version)`.
_ENGINE = re.compile(r"\bENGINE\s*=\s*(?=(?:Replacing|Aggregating|Summing)?MergeTree\b)")
_TABLE = re.compile(r"CREATE TABLE (?:IF NOT EXISTS )?(?P<name>\w+)\b")
_CHANGE = re.compile(r"ALTER TABLE (?P<name>\w+)\s+(?P<commands>.*)", re.DOTALL)
_NEXT_COMMAND = re.compile(r",\s*(?=(?:ADD|MODIFY|DROP|COMMENT|RENAME) )")

SHARED = frozenset({"migrations", "rebuild_fence", "monitor_state", "silences", "deletions", "retention"})
"""Tables that every node has whole."""
_BY_RUN = "cityHash64(project, run_id)"
_BY_HOST = "cityHash64(host)"
_KEYS = {
    "system_10s": _BY_HOST,
    "system_1m": _BY_HOST,
    "system_1h": _BY_HOST,
    "system_changes": _BY_HOST,
    "dead_letter_events": "cityHash64(topic, kafka_partition, kafka_offset)",
}
"""By what a row's shard is chosen, where it is not its run."""


@dataclass(frozen=True, slots=True)
class Placed:
    """A statement, and the database that it is to be run in."""

    database: str
    statement: str


class Form(Protocol):
    """How the tables of a database are made."""

    @property
    def database(self) -> str:
        """The one that people ask."""

    @property
    def databases(self) -> Sequence[str]:
        """All that statements are run in."""

    def of(self, statement: str) -> Sequence[Placed]:
        """What a statement of the migrations becomes, in order."""


def replicated(statement: str) -> str:
    """The same statement for a database whose tables every replica of a shard has; one that makes no table as it is.

    Such a database (engine Replicated) gives each table its place in Keeper, so its engine needs no more than the name.
    Tokens of inserts count across the replicas then, and not in each of them.
    """
    if not statement.startswith("CREATE TABLE"):
        return statement
    made = _ENGINE.sub("ENGINE = Replicated", statement)
    return made.replace("non_replicated_deduplication_window", "replicated_deduplication_window")


def unchanged(statement: str) -> str:
    """The statement as it is: for tables of one server."""
    return statement


@dataclass(frozen=True, slots=True)
class Undivided:
    """Tables that are whole in one database; `stored` says how they store."""

    database: str
    stored: Callable[[str], str]

    @property
    def databases(self) -> Sequence[str]:
        return (self.database,)

    def of(self, statement: str) -> Sequence[Placed]:
        """The statement, of tables that store so."""
        return (Placed(self.database, self.stored(statement)),)


@dataclass(frozen=True, slots=True)
class Shards:
    """Tables that are distributed over the shards of a cluster. `stored` says how the tables of a shard store."""

    database: str
    cluster: str
    stored: Callable[[str], str] = replicated

    @property
    def databases(self) -> Sequence[str]:
        return (self.database, self.home)

    @property
    def home(self) -> str:
        """The database of what lies in a shard."""
        return shard_database(self.database)

    def of(self, statement: str) -> Sequence[Placed]:
        """The statement in the shards, and what the database that is asked has of it."""
        if table := _TABLE.match(statement):
            name, made = table["name"], self.stored(statement)
            if name in SHARED:
                return (Placed(self.database, made),)
            return (Placed(self.home, made), Placed(self.database, self._distributed(name)))
        if change := _CHANGE.match(statement):
            if change["name"] in SHARED:
                return (Placed(self.database, statement),)
            # What is distributed has columns, and neither indexes nor TTLs.
            commands = _NEXT_COMMAND.split(change["commands"])
            columns = ", ".join(command for command in commands if command.split()[1] == "COLUMN")
            asked = Placed(self.database, f"ALTER TABLE {change['name']} {columns}")
            return (Placed(self.home, statement), *([asked] if columns else []))
        return (Placed(self.database, statement),)

    def _distributed(self, name: str) -> str:
        key = _KEYS.get(name, _BY_RUN)
        return (
            f"CREATE TABLE {name} AS {identifier(self.home)}.{name} "
            f"ENGINE = Distributed({literal(self.cluster)}, {literal(self.home)}, {literal(name)}, {key})"
        )


def shard_database(database: str) -> str:
    """The database of what lies in each shard of a cluster."""
    return f"{database}_shard"
