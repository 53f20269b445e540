"""The `pulsetrain` command, with a writer without all that makes a row count once: to measure what that costs.

    python -m tests.bench.at_least_once consumer writer …

No range is announced, no insert has a token, nothing is looked up in the ledger and nothing is written there. What is
left is the same loop over the same batches, which commits the end of a round once it is stored.
"""

import sys
from typing import Any

from pulsetrain.commands import main
from pulsetrain_consumers.runtime.rounds import Rounds
from pulsetrain_consumers.runtime.sink import Batch
from pulsetrain_consumers.writer import sink
from pulsetrain_consumers.writer.sink import WriterEvent, WriterSink
from pulsetrain_consumers.writer.store import ClickHouseStore
from pulsetrain_consumers.writer.tables import Kept


def _announced(_rounds: Rounds[Any], current: Any, _now: float) -> bool:
    current.announced = True
    return True


_stored = Rounds._stored


def _stored_and_committed(rounds: Rounds[Any], current: Any, now: float) -> None:
    _stored(rounds, current, now)
    rounds.commit_ends()


def _all_kept(_sink: WriterSink, batch: Batch[WriterEvent]) -> Any:
    items = [sink._Item(message.record, Kept(message.body)) for message in batch.messages]
    return sink._Stored(batch, items, {})


def _nothing(*_arguments: Any) -> None:
    pass


_insert = ClickHouseStore.insert


def _without_token(store: ClickHouseStore, table: str, columns: Any, _token: str | None) -> int:
    return _insert(store, table, columns, None)


def plain() -> None:
    """Takes out of the writer what is said above."""
    replaced: list[tuple[type, str, Any]] = [
        (Rounds, "_announce", _announced),
        (Rounds, "_stored", _stored_and_committed),
        (WriterSink, "_learn", _nothing),
        (WriterSink, "_without_duplicates", _all_kept),
        (WriterSink, "_write_ledger", _nothing),
        (ClickHouseStore, "insert", _without_token),
    ]
    for owner, name, function in replaced:
        assert hasattr(owner, name), f"{owner.__name__} has no {name} any more"
        setattr(owner, name, function)


if __name__ == "__main__":
    plain()
    sys.exit(main())
