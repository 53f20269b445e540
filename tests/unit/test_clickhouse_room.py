"""Room on the engine's disk: what is refused where it is short, and when the process ends rather than confirm."""

import contextlib
from dataclasses import dataclass
from pathlib import Path

import pytest

from pulsetrain_local.clickhouse.engine import EngineError
from pulsetrain_local.clickhouse.room import FULL_BYTES, NOT_ENOUGH_SPACE, REST_SECONDS, SHORT_BYTES, Room


class Ended(Exception):
    """The process would have ended here."""


@dataclass
class Disk:
    free: int = 10 * SHORT_BYTES
    now: float = 100.0


@pytest.fixture
def disk() -> Disk:
    return Disk()


@pytest.fixture
def room(disk: Disk, tmp_path: Path) -> Room:
    def end(reason: str) -> None:
        raise Ended(reason)

    return Room(tmp_path, free=lambda _: disk.free, monotonic=lambda: disk.now, end=end)


def write(room: Room) -> None:
    with room.writing():
        pass


def test_where_room_is_short_a_write_is_refused_as_a_server_refuses_it(room: Room, disk: Disk) -> None:
    write(room)
    disk.free = SHORT_BYTES - 1
    with pytest.raises(EngineError, match="63 MiB free") as refused:
        write(room)
    assert (refused.value.code, refused.value.name) == (NOT_ENOUGH_SPACE, "NOT_ENOUGH_SPACE")


def test_writing_goes_on_when_there_is_twice_as_much_room(room: Room, disk: Disk) -> None:
    disk.free = SHORT_BYTES - 1
    assert room.look()
    disk.free = 2 * SHORT_BYTES - 1
    with pytest.raises(EngineError):
        write(room)
    disk.free = 2 * SHORT_BYTES
    write(room)


def test_a_write_during_which_the_room_went_is_not_confirmed(room: Room, disk: Disk) -> None:
    with pytest.raises(Ended), room.writing():
        disk.free = FULL_BYTES - 1


def test_a_write_that_found_little_room_but_enough_is_confirmed(room: Room, disk: Disk) -> None:
    with room.writing():
        disk.free = FULL_BYTES


def test_room_that_goes_at_once_ends_the_process_though_nobody_writes(room: Room, disk: Disk) -> None:
    """The engine merges what it has stored, and nobody is asked."""
    disk.free = 0
    with pytest.raises(Ended):
        room.look()


def test_room_that_goes_when_everything_is_at_rest_ends_nothing(room: Room, disk: Disk) -> None:
    disk.free = SHORT_BYTES - 1
    assert room.look()
    disk.now += REST_SECONDS + 0.1
    disk.free = 0
    assert room.look()


def test_a_write_that_is_still_under_way_is_not_at_rest(room: Room, disk: Disk) -> None:
    with contextlib.suppress(Ended), room.writing():
        disk.free = SHORT_BYTES - 1
        assert room.look()
        disk.now += 10 * REST_SECONDS
        disk.free = 0
        with pytest.raises(Ended):
            room.look()


def test_beginning_waits_for_room(disk: Disk, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    found = iter([0, SHORT_BYTES - 1, SHORT_BYTES])
    Room(tmp_path, free=lambda _: next(found)).wait()
    assert [record.message for record in caplog.records if "waiting" in record.message]
    assert next(found, None) is None
