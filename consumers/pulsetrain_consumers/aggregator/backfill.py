"""Fills the aggregates for all that is stored: what was there before the aggregator, or after its tables were emptied.

Run by run and host by host, in slices, through the same statements as the service. It may be broken off and begun
again, and run beside the service and beside writers: what comes meanwhile is the service's to see to.
"""

import logging
import secrets
from collections.abc import Callable, Iterator

from pulsetrain_consumers.aggregator import statements
from pulsetrain_consumers.aggregator.store import DAY, THREADS, ClickHouseAggregates, Effort
from pulsetrain_consumers.clickhouse import Client

log = logging.getLogger(__name__)

_POINTS_PER_SLICE = 20_000_000
_SAY_EVERY = 100


def backfill(client: Client, now: Callable[[], float], threads: int = THREADS) -> tuple[int, int]:
    """Computes everything; how many runs and how many hosts there were. Raises ClickHouseError."""
    store = ClickHouseAggregates(client, now, Effort(threads=threads))
    runs = _runs(client)
    for number, (project, run_id) in enumerate(runs, start=1):
        for first, last in _steps(client, project, run_id):
            this_round = secrets.token_hex(8)
            client.execute(
                statements.ALL_OF_A_RUN,
                {"round": this_round, "project": project, "run_id": run_id, "first": first, "last": last},
            )
            store.compute_metrics(this_round)
        if number % _SAY_EVERY == 0:
            log.info("backfill: %d of %d runs", number, len(runs))
    hosts = [host for (host,) in client.query("SELECT DISTINCT toString(host) FROM system").rows]
    for host in hosts:
        for first, last in _days(client, host):
            this_round = secrets.token_hex(8)
            client.execute(statements.ALL_OF_A_HOST, {"round": this_round, "host": host, "first": first, "last": last})
            store.compute_system(this_round)
    return len(runs), len(hosts)


def _runs(client: Client) -> list[tuple[str, str]]:
    found = client.query("SELECT DISTINCT toString(project), toString(run_id) FROM metrics")
    return [(project, run_id) for project, run_id in found.rows]


def _steps(client: Client, project: str, run_id: str) -> Iterator[tuple[int, int]]:
    """Ranges of the run's steps, so that each has not too many points, if they are spread evenly."""
    lowest, highest, points = client.query(
        "SELECT min(step), max(step), count() FROM metrics WHERE project = %(project)s AND run_id = %(run_id)s",
        {"project": project, "run_id": run_id},
    ).rows[0]
    width = max(1, (highest - lowest + 1) // (points // _POINTS_PER_SLICE + 1))
    for first in range(lowest, highest + 1, width):
        yield first, min(first + width - 1, highest)


def _days(client: Client, host: str) -> Iterator[tuple[int, int]]:
    """The days of which there are samples of the host: first and last microsecond."""
    found = client.query(
        "SELECT DISTINCT intDiv(toUnixTimestamp64Micro(ts), %(day)s) AS day FROM system WHERE host = %(host)s "
        "ORDER BY day",
        {"host": host, "day": DAY * 1_000_000},
    )
    for (day,) in found.rows:
        yield day * DAY * 1_000_000, (day + 1) * DAY * 1_000_000 - 1
