"""The roster of a group on one machine: who has died is known at once, and nobody else is taken for dead."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pulsetrain_consumers.runtime.roster import Roster, directory
from tests.waiting import wait_for

MEMBER = """
import sys
from pathlib import Path
from pulsetrain_consumers.runtime.roster import Roster
roster = Roster(Path(sys.argv[1]), "here")
print(roster.enter(), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "group"


def member(place: Path) -> "tuple[subprocess.Popen[str], str]":
    """Another process that has entered, and its name."""
    command = [sys.executable, "-c", MEMBER, str(place)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def dead(roster: Roster) -> list[str]:
    with roster.dead() as names:
        return names


def test_a_member_is_dead_as_soon_as_its_process_is_and_not_when_it_only_stands_still(place: Path) -> None:
    here = Roster(place, "here")
    own = here.enter()
    process, name = member(place)
    with process:
        assert own != name
        process.send_signal(signal.SIGSTOP)
        assert dead(here) == []
        process.kill()
    assert dead(here) == [name]
    assert dead(here) == []  # it was struck out


def test_a_member_that_was_not_buried_for_an_error_is_dead_still(place: Path) -> None:
    here = Roster(place, "here")
    process, name = member(place)
    with process:
        process.kill()

    def bury() -> None:
        with here.dead() as names:
            assert names == [name]
            assert dead(Roster(place, "here")) == []  # one buries at a time
            raise ConnectionError

    with pytest.raises(ConnectionError):
        bury()
    assert dead(here) == [name]


def test_a_member_that_has_left_is_nobody_any_more(place: Path) -> None:
    here, there = Roster(place, "here"), Roster(place, "here")
    here.leave(here.enter())
    assert dead(there) == []
    assert list(place.iterdir()) == []


def test_members_of_other_machines_are_left_alone_and_forgotten_after_a_day(place: Path) -> None:
    process, name = member(place)
    with process:
        process.kill()
    elsewhere = Roster(place, "elsewhere")
    assert dead(elsewhere) == []
    line = place / f"{name}.member"
    assert line.exists()
    os.utime(line, (time.time() - 90_000,) * 2)
    assert dead(elsewhere) == []
    assert not line.exists()


def test_a_file_that_is_no_member_is_left_alone(place: Path) -> None:
    place.mkdir()
    (place / "x.member").write_text("not JSON")
    assert dead(Roster(place, "here")) == []


def test_a_roster_that_nobody_has_entered_is_empty(place: Path) -> None:
    assert dead(Roster(place)) == []
    assert not place.exists()


def test_a_name_is_one_that_kafka_takes(place: Path) -> None:
    roster = Roster(place)
    names = {roster.enter() for _ in range(3)}
    assert len(names) == 3
    assert all(set(name) <= set("-._0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ") for name in names)


def test_groups_and_clusters_have_rosters_of_their_own(tmp_path: Path) -> None:
    places = {
        directory(tmp_path, group, cluster) for group in ("a", "b/c", "b-c") for cluster in ("one:9092", "two:9092")
    }
    assert len(places) == 6
    assert {place.parent for place in places} == {tmp_path / "groups"}


def test_entering_and_looking_for_the_dead_at_once_harms_no_member(place: Path) -> None:
    """Others look into the directory while members enter it."""
    here = Roster(place, "here")
    with subprocess.Popen([sys.executable, "-c", LOOKING, str(place)], stdout=subprocess.PIPE, text=True) as looking:
        assert looking.stdout is not None
        assert looking.stdout.readline() == "looking\n"
        names = [here.enter() for _ in range(300)]
        (place / "end").touch()
        found = looking.stdout.read()
    assert found == "[]\n"
    wait_for(lambda: len(list(place.glob("*.member"))) == len(names), what="all members")


LOOKING = """
import sys
from pathlib import Path
from pulsetrain_consumers.runtime.roster import Roster
place, found = Path(sys.argv[1]), []
print("looking", flush=True)
while not (place / "end").exists():
    with Roster(place, "here").dead() as names:
        found += names
print(found)
"""
