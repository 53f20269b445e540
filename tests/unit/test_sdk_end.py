import json
import signal
import subprocess
import sys
import threading
import time

import pytest

from pulsetrain._run import link
from pulsetrain._run.ending import held_interrupts
from pulsetrain._run.faults import Faults
from pulsetrain.forwarder.places import Place, destination
from pulsetrain.forwarder.process import locked
from tests.unit.sdk_harness import PREAMBLE, journals, python, records, rows, sdk
from tests.waiting import wait_for

__all__ = ["sdk"]

QUIET = {"silent": True}


@pytest.mark.parametrize(
    ("ending", "state", "exit_code"),
    [
        ("pass", "finished", 0),
        ("run.finish()", "finished", 0),
        ("run.finish(exit_code=3)", "failed", 3),
        ("raise ValueError('no')", "failed", 1),
        ("raise KeyboardInterrupt", "killed", 255),
        ("import sys; sys.exit(4)", "failed", 4),
        ("import sys; sys.exit()", "finished", 0),
        ("import sys; sys.exit('words')", "failed", 1),
        ("with run: raise ValueError", "failed", 1),
        ("with run: pass", "finished", 0),
        ("with run: raise SystemExit(5)", "failed", 5),
    ],
)
def test_the_end_of_the_program_is_the_end_of_the_run(sdk, ending, state, exit_code):
    python(f"run = pulsetrain.init(settings={QUIET})\nrun.log({{'a': 1}})\n{ending}")
    (journal,) = journals(sdk)
    last = records(journal)[-1]
    assert last.kind == "finish"
    assert (last.data["state"], last.data["exit_code"]) == (state, exit_code)
    assert rows(journal) == [(0, {"a": 1.0})]


def test_ctrl_c_is_noticed_where_it_strikes(sdk):
    code = (
        PREAMBLE + f"run = pulsetrain.init(settings={QUIET}); print('on', flush=True)\nwhile True: run.log({{'a': 1}})"
    )
    # A shell that starts the tests in the background has SIGINT ignored, and a program inherits that.
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n" + code
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        assert child.stdout.readline() == b"on\n"
        child.send_signal(signal.SIGINT)
        child.wait(30)
    finally:
        child.kill()
        child.stdout.close()
        child.wait()
    (journal,) = journals(sdk)
    assert records(journal)[-1].data["state"] == "killed"


def test_while_a_run_is_active_a_forwarder_is_looked_for_again_and_again(tmp_path, monkeypatch):
    from pulsetrain.forwarder import spawn

    looked, registered = [], []
    monkeypatch.setattr(spawn, "ensure_running", lambda home, env: looked.append(home))
    monkeypatch.setattr(spawn, "register", lambda *arguments: registered.append(arguments))
    monkeypatch.setattr(link, "WATCH_SECONDS", 0.001)
    here = link.Link(tmp_path, {}, Faults())
    here.announce("w1", tmp_path)
    assert (len(looked), len(registered)) == (1, 1)
    here.watch()
    wait_for(lambda: len(looked) > 3, what="several looks")
    here.stop()


def test_a_journal_that_a_full_disk_kept_from_being_announced_is_announced_when_there_is_room(tmp_path, monkeypatch):
    from pulsetrain.forwarder import spawn

    is_full, registered = True, []

    def register(home, writer, journal, env):
        if is_full:
            raise OSError(28, "No space left on device")
        registered.append((writer, journal))

    monkeypatch.setattr(spawn, "ensure_running", lambda home, env: False)
    monkeypatch.setattr(spawn, "register", register)
    monkeypatch.setattr(link, "WATCH_SECONDS", 0.001)
    here = link.Link(tmp_path, {}, Faults(lambda _: None))
    here.watch()
    here.announce("w1", tmp_path / "1")
    here.announce("w2", tmp_path / "2")
    is_full = False
    wait_for(lambda: len(registered) >= 2, what="both journals")
    here.stop()
    here.announce("w3", tmp_path / "3")
    assert list(dict.fromkeys(registered)) == [("w1", tmp_path / "1"), ("w2", tmp_path / "2"), ("w3", tmp_path / "3")]


def test_a_forked_child_goes_on_announcing_its_own_journal_and_not_its_parents(tmp_path, monkeypatch):
    from pulsetrain.forwarder import spawn

    is_full, registered = True, []

    def register(home, writer, journal, env):
        if is_full:
            raise OSError(28, "No space left on device")
        registered.append(writer)

    monkeypatch.setattr(spawn, "ensure_running", lambda home, env: False)
    monkeypatch.setattr(spawn, "register", register)
    monkeypatch.setattr(link, "WATCH_SECONDS", 0.001)
    here = link.Link(tmp_path, {}, Faults(lambda _: None))
    here._watching_pid = 1  # as of a parent, whose thread is not here
    here._unannounced["parent's"] = (tmp_path, 1)
    here.announce("child's", tmp_path)
    is_full = False
    wait_for(lambda: registered, what="the child's journal")
    here.stop()
    assert set(registered) == {"child's"}


def test_trouble_with_the_forwarder_is_noted_and_training_goes_on(tmp_path, monkeypatch, capsys):
    from pulsetrain.forwarder import spawn

    def broken(*_):
        raise PermissionError("no")

    monkeypatch.setattr(spawn, "register", broken)
    faults = Faults()
    link.Link(tmp_path, {}, faults).announce("w", tmp_path)
    assert faults.counts["forwarder"] == 1
    assert "nothing is lost" in capsys.readouterr().err


def started(code: str) -> subprocess.Popen:
    """A program whose Ctrl-C works: a shell that starts the tests in the background has it ignored."""
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n" + PREAMBLE + code
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "on\n"
    return child


@pytest.fixture
def busy(sdk, tmp_path, monkeypatch):
    """A forwarder that is there, says that the broker is connected, and confirms nothing."""
    env = {"PULSETRAIN_KAFKA": "127.0.0.1:1"}
    monkeypatch.setenv("PULSETRAIN_KAFKA", env["PULSETRAIN_KAFKA"])
    monkeypatch.setenv("PULSETRAIN_MODE", "online")
    place = Place.of(tmp_path / "home", destination(env))
    place.create()
    place.status.write_text(json.dumps({"pid": 1, "broker": "connected", "updated": time.time()}))
    with locked(place) as ours:
        assert ours
        yield sdk


WAITS = "print('waits', file=__import__('sys').stderr, flush=True)"
# Tells that the wait has begun, and waits on.
TELLING = f"""
from pulsetrain._run.farewell import Farewell
reason = Farewell._reason_to_leave
def telling(self):
    global reason
    Farewell._reason_to_leave = reason
    {WAITS}
    return reason(self)
Farewell._reason_to_leave = telling
"""


def until_it_waits(child: subprocess.Popen) -> None:
    assert "waits\n" in iter(child.stderr.readline, "")


# By the signal, or by 1: the interpreter forgets what it ends by when another thread runs exec() meanwhile.
INTERRUPTED = (-2, 1)


@pytest.mark.parametrize(
    ("training", "presses", "state", "exit_code", "left_with"),
    [
        # Ctrl-C in finish() leaves the wait, and the program goes on.
        ("run = pulsetrain.init(); print('on', flush=True); run.finish(); print('after')", 1, "finished", 0, (0,)),
        ("run = pulsetrain.init(); print('on', flush=True); run.log({'a': 1})", 1, "finished", 0, (0,)),
        # The first interrupts the training, the second the wait.
        (
            "with pulsetrain.init():\n print('on', flush=True)\n while True: time.sleep(9)",
            2,
            "killed",
            255,
            INTERRUPTED,
        ),
        ("run = pulsetrain.init(); print('on', flush=True)\nwhile True: time.sleep(1)", 2, "killed", 255, INTERRUPTED),
        ("pulsetrain.init(); pulsetrain.init(reinit='create_new'); print('on', flush=True)", 1, "finished", 0, (0,)),
    ],
)
def test_ctrl_c_leaves_the_wait_at_once_and_the_end_is_written(busy, training, presses, state, exit_code, left_with):
    child = started("import time\n" + TELLING + training)
    try:
        if presses == 2:
            child.send_signal(signal.SIGINT)
        until_it_waits(child)
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=30)  # of sixty seconds that it would wait
    finally:
        child.kill()
    assert child.returncode in left_with, err
    assert ("after" in out) == ("after" in training)
    assert "interrupted. Nothing is lost" in err
    ends = [records(journal)[-1] for journal in journals(busy)]
    assert {(end.kind, end.data["state"], end.data["exit_code"]) for end in ends} == {("finish", state, exit_code)}


def test_ctrl_c_while_the_end_is_written_leaves_it_whole(busy):
    child = started(
        "import time\n"
        "from pulsetrain._run.history import History\n"
        "close = History.close\n"
        "def slow(self, *data):\n"
        f"    {WAITS}\n"
        "    time.sleep(0.5)\n"
        "    close(self, *data)\n"
        "History.close = slow\n"
        "run = pulsetrain.init(); print('on', flush=True); run.finish()"
    )
    try:
        until_it_waits(child)
        child.send_signal(signal.SIGINT)
        _, err = child.communicate(timeout=30)
    finally:
        child.kill()
    assert child.returncode == 0, err
    (journal,) = journals(busy)
    assert records(journal)[-1].data["state"] == "finished"


def test_sigterm_in_the_wait_ends_the_program_and_the_run_has_ended_as_it_said(busy):
    child = started(TELLING + "run = pulsetrain.init(); print('on', flush=True); run.finish(exit_code=3)")
    try:
        until_it_waits(child)
        child.send_signal(signal.SIGTERM)
        assert child.wait(30) == -signal.SIGTERM
    finally:
        child.kill()
        child.communicate()
    (journal,) = journals(busy)
    assert (records(journal)[-1].kind, records(journal)[-1].data["state"]) == ("finish", "failed")


def test_a_handler_of_the_programs_own_hears_of_ctrl_c_and_is_back_afterwards():
    heard = []
    before = signal.signal(signal.SIGINT, lambda *_: heard.append(1))
    try:
        own = signal.getsignal(signal.SIGINT)
        with held_interrupts() as held:
            assert not held.came
            signal.raise_signal(signal.SIGINT)
            assert held.came
            other = threading.Thread(target=threading.Event().wait, daemon=True)
            other.start()
            held.join(other, 60)
        assert signal.getsignal(signal.SIGINT) is own
        assert heard == [1]
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_second_ctrl_c_in_the_end_acts_where_something_hangs():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with held_interrupts():
            signal.raise_signal(signal.SIGINT)
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)
