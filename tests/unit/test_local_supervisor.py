"""The supervisor of the local stack, over small programs in place of the real ones."""

import json
import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from pulsetrain_local.home import Home, write_json
from pulsetrain_local.processes import ProcessIdentity
from pulsetrain_local.service import Program, Service, State
from pulsetrain_local.supervisor import Given, StackFailed, Supervisor, stop_orphans
from tests.waiting import wait_for


class Notes:
    """A reporter that keeps what it is told."""

    def __init__(self) -> None:
        self.started: list[str] = []
        self.are_ready: list[str] = []
        self.ends: list[tuple[str, int | None]] = []
        self.up = threading.Event()

    def starting(self, name: str) -> None:
        self.started.append(name)

    def ready(self, name: str, took: float, address: str | None) -> None:
        self.are_ready.append(name)

    def ended(self, name: str, exit_code: int | None, log: str) -> None:
        self.ends.append((name, exit_code))

    def all_ready(self, seconds: float) -> None:
        self.up.set()

    def stopping(self) -> None: ...


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "stack")
    home.create()
    return home


def program(home: Home, name: str, script: str, ready: Callable[[], bool] | None = None, *after: str) -> Program:
    command = ["sh", "-c", script]
    return Program(name, lambda: command, dict(os.environ), home.log(name), ready, after=frozenset(after), stop_grace=5)


def always() -> bool:
    return True


@pytest.fixture
def running(home: Home) -> Iterator[Callable[..., tuple[Supervisor, Notes]]]:
    """Starts supervisors in threads; all are stopped at the end."""
    threads: list[tuple[Supervisor, threading.Thread]] = []

    def start(*programs: Program, given: tuple[Given, ...] = (), timeout: float = 30) -> tuple[Supervisor, Notes]:
        notes = Notes()
        supervisor = Supervisor(home, programs, given, {"PULSETRAIN_HOME": str(home.root)}, notes)
        thread = threading.Thread(target=supervisor.run, args=(timeout,))
        thread.start()
        threads.append((supervisor, thread))
        return supervisor, notes

    yield start
    for supervisor, thread in threads:
        supervisor.request_stop()
        thread.join(timeout=20)
        assert not thread.is_alive()


def test_a_program_starts_when_what_it_needs_is_ready_and_not_before(home: Home, running: Callable) -> None:
    gate = home.root / "gate"
    _, notes = running(
        program(home, "database", "sleep 60", gate.exists),
        program(home, "tables", "true", None, "database"),
        program(home, "service", "sleep 60", always, "tables"),
    )
    wait_for(lambda: notes.started == ["database"], what="the first program's start")
    assert not home.stack.exists()
    gate.touch()
    assert notes.up.wait(10)
    assert notes.started == notes.are_ready == ["database", "tables", "service"]


def test_the_file_that_others_read_is_there_when_all_is_ready_and_gone_afterwards(
    home: Home, running: Callable
) -> None:
    supervisor, notes = running(program(home, "service", "sleep 60", always), given=(Given("kafka", "far:9092"),))
    assert notes.up.wait(10)
    said = json.loads(home.stack.read_text())
    assert (said["version"], said["pid"]) == (1, os.getpid())
    assert said["environment"] == {"PULSETRAIN_HOME": str(home.root)}
    assert {entry["name"]: entry["state"] for entry in said["services"]} == {"service": "running", "kafka": "external"}
    assert stat.S_IMODE(home.stack.stat().st_mode) == 0o600
    supervisor.request_stop()
    wait_for(lambda: not home.stack.exists() and not home.supervisor.exists(), what="the end of the files")


def test_a_service_that_dies_is_started_again_under_a_new_process(home: Home, running: Callable) -> None:
    _, notes = running(program(home, "service", "sleep 60", always))
    assert notes.up.wait(10)
    first = json.loads(home.stack.read_text())["services"][0]["pid"]
    os.kill(first, signal.SIGKILL)

    def second() -> int | None:
        entry = json.loads(home.stack.read_text())["services"][0]
        return entry["pid"] if entry["state"] == "running" and entry["pid"] != first else None

    assert psutil.pid_exists(wait_for(second, what="a new process"))
    assert notes.ends == [("service", -signal.SIGKILL)]


def test_a_start_that_fails_again_and_again_ends_with_the_words_of_the_program(home: Home) -> None:
    broken = program(home, "tables", "echo the disk of the database is read-only; exit 7")
    with pytest.raises(StackFailed, match=r"tables ended with exit code 7(?s:.*)database is read-only"):
        Supervisor(home, [broken], [], {}, Notes()).run(start_timeout=30)
    assert not home.stack.exists()


def test_a_full_disk_is_called_by_its_name(home: Home) -> None:
    broken = program(home, "kafka", "echo 'java.io.IOException: No space left on device'; exit 1", always_false)
    with pytest.raises(StackFailed, match="The disk is full"):
        Supervisor(home, [broken], [], {}, Notes()).run(start_timeout=30)


def always_false() -> bool:
    return False


def test_a_start_that_takes_too_long_names_what_was_not_ready_and_leaves_nothing(home: Home) -> None:
    started = home.root / "pid"
    slow = program(home, "slow", f"echo $$ > {started}; exec sleep 60", always_false)
    later = program(home, "later", "sleep 60", always, "slow")
    with pytest.raises(StackFailed, match=r"not ready within 0\.5 s.*slow, later"):
        Supervisor(home, [slow, later], [], {}, Notes()).run(start_timeout=0.5)
    assert not psutil.pid_exists(int(started.read_text()))


def test_programs_stop_in_the_reverse_order_of_their_start(home: Home, running: Callable) -> None:
    order = home.root / "order"
    script = "trap 'echo {0} >> {1}; exit' TERM; touch {2}; while :; do sleep 0.05; done"
    marks = {name: home.root / f"{name}.trapped" for name in ("database", "service")}
    supervisor, notes = running(
        program(home, "database", script.format("database", order, marks["database"]), marks["database"].exists),
        program(
            home, "service", script.format("service", order, marks["service"]), marks["service"].exists, "database"
        ),
    )
    assert notes.up.wait(10)
    supervisor.request_stop()
    wait_for(lambda: not home.supervisor.exists(), what="the end")
    assert order.read_text().split() == ["service", "database"]


def test_a_program_that_does_not_heed_the_request_to_stop_is_killed(home: Home) -> None:
    deaf = home.root / "deaf"
    service = Service(program(home, "deaf", f"trap '' TERM; touch {deaf}; while :; do sleep 0.05; done", always))
    service.start()
    wait_for(deaf.exists, what="the trap")
    pid = service.pid
    assert pid is not None
    service.ask_to_stop()
    assert service.wait_stopped(0.2) is False
    assert not psutil.pid_exists(pid)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends children with their parent")
def test_a_supervisor_that_is_killed_takes_its_programs_with_it(home: Home) -> None:
    script = """
import os, sys
from pathlib import Path
sys.path.insert(0, os.getcwd())
from pulsetrain_local.home import Home
from tests.unit.test_local_supervisor import Notes, always, program
from pulsetrain_local.supervisor import Supervisor
home = Home(Path(sys.argv[1]))
Supervisor(home, [program(home, "service", "exec sleep 60", always)], [], {}, Notes()).run(30)
"""
    with subprocess.Popen([sys.executable, "-c", script, str(home.root)]) as supervisor:
        wait_for(home.stack.exists, what="a stack")
        pid = json.loads(home.stack.read_text())["services"][0]["pid"]
        assert psutil.pid_exists(pid)
        supervisor.kill()
    wait_for(lambda: not psutil.pid_exists(pid), what="the end of the program")


def test_what_a_killed_supervisor_left_is_ended_but_no_process_that_only_has_its_number(home: Home) -> None:
    with subprocess.Popen(["sleep", "60"]) as left, subprocess.Popen(["sleep", "60"]) as other:
        mine, theirs = ProcessIdentity.of(left.pid), ProcessIdentity.of(other.pid)
        assert mine is not None
        assert theirs is not None
        reused = {"pid": theirs.pid, "created": theirs.created - 3600}
        write_json(home.supervisor, {"services": [{"name": "a", **mine.to_json()}, {"name": "b", **reused}]})
        try:
            assert stop_orphans(home) == 1
            assert not psutil.pid_exists(left.pid)
            assert other.poll() is None
        finally:
            other.kill()


def test_pauses_between_starts_grow_until_half_a_minute(home: Home) -> None:
    now = [0.0]
    service = Service(program(home, "flaky", "exit 1", always_false), clock=lambda: now[0])
    service.start()
    pauses = []
    for _ in range(8):
        wait_for(lambda: service.step() is State.RESTARTING, what="the end of the program")
        began = now[0]
        while service.step() is State.RESTARTING:
            now[0] += 0.25
        pauses.append(now[0] - began)
    service.ask_to_stop()
    service.wait_stopped(5)
    assert pauses == [0.5, 1, 2, 4, 8, 16, 30, 30]


def test_a_service_that_was_ready_for_a_while_is_started_again_without_a_pause(home: Home) -> None:
    now = [0.0]
    service = Service(program(home, "steady", "exec sleep 60", always), clock=lambda: now[0])
    service.start()
    pauses = []
    for lasted in (10.0, 10.0, 0.1, 0.1, 10.0):
        wait_for(lambda: service.step() is State.RUNNING, what="a program that runs")
        assert service.pid is not None
        os.kill(service.pid, signal.SIGKILL)
        now[0] += lasted
        wait_for(lambda: service.step() is State.RESTARTING, what="the end of the program")
        began = now[0]
        while service.step() is State.RESTARTING:
            now[0] += 0.25
        pauses.append(now[0] - began)
    service.ask_to_stop()
    service.wait_stopped(5)
    assert pauses == [0, 0, 0.5, 1, 0]
    assert service.restarts == 5


def test_a_log_that_grows_large_is_set_aside_once(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pulsetrain_local.service.LOG_BYTES", 100)
    service = Service(program(home, "talker", "true", always))
    home.log("talker").write_bytes(b"x" * 150)
    service.rotate_log()
    assert home.log("talker").read_bytes() == b""
    assert (home.logs / "talker.1.log").read_bytes() == b"x" * 150


def test_a_command_that_is_not_there_fails_the_start_with_its_name(home: Home) -> None:
    absent = Program("absent", lambda: ["/no/such/program"], dict(os.environ), home.log("absent"), always_false)
    with pytest.raises(StackFailed, match="/no/such/program cannot be started"):
        Supervisor(home, [absent], [], {}, Notes()).run(start_timeout=30)


def test_one_home_has_one_supervisor_at_a_time(home: Home) -> None:
    with home.supervised() as first:
        assert first
        assert home.has_supervisor()
        with home.supervised() as second:
            assert not second
    assert not home.has_supervisor()
