"""A run that has not finished, with what goes on beside it: console, git, forwarder, inbox, and what its end awaits."""

import os
import sys
import threading
import time
from pathlib import Path

from pulsetrain._run import environment
from pulsetrain._run.beginning import Beginning
from pulsetrain._run.console import ConsoleCapture
from pulsetrain._run.ending import HeldInterrupts
from pulsetrain._run.faults import tell
from pulsetrain._run.history import History, NoHistory
from pulsetrain._run.inbox import Inbox
from pulsetrain._run.link import Link
from pulsetrain._run.run import Run
from pulsetrain._settings import RunSettings

GIT_JOIN_SECONDS = 1.0
# How long the end waits for the summary of a run that went back to be made anew.
BACK_JOIN_SECONDS = 10.0


class GoingBack:
    """Makes the carried summary anew where the first row goes back behind the step that the attempt was to
    begin at: without what is replaced. Beside the training, for it may mean reading much.
    """

    def __init__(self, settings: RunSettings, begun: Beginning) -> None:
        self.history: History | None = None
        self._settings = settings
        self._past = begun.before
        self._thread: threading.Thread | None = None

    def start(self, step: int) -> None:
        """The attempt begins at `step`."""
        if self._past is not None:
            self._thread = threading.Thread(target=self._carry, args=(step,), name="pulsetrain-carry", daemon=True)
            self._thread.start()

    def wait(self, held: HeldInterrupts) -> None:
        """Before the run ends."""
        if self._thread is not None:
            held.join(self._thread, BACK_JOIN_SECONDS)

    def forsake(self) -> None:
        """In a forked child there is no such thread."""
        self._thread = None

    def _carry(self, step: int) -> None:
        if self._past is not None and self.history is not None:
            state = self._past.state(step)
            self.history.event("summary", state.record(primary=self._settings.primary))


class ActiveRun:
    """A run that has not finished, with what goes on in the background for it."""

    def __init__(
        self,
        run: Run,
        history: History | NoHistory,
        link: Link | None,
        back: GoingBack | None = None,
        inbox: Inbox | None = None,
    ) -> None:
        self.run = run
        self.history = history
        self.link = link
        self._back = back
        self._inbox = inbox
        self.pid = os.getpid()
        self._console: ConsoleCapture | None = None
        self._git: threading.Thread | None = None
        self._ended_as = ""

    def begin_watching(self) -> None:
        """Console, git, forwarder: what needs the run to be there."""
        if self.link is None:
            return
        settings = self.run.settings
        if settings.capture_console:
            self._console = ConsoleCapture(self._console_line)
            self._console.start()
        if settings.use_git:
            self._git = threading.Thread(target=self._find_git, name="pulsetrain-git", daemon=True)
            self._git.start()
        self.link.watch()
        if self._inbox is not None and settings.mode == "online":
            self._inbox.watch()

    def close(self, state: str, exit_code: int, held: HeldInterrupts) -> None:
        """Writes the end down."""
        history = self.history
        if os.getpid() != self.pid:  # a forked child: its own journal ends, the run does not
            data = {"state": state, "exit_code": exit_code, "time": time.time(), "dropped": history.dropped}
            history.close("finish", data)
            return
        if self._inbox is not None:
            self._inbox.stop()
        if self._console is not None:
            self._console.stop()
        if self._git is not None:
            held.join(self._git, GIT_JOIN_SECONDS)
        if self._back is not None:
            self._back.wait(held)
        data = {"state": state, "exit_code": exit_code, "time": time.time(), "dropped": history.dropped}
        history.close("finish", data)
        self._ended_as = state + (f", exit code {exit_code}" if exit_code else "")

    def wait(self, held: HeldInterrupts, *, quiet: bool = False, since: float) -> None:
        """Waits for the delivery of what was closed, for the run's `finish_timeout` from `since` (monotonic) on."""
        if self.link is None or os.getpid() != self.pid:
            return
        history, settings = self.history, self.run.settings
        quiet = quiet or settings.quiet or settings.silent
        if history.dropped and not settings.silent:
            tell(f"{history.dropped:,} rows of run {self.run.name} were not kept")
        if settings.mode == "online" and history.directory is not None:
            left = max(0.0, since + settings.finish_timeout - time.monotonic())
            self.link.wait_delivered(
                history.directory, history.sequence, left, quiet=quiet, is_interrupted=held.is_interrupted
            )
        self.link.stop()
        if not quiet:
            tell(f"run {self.run.name} ({self.run.id}) {self._ended_as}")

    def forsake(self) -> None:
        """In a forked child: nothing in the background goes on here, and the journal is the parent's."""
        if self._console is not None:
            self._console.mute()
        self._git = None
        if self._back is not None:
            self._back.forsake()
        self.run.forsake()

    def _console_line(self, stream: str, line: str) -> None:
        self.history.event("console", {"stream": stream, "line": line})

    def _find_git(self) -> None:
        known = environment.git(Path(sys.argv[0]).absolute().parent if sys.argv and sys.argv[0] else Path.cwd())
        if known:
            self.history.event("update", {"environment": known})
