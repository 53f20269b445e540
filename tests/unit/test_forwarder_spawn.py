"""Registering and starting: what a training process does about the forwarder."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from pulsetrain.forwarder import spawn
from pulsetrain.forwarder.liveness import created
from pulsetrain.forwarder.places import LOCAL, Place, Registration, destination, read_json
from pulsetrain.forwarder.process import locked
from tests.waiting import wait_for


def test_the_destination_is_local_or_a_name_made_from_the_servers():
    assert destination({}) == LOCAL
    one = destination({"PULSETRAIN_KAFKA": "a:1,b:2"})
    assert one == destination({"PULSETRAIN_KAFKA": "b:2, a:1"})
    assert one != destination({"PULSETRAIN_KAFKA": "a:1"})


def test_a_registration_carries_the_limits_of_its_process(tmp_path: Path):
    env = {"PULSETRAIN_JOURNAL_RETENTION": "1d", "PULSETRAIN_JOURNAL_MAX_BYTES": "5GiB", "PULSETRAIN_PROJECT": "p"}
    spawn.register(tmp_path, "w1", tmp_path / "run" / "w1", env)
    ((_, registration),) = Place.of(tmp_path, LOCAL).registrations()
    assert registration.limits == {name: env[name] for name in list(env)[:2]}


def test_a_registration_names_the_journal_and_the_process(tmp_path: Path):
    spawn.register(tmp_path, "w1", tmp_path / "run" / "w1", {})
    place = Place.of(tmp_path, LOCAL)
    ((writer, registration),) = place.registrations()
    assert writer == "w1"
    assert registration == Registration(str(tmp_path / "run" / "w1"), os.getpid(), created(os.getpid()))
    place.unregister("w1")
    place.unregister("w1")
    assert list(place.registrations()) == []


def test_a_registration_that_is_not_understood_is_passed_over(tmp_path: Path):
    place = Place.of(tmp_path, LOCAL)
    place.create()
    (place.writers / "x.json").write_text('{"journal": 1')
    (place.writers / "y.json").write_text('{"version": 9}')
    assert list(place.registrations()) == []


def test_one_forwarder_at_a_time_holds_the_lock(tmp_path: Path):
    place = Place.of(tmp_path, LOCAL)
    assert not spawn.is_running(place)
    place.create()
    with locked(place) as ours:
        assert ours
        assert spawn.is_running(place)
        with locked(place) as twice:
            assert not twice
        assert not spawn.ensure_running(tmp_path, {})
    assert not spawn.is_running(place)


def test_what_a_training_process_imports_of_it_is_light():
    code = (
        "import sys\nbefore = set(sys.modules)\nimport pulsetrain.forwarder.spawn, pulsetrain.forwarder.places\n"
        "new = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        "print(sorted(new & {'numpy', 'kafka', 'psutil', 'fastavro', 'subprocess', 'hashlib', 'click'}))"
    )
    output = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert output.strip() == "[]"


def test_half_a_file_reads_as_none(tmp_path: Path):
    (tmp_path / "f.json").write_text('{"a": ')
    assert read_json(tmp_path / "f.json") is None
    assert read_json(tmp_path / "none.json") is None


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """The place of a home of one's own, whose forwarder finds no broker; all its processes end with the test."""
    made = Place.of(tmp_path, destination(NOWHERE))
    yield made
    for process in processes(made):
        process.kill()


NOWHERE = {"PATH": os.environ["PATH"], "PULSETRAIN_KAFKA": "127.0.0.1:1"}


def processes(place: Place) -> list[psutil.Process]:
    """Guardian and forwarder, the guardian first."""
    home = str(place.path.parent.parent)
    found = [p for p in psutil.process_iter(["cmdline"]) if home in " ".join(p.info["cmdline"] or [])]
    return sorted(found, key=lambda process: "guardian.sh" not in " ".join(process.info["cmdline"]))


def serving(place: Place) -> int:
    """The process of the forwarder as its status says, 0 while none runs."""
    said = read_json(place.status) or {}
    return int(said["pid"]) if spawn.is_running(place) and psutil.pid_exists(said.get("pid", -1)) else 0


def test_a_forwarder_that_is_killed_is_started_again_and_one_that_is_asked_to_leave_is_not(place, tmp_path):
    assert spawn.ensure_running(tmp_path, NOWHERE)
    assert not spawn.ensure_running(tmp_path, NOWHERE), "it is still starting"
    first = wait_for(lambda: serving(place), 20, "a forwarder")
    os.kill(first, signal.SIGKILL)
    second = wait_for(lambda: serving(place) not in (0, first) and serving(place), 20, "another one")
    os.kill(second, signal.SIGTERM)
    wait_for(lambda: not processes(place), 20, "the end of the forwarder and of its guardian")
    assert not spawn.is_awaited(place), "whoever logs next starts one at once"
    assert "ended with status 137; starting it again in 0 s" in place.log.read_text()


def test_asked_to_leave_while_it_still_starts_it_leaves_for_good(place, tmp_path):
    assert spawn.ensure_running(tmp_path, NOWHERE)

    def both() -> list[psutil.Process]:
        found = processes(place)
        return found if len(found) == 2 else []

    guardian, forwarder = wait_for(both, 20, "its process")
    forwarder.terminate()
    wait_for(lambda: not guardian.is_running(), 20, "the end of its guardian")
    assert processes(place) == []


def test_what_is_started_has_nothing_of_the_process_that_logs(place, tmp_path):
    program = (
        "import os, sys\nfrom pathlib import Path\nfrom pulsetrain.forwarder.spawn import ensure_running\n"
        "os.set_inheritable(os.open(os.environ['PULSETRAIN_HOME'] + '/opened', os.O_RDWR | os.O_CREAT), True)\n"
        "assert ensure_running(Path(os.environ['PULSETRAIN_HOME']))\n"
        "print(os.getsid(0), flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program],
        env={**NOWHERE, "PULSETRAIN_HOME": str(tmp_path)},
        cwd="/",
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as trains:
        session = int(trains.stdout.readline())
        wait_for(lambda: serving(place), 20, "a forwarder")
        guardian, forwarder = processes(place)
        for process in (guardian, forwarder):
            assert os.getsid(process.pid) not in (session, os.getsid(0))
            assert process.terminal() is None
            assert process.cwd() == str(tmp_path)
            files = {int(link.name): str(link.readlink()) for link in Path(f"/proc/{process.pid}/fd").iterdir()}
            assert files[0] == os.devnull
            assert {files[1], files[2]} <= {os.devnull, str(place.log)}
            assert str(tmp_path / "opened") not in files.values()
        assert psutil.Process(trains.pid).children() == [], "no child that the program did not ask for, dead or alive"
        assert guardian.memory_info().rss < 4 << 20
        trains.stdin.close()


def test_of_many_that_start_at_once_one_stays(place, tmp_path, monkeypatch):
    with monkeypatch.context() as all_look_before_any_starts:
        all_look_before_any_starts.setattr(spawn, "is_running", lambda _: False)
        all_look_before_any_starts.setattr(spawn, "is_awaited", lambda _: False)
        for _ in range(3):
            assert spawn.ensure_running(tmp_path, NOWHERE)
    wait_for(lambda: serving(place), 20, "a forwarder")
    wait_for(lambda: len(processes(place)) == 2, 20, "the end of all but one forwarder and its guardian")


def guard(place: Place, tmp_path: Path, command: list[str]) -> list[str]:
    """Guards a command until the guardian gives up or leaves; the seconds that it slept, in order."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "sleep").write_text(f'#!/bin/sh\necho "$1" >>{tmp_path / "slept"}\n')
    (tmp_path / "bin" / "sleep").chmod(0o755)
    env = {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
    subprocess.run(["/bin/sh", str(spawn.GUARDIAN), str(place.path), *command], env=env, check=True, timeout=60)
    slept = tmp_path / "slept"
    return slept.read_text().split() if slept.exists() else []


def test_what_cannot_start_is_tried_less_and_less_often_and_given_up(place, tmp_path):
    place.create()
    slept = guard(place, tmp_path, ["sh", "-c", "echo broken; exit 1"])
    assert slept == ["0"] * 3 + ["1", "2", "4", "8", "16", "32"] + ["60"] * 10
    log = place.log.read_text()
    assert log.count("broken") == 20
    assert log.endswith("20 times in a row; giving up\n")
    assert spawn.is_awaited(place), "nobody starts another one while the guardian waits"
    assert not spawn.is_awaited(place, lambda: time.time() + 100)
    assert not spawn.is_awaited(place, lambda: time.time() - 3600), "nor does a clock that is put back hold it up"


@pytest.mark.parametrize("ending", ["exit 0", "kill -TERM $$", "kill -INT $$"])
def test_what_ends_by_itself_or_on_request_is_not_started_again(place, tmp_path, ending):
    place.create()
    assert guard(place, tmp_path, ["sh", "-c", f"echo once; {ending}"]) == []
    assert place.log.read_text().count("once") == 1


def test_without_its_folder_there_is_nothing_to_guard_and_a_long_log_is_put_aside(place, tmp_path):
    place.create()
    place.log.write_bytes(bytes(9_000_000))
    guard(place, tmp_path, ["sh", "-c", f"echo new; rm -r {place.path}; mkdir {place.path}x; exit 1"])
    assert not place.path.exists()


def test_a_look_at_the_lock_does_not_leave_it_to_a_child_that_is_forked_meanwhile(place):
    """Data loaders fork: a child that had the lock with it would keep every forwarder out for as long as it lives."""
    place.create()
    place.lock.touch()
    stop = threading.Event()

    def look() -> None:
        while not stop.is_set():
            spawn.is_running(place)

    looker = threading.Thread(target=look)
    looker.start()
    children = []
    try:
        for _ in range(60):
            children.append(os.fork())
            if not children[-1]:
                signal.pause()
                os._exit(0)
        stop.set()
        looker.join()
        with locked(place) as ours:
            assert ours
    finally:
        stop.set()
        for child in children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def test_a_forwarder_whose_loop_hangs_ends_with_its_stacks_in_the_log():
    program = (
        "import threading\nfrom pulsetrain.forwarder import process\nprocess.HANG_SECONDS = 0.2\n"
        "def hangs(): threading.Event().wait()\n"
        "ended = process._Watchdog(); ended(); ended.end()\n"
        "watchdog = process._Watchdog(); watchdog(); hangs()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "in hangs" in done.stderr
