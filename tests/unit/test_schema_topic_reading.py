"""Reading the topic of schemas while a broker is slow: a position that is not known yet is no end."""

from collections import namedtuple
from typing import Any

import pytest

from pulsetrain_schemas import schema_topic
from pulsetrain_schemas.schema_topic import RegistryUnavailable

Record = namedtuple("Record", ["key", "value"])
FINGERPRINT = b"0123456789abcdef"


class Consumer:
    """One partition with one record; `positions` are what it answers in turn, the last one again and again."""

    def __init__(self, *positions: int | None) -> None:
        self.positions = list(positions)
        self.records = [Record(FINGERPRINT, b"{}")]

    def partitions_for_topic(self, _topic: str) -> set[int]:
        return {0}

    def assign(self, _partitions: Any) -> None: ...
    def seek_to_beginning(self, *_partitions: Any) -> None: ...

    def end_offsets(self, partitions: Any, timeout_ms: int) -> dict[Any, int]:
        return dict.fromkeys(partitions, 1)

    def position(self, _partition: Any, timeout_ms: int) -> int | None:
        return self.positions.pop(0) if len(self.positions) > 1 else self.positions[0]

    def poll(self, timeout_ms: int) -> dict[int, list[Record]]:
        found, self.records = self.records, []
        return {0: found}


def test_a_position_that_is_not_known_yet_is_waited_for() -> None:
    assert schema_topic._read(Consumer(None, 0, 1)) == {bytes.fromhex(FINGERPRINT.decode()): b"{}"}


def test_one_that_never_comes_is_an_outage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema_topic, "_ANSWER_MS", 30)
    with pytest.raises(RegistryUnavailable, match="not read to its end"):
        schema_topic._read(Consumer(None))
