"""The embedded ClickHouse on a disk that fills up at once, again and again: what it confirmed is there, once."""

import os
import threading
from pathlib import Path

import pytest
from clickhouse_driver.errors import Error

from pulsetrain_local.clickhouse.room import EXIT_STATUS
from tests.chaos.disks import Ballast
from tests.clickhouse_fixture import ClickHouse
from tests.small_disk import run_on_small_disk
from tests.waiting import wait_for

pytestmark = pytest.mark.clickhouse

ROWS = 500
FILLINGS = 6
TABLE = (
    "CREATE TABLE IF NOT EXISTS full_disk (writer UInt32, number UInt64, value Float64) ENGINE = MergeTree "
    "ORDER BY (writer, number) SETTINGS non_replicated_deduplication_window = 1000"
)


class Writer(threading.Thread):
    """Inserts batch after batch, each again under its token until it is confirmed."""

    def __init__(self, number: int, server: ClickHouse, leave: threading.Event) -> None:
        super().__init__(daemon=True)
        self.number, self.server, self.leave = number, server, leave
        self.confirmed = 0

    def run(self) -> None:
        while not self.leave.is_set():
            rows = [(self.number, self.confirmed + index, 0.5 * index) for index in range(ROWS)]
            settings = {"insert_deduplication_token": f"{self.number}-{self.confirmed}"}
            try:
                with self.server.client(connect_timeout=2) as client:
                    client.execute("INSERT INTO full_disk VALUES", rows, settings=settings)
            except (Error, OSError, EOFError):
                self.leave.wait(0.05)
            else:
                self.confirmed += ROWS


def fill_again_and_again(disk: str) -> None:
    """Runs where `disk` is one of a few hundred mebibytes. Prints what was confirmed and what is stored."""
    server, ballast, leave = ClickHouse(Path(disk) / "clickhouse"), Ballast(Path(disk)), threading.Event()
    server.start()
    with server.client() as client:
        client.execute(TABLE)
    writers = [Writer(number, server, leave) for number in range(2)]
    for writer in writers:
        writer.start()
    ends = []
    for _ in range(FILLINGS):
        before = [writer.confirmed for writer in writers]
        wait_for(lambda before=before: all(w.confirmed > b for w, b in zip(writers, before, strict=True)), 30, "rows")
        ballast.fill()
        wait_for(lambda: server.process is not None and server.process.poll() is not None, 10, "the end of the server")
        ends.append(server.process.returncode)
        ballast.free()
        server.start()
    leave.set()
    for writer in writers:
        writer.join(30)
    with server.client() as client:
        stored = client.execute("SELECT writer, count(), uniqExact(number) FROM full_disk GROUP BY writer")
    server.kill()
    assert ends == [EXIT_STATUS] * FILLINGS, f"it did not end by itself each time: {ends}"
    for number, count, different in sorted(stored):
        assert count == different, f"writer {number}: {count} rows, {different} different ones"
        assert count - writers[number].confirmed in (0, ROWS), (count, writers[number].confirmed)
    print(f"{len(ends)} ends, {sum(writer.confirmed for writer in writers)} rows")


def test_what_was_confirmed_is_there_once_however_often_the_disk_is_full(tmp_path: Path) -> None:
    code = f"from {__name__} import fill_again_and_again; import sys; fill_again_and_again(sys.argv[1])"
    done = run_on_small_disk(code, tmp_path / "disk", "400m", timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith(f"{FILLINGS} ends"), done.stdout


def test_an_insert_that_was_cut_is_stored_when_it_is_sent_again(tmp_path: Path) -> None:
    """Its token stands in the engine's log, its part is empty, and the log ends in the middle of a line."""
    server = ClickHouse(tmp_path)

    def insert(number: int) -> None:
        with server.client() as client:
            settings = {"insert_deduplication_token": str(number)}
            client.execute("INSERT INTO full_disk VALUES", [(0, number, 1.0)], settings=settings)

    def stored() -> list[int]:
        with server.client() as client:
            return [number for (number,) in client.execute("SELECT number FROM full_disk ORDER BY number")]

    server.start()
    try:
        with server.client() as client:
            client.execute(TABLE)
            client.execute("SYSTEM STOP MERGES full_disk")
        for number in range(3):
            insert(number)
        server.kill()
        (part,) = (tmp_path / "data").glob("engine/store/*/*/all_2_2_0")
        for file in part.iterdir():
            os.truncate(file, 0)
        (log,) = part.parent.glob("deduplication_logs/*.txt")
        with log.open("ab") as lines:
            lines.write(b"1\tall_4_4_0\t123")
        server.start()
        assert stored() == [0, 2]
        for number in range(4):
            insert(number)
        assert stored() == [0, 1, 2, 3]
        server.kill()
        server.start()
        for number in range(4):
            insert(number)
        assert stored() == [0, 1, 2, 3]
        assert "cut short" in server.log
    finally:
        server.kill()
