"""Keeps the programs of a local stack running: starts them in order, restarts what dies, stops them in order.

One thread and no callbacks: `run` looks at every program twenty times a second until it is told to stop. Everything
that outsiders need is in files of the home: supervisor.json from the first moment, stack.json when all is ready.
"""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from pulsetrain_local.home import Home, read_json, write_json
from pulsetrain_local.processes import ProcessIdentity, end
from pulsetrain_local.service import Program, Service, State
from pulsetrain_schemas import addresses

_TICK_STARTING, _TICK_RUNNING = 0.03, 0.05
_ROTATION_EVERY = 5.0
_ATTEMPTS_TO_START = 3


class StackFailed(RuntimeError):
    """The stack did not come up; the text says what failed, with the end of its log, and what to do."""


class Reporter(Protocol):
    """Told what happens, in words for a person. `took` counts from the start of the program, `seconds` of the stack."""

    def starting(self, name: str) -> None: ...
    def ready(self, name: str, took: float, address: str | None) -> None: ...
    def ended(self, name: str, exit_code: int | None, log: str) -> None: ...
    def all_ready(self, seconds: float) -> None: ...
    def stopping(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Given:
    """A service that somebody else runs: where it is, and whether it answers."""

    name: str
    address: str


class Supervisor:
    """The programs of one home. Hold `home.supervised()` around it."""

    def __init__(
        self,
        home: Home,
        programs: Sequence[Program],
        given: Sequence[Given],
        environment: Mapping[str, str],
        reporter: Reporter,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._home = home
        self._services = {program.name: Service(program) for program in programs}
        self._given = list(given)
        self._environment = dict(environment)
        self._reporter = reporter
        self._clock = clock
        self._began = clock()
        self._rotated = self._began
        self._recorded: object = None
        self._all_ready = False
        self._stop = False

    def request_stop(self) -> None:
        """May be called from a signal handler."""
        self._stop = True

    def run(self, start_timeout: float) -> None:
        """Runs until `request_stop`, then stops everything. Raises StackFailed where it does not come up in time."""
        stop_orphans(self._home)
        try:
            while not self._stop:
                self._step()
                if not self._all_ready:
                    self._check_start(start_timeout)
                time.sleep(_TICK_RUNNING if self._all_ready else _TICK_STARTING)
        finally:
            self._shut_down()

    def _step(self) -> None:
        settled = {name for name, service in self._services.items() if service.settled}
        settled |= {given.name for given in self._given}
        for name, service in self._services.items():
            before = service.state
            if before is State.WAITING:
                if service.program.after <= settled:
                    self._reporter.starting(name)
                    service.start()
                continue
            after = service.step()
            if after is before:
                continue
            if after in (State.RUNNING, State.DONE):
                self._reporter.ready(name, service.ready_after or 0.0, service.program.address)
            elif after is State.RESTARTING:
                self._reporter.ended(name, service.exit_code, str(service.program.log))
        if not self._all_ready and all(service.settled for service in self._services.values()):
            self._all_ready = True
            self._record()
            self._reporter.all_ready(self._clock() - self._began)
        self._record()
        if self._clock() - self._rotated > _ROTATION_EVERY:
            self._rotated = self._clock()
            for service in self._services.values():
                service.rotate_log()

    def _check_start(self, timeout: float) -> None:
        for service in self._services.values():
            if service.failures >= _ATTEMPTS_TO_START:
                raise StackFailed(_failure(service, f"{service.program.name} ended {_how(service.exit_code)}"))
        if self._clock() - self._began > timeout:
            late = [service for service in self._services.values() if not service.settled]
            at_work = next((service for service in late if service.state is not State.WAITING), late[0])
            names = ", ".join(service.program.name for service in late)
            raise StackFailed(
                _failure(at_work, f"the stack was not ready within {timeout:g} s (--timeout); not ready: {names}")
            )

    def _record(self) -> None:
        """Writes the files of the home where anything in them has changed."""
        services: list[dict[str, object]] = [
            {
                "name": name,
                "pid": service.pid,
                "created": service.identity.created if service.identity else None,
                "state": str(service.state),
                "address": service.program.address,
                "restarts": service.restarts,
            }
            for name, service in self._services.items()
            if not service.program.is_task
        ]
        services += [
            {"name": given.name, "pid": None, "state": str(State.EXTERNAL), "address": given.address}
            for given in self._given
        ]
        if (services, self._all_ready) == self._recorded:
            return
        self._recorded = (services, self._all_ready)
        me = ProcessIdentity.of(os.getpid())
        assert me is not None
        said = {**me.to_json(), "phase": "ready" if self._all_ready else "starting", "services": services}
        write_json(self._home.supervisor, said)
        if self._all_ready:
            stack = {
                "version": addresses.STACK_VERSION,
                "pid": me.pid,
                "started": read_json(self._home.stack).get("started") or time.time(),
                "environment": self._environment,
                "services": services,
            }
            write_json(self._home.stack, stack)

    def _shut_down(self) -> None:
        """Last started, first stopped; what does not depend on each other stops at the same time."""
        self._reporter.stopping()
        self._home.stack.unlink(missing_ok=True)
        remaining = dict(self._services)
        while remaining:
            needed = {name for service in remaining.values() for name in service.program.after}
            going = [service for name, service in remaining.items() if name not in needed]
            for service in going:
                service.ask_to_stop()
            deadline = time.monotonic() + max(service.program.stop_grace for service in going)
            for service in going:
                service.wait_stopped(deadline - time.monotonic())
                del remaining[service.program.name]
        self._home.supervisor.unlink(missing_ok=True)


def stop_orphans(home: Home) -> int:
    """Ends what a supervisor of this home that is gone has left running. Returns how many processes that were."""
    left = read_json(home.supervisor).get("services")
    recorded = [ProcessIdentity.from_json(entry) for entry in left or () if isinstance(entry, dict)]
    ended = end([identity for identity in recorded if identity is not None])
    home.stack.unlink(missing_ok=True)
    home.supervisor.unlink(missing_ok=True)
    return ended


def _how(exit_code: int | None) -> str:
    if exit_code is None:
        return "before it began"
    return f"by signal {-exit_code}" if exit_code < 0 else f"with exit code {exit_code}"


def _failure(service: Service, what: str) -> str:
    tail = service.log_tail()
    text = "\n".join(tail)
    if "No space left on device" in text or "ENOSPC" in text:
        what += ". The disk is full: make room, or choose another place with PULSETRAIN_HOME"
    elif "Address already in use" in text or "ADDRESS_ALREADY_IN_USE" in text:
        what += ". Its port was taken by another process: start again, and a free one is chosen"
    shown = "".join(f"\n    {line[:300]}" for line in tail) or "\n    (it wrote nothing)"
    return f"{what}.\n  The end of {service.program.log}:{shown}"
