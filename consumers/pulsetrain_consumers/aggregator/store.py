"""Computes aggregates anew, where something has changed: as a contract, and in ClickHouse.

Everything here may be done twice, halfway, by two at once or in any order: a row is decided by what the raw tables hold
when it is computed, and of two rows of one key the one that knew more counts.
"""

import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from pulsetrain_consumers.aggregator import statements
from pulsetrain_consumers.aggregator.changes import LEVELS, Changes, MetricSeries, Run, SystemSeries, ranges
from pulsetrain_consumers.clickhouse import Client, Dictionary

DAY = 86_400
THREADS = 2
# A rollup is made from the one of a shorter span as long as that is sure to be there; its TTL is a little longer (7 and
# 90 days). What is older, as of a run that was offline for long, is made from the samples.
_FROM_SHORTER = ((60, 10, 6 * DAY), (3600, 60, 80 * DAY))


class AggregateStore(Protocol):
    """Tables of aggregates beside raw ones. All methods raise ClickHouseUnavailable and ClickHouseRefused."""

    def recompute(self, changes: Changes) -> int:
        """Computes what has changed, from the raw tables as they are now; how many buckets were asked for."""

    def check(self) -> None:
        """Returns when the server answers."""


@dataclass(frozen=True, slots=True)
class Effort:
    """How much of ClickHouse an aggregator takes: threads of a statement, and buckets that one is about.

    A bucket has up to 64 points for each rank, so a statement reads some ten million of them at most.
    """

    threads: int = THREADS
    buckets: int = 100_000


class ClickHouseAggregates:
    """The tables in ClickHouse. One connection; belongs to one thread at a time. `now`: seconds since the epoch."""

    def __init__(self, client: Client, now: Callable[[], float], effort: Effort | None = None) -> None:
        self._client = client
        self._now = now
        self._effort = effort if effort is not None else Effort()
        self._settings: Mapping[str, Any] = {
            "max_threads": self._effort.threads,
            # A batch of a run that was offline may span many days, which are partitions of the rollups.
            "max_partitions_per_insert_block": 0,
            # On replicated tables, an insert of rows that are there already would else be remembered for nothing.
            "insert_deduplicate": 0,
        }

    def recompute(self, changes: Changes) -> int:
        for part in changes.parts(self._effort.buckets):
            self._recompute(part)
        return changes.size

    def check(self) -> None:
        self._client.ping()

    def _recompute(self, part: Changes) -> None:
        this_round = secrets.token_hex(8)
        if part.metrics:
            self._client.insert("metric_changes", _metric_columns(part.metrics, this_round))
            self.compute_metrics(this_round)
        for run, step in part.rewinds.items():
            self._recompute_run(run, statements.COMPUTED_FROM, statements.COMPUTED, step=step)
        if part.system:
            self._client.insert("system_changes", _system_columns(part.system, this_round))
            self.compute_system(this_round)

    def recompute_run(self, run: Run) -> None:
        """Computes all that a run has in the raw table."""
        self._recompute_run(run, statements.LOGGED_BUCKETS, statements.LOGGED)

    def _recompute_run(self, run: Run, sizes: str, marks: str, **params: Any) -> None:
        """In rounds of so many buckets as a statement may be about: a run has any number of them."""
        of_run = {"project": run.project, "run_id": run.run_id}
        found = self._client.query(sizes, {**of_run, **params}).rows
        for first, last in ranges(found, self._effort.buckets):
            this_round = secrets.token_hex(8)
            self._execute(marks, round=this_round, first=first, last=last, **of_run)
            self.compute_metrics(this_round)

    def compute_metrics(self, this_round: str) -> None:
        """Computes pyramid and ranks for what stands in the table of changes under this round.

        An attempt may begin meanwhile, and another aggregator may look for the buckets that it replaces before they are
        here. So where that is told afterwards, it is done once more; what is told later yet finds the buckets.
        """
        known: list[tuple[Any, ...]] | None = None
        later: list[tuple[str, str]] = []
        while (told := self._client.query(statements.LATER_ATTEMPTS, {"round": this_round}).rows) != known:
            known = told
            later = sorted({(project, run_id) for project, run_id, _, _ in told})
            if later:
                self._execute(statements.base_buckets("first"), round=this_round, later=later)
                self._execute(statements.base_buckets("later"), round=this_round, later=later)
            else:
                self._execute(statements.base_buckets("all"), round=this_round)
        for level in range(1, LEVELS):
            self._execute(statements.upper_buckets(level), round=this_round)
        if self._client.query(statements.SEVERAL_RANKS, {"round": this_round}).one():
            self._execute(statements.rank_steps(rewound=bool(later)), round=this_round, later=later)

    def compute_system(self, this_round: str) -> None:
        """Computes the rollups of hardware for what stands in the table of changes under this round."""
        self._execute(statements.system_from_samples(10), round=this_round)
        for seconds, shorter, kept in _FROM_SHORTER:
            since = int(self._now()) - kept
            oldest = self._client.query(
                "SELECT toStartOfInterval(min(time), toIntervalSecond(%(seconds)s)) < toDateTime(%(since)s) "
                "FROM system_changes WHERE round = %(round)s",
                {"seconds": seconds, "since": since, "round": this_round},
            ).one()
            if oldest:
                older = statements.system_from_samples(seconds, "begins < toDateTime(%(since)s)")
                self._execute(older, round=this_round, since=since)
            newer = statements.system_from_shorter(seconds, shorter, "begins >= toDateTime(%(since)s)")
            self._execute(newer, round=this_round, since=since)

    def _execute(self, statement: str, **params: Any) -> None:
        self._client.execute(statement, params, self._settings)


def _metric_columns(changes: Mapping[MetricSeries, set[int]], this_round: str) -> dict[str, Any]:
    entries = [(series, sorted(buckets)) for series, buckets in changes.items()]
    sizes = [len(series.metrics) * len(buckets) for series, buckets in entries]
    rows = sum(sizes)
    names = _codes(name for series, _ in entries for name in series.metrics)
    return {
        "round": Dictionary.constant(this_round, rows),
        "project": _repeated([series.run.project for series, _ in entries], sizes),
        "run_id": _repeated([series.run.run_id for series, _ in entries], sizes),
        "metric": _crossed(names, [(series.metrics, len(buckets)) for series, buckets in entries]),
        "rank": np.repeat(np.array([series.rank for series, _ in entries], np.int64), sizes),
        "bucket": np.concatenate(
            [np.tile(np.array(buckets, np.int64), len(series.metrics)) for series, buckets in entries]
        ),
    }


def _system_columns(changes: Mapping[SystemSeries, set[int]], this_round: str) -> dict[str, Any]:
    entries = [(series, sorted(times)) for series, times in changes.items()]
    sizes = [len(host.series) * len(times) for host, times in entries]
    rows = sum(sizes)
    gpus = [([gpu for gpu, _ in host.series], len(times)) for host, times in entries]
    metrics = [([metric for _, metric in host.series], len(times)) for host, times in entries]
    return {
        "round": Dictionary.constant(this_round, rows),
        "host": _repeated([host.host for host, _ in entries], sizes),
        "gpu": _crossed(_codes(name for names, _ in gpus for name in names), gpus),
        "metric": _crossed(_codes(name for names, _ in metrics for name in names), metrics),
        "time": np.concatenate([np.tile(np.array(times, np.int64), len(host.series)) for host, times in entries]),
    }


def _codes(names: Iterator[str]) -> dict[str, int]:
    codes: dict[str, int] = {}
    for name in names:
        codes.setdefault(name, len(codes))
    return codes


def _repeated(values: Sequence[str], sizes: Sequence[int]) -> Dictionary:
    """A column in which value i stands `sizes[i]` times."""
    codes = _codes(iter(values))
    return Dictionary(np.repeat(np.array([codes[value] for value in values], np.int64), sizes), tuple(codes))


def _crossed(codes: Mapping[str, int], entries: Sequence[tuple[Sequence[str], int]]) -> Dictionary:
    """A column in which each name of an entry stands as often as the entry says."""
    return Dictionary(
        np.concatenate([np.repeat([codes[name] for name in names], times) for names, times in entries]), tuple(codes)
    )
