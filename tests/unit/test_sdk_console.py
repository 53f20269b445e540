import io
import sys

import pytest

import pulsetrain
from tests.unit.sdk_harness import events, sdk

__all__ = ["sdk"]


def console(run):
    return [(event["stream"], event["line"]) for event in events(run._history.directory, "console")]


@pytest.fixture
def streams(sdk, monkeypatch):
    """Call it in the test: pytest puts its own streams in place after the fixtures."""

    def replace():
        out, err = io.StringIO(), io.StringIO()
        monkeypatch.setattr(sys, "stdout", out)
        monkeypatch.setattr(sys, "stderr", err)
        return out, err

    return replace


def test_what_is_printed_is_kept_line_by_line_and_still_printed(streams):
    out, _ = streams()
    write = out.write
    run = pulsetrain.init(settings={"console": "wrap", "quiet": True})
    print("one")
    print("two", "words", end="")
    print(" together\n\nafter")
    print("problem", file=sys.stderr)
    print("\x1b[31mred\x1b[0m")
    print("no end", end="")
    run.finish()
    print("afterwards")
    assert out.getvalue().startswith("one\ntwo words together\n\nafter\n")
    lines = [line for stream, line in console(run) if stream == "stdout"]
    assert lines == ["one", "two words together", "", "after", "red", "no end"]
    assert ("stderr", "problem") in console(run)
    assert out.write == write


def test_progress_bars_do_not_flood(streams):
    _, err = streams()
    run = pulsetrain.init(settings={"console": "wrap", "quiet": True})
    for percent in range(1000):
        err.write(f"\r{percent / 10}%|####")
    err.write("\r100%|####\n")
    for _ in range(1000):  # nested bars move the cursor
        err.write("\n\rinner\x1b[A")
    run.finish()
    lines = [line for stream, line in console(run) if stream == "stderr"]
    assert lines[0] == "100%|####"
    assert len(lines) < 10


def test_a_handler_of_logging_that_holds_the_stream_is_heard_and_nothing_recurs(streams, monkeypatch):
    import logging

    out, err = streams()
    handler = logging.StreamHandler(err)
    run = pulsetrain.init(settings={"console": "auto", "quiet": True})
    logger = logging.getLogger("test of the console")
    logger.addHandler(handler)
    event = run._history.event
    monkeypatch.setattr(run._history, "event", lambda *a, **k: (print("from within"), event(*a, **k))[1])
    logger.warning("heard")
    monkeypatch.setattr(run._history, "event", event)
    run.finish()
    assert ("stderr", "heard") in console(run)
    assert "from within" in out.getvalue()


def test_what_pulsetrain_says_itself_is_not_captured(streams):
    _, err = streams()
    run = pulsetrain.init(settings={"console": "wrap"})
    run.finish()
    assert "pulsetrain: run" in err.getvalue()
    assert console(run) == []


def test_a_stream_that_cannot_be_wrapped_is_left_alone(sdk, monkeypatch):
    class Bare:
        __slots__ = ()

        def write(self, text):
            return len(text)

        def flush(self):
            pass

    monkeypatch.setattr(sys, "stdout", Bare())
    monkeypatch.setattr(sys, "stderr", None)
    run = pulsetrain.init(settings={"console": "wrap"})
    print("x")
    run.finish()
    assert console(run) == []
