"""Brings a local stack up, in this process or in one that stays behind, and takes it down.

A stack that stays behind is a process of its own, `python -m pulsetrain_local.launch`, which says what happens as JSON
lines on its standard output until all is ready, and is then on its own.
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from types import FrameType
from typing import Any, TextIO

from pulsetrain_local import kafka_jars
from pulsetrain_local.forwarders import LOCAL, forwarders
from pulsetrain_local.grafana import NoGrafana, find_grafana
from pulsetrain_local.home import Home
from pulsetrain_local.java import NoJava, find_java
from pulsetrain_local.kafka import rehearse
from pulsetrain_local.kafka_jars import InstallProgress, KafkaNotInstalled
from pulsetrain_local.ports import PortInUse
from pulsetrain_local.processes import ProcessIdentity, end
from pulsetrain_local.prometheus import NoPrometheus, find_prometheus
from pulsetrain_local.rehearsal import exercise
from pulsetrain_local.stack import Installed, KafkaRuntime, WantedPorts, choose_ports, plan
from pulsetrain_local.supervisor import Reporter, StackFailed, Supervisor, stop_orphans
from pulsetrain_schemas import addresses

FAILURES = (StackFailed, NoJava, NoGrafana, NoPrometheus, KafkaNotInstalled, PortInUse, addresses.AddressError)
"""What bringing a stack up raises; the text is for the person who asked for it."""


def prepare_kafka(progress: InstallProgress, env: Mapping[str, str]) -> KafkaRuntime | None:
    """What our own broker needs, brought here where it is missing; None where PULSETRAIN_KAFKA names another one."""
    if env.get("PULSETRAIN_KAFKA"):
        return None
    java = find_java(env)
    installation = kafka_jars.install(java, progress, env)
    archive = installation.quick_start(java)
    if archive is not None and not archive.exists():
        progress.preparing(
            f"rehearsing a start on Java {java.version}, so that later ones are quick (about 10 s, once)"
        )
        rehearse(java, installation, exercise)
    return KafkaRuntime(java, installation)


def run_stack(
    home: Home,
    wanted: WantedPorts,
    timeout: float,
    reporter: Reporter,
    progress: InstallProgress,
    env: Mapping[str, str],
) -> bool:
    """Brings the stack up and keeps it up until this process is told to end. False where one is up already."""
    with home.supervised() as free:
        if not free:
            return False
        stop_orphans(home)
        runtime = prepare_kafka(progress, env)
        installed = Installed(find_grafana(env), find_prometheus(env))
        chosen = plan(home, choose_ports(home, wanted), runtime, env, installed)
        supervisor = Supervisor(home, chosen.programs, chosen.given, chosen.environment, reporter)

        def stop(_number: int, _frame: FrameType | None) -> None:
            supervisor.request_stop()

        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, stop)
        supervisor.run(timeout)
        return True


def run_detached(home: Home, wanted: WantedPorts, timeout: float, reporter: Reporter) -> None:
    """Starts the process that stays behind and returns when all is ready. Raises StackFailed."""
    with home.log("supervisor").open("ab") as log:
        process = subprocess.Popen(
            supervisor_command(home, wanted, timeout),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,
        )
    try:
        follow(process, home, reporter)
    except KeyboardInterrupt:
        process.terminate()
        process.wait()
        raise


def supervisor_command(home: Home, wanted: WantedPorts, timeout: float) -> list[str]:
    """The command line of a supervisor that says what happens on its standard output."""
    command = [sys.executable, "-m", "pulsetrain_local.launch", "--home", str(home.root), "--timeout", str(timeout)]
    for name, port in asdict(wanted).items():
        if port is not None:
            command += [f"--{name}", str(port)]
    return command


def follow(process: "subprocess.Popen[str]", home: Home, reporter: Reporter) -> None:
    """Passes on what a supervisor says until all is ready. Raises StackFailed where it does not get there."""
    assert process.stdout is not None
    for line in process.stdout:
        kind, values = json.loads(line)
        if kind == "failed":
            process.wait()
            raise StackFailed(values["text"])
        getattr(reporter, kind)(**values)
        if kind == "all_ready":
            return
    code = process.wait()
    raise StackFailed(f"the supervisor ended with exit code {code}; see {home.log('supervisor')}")


def wait_until_up(home: Home, timeout: float) -> bool:
    """Waits while another process brings the stack up; whether it is up."""
    deadline = time.monotonic() + timeout
    while addresses.running_stack(home.root) is None:
        if time.monotonic() > deadline or not home.has_supervisor():
            return False
        time.sleep(0.1)
    return True


def take_down(home: Home, patience: float = 60.0) -> bool:
    """Stops the stack of this home, by force after `patience` seconds. False where none was up."""
    if not home.has_supervisor():
        return stop_orphans(home) > 0
    deadline = time.monotonic() + patience
    asked: int | None = None
    while (pid := home.supervisor_pid()) is not None or home.has_supervisor():
        if pid is not None and pid != asked:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
            asked = pid
        elif pid is not None and time.monotonic() > deadline:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)
    stop_orphans(home)
    _dismiss_idle_forwarder(home)
    return True


def _dismiss_idle_forwarder(home: Home) -> None:
    """Ends the forwarder of this stack where no run needs it: it would leave by itself half a minute later.

    One that still has journals to read or to send stays, and sends them when the stack is up again.
    """
    idle = [
        identity
        for forwarder in forwarders(home.root)
        if forwarder.destination == LOCAL and forwarder.alive and not forwarder.journals and forwarder.pid is not None
        if (identity := ProcessIdentity.of(forwarder.pid)) is not None
    ]
    end(idle, grace=10)


class LineReporter:
    """Says what happens as JSON lines, until all is ready."""

    def __init__(self, stream: TextIO) -> None:
        self._stream: TextIO | None = stream

    def starting(self, name: str) -> None:
        self._say("starting", name=name)

    def ready(self, name: str, took: float, address: str | None) -> None:
        self._say("ready", name=name, took=took, address=address)

    def ended(self, name: str, exit_code: int | None, log: str) -> None:
        print(f"{_now()} {name} ended with exit code {exit_code}; starting it again", file=sys.stderr, flush=True)  # noqa: T201
        self._say("ended", name=name, exit_code=exit_code, log=log)

    def all_ready(self, seconds: float) -> None:
        self._say("all_ready", seconds=seconds)
        self._leave()

    def stopping(self) -> None:
        print(f"{_now()} stopping", file=sys.stderr, flush=True)  # noqa: T201

    def failed(self, text: str) -> None:
        print(f"{_now()} {text}", file=sys.stderr, flush=True)  # noqa: T201
        self._say("failed", text=text)

    def _say(self, kind: str, **values: Any) -> None:
        if self._stream is None:
            return
        try:
            print(json.dumps([kind, values]), file=self._stream, flush=True)
        except BrokenPipeError:  # the one who asked is gone; the stack stays
            self._leave()

    def _leave(self) -> None:
        """Lets go of the pipe: who reads it may end, and nothing more is written to it."""
        self._stream = None
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _main(arguments: list[str] | None = None, environment: Callable[[], Mapping[str, str]] = lambda: os.environ) -> int:
    parser = argparse.ArgumentParser(prog="python -m pulsetrain_local.launch", description=__doc__)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--timeout", type=float, required=True)
    names = [field.name for field in fields(WantedPorts)]
    for name in names:
        parser.add_argument(f"--{name}", type=int, metavar="PORT")
    given = parser.parse_args(arguments)
    reporter = LineReporter(sys.stdout)
    wanted = WantedPorts(**{name: getattr(given, name) for name in names})
    try:
        up = run_stack(Home(given.home), wanted, given.timeout, reporter, kafka_jars.Silent(), environment())
    except FAILURES as error:
        reporter.failed(str(error))
        return 1
    except OSError as error:
        reporter.failed(f"the stack cannot be kept in {given.home}: {error.strerror}: {error.filename}")
        return 1
    if not up:
        reporter.failed(f"another stack of {given.home} was started at the same moment")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(_main())
