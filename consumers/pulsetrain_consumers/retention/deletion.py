"""Deleting runs: a mark first, so that nothing of them is stored any more; then their rows, until none is left.

ClickHouse deletes by writing the parts anew that hold such rows (a mutation), which goes on by itself once it is asked
for. The old parts lie on the disk for a while longer, unread.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from pulsetrain_consumers.clickhouse import Client
from pulsetrain_consumers.clickhouse.cluster import Home, home_of
from pulsetrain_consumers.monitor.watched import part
from pulsetrain_consumers.retention.tables import POOLED, TABLES_OF_RUNS
from pulsetrain_schemas.errors import UserError

RunKey = tuple[str, str]

_AT_ONCE = 200
"""Runs in one mutation: their names stand in its text, which every part's mutation keeps."""
_LOOK_SECONDS = 0.25
_MOST_PASSES = 5


class DeletionFailed(UserError):
    """ClickHouse could not delete something; the text says what, and what holds now."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a deletion is: mutations that are done, of how many, and parts that the others have still to write."""

    done: int
    total: int
    parts: int


@dataclass(frozen=True, slots=True)
class Deleted:
    """What went, by table, and for how many seconds at most the old parts stay on the disk."""

    rows: Mapping[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    parts_stay_seconds: int = 0


def held(client: Client, runs: Sequence[RunKey]) -> dict[str, int]:
    """How many rows of these runs each table has; tables without any are left out. Raises ClickHouseError."""
    found = {
        table: sum(
            int(client.query(f"SELECT count() FROM {table} WHERE {_ARE_THEIRS}", {"runs": some}).one())  # noqa: S608
            for some in _few(runs)
        )
        for table in (*TABLES_OF_RUNS, *POOLED)
    }
    return {table: rows for table, rows in found.items() if rows}


def delete(
    client: Client,
    runs: Sequence[RunKey],
    actor: str,
    report: Callable[[Progress], None],
    *,
    now: Callable[[], float] = time.time,
    sleep: Callable[[float], None] = time.sleep,
) -> Deleted:
    """Deletes these runs, and returns once ClickHouse has nothing of them. Raises ClickHouseError and DeletionFailed.

    May be broken off at any moment: what was asked for is done all the same, and to delete again does no harm.
    """
    began = now()
    mark(client, runs, actor, began)
    home = home_of(client)
    rows = left = held(client, runs)
    for _ in range(_MOST_PASSES):
        if not left:
            break
        _mutate(client, home, runs, report, sleep)
        # Once more where a round was under way that a writer had begun before the mark was there.
        left = held(client, runs)
    if left:
        raise DeletionFailed(
            f"rows of these runs keep coming ({', '.join(left)}): is a writer of an earlier version running?"
        )
    _forget(client, home, runs, report, sleep)
    stay = client.query("SELECT value FROM system.merge_tree_settings WHERE name = 'old_parts_lifetime'").one()
    return Deleted(rows, now() - began, int(stay))


def mark(client: Client, runs: Sequence[RunKey], actor: str, now: float) -> None:
    """From here on writers leave out what attempts of these runs from before have sent. Raises ClickHouseError."""
    when = int(now * 1e6)
    for some in _few(runs):
        client.execute(
            "INSERT INTO deletions SELECT tupleElement(run, 1), tupleElement(run, 2), "
            "fromUnixTimestamp64Micro(toInt64(%(when)s), 'UTC'), %(actor)s FROM (SELECT arrayJoin(%(runs)s) AS run)",
            {"runs": some, "when": when, "actor": actor},
        )


_ARE_THEIRS = "(project, run_id) IN %(runs)s"


def _mutate(
    client: Client,
    home: Home,
    runs: Sequence[RunKey],
    report: Callable[[Progress], None],
    sleep: Callable[[float], None],
) -> None:
    for some in _few(runs):
        for table in (*TABLES_OF_RUNS, *POOLED):
            client.execute(f"ALTER TABLE {home.of(table)} DELETE WHERE {_ARE_THEIRS}", {"runs": some})
    _wait(client, home, (*TABLES_OF_RUNS, *POOLED), report, sleep)


def _forget(
    client: Client,
    home: Home,
    runs: Sequence[RunKey],
    report: Callable[[Progress], None],
    sleep: Callable[[float], None],
) -> None:
    """Takes their names out of the sums of machines, and what the monitor remembers of them."""
    for some in _few(runs):
        # They stand there without their projects, so an id that a run of another project has as well stays.
        told = {"ids": [run_id for _, run_id in some]}
        others = client.query("SELECT DISTINCT run_id FROM run_events WHERE run_id IN %(ids)s", told).rows
        ids = sorted(set(told["ids"]) - {run_id for (run_id,) in others})
        for table in POOLED if ids else ():
            client.execute(
                f"ALTER TABLE {home.of(table)} UPDATE run_ids = arrayFilter(one -> NOT has(%(ids)s, one), run_ids) "
                "WHERE hasAny(run_ids, %(ids)s)",
                {"ids": ids},
            )
        parts = [part(run) for run in some]
        client.execute("ALTER TABLE monitor_state DELETE WHERE part IN %(parts)s", {"parts": parts})
    _wait(client, home, (*POOLED, "monitor_state"), report, sleep)


def _wait(
    client: Client,
    home: Home,
    tables: Sequence[str],
    report: Callable[[Progress], None],
    sleep: Callable[[float], None],
) -> None:
    total = 0
    while True:
        rows = client.query(
            home.everywhere(
                "SELECT table, parts_to_do, latest_fail_reason FROM system.mutations "
                "WHERE database IN %(databases)s AND table IN %(tables)s AND NOT is_done"
            ),
            {"databases": [home.database, client.address.database], "tables": list(tables)},
        ).rows
        total = max(total, len(rows))
        report(Progress(total - len(rows), total, sum(int(parts) for _, parts, _ in rows)))
        if not rows:
            return
        failed = [(table, reason) for table, _, reason in rows if reason]
        if failed:
            raise DeletionFailed(
                f"ClickHouse does not get on with {failed[0][0]}: {failed[0][1]}. It tries again by itself "
                "(system.mutations); nothing of these runs is stored meanwhile"
            )
        sleep(_LOOK_SECONDS)


def _few(runs: Sequence[RunKey]) -> Iterator[list[RunKey]]:
    for begin in range(0, len(runs), _AT_ONCE):
        yield list(runs[begin : begin + _AT_ONCE])
