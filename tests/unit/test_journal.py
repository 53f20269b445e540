import contextlib
import errno
import itertools
import math
import mmap
import os
import shutil
import signal
import subprocess
import sys
import threading
import time

import pytest

from pulsetrain.journal import writer as writing
from pulsetrain.journal.format import HEADER_BYTES, Position
from pulsetrain.journal.reader import Event, JournalReader, RowBlock, TextRow
from pulsetrain.journal.writer import JournalClosed, JournalFull, JournalWriter, RecordTooLarge
from tests.waiting import wait_for


def everything(directory, **position):
    with JournalReader(directory, **position) as reader:
        items = list(reader)
        assert reader.damage is None
    return items


def rows_of(items):
    return [
        (int(sequence), int(step), float(time), dict(zip(item.keys, values, strict=True)))
        for item in items
        if isinstance(item, RowBlock)
        for sequence, step, time, values in zip(
            item.sequences, item.steps, item.times, item.values.tolist(), strict=True
        )
    ]


def fill(journal):
    """Writes rows until there is no room; how many there were."""
    written = 0
    with contextlib.suppress(JournalFull):
        while True:
            journal.row(("a",), (written,), written, 0.0)
            written += 1
    return written


def test_what_is_written_is_read_back_in_order(tmp_path):
    journal = JournalWriter(tmp_path)
    journal.event("start", {"project": "p", "config": {"lr": 0.1}}, 1.5)
    for step in range(100):
        journal.row(("loss", "accuracy"), (step / 2, True), step, 2.0 + step)
    journal.row(("val",), (7,), 100, 200.0)
    journal.text_row({"x": math.inf}, {"note": '"hi"'}, 101, 201.0)
    journal.event("finish", {"exit_code": 0}, 3.0, last=True)

    start, block, val, text, finish = everything(tmp_path)

    assert start == Event(1, 1.5, "start", {"project": "p", "config": {"lr": 0.1}})
    assert block.keys == ("loss", "accuracy")
    assert block.sequences.tolist() == list(range(2, 102))
    assert block.steps.tolist() == list(range(100))
    assert block.times.tolist() == [2.0 + step for step in range(100)]
    assert block.values.tolist() == [[step / 2, 1.0] for step in range(100)]
    assert rows_of([val]) == [(102, 100, 200.0, {"val": 7.0})]
    assert text == TextRow(103, 101, 201.0, {"x": math.inf}, {"note": '"hi"'})
    assert finish == Event(104, 3.0, "finish", {"exit_code": 0})


def test_a_reader_sees_each_record_as_soon_as_it_is_written(tmp_path):
    journal = JournalWriter(tmp_path)
    with JournalReader(tmp_path) as reader:
        for step in range(50):
            journal.row(("a",), (step,), step, 0.0)
            assert rows_of(reader.read()) == [(step + 1, step, 0.0, {"a": float(step)})]
            assert reader.read() == []
        assert reader.position == journal.position
        assert reader.sequence == journal.sequence == 50
        assert reader.writer == journal.writer


def test_a_journal_that_is_not_there_yet_gives_nothing_yet(tmp_path):
    with JournalReader(tmp_path / "later") as reader:
        assert reader.read() == []
        JournalWriter(tmp_path / "later").event("start", {}, 0.0)
        assert len(reader.read()) == 1


def test_rows_go_on_through_many_segments(tmp_path):
    journal = JournalWriter(tmp_path, segment_bytes=4096)
    for step in range(1000):
        journal.row(("a", "b") if step % 3 else ("c",), (step, 1) if step % 3 else (step,), step, 0.0)
    journal.close()
    assert journal.position.segment > 5
    assert [row[0] for row in rows_of(everything(tmp_path))] == list(range(1, 1001))


def test_reading_goes_on_at_any_position_that_was_given_out(tmp_path):
    journal = JournalWriter(tmp_path, segment_bytes=4096)
    for step in range(400):
        journal.row(("a", "b") if step % 5 else ("c",), (step, 1) if step % 5 else (step,), step, 0.0)
    with JournalReader(tmp_path) as reader:
        while reader.read(256):
            rest = JournalReader(tmp_path, reader.position)
            assert [row[0] for row in rows_of(rest)] == list(range(reader.sequence + 1, 401))
            assert rest.sequence == 400
            rest.close()
    with JournalReader(tmp_path, Position(1, HEADER_BYTES + 4)) as reader:
        assert reader.read() == []
        assert "not between two records" in reader.damage.reason


def test_a_record_larger_than_a_segment_gets_a_larger_segment(tmp_path):
    journal = JournalWriter(tmp_path, segment_bytes=4096)
    keys = tuple(f"key/{i}" for i in range(10_000))
    journal.row(("a",), (1,), 0, 0.0)
    journal.row(keys, range(10_000), 1, 0.0)
    journal.event("config", {"text": "x" * 3_000_000}, 0.0)
    journal.row(("a",), (2,), 2, 0.0)
    _, wide, event, last = everything(tmp_path)
    assert wide.keys == keys
    assert wide.values[0].tolist() == list(range(10_000))
    assert len(event.data["text"]) == 3_000_000
    assert last.values.tolist() == [[2.0]]


def test_a_record_beyond_the_limit_is_refused_and_the_journal_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "MAX_RECORD_BYTES", 1000)
    journal = JournalWriter(tmp_path)
    with pytest.raises(RecordTooLarge):
        journal.event("config", {"text": "x" * 2000})
    journal.row(("a",), (1,), 0, 0.0)
    assert len(rows_of(everything(tmp_path))) == 1


def test_a_value_that_is_no_number_leaves_the_journal_as_it_was(tmp_path):
    journal = JournalWriter(tmp_path)
    for bad in ("text", None, [1.0], 10**400, 1j):
        with pytest.raises(Exception):  # noqa: B017
            journal.row(("a", "b"), (1.0, bad), 0, 0.0)
    assert journal.sequence == 0
    journal.row(("a", "b"), (1.0, 2.0), 0, 0.0)
    assert rows_of(everything(tmp_path)) == [(1, 0, 0.0, {"a": 1.0, "b": 2.0})]


def test_made_up_keys_do_not_grow_the_writer(tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "MAX_REMEMBERED_BYTES", 30_000)
    journal = JournalWriter(tmp_path)
    for step in range(1000):
        journal.row((f"key {step}", "a"), (step, 1), step, 0.0)
    assert len(journal._shapes) <= 52
    rows = rows_of(everything(tmp_path))
    assert rows[999] == (1000, 999, 0.0, {"key 999": 999.0, "a": 1.0})


def test_close_gives_back_the_unused_space_and_ends_writing(tmp_path):
    journal = JournalWriter(tmp_path)
    journal.row(("a",), (1,), 0, 0.0)
    assert (tmp_path / "00000001.journal").stat().st_size == 4 << 20
    journal.close()
    journal.close()
    assert (tmp_path / "00000001.journal").stat().st_size < 1000
    assert len(everything(tmp_path)) == 1
    with pytest.raises(JournalClosed):
        journal.row(("a",), (1,), 0, 0.0)
    with pytest.raises(JournalClosed):
        journal.event("finish", {}, last=True)


def test_a_full_disk_is_said_and_what_was_written_stays_and_writing_resumes(tmp_path, monkeypatch):
    room = [True]
    clock = [0.0]

    def fallocate(descriptor, start, size):
        if not room[0]:
            raise OSError(errno.ENOSPC, "no space")
        os.truncate(descriptor, size)

    monkeypatch.setattr(os, "posix_fallocate", fallocate, raising=False)
    journal = JournalWriter(tmp_path, segment_bytes=4096, monotonic=lambda: clock[0])
    room[0] = False
    written = fill(journal)
    journal.event("finish", {"state": "finished"}, 0.0, last=True)
    with pytest.raises(JournalFull):
        journal.row(("a",), (0,), 0, 0.0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["00000001.journal"]
    assert len(everything(tmp_path)) == 2
    room[0] = True
    with pytest.raises(JournalFull):
        journal.row(("a",), (0,), 0, 0.0)  # the disk is left alone for a moment
    clock[0] = 1.0
    journal.row(("a",), (1,), 1, 0.0)
    items = everything(tmp_path)
    assert [row[0] for row in rows_of(items)] == [*range(1, written + 1), written + 2]


@pytest.fixture
def small_disk(tmp_path):
    mount = shutil.which("mount")
    if os.geteuid() != 0 or not mount:
        pytest.skip("only root may mount a small disk")
    place = tmp_path / "disk"
    place.mkdir()
    if subprocess.run([mount, "-t", "tmpfs", "-o", "size=256k", "tmpfs", place], capture_output=True).returncode:
        pytest.skip("this machine does not let a tmpfs be mounted")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def test_a_disk_that_is_really_full_kills_nobody(small_disk):
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(100 << 10))
    journal = JournalWriter(small_disk / "j", segment_bytes=64 << 10, monotonic=lambda: 0.0)
    written = fill(journal)
    assert written > 1000
    ballast.unlink()
    journal._retry_at = 0.0
    journal.row(("a",), (written,), written, 0.0)
    assert len(rows_of(everything(small_disk / "j"))) == written + 1


def test_a_limit_on_file_size_counts_as_a_full_disk(tmp_path):
    code = """
import resource, signal, sys
from pulsetrain.journal.writer import JournalFull, JournalWriter
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (16384, 16384))
try:
    JournalWriter(sys.argv[1])
except JournalFull:
    print("full")
"""
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout) == (0, "full\n"), done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_signal_handler_that_writes_in_the_middle_of_a_write_loses_nothing(tmp_path):
    journal = JournalWriter(tmp_path, segment_bytes=4096)
    handled, handler_returned = [], []

    def handler(_, frame):
        handled.append(len(handled))
        number = len(handled)
        journal.row((f"handler {number % 7}",), (number,), 0, 0.0)
        handler_returned.append(number)
        if number < 1000:
            signal.setitimer(signal.ITIMER_REAL, 0.0001)
        if number % 3 and frame.f_code.co_filename == writing.__file__:
            raise InterruptedError

    before = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.0001)
    returned = []
    attempts = itertools.count()
    deadline = time.monotonic() + 20
    while len(handled) < 1000 and time.monotonic() < deadline:
        try:
            attempt = next(attempts)
            journal.row(("a", "b", "c"), (attempt, 1, 2), attempt, 0.0)
            returned.append(attempt)
        except InterruptedError:
            continue
    signal.signal(signal.SIGALRM, before)
    rows = rows_of(everything(tmp_path))
    assert [row[0] for row in rows] == list(range(1, len(rows) + 1))
    written = [row[3]["a"] for row in rows if "a" in row[3]]
    assert written == sorted(set(written))
    assert set(returned) <= set(written)
    by_handlers = [value for row in rows for value in row[3].values() if "a" not in row[3]]
    assert set(handler_returned) <= set(by_handlers)
    assert len(by_handlers) == len(set(by_handlers))


def test_threads_that_share_a_lock_share_a_journal(tmp_path):
    journal = JournalWriter(tmp_path, segment_bytes=16384)
    lock = threading.RLock()

    def work(name):
        for step in range(2000):
            with lock:
                journal.row((name,), (step,), step, 0.0)

    threads = [threading.Thread(target=work, args=(f"t{i}",)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rows = rows_of(everything(tmp_path))
    assert [row[0] for row in rows] == list(range(1, 8001))
    assert [row[1] for row in rows if "t2" in row[3]] == list(range(2000))


def test_a_forked_child_can_let_go_of_its_parents_journal(tmp_path):
    journal = JournalWriter(tmp_path)
    journal.row(("a",), (1,), 0, 0.0)
    child = os.fork()
    if not child:
        journal.forsake()
        os._exit(0 if journal.closed else 1)
    assert os.waitpid(child, 0)[1] == 0
    journal.row(("a",), (2,), 1, 0.0)
    assert len(rows_of(everything(tmp_path))) == 2


CHILD = """
import mmap, sys
from pulsetrain.journal.writer import JournalWriter
counter = mmap.mmap(int(sys.argv[2]), 8)
cell = memoryview(counter).cast("Q")
journal = JournalWriter(sys.argv[1], segment_bytes=1 << 16)
keys = tuple(f"m{i}" for i in range(10))
done = 0
while True:
    if done % 97 == 0:
        journal.text_row({"x": 1.0}, {"note": '"t"'}, done, 0.0)
    else:
        journal.row(keys, (done,) * 10, done, 0.0)
    done += 1
    cell[0] = done
"""


@pytest.mark.parametrize("round_", range(4))
def test_sigkill_in_a_tight_loop_loses_nothing_that_returned_and_reading_meanwhile_is_whole(tmp_path, round_):
    descriptor = os.memfd_create("count") if hasattr(os, "memfd_create") else None
    if descriptor is None:
        pytest.skip("needs memfd_create")
    os.truncate(descriptor, 8)
    counter = mmap.mmap(descriptor, 8)
    child = subprocess.Popen([sys.executable, "-c", CHILD, tmp_path / "j", str(descriptor)], pass_fds=[descriptor])
    returned = memoryview(counter).cast("Q")
    seen = []
    try:
        with JournalReader(tmp_path / "j") as reader:
            target = 3000 + 1777 * round_

            def read_on():
                for item in reader.read():
                    seen.extend(item.sequences.tolist() if isinstance(item, RowBlock) else [item.sequence])
                return returned[0] > target and len(seen) > target

            wait_for(read_on, 30, "the child's rows", interval=0.001)
            child.send_signal(signal.SIGKILL)
            child.wait(30)
            count = returned[0]
            while items := reader.read():
                for item in items:
                    seen.extend(item.sequences.tolist() if isinstance(item, RowBlock) else [item.sequence])
            assert reader.damage is None or reader.damage.torn
    finally:
        child.kill()
        child.wait(30)
        os.close(descriptor)
    assert seen == list(range(1, len(seen) + 1))
    assert count <= len(seen) <= count + 1


def test_a_shape_that_is_new_when_a_segment_is_full_is_told_from_those_that_follow(tmp_path):
    for before in range(40, 70):  # among them every way in which its declaration does not fit any more
        journal = JournalWriter(tmp_path / str(before), segment_bytes=4096)
        logged = [("ab"[row % 2], float(row)) for row in range(before)]
        logged += [("cdef"[row % 4], float(row)) for row in range(40)]
        for key, value in logged:
            journal.row((key,), [value], 0, 0.0)
        with JournalReader(journal.directory) as reader:
            found = [(*b.keys, v) for b in reader if isinstance(b, RowBlock) for v in b.values[:, 0].tolist()]
        assert found == logged
        journal.close()
