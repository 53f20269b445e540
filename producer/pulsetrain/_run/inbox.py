"""What the process of a run is told from outside: alerts, and commands such as stop and checkpoint.

The forwarder writes lines into a file beside the journal; a thread of the process looks at it four times a second,
which costs a stat. Callbacks run on that thread, and what they raise is noted, not raised.
"""

import _thread
import ctypes
import json
import os
import signal
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pulsetrain._run.faults import Faults, tell

INBOX = "inbox.jsonl"
LOOK_SECONDS = 0.25
STOP = "stop"


@dataclass(frozen=True, slots=True)
class Alert:
    """A change of an alert about this run. `state` is firing or resolved, `severity` info, warning or critical.

    `kind` is the word of a detector (nan, stall …), rule, or user for run.alert(); `time` in seconds since the epoch.
    """

    kind: str
    subject: str
    state: str
    severity: str
    title: str
    text: str
    time: float
    step: int | None = None
    value: float | None = None
    rank: int | None = None
    host: str = ""
    gpu: str = ""


@dataclass(frozen=True, slots=True)
class Signal:
    """A word to this run: `action` is stop, checkpoint, kill, or one of your own; `actor` who gave it."""

    action: str
    actor: str
    text: str = ""


def interrupt() -> None:
    """Interrupts the main thread as Ctrl-C does; also where SIGINT is ignored, as in what a shell starts with `&`."""
    if callable(signal.getsignal(signal.SIGINT)):
        _thread.interrupt_main()
    else:
        main = ctypes.c_ulong(threading.main_thread().ident or 0)
        ctypes.pythonapi.PyThreadState_SetAsyncExc(main, ctypes.py_object(KeyboardInterrupt))


AlertCallback = Callable[[Alert], object]
SignalCallback = Callable[[Signal], object]


class Inbox:
    """Reads the file, and calls who asked to be called. `file` says where it is now: a forked child has its own.

    `each` is called with every look, on the same thread. Alerts are said on the console too, where `says_alerts`, but
    for the script's own.
    """

    def __init__(
        self,
        file: Callable[[], Path | None],
        faults: Faults,
        *,
        each: Callable[[], object] = lambda: None,
        says_alerts: bool = True,
        interrupt: Callable[[], object] = interrupt,
        say: Callable[[str], None] = tell,
    ) -> None:
        self._file = file
        self._faults = faults
        self._each = each
        self._says_alerts = says_alerts
        self._interrupt = interrupt
        self._say = say
        self._alert_callbacks: list[AlertCallback] = []
        self._signal_callbacks: dict[str, list[SignalCallback]] = {}
        self._path: Path | None = None
        self._offset = 0
        self._stop = threading.Event()

    def on_alert(self, callback: AlertCallback) -> None:
        """Has it called with every alert about the run from now on."""
        self._alert_callbacks.append(callback)

    def on_signal(self, action: str, callback: SignalCallback) -> None:
        """Has it called with every signal of that action from now on."""
        self._signal_callbacks.setdefault(action, []).append(callback)

    def watch(self) -> None:
        """Looks from a thread of its own, until `stop`."""
        threading.Thread(target=self._watch, name="pulsetrain-inbox", daemon=True).start()

    def stop(self) -> None:
        """Ends the watch."""
        self._stop.set()

    def look(self) -> None:
        """Takes what came since the last time."""
        path = self._file()
        if path is None:
            return
        if path != self._path:
            self._path, self._offset = path, 0
        try:
            if os.stat(path).st_size <= self._offset:  # noqa: PTH116 - four times a second: no object more than it takes
                return
            with path.open("rb") as file:
                file.seek(self._offset)
                content = file.read()
        except FileNotFoundError:
            return
        whole = content.rpartition(b"\n")[0]
        self._offset += len(whole) + 1 if whole else 0
        for line in whole.splitlines():
            try:
                self._take(json.loads(line))
            except (ValueError, TypeError, KeyError):
                continue  # half a line, of a disk that was full: the forwarder says it again

    def _watch(self) -> None:
        while not self._stop.wait(LOOK_SECONDS):
            for what in (self.look, self._each):
                try:
                    what()
                except Exception as error:  # noqa: BLE001 - what is wrong with us must not end the training
                    self._faults.note("inbox", f"what is said to this run, or by it, is left out: {error!r}")

    def _take(self, entry: Mapping[str, Any]) -> None:
        if "alert" in entry:
            alert = Alert(**{name: entry["alert"].get(name) for name in Alert.__dataclass_fields__})
            if self._says_alerts and alert.state == "firing" and alert.kind != "user":
                self._say(f"{alert.severity} alert, {alert.title}: {alert.text}")
            for callback in self._alert_callbacks:
                self._call(callback, alert)
            return
        signal = Signal(str(entry["action"]), str(entry.get("actor", "")), str(entry.get("text", "")))
        callbacks = self._signal_callbacks.get(signal.action, [])
        for each in callbacks:
            self._call(each, signal)
        if signal.action == STOP and not callbacks:
            self._say(f"stopped by {signal.actor or 'somebody'}" + (f": {signal.text}" if signal.text else ""))
            self._interrupt()

    def _call(self, callback: Callable[[Any], object], word: Alert | Signal) -> None:
        try:
            callback(word)
        except Exception as error:  # noqa: BLE001 - a callback's fault must not end the training
            self._faults.note("callback", f"a callback for {word} failed: {error!r}")
