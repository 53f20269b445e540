"""`pulsetrain consumer writer`, with a point of its work at which it kills itself, or with a bug put in on purpose.

python -m tests.chaos.writer_process [--die-at BOUNDARY] [--nth N] [--mutant NAME] -- OPTIONS OF THE WRITER
"""

import argparse
import json
import os
import random
import signal
import threading
from collections.abc import Callable, Mapping
from typing import Any

from pulsetrain_consumers.commands.consumer import writer
from pulsetrain_consumers.runtime.broker import Partition, Position
from pulsetrain_consumers.runtime.kafka import KafkaGroupConsumer
from pulsetrain_consumers.writer.store import ClickHouseStore

BOUNDARIES = (
    "before_announce",
    "after_announce",
    "during_insert",
    "before_ledger",
    "after_ledger",
    "before_end_commit",
    "after_end_commit",
)
"""The way of a batch: its range is committed as pending, its rows are inserted, the ledger is written, its end is
committed."""

_LEDGER = "stored_batches"
_INSERT_SECONDS = 0.02


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--die-at", choices=BOUNDARIES)
    parser.add_argument("--nth", type=int, default=1)
    parser.add_argument("--mutant")
    parser.add_argument("options", nargs="*")
    given = parser.parse_args()
    if given.mutant:
        from tests.chaos import mutants_writer

        mutants_writer.MUTANTS.apply(given.mutant)
    if given.die_at:
        _arm(_Doom(given.die_at, given.nth))
    writer.main(args=given.options, prog_name="pulsetrain consumer writer")


class _Doom:
    """Kills the process when it passes a boundary for the nth time."""

    def __init__(self, boundary: str, nth: int) -> None:
        self._boundary = boundary
        self._left = nth
        self.stored = False
        """Whether something was stored since the last commit."""

    def passes(self, boundary: str) -> bool:
        """Whether this is the moment."""
        if boundary != self._boundary:
            return False
        self._left -= 1
        return self._left == 0

    def at(self, boundary: str) -> None:
        if self.passes(boundary):
            _die()


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _arm(doom: _Doom) -> None:
    commit, insert = KafkaGroupConsumer.commit, ClickHouseStore.insert

    def doomed_commit(self: KafkaGroupConsumer, positions: Mapping[Partition, Position]) -> None:
        announces = any(json.loads(at.metadata)["pending"] for at in positions.values())
        ends, doom.stored = doom.stored, False
        if ends:
            doom.at("before_end_commit")
        if announces:
            doom.at("before_announce")
        commit(self, positions)
        if announces:
            doom.at("after_announce")
        if ends:
            doom.at("after_end_commit")

    def doomed_insert(self: ClickHouseStore, table: str, columns: Any, token: str | None) -> int:
        if table == _LEDGER:
            doom.at("before_ledger")
        elif doom.passes("during_insert"):
            threading.Timer(random.uniform(0, _INSERT_SECONDS), _die).start()
        inserted = insert(self, table, columns, token)
        if table == _LEDGER:
            doom.stored = True
            doom.at("after_ledger")
        return inserted

    _replace(KafkaGroupConsumer, "commit", doomed_commit)
    _replace(ClickHouseStore, "insert", doomed_insert)


def _replace(owner: type, name: str, function: Callable[..., Any]) -> None:
    setattr(owner, name, function)


if __name__ == "__main__":
    main()
