"""One program under supervision: it is started, watched, started again when it dies, and stopped."""

import enum
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pulsetrain_local.processes import ProcessIdentity
from pulsetrain_local.tether import tethered

LOG_BYTES = 10 * 1024 * 1024
# One that was ready for longer than `_STEADY` is started again at once: it was killed, and is waited for.
_FIRST_PAUSE, _LONGEST_PAUSE, _STEADY = 0.5, 30.0, 3.0


class State(enum.StrEnum):
    """Where a program is in its life. A task is done when it has ended well; a service is running when it is ready."""

    WAITING = "waiting"
    STARTING = "starting"
    RUNNING = "running"
    DONE = "done"
    RESTARTING = "restarting"
    STOPPED = "stopped"
    EXTERNAL = "external"


@dataclass(frozen=True, slots=True)
class Program:
    """What is to run. `command` is asked anew at every start, so it may lay out files; it may raise OSError.

    A service has a `ready` question; a task, which is to end with exit code 0, has none. `after` names the programs
    that must be ready or done before this one starts.
    """

    name: str
    command: Callable[[], Sequence[str]]
    environment: Mapping[str, str]
    log: Path
    ready: Callable[[], bool] | None = None
    address: str | None = None
    after: frozenset[str] = frozenset()
    stop_grace: float = 15.0

    @property
    def is_task(self) -> bool:
        return self.ready is None


@dataclass(slots=True)
class Service:
    """A program and its process. Nothing here waits: `step` looks once and does what is due.

    `failures` counts the ends since it was steady last, `restarts` all of them.
    """

    program: Program
    clock: Callable[[], float] = time.monotonic
    state: State = State.WAITING
    failures: int = 0
    restarts: int = 0
    exit_code: int | None = None
    ready_after: float | None = None
    identity: ProcessIdentity | None = None
    _process: "subprocess.Popen[bytes] | None" = None
    _started: float = 0.0
    _start_again: float = field(default=0.0)

    @property
    def settled(self) -> bool:
        """Whether programs that come after this one may start."""
        return self.state in (State.RUNNING, State.DONE, State.EXTERNAL)

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Starts the process. A command that cannot be made counts as a process that ended."""
        self.state = State.STARTING
        self._started = self.clock()
        with self.program.log.open("ab") as log:
            try:
                command = tethered(list(self.program.command()), os.getpid())
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=dict(self.program.environment),
                    start_new_session=True,  # a Ctrl-C at the terminal is for the supervisor, which stops them in order
                )
            except OSError as error:
                log.write(f"{self.program.name} cannot be started: {error}\n".encode())
                self._ended(exit_code=126)
                return
        self.identity = ProcessIdentity.of(self._process.pid)

    def step(self) -> State:
        """Looks at the process once: notices that it is ready or has ended, and starts it again when that is due."""
        if self.state is State.RESTARTING and self.clock() >= self._start_again:
            self.start()
        elif self._process is not None and self.state in (State.STARTING, State.RUNNING):
            code = self._process.poll()
            if code is not None:
                self._ended(code)
            elif self.state is State.STARTING and self.program.ready is not None and self.program.ready():
                self.state = State.RUNNING
                self.ready_after = self.clock() - self._started
        return self.state

    def ask_to_stop(self) -> None:
        """Sends SIGTERM, or only gives up what has no process."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        elif self.state is not State.EXTERNAL:
            self.state = State.STOPPED

    def wait_stopped(self, timeout: float) -> bool:
        """Waits until the process is gone, kills it after `timeout` seconds; whether it went by itself."""
        if self._process is None:
            return True
        by_itself = True
        try:
            self._process.wait(timeout=max(timeout, 0.0))
        except subprocess.TimeoutExpired:
            by_itself = False
            self._process.kill()
            self._process.wait()
        self.state = State.STOPPED
        self._process = None
        return by_itself

    def rotate_log(self) -> None:
        """Keeps the log at about LOG_BYTES and the piece before it. The process appends, so truncating is safe."""
        log = self.program.log
        try:
            if log.stat().st_size <= LOG_BYTES:
                return
        except FileNotFoundError:
            return
        older = log.with_suffix(".1.log")
        with log.open("r+b") as source, older.open("wb") as target:
            while piece := source.read(1 << 20):
                target.write(piece)
            source.truncate(0)

    def log_tail(self, lines: int = 12) -> list[str]:
        """The last lines of the log."""
        try:
            with self.program.log.open("rb") as file:
                file.seek(0, os.SEEK_END)
                file.seek(max(0, file.tell() - 8192))
                return file.read().decode(errors="replace").strip().splitlines()[-lines:]
        except FileNotFoundError:
            return []

    def _ended(self, exit_code: int) -> None:
        self.exit_code = exit_code
        self._process = None
        self.identity = None
        if self.program.is_task and exit_code == 0:
            self.state = State.DONE
            self.ready_after = self.clock() - self._started
            return
        now = self.clock()
        steady = self.state is State.RUNNING and now - self._started - (self.ready_after or 0.0) > _STEADY
        self.failures = 0 if steady else self.failures + 1
        self.restarts += 1
        self.state = State.RESTARTING
        pause = min(_FIRST_PAUSE * 2 ** (self.failures - 1), _LONGEST_PAUSE) if self.failures else 0.0
        self._start_again = now + pause
