"""Bugs put into the writer on purpose: a test of the tests, which have to notice each of them.

The model's store has no second line of defence. ClickHouse has: what `drop_the_token`, `do_not_announce` or
`replay_with_other_boundaries` double there are rows with equal keys, which ReplacingMergeTree makes one when it merges
their parts. So the harness has tables in which no merge does that.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from unittest import mock

from pulsetrain_consumers.runtime.broker import Partition, Position
from pulsetrain_consumers.runtime.ownership import Ownership
from pulsetrain_consumers.runtime.progress import Start
from pulsetrain_consumers.runtime.rounds import Rounds
from pulsetrain_consumers.runtime.sink import Batch
from pulsetrain_consumers.writer.coverage import Coverage, Intervals
from pulsetrain_consumers.writer.sink import WriterSink
from pulsetrain_consumers.writer.store import Store
from tests.chaos.mutation import Mutants

MUTANTS = mutant = Mutants()


class _Tokenless:
    """A store that is never told the token of an insert."""

    def __init__(self, inner: Store) -> None:
        self._inner = inner

    def insert(self, table: str, columns: Any, token: str | None) -> int:
        del token
        return self._inner.insert(table, columns, None)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


@mutant
def drop_the_token() -> Iterator[None]:
    """Inserts have no deduplication token: what is stored again after a crash is stored twice."""
    made = WriterSink.__init__

    def without(self: WriterSink, store: Store, *arguments: Any) -> None:
        made(self, _Tokenless(store), *arguments)

    with mock.patch.object(WriterSink, "__init__", without):
        yield


@mutant
def commit_the_end_before_inserting() -> Iterator[None]:
    """The end of a batch is committed where its range is to be announced: a crash in between loses it."""

    def announce(self: Rounds[Any], current: Any, now: float) -> bool:
        positions = self._ends()
        for batch in current.batches:
            owned = self._owned.of(batch)
            if owned is not None and not batch.abandoned:
                positions[batch.partition] = owned.progress.position(batch.range.last + 1)
        current.announced = bool(positions) and self._commit(positions, now)
        return bool(current.announced)

    with mock.patch.object(Rounds, "_announce", announce):
        yield


@mutant
def do_not_announce() -> Iterator[None]:
    """No range is committed as pending: after a crash, the same offsets are cut into other batches."""

    def announce(self: Rounds[Any], current: Any, now: float) -> bool:
        ends = self._ends()
        current.announced = not ends or self._commit(ends, now)
        return bool(current.announced)

    with mock.patch.object(Rounds, "_announce", announce):
        yield


@mutant
def replay_with_other_boundaries() -> Iterator[None]:
    """A pending range is read again, but cut like any other messages: its token is another one."""
    own = Ownership._own

    def forgetful(self: Ownership[Any], partition: Partition, found: Start) -> None:
        own(self, partition, replace(found, replay=None))

    with mock.patch.object(Ownership, "_own", forgetful):
        yield


@mutant
def forget_the_ledger() -> Iterator[None]:
    """What the ledger has of a writer is not looked up: what a forwarder sends twice is stored twice."""
    nothing = Intervals()
    with (
        mock.patch.object(Intervals, "covers", return_value=False),
        mock.patch.object(Intervals, "touches", return_value=False),
        mock.patch.object(Intervals, "add", return_value=nothing),
    ):
        yield


@mutant
def write_the_ledger_before_the_rows() -> Iterator[None]:
    """A batch is said to be stored before it is: after a crash in between, it is left out as a duplicate."""
    store_batch, write = WriterSink._store_batch, WriterSink._write_ledger

    def ledger_first(self: WriterSink, batch: Batch[Any], *more: Any) -> Any:
        write(self, [self._without_duplicates(batch)])
        return store_batch(self, batch, *more)

    with (
        mock.patch.object(WriterSink, "_store_batch", ledger_first),
        mock.patch.object(WriterSink, "_write_ledger"),
    ):
        yield


@mutant
def store_although_the_announcement_was_not_heard() -> Iterator[None]:
    """A commit that was refused or not answered counts as one that stands."""
    commit = Rounds._commit

    def hopeful(self: Rounds[Any], positions: dict[Partition, Position], now: float) -> bool:
        with (
            mock.patch.object(self, "abandon_all"),
            mock.patch.object(self._owned, "start_over"),
        ):
            commit(self, positions, now)
        return True

    with mock.patch.object(Rounds, "_commit", hopeful):
        yield


@mutant
def keep_what_was_known_under_another_assignment() -> Iterator[None]:
    """A partition that comes back is not looked up anew, though another process stored of it meanwhile."""
    entries = Coverage._entries

    with mock.patch.object(Coverage, "_entries", lambda self, partition, _assignment: entries(self, partition, 0)):
        yield
