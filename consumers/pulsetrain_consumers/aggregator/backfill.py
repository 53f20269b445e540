"""Fills the aggregates for all that is stored: what was there before the aggregator, or after its tables were emptied.

Run by run and host by host, in slices, through the same statements as the service. It may be broken off and begun
again, and run beside the service and beside writers: what comes meanwhile is the service's to see to.
"""

import logging
import secrets
from collections.abc import Callable, Iterator

from pulsetrain_consumers.aggregator import statements
from pulsetrain_consumers.aggregator.changes import Run, ranges
from pulsetrain_consumers.aggregator.store import THREADS, ClickHouseAggregates, Effort
from pulsetrain_consumers.clickhouse import Client

log = logging.getLogger(__name__)

_BUCKETS = 300_000
"""More than the service takes at once, for what of the raw table is read at the edges of a slice is read twice."""
_SAY_EVERY = 100
_HOUR = 3_600_000_000


def backfill(client: Client, now: Callable[[], float], threads: int = THREADS) -> tuple[int, int]:
    """Computes everything; how many runs and how many hosts there were. Raises ClickHouseError."""
    store = ClickHouseAggregates(client, now, Effort(threads, _BUCKETS))
    runs = _runs(client)
    for number, (project, run_id) in enumerate(runs, start=1):
        store.recompute_run(Run(project, run_id))
        if number % _SAY_EVERY == 0:
            log.info("backfill: %d of %d runs", number, len(runs))
    hosts = [host for (host,) in client.query("SELECT DISTINCT toString(host) FROM system").rows]
    for host in hosts:
        for first, last in _spans(client, host):
            this_round = secrets.token_hex(8)
            client.execute(statements.ALL_OF_A_HOST, {"round": this_round, "host": host, "first": first, "last": last})
            store.compute_system(this_round)
    return len(runs), len(hosts)


def _runs(client: Client) -> list[tuple[str, str]]:
    found = client.query("SELECT DISTINCT toString(project), toString(run_id) FROM metrics")
    return [(project, run_id) for project, run_id in found.rows]


def _spans(client: Client, host: str) -> Iterator[tuple[int, int]]:
    """Whole hours in which there are samples of the host, as many as one slice may have: first and last microsecond."""
    found = client.query(
        "SELECT intDiv(toUnixTimestamp64Micro(ts), %(hour)s) AS hour, 360 * uniqExact(gpu, metric) FROM system "
        "WHERE host = %(host)s GROUP BY hour ORDER BY hour",
        {"host": host, "hour": _HOUR},
    )
    for first, last in ranges(found.rows, _BUCKETS):
        yield first * _HOUR, (last + 1) * _HOUR - 1
