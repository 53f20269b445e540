"""What Kafka has goes after its time or when room is needed, what it has not stays, and every step may be the last."""

import json
import math
import os
import threading
from pathlib import Path

import pytest

from pulsetrain._run.summary import SummaryFold
from pulsetrain.forwarder import account, removal, sending
from pulsetrain.forwarder.ledger import LEDGER_FILE, removed
from pulsetrain.forwarder.memory_delivery import MemoryBroker, MemoryDelivery
from pulsetrain.forwarder.ownership import Ownership
from pulsetrain.forwarder.pump import Pump
from pulsetrain.forwarder.removal import Kept
from pulsetrain.forwarder.retention import Keeper, Policy, Retention
from pulsetrain.forwarder.tail import Tail, read_identity
from pulsetrain.journal import room
from pulsetrain.journal.format import segment_path
from pulsetrain.journal.room import Disk, Room, Usage
from pulsetrain.journal.writer import JournalFull, JournalWriter
from tests.journals import start_run

GONE = 2**22 + 1  # beyond the largest pid
DAY = 86400.0
NOW = 2.0e9
HUGE = Disk(1 << 50, 1 << 49)


class Runs:
    """A directory of runs, and a clock for the ages of what is in it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.broker = MemoryBroker()
        self.now = NOW

    def run(self, name: str, rows: int = 100, *, finished: bool = True, **changes) -> JournalWriter:
        start = {"pid": GONE, "pid_created": 1.0, "run_id": name, "mode": "offline"} | changes
        journal = start_run(self.directory / f"offline-run-20260101_000000-{name}", name * 8, **start)
        self.log(journal, rows)
        if finished:
            journal.event("finish", {"state": "finished", "exit_code": 0}, 1.76e9)
            journal.close()
        return journal

    def log(self, journal: JournalWriter, rows: int) -> None:
        for _ in range(rows):
            journal.row(("loss", "acc"), (1.0, 2.0), journal.sequence, 1.76e9)

    def send(self, journal: JournalWriter, age: float = 0.0) -> None:
        """Sends it; Kafka has it since `age` seconds ago."""
        assert sending.send(journal.directory, MemoryDelivery(self.broker)).state == "sent"
        os.utime(journal.directory / "ack.json", (self.now - age, self.now - age))

    def send_so_far(self, journal: JournalWriter) -> None:
        identity = read_identity(journal.directory)
        delivery = MemoryDelivery(self.broker)
        pump = Pump(journal.directory, identity, delivery, fold=SummaryFold())
        while True:
            pump.step(1.77e9, alive=True)
            for ticket in delivery.poll().confirmed:
                pump.confirm(ticket)
            pump.save()
            if pump.is_settled:
                pump.close()
                return

    def keeper(self, **policy) -> Keeper:
        return Keeper(self.directory, Policy(**{"max_bytes": math.inf} | policy), clock=lambda: self.now)

    def there(self) -> set[str]:
        return {path.name.rpartition("-")[2] for path in self.directory.glob("*run-*")}


@pytest.fixture
def runs(tmp_path):
    return Runs(tmp_path / "runs")


@pytest.fixture(autouse=True)
def disk(monkeypatch):
    """A disk with room for everything, unless a test fills it."""
    found = [HUGE]
    monkeypatch.setattr(Disk, "of", lambda _: found[0])
    return found


def test_what_kafka_has_goes_after_the_retention_and_the_rest_stays(runs):
    runs.send(runs.run("old"), age=8 * DAY)
    runs.send(runs.run("new"), age=6 * DAY)
    runs.run("unsent")
    runs.run("living", finished=False, pid=os.getpid())
    runs.keeper().look()
    assert runs.there() == {"new", "unsent", "living"}


@pytest.mark.parametrize(("retention", "stays"), [(math.inf, True), (0.0, False)])
def test_the_retention_may_be_for_ever_or_none(runs, retention, stays):
    runs.send(runs.run("a"), age=400 * DAY if stays else 2 * 60.0)
    runs.keeper(retention=retention).look()
    assert runs.there() == ({"a"} if stays else set())


def test_what_was_confirmed_a_moment_ago_is_left_for_whoever_waits_for_it(runs):
    runs.send(runs.run("a"), age=1.0)
    runs.keeper(retention=0.0, max_bytes=0).look()
    assert runs.there() == {"a"}


def test_what_was_removed_is_remembered_and_not_resurrected(runs):
    journal = runs.run("a", rows=100)
    runs.send(journal, age=8 * DAY)
    counted = account.journal_account(journal.directory)
    runs.keeper().look()
    assert runs.there() == set()
    assert list(sending.find_journals([runs.directory])) == []
    (found,) = account.removed_accounts(runs.directory)
    assert (found.identity, found.counters) == (counted.identity, counted.counters)
    assert (found.complete, found.removed) == (True, NOW)
    entry = removed(runs.directory)["a" * 8]
    assert (entry.last_step, entry.exit_code, entry.sequence) == (100, 0, 102)
    assert entry.start["environment"] == {}
    runs.keeper().look()
    assert len((runs.directory / LEDGER_FILE).read_bytes().splitlines()) == 1


def test_what_a_person_put_into_the_run_s_folder_stays(runs):
    journal = runs.run("a")
    runs.send(journal, age=8 * DAY)
    files = journal.directory.parent / "files"
    files.mkdir()
    (files / "model.pt").write_bytes(b"weights")
    runs.keeper().look()
    assert [path.name for path in journal.directory.parent.iterdir()] == ["files"]
    assert (files / "model.pt").read_bytes() == b"weights"


def test_an_empty_folder_for_files_goes_with_the_run(runs):
    journal = runs.run("a")
    runs.send(journal, age=8 * DAY)
    (journal.directory.parent / "files").mkdir()
    runs.keeper().look()
    assert runs.there() == set()


def test_what_another_process_has_in_hand_is_left_alone(runs):
    journal = runs.run("a")
    runs.send(journal, age=8 * DAY)
    ownership = Ownership.take(journal.directory)
    keeper = runs.keeper()
    keeper.look()
    assert runs.there() == {"a"}
    ownership.release()
    keeper.look()
    assert runs.there() == set()


def test_a_run_that_wrote_on_after_it_was_taken_for_killed_is_not_removed(runs):
    journal = runs.run("a", finished=False)
    runs.send(journal, age=8 * DAY)
    runs.log(journal, 10)
    journal.close()
    runs.keeper(retention=0.0).look()
    assert runs.there() == {"a"}
    assert sending.look(journal.directory).state == "to send"


def test_a_damaged_journal_is_left_for_a_person(runs):
    journal = runs.run("a", rows=3000)
    runs.send(journal, age=8 * DAY)
    path = segment_path(journal.directory, 2)
    content = bytearray(path.read_bytes())
    content[500] ^= 1
    path.write_bytes(content)
    with pytest.raises(Kept, match="damaged"):
        removal.check(journal.directory)
    runs.keeper().look()
    assert runs.there() == {"a"}


def test_a_journal_without_a_record_goes_once_it_is_old(runs):
    journal = JournalWriter(runs.directory / "run-1-x" / "w")
    os.utime(segment_path(journal.directory, 1), (runs.now - DAY, runs.now - DAY))
    runs.keeper().look()
    assert runs.there() == {"x"}
    runs.now += 7 * DAY
    runs.keeper().look()
    assert runs.there() == set()
    assert account.removed_accounts(runs.directory) == []


def test_segments_of_a_living_run_go_when_they_are_old_and_before_the_checkpoint(runs):
    journal = runs.run("a", rows=5000, finished=False, pid=os.getpid())
    runs.send_so_far(journal)
    numbers = range(1, journal.position.segment + 1)
    whole = Tail(journal.directory, SummaryFold(), whole=True)
    whole.read_all()
    for number in numbers:
        os.utime(segment_path(journal.directory, number), (runs.now - 8 * DAY + number, runs.now - 8 * DAY + number))
    runs.keeper().look()
    left = sorted(int(path.stem) for path in journal.directory.glob("*.journal"))
    assert len(numbers) > 3
    assert left == [numbers[-1]] or left == list(numbers[-2:])
    rest = Tail(journal.directory, SummaryFold(), whole=True)
    rest.read_all()
    assert (rest.counters, rest.sequence, rest.fold.values()) == (whole.counters, whole.sequence, whole.fold.values())
    runs.log(journal, 5000)
    journal.event("finish", {"state": "finished", "exit_code": 0}, 1.76e9)
    journal.close()
    runs.send(journal)
    assert account.journal_account(journal.directory).counters.rows == 10_000


def test_near_the_ceiling_what_kafka_has_goes_oldest_first(runs):
    for age, name in enumerate("abcd"):
        runs.send(runs.run(name, rows=2000), age=(10 - age) * 3600.0)
    unsent = runs.run("unsent", rows=2000)
    taken = runs.keeper().look().taken
    usage = runs.keeper(max_bytes=taken).look()
    assert runs.there() == {"c", "d", "unsent"}  # two of five had to go to come under three quarters
    assert usage.taken <= 0.75 * taken
    assert usage.notice == ""
    runs.keeper(max_bytes=1).look()
    assert runs.there() == {"unsent"}
    assert sending.inspect(unsent.directory).counters.rows == 2000


def test_near_the_ceiling_segments_of_a_living_run_go_too_and_no_more_than_needed(runs):
    journal = runs.run("a", rows=10_000, finished=False, pid=os.getpid())
    before = len(list(journal.directory.glob("*.journal")))
    assert before > 7
    runs.send_so_far(journal)
    taken = runs.keeper(retention=math.inf).look().taken
    runs.keeper(retention=math.inf, max_bytes=taken).look()
    left = sorted(int(path.stem) for path in journal.directory.glob("*.journal"))
    assert left == list(range(left[0], before + 1))
    assert 0.6 < len(left) / before <= 0.75


def test_the_ceiling_is_announced_before_it_is_reached_and_the_figures_are_where_others_read_them(runs, caplog):
    journal = runs.run("a", rows=2000)
    taken = runs.keeper().look().taken
    assert runs.keeper(max_bytes=taken * 2).look().notice == ""
    keeper = runs.keeper(max_bytes=taken * 1.2)
    usage = keeper.look()
    keeper.look()
    assert "Kafka does not have them yet" in usage.notice
    assert "raise PULSETRAIN_JOURNAL_MAX_BYTES" in usage.notice
    assert caplog.text.count("what is logged beyond that will be lost") == 1
    assert Usage.load(runs.directory) == usage
    assert journal.directory.exists()


def test_a_disk_that_others_have_filled_lowers_the_ceiling(runs, disk):
    runs.send(runs.run("sent", rows=2000), age=3600)
    runs.run("unsent", rows=2000)
    disk[0] = Disk(100 << 30, 513 << 20)
    usage = runs.keeper(max_bytes=None).look()
    assert runs.there() == {"unsent", "sent"}  # a MiB is left beyond the reserve
    disk[0] = Disk(100 << 30, 512 << 20)
    usage = runs.keeper(max_bytes=None).look()
    assert runs.there() == {"unsent"}
    assert "for the disk is nearly full" in usage.notice
    assert "make room on the disk" in usage.notice


def test_the_ceiling_suits_the_disk_where_none_was_set():
    assert Policy().limit(0, HUGE) == 20 << 30
    assert Policy().limit(0, Disk(16 << 30, 15 << 30)) == 4 << 30
    assert Policy().limit(1 << 30, Disk(100 << 30, 1 << 30)) == (1 << 30) + (512 << 20)
    assert Policy(max_bytes=5).limit(0, HUGE) == 5


def test_at_the_ceiling_a_journal_begins_no_segment_until_there_is_room(runs, disk):
    clock = [0.0]
    usage = Usage(taken=100 << 20, limit=100 << 20, updated=NOW)
    runs.directory.mkdir()
    (runs.directory / room.USAGE_FILE).write_bytes(usage.encode())
    refusal = Room(runs.directory, clock=lambda: runs.now).refusal
    journal = JournalWriter(
        runs.directory / "run-1-a" / "w", segment_bytes=1 << 16, refusal=refusal, monotonic=lambda: clock[0]
    )
    with pytest.raises(JournalFull, match=r"the journals take 100.0 MiB of the 100.0 MiB that they may"):
        runs.log(journal, 10_000)
    kept = journal.sequence
    journal.event("console", {"line": "last words"}, last=True)
    assert journal.position.segment == 1
    (runs.directory / room.USAGE_FILE).write_bytes(Usage(50 << 20, 100 << 20, NOW).encode())
    clock[0] += 1.0
    runs.log(journal, 10)
    assert journal.sequence == kept + 11
    disk[0] = Disk(100 << 30, 300 << 20)
    with pytest.raises(JournalFull, match=r"the disk has 300.0 MiB left, of which journals leave 512.0 MiB alone"):
        runs.log(journal, 10_000)
    journal.close()


def test_what_was_measured_long_ago_refuses_nothing(runs):
    runs.directory.mkdir()
    (runs.directory / room.USAGE_FILE).write_bytes(Usage(10, 5, NOW - 3600).encode())
    assert Room(runs.directory, clock=lambda: NOW).refusal(1) == ""
    assert Room(runs.directory, clock=lambda: NOW - 3600).refusal(1) != ""


class Killed(BaseException):
    """The process is gone."""


@pytest.mark.parametrize("fatal", range(1, 40))
def test_killed_between_any_two_steps_of_removing_the_next_look_goes_on(runs, monkeypatch, fatal):
    """Removing a journal and the segments of another, killed before the n-th change of the disk."""
    runs.send(runs.run("old", rows=2000), age=8 * DAY)
    living = runs.run("living", rows=2000, finished=False, pid=os.getpid())
    runs.send_so_far(living)
    for path in living.directory.glob("*.journal"):
        os.utime(path, (runs.now - 8 * DAY, runs.now - 8 * DAY))
    count = [0]

    def fatally(name):
        original = getattr(os, name)

        def step(*arguments, **options):
            count[0] += 1
            if count[0] == fatal:
                raise Killed
            return original(*arguments, **options)

        return step

    for name in ("unlink", "rmdir", "rename", "replace", "link", "write", "fsync"):
        monkeypatch.setattr(os, name, fatally(name))
    try:
        runs.keeper().look()
        survived = True
    except Killed:
        survived = False
    monkeypatch.undo()
    assert survived == (count[0] < fatal)
    counted = {one.identity.run_id: one.counters.rows for one in account.removed_accounts(runs.directory)}
    for journal in sending.find_journals([runs.directory]):
        found = account.journal_account(journal)
        assert found is not None
        assert found.damage is None
        counted[found.identity.run_id] = found.counters.rows
    assert counted == {"old": 2000, "living": 2000}
    runs.keeper().look()
    assert runs.there() == {"living"}
    assert list(removed(runs.directory)) == ["old" * 8]
    assert not [path for path in runs.directory.rglob("*") if path.name.startswith((".removed", ".base"))]


def test_two_that_remove_the_same_journals_remove_each_once(runs):
    journals = [runs.run(f"r{number}") for number in range(20)]
    for journal in journals:
        runs.send(journal, age=8 * DAY)
    outcomes: list[str] = []

    def remove_all() -> None:
        for journal in journals:
            try:
                removal.remove(journal.directory)
                outcomes.append(journal.writer)
            except (Kept, OSError):
                continue

    threads = [threading.Thread(target=remove_all) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == sorted(journal.writer for journal in journals)
    assert len((runs.directory / LEDGER_FILE).read_bytes().splitlines()) == 20
    assert runs.there() == set()


def test_a_journal_that_cannot_be_removed_does_not_keep_the_others_there(runs):
    for age, name in enumerate("abc"):
        runs.send(runs.run(name, rows=2000), age=(10 - age) * 3600.0)
    ownership = Ownership.take(runs.directory / "offline-run-20260101_000000-a" / ("a" * 8))
    taken = runs.keeper().look().taken
    runs.keeper(max_bytes=taken).look()
    assert runs.there() == {"a", "c"}
    ownership.release()


def test_a_full_disk_has_room_made_before_the_ledger_is_written(runs, monkeypatch):
    journal = runs.run("a", rows=2000)
    runs.send(journal, age=8 * DAY)
    original, full = os.write, [True]

    def write(descriptor, data):
        if full[0]:
            full[0] = journal.directory.exists()
            if full[0]:
                raise OSError(28, "No space left on device")
        return original(descriptor, data)

    monkeypatch.setattr(os, "write", write)
    removal.remove(journal.directory)
    assert list(removed(runs.directory)) == ["a" * 8]
    assert runs.there() == set()


def test_a_line_that_a_full_disk_cut_short_costs_that_line_alone(runs):
    runs.send(runs.run("a"), age=8 * DAY)
    runs.keeper().look()
    path = runs.directory / LEDGER_FILE
    path.write_bytes(path.read_bytes() + b'{"folder":"run-1-x","sta')
    runs.send(runs.run("b"), age=8 * DAY)
    runs.keeper().look()
    assert set(removed(runs.directory)) == {"a" * 8, "b" * 8}


def test_directories_are_remembered_by_the_next_forwarder_and_forgotten_when_they_are_gone(runs, tmp_path):
    memory = tmp_path / "home" / "directories.json"
    memory.parent.mkdir()
    first = Retention(memory, Policy(), clock=lambda: runs.now)
    runs.send(runs.run("a"), age=8 * DAY)
    first.watch(runs.directory)
    second = Retention(memory, Policy(), clock=lambda: runs.now)
    second.look()
    assert runs.there() == set()
    assert second.fullest is not None
    for path in runs.directory.iterdir():
        path.unlink()
    runs.directory.rmdir()
    second.look()
    assert json.loads(memory.read_text()) == {"directories": {}}


def test_the_limits_of_the_last_process_that_says_something_count(runs, tmp_path):
    memory = tmp_path / "directories.json"
    runs.send(runs.run("a"), age=8 * DAY)
    first = Retention(memory, Policy(), clock=lambda: runs.now)
    first.watch(runs.directory, {room.RETENTION_VARIABLE: "30d", room.MAX_BYTES_VARIABLE: "3GiB"})
    first.watch(runs.directory, {})
    first.look()
    assert runs.there() == {"a"}
    assert first.fullest.limit == 3 << 30
    second = Retention(memory, Policy(), clock=lambda: runs.now)
    second.look()
    assert runs.there() == {"a"}
    second.watch(runs.directory, {room.RETENTION_VARIABLE: "7d"})
    second.look()
    assert runs.there() == set()
    assert second.fullest.limit == 20 << 30


def test_limits_that_are_not_understood_remove_nothing_for_its_age(runs, tmp_path, caplog):
    runs.send(runs.run("a"), age=8 * DAY)
    retention = Retention(tmp_path / "directories.json", Policy(), clock=lambda: runs.now)
    retention.watch(runs.directory, {room.RETENTION_VARIABLE: "soon"})
    retention.look()
    assert runs.there() == {"a"}
    assert "'soon' is no length of time" in caplog.text


@pytest.mark.parametrize(
    ("text", "size"),
    [("20GiB", 20 << 30), ("500 MB", 500_000_000), ("1g", 1 << 30), ("123", 123), ("1.5KiB", 1536), ("none", math.inf)],
)
def test_sizes_are_read_as_people_write_them(text, size):
    assert room.max_bytes({room.MAX_BYTES_VARIABLE: text}) == size


@pytest.mark.parametrize(
    ("text", "seconds"), [("7d", 7 * DAY), ("12h", 43200), ("0", 0), ("2w", 14 * DAY), ("forever", math.inf)]
)
def test_lengths_of_time_are_read_as_people_write_them(text, seconds):
    assert room.retention({room.RETENTION_VARIABLE: text}) == seconds


def test_a_setting_that_is_not_understood_says_what_is_expected():
    with pytest.raises(ValueError, match=r"PULSETRAIN_JOURNAL_RETENTION: 'soon' is no length of time; expected 7d"):
        room.retention({room.RETENTION_VARIABLE: "soon"})
    with pytest.raises(ValueError, match=r"PULSETRAIN_JOURNAL_MAX_BYTES: 'much' is no size"):
        room.max_bytes({room.MAX_BYTES_VARIABLE: "much"})
