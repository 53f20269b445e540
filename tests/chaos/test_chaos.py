"""Two minutes of `make chaos`, and the parts of the harness that would make it say yes to everything if they broke."""

import random
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos import __main__ as chaos
from tests.chaos import judge as judging
from tests.chaos import schedule
from tests.chaos.faults import FAULTS
from tests.chaos.ledger import Ledger
from tests.chaos.proxy import Proxy
from tests.chaos.world import World
from tests.waiting import wait_for

SEED = 20_261_123
QUICK = (
    "kill_training_inside_log",
    "kill_training_and_forwarder",
    "kill_writer_before_ledger",
    "kill_clickhouse_during_insert",
    "full_disk_under_the_journal",
    "kill_monitor",
)


@pytest.mark.stack
@pytest.mark.timeout(420)
def test_nothing_is_lost_and_nothing_doubled_whatever_dies(capfd: pytest.CaptureFixture[str]) -> None:
    """`make chaos` in small: a few faults alone, then a minute of combinations of all."""
    code = chaos.main(["--seed", str(SEED), "--minutes", "1", "--long", "5", *_each("--alone", QUICK)])
    assert code == 0, capfd.readouterr().out


def _each(option: str, values: tuple[str, ...]) -> list[str]:
    return [word for value in values for word in (option, value)]


@pytest.mark.stack
@pytest.mark.timeout(180)
def test_the_judge_sees_a_row_that_is_missing_and_one_that_is_there_twice(tmp_path: Path) -> None:
    with World(tmp_path, SEED, lambda _: None, writers=1) as world:
        workload = world.train("judged", "texts", rows=600)
        workload.process.wait(60)
        judging.wait_stored(world, "judged")
        whole = judging.judge(world, "judged")
        assert whole, whole.complaints
        assert (whole.logged, whole.stored, whole.lost, whole.doubled) == (600, 600, 0, 0)
        where = "WHERE project = 'judged' AND sequence = (SELECT max(sequence) FROM metrics WHERE project = 'judged')"
        world.query(f"INSERT INTO metrics SELECT * FROM metrics {where}")
        assert judging.judge(world, "judged").doubled == 1
        world.query(f"ALTER TABLE metrics DELETE {where} SETTINGS mutations_sync = 1")
        assert judging.judge(world, "judged").lost == 1
        world.query(
            "ALTER TABLE metrics UPDATE value = value + 1 WHERE project = 'judged' AND endsWith(metric, '/x') "
            "AND step = 17 SETTINGS mutations_sync = 1"
        )
        assert any("/x" in complaint for complaint in judging.judge(world, "judged").complaints)
        alert = f"{workload.name}.0 0"
        world.query("INSERT INTO alert_events SELECT * REPLACE (concat(alert_id, '2') AS alert_id) FROM alert_events")
        assert f"alert {alert} is there 2 times" in judging.judge(world, "judged").complaints
        world.query("ALTER TABLE alert_events DELETE WHERE sequence = 1 SETTINGS mutations_sync = 1")
        assert f"1 alerts are missing, among them {alert}" in judging.judge(world, "judged").complaints


def test_the_counters_survive_a_kill_in_the_middle_of_a_call(tmp_path: Path) -> None:
    path = tmp_path / "t.ledger"
    ledger = Ledger(path, create=True)
    script = (
        "import sys, os, signal, pathlib; from tests.chaos.ledger import Ledger\n"
        "ledger = Ledger(pathlib.Path(sys.argv[1]))\n"
        "for row in range(5):\n"
        "    ledger.begin(3, row)\n"
        "    ledger.returned(3, row)\n"
        "ledger.begin(3, 5)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(path)], check=False, cwd=Path(__file__).parents[2])
    assert done.returncode == -signal.SIGKILL
    (stream,) = ledger.counted()
    assert (stream.stream, stream.begun, stream.returned, stream.dropped) == ("t.3", 6, 5, 0)


@pytest.fixture
def echo() -> Iterator[tuple[str, int]]:
    """A server that sends back what it gets."""
    code = (
        "import socketserver\n"
        "class Echo(socketserver.BaseRequestHandler):\n"
        "    def handle(self):\n"
        "        while data := self.request.recv(65536):\n"
        "            self.request.sendall(data)\n"
        "with socketserver.ThreadingTCPServer(('127.0.0.1', 0), Echo) as server:\n"
        "    print(server.server_address[1], flush=True)\n"
        "    server.serve_forever()\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield "127.0.0.1", int(process.stdout.readline())
        finally:
            process.kill()


def test_the_proxy_passes_cuts_and_refuses(echo: tuple[str, int]) -> None:
    proxy = Proxy(lambda: echo)
    try:
        with socket.create_connection(("127.0.0.1", proxy.port), 10) as connection:
            connection.sendall(b"whole")
            assert connection.recv(100) == b"whole"
            proxy.cut_soon(3)
            connection.sendall(b"0123456789")
            found = b"".join(iter(lambda: _received(connection), b""))
            assert len(found) < 10
        assert proxy.cuts == 1
        proxy.refusing = True
        with socket.create_connection(("127.0.0.1", proxy.port), 10) as connection:
            assert _received(connection) == b""
        proxy.refusing = False
        hit: list[bool] = []
        proxy.on_bytes(100, lambda: hit.append(True))
        with socket.create_connection(("127.0.0.1", proxy.port), 10) as connection:
            connection.sendall(b"x" * 50)
            assert connection.recv(100)
            assert not hit
            connection.sendall(b"x" * 200)
            wait_for(lambda: hit, 10, "the tripwire")
    finally:
        proxy.close()


def _received(connection: socket.socket) -> bytes:
    try:
        return connection.recv(100)
    except ConnectionError:
        return b""


def test_a_combination_draws_the_same_faults_from_the_same_seed_and_none_that_collide() -> None:
    def drawn(seed: int) -> list[str]:
        chance, active, names = random.Random(seed), [], []
        for _ in range(200):
            fault = schedule._draw(chance, list(FAULTS.values()), active)
            if fault is None or chance.random() < 0.3:
                active = active[1:]
            if fault is not None:
                assert not any(fault.touches & other.touches for other in active)
                assert not fault.alone or not active
                active = [*active, fault]
                names.append(fault.name)
        return names

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)
    assert set(drawn(3)) > set(QUICK)


def test_every_fault_says_what_it_does() -> None:
    assert all((fault.happens.__doc__ or "").strip() for fault in FAULTS.values())
