import json
import signal
import subprocess
import sys
import threading
import time

import pytest

from pulsetrain._run import link
from pulsetrain._run.faults import Faults
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


def test_finish_waits_for_the_forwarder_and_says_so_when_it_takes_long(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(link, "PROGRESS_AFTER_SECONDS", 0.0)
    monkeypatch.setenv("PULSETRAIN_KAFKA", "127.0.0.1:1")
    journal = tmp_path / "run" / "w"
    journal.mkdir(parents=True)
    here = link.Link(tmp_path, {"PULSETRAIN_KAFKA": "127.0.0.1:1"}, Faults())
    threading.Timer(0.2, lambda: (journal / "ack.json").write_text(json.dumps({"complete": True}))).start()
    assert here.wait_delivered(journal, 7, 30)
    assert "sending what was logged (0 of 7 records so far)" in capsys.readouterr().err


def test_finish_does_not_wait_where_no_broker_is_known(tmp_path, capsys):
    begun = time.monotonic()
    assert not link.Link(tmp_path, {"PULSETRAIN_HOME": str(tmp_path)}, Faults()).wait_delivered(tmp_path / "w", 7, 30)
    assert time.monotonic() - begun < link.AWAY_SECONDS
    assert "Nothing is lost" in capsys.readouterr().err


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


def test_trouble_with_the_forwarder_is_noted_and_training_goes_on(tmp_path, monkeypatch, capsys):
    from pulsetrain.forwarder import spawn

    def broken(*_):
        raise PermissionError("no")

    monkeypatch.setattr(spawn, "register", broken)
    faults = Faults()
    link.Link(tmp_path, {}, faults).announce("w", tmp_path)
    assert faults.counts["forwarder"] == 1
    assert "nothing is lost" in capsys.readouterr().err


def test_finish_gives_up_when_the_broker_is_away_and_says_that_nothing_is_lost(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(link, "AWAY_SECONDS", 0.1)
    env = {"PULSETRAIN_KAFKA": "127.0.0.1:1"}
    from pulsetrain.forwarder.places import Place, destination

    place = Place.of(tmp_path, destination(env))
    place.create()
    place.status.write_text(json.dumps({"pid": 1, "broker": "away", "detail": "", "updated": time.time()}))
    begun = time.monotonic()
    assert not link.Link(tmp_path, env, Faults()).wait_delivered(tmp_path / "run" / "w", 7, 30)
    assert time.monotonic() - begun < 10
    said = capsys.readouterr().err
    assert "Nothing is lost" in said
    assert "pulsetrain sync" in said
