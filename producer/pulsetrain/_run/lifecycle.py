"""How a run begins and ends: init(), the hooks that see the program end, forks, and the wait for delivery."""

import os
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pulsetrain import _settings
from pulsetrain._run import beginning, environment, names
from pulsetrain._run.beginning import Beginning
from pulsetrain._run.config import as_mapping
from pulsetrain._run.console import ConsoleCapture
from pulsetrain._run.ending import Ending, HeldInterrupts, held_interrupts
from pulsetrain._run.errors import UsageError
from pulsetrain._run.faults import Faults, tell
from pulsetrain._run.history import History, NoHistory
from pulsetrain._run.link import Link
from pulsetrain._run.run import Run
from pulsetrain._settings import RunSettings, Settings
from pulsetrain.journal.room import Room
from pulsetrain.journal.writer import JournalWriter

GIT_JOIN_SECONDS = 1.0
# How long the end waits for the summary of a run that went back to be made anew.
BACK_JOIN_SECONDS = 10.0

_runs: list["_Active"] = []
_lock = threading.RLock()
current: Run | None = None
"""The run that the module's functions speak of."""


def init(
    project: str | None = None,
    entity: str | None = None,
    config: Any = None,
    *,
    id: str | None = None,  # noqa: A002 - W&B's name
    name: str | None = None,
    notes: str | None = None,
    tags: str | Sequence[str] | None = None,
    group: str | None = None,
    job_type: str | None = None,
    mode: str | None = None,
    resume: bool | str | None = None,
    resume_from: str | None = None,
    fork_from: str | None = None,
    reinit: bool | str | None = None,
    dir: str | os.PathLike[str] | None = None,  # noqa: A002 - W&B's name
    rank: int | None = None,
    settings: Settings | Mapping[str, Any] | None = None,
    allow_val_change: bool | None = None,
    config_exclude_keys: Sequence[str] | None = None,
    config_include_keys: Sequence[str] | None = None,
    force: bool | None = None,
    magic: Any = None,
    anonymous: Any = None,
    save_code: bool | None = None,
    monitor_gym: bool | None = None,
    tensorboard: bool | None = None,
    sync_tensorboard: bool | None = None,
) -> Run:
    """Starts a run, and makes it the one that `pulsetrain.log` and the like speak of.

    The arguments are W&B's. What is not given comes from `settings`, then from PULSETRAIN_* and WANDB_* variables.
    `resume`: "must" (the run has to be there), "allow" (goes on if it is), "never" (must not be there), "auto" or
    True (the last run of the project on this machine, if it broke off). A run that is resumed goes on after its last
    step. `resume_from="RUN?_step=N"` goes back in a run, `fork_from="RUN?_step=N"` begins another one, both after
    step N.
    `reinit` says what becomes of a run that is active: "return_previous" (outside of notebooks the default),
    "finish_previous" (in notebooks the default), "create_new". UsageError says which argument is wrong.
    `force`, `magic`, `anonymous`, `save_code`, `monitor_gym`, `tensorboard` and `sync_tensorboard` are accepted and
    have no effect.
    """
    global current
    del force, magic, anonymous, save_code, monitor_gym, tensorboard, sync_tensorboard
    arguments = {
        "project": project, "entity": entity, "id": id, "name": name, "notes": notes, "tags": tags, "group": group,
        "job_type": job_type, "mode": mode, "resume": resume, "resume_from": resume_from, "fork_from": fork_from,
        "reinit": reinit, "dir": dir, "rank": rank, "allow_val_change": allow_val_change,
    }  # fmt: skip
    decided = _settings.resolve(arguments, settings)
    chosen = _chosen(config, config_exclude_keys, config_include_keys)
    with _lock:
        reinit = decided.reinit
        if reinit == "default":
            reinit = "finish_previous" if environment.in_notebook() else "return_previous"
        if current is not None and reinit == "return_previous":
            return current
        if reinit == "finish_previous":
            for active in reversed(_runs.copy()):
                active.run.finish()
        run = _begin(decided, chosen)
        if current is None or reinit != "create_new":
            current = run
        return run


def _chosen(config: Any, exclude: Sequence[str] | None, include: Sequence[str] | None) -> dict[str, Any]:
    if exclude and include:
        raise UsageError("config_exclude_keys and config_include_keys cannot be combined")
    given = as_mapping(config)
    return {
        str(key): value
        for key, value in given.items()
        if (not include or key in include) and (not exclude or key not in exclude)
    }


def _begin(settings: RunSettings, config: dict[str, Any]) -> Run:
    _install_hooks()
    if settings.mode == "disabled":
        history = NoHistory()
        run = Run(
            settings, run_id=settings.run_id or names.new_run_id(), name=settings.name or "dummy", attempt=0,
            resumed=False, start_time=time.time(), folder=None, history=history, on_finish=_end,
        )  # fmt: skip
        active = _Active(run, history, None)
    else:
        run, active = _begin_written(settings)
    _runs.append(active)
    run.config.update(config, allow_val_change=True)
    active.begin_watching()
    return run


def _begin_written(settings: RunSettings) -> tuple[Run, "_Active"]:
    faults = Faults(_silent if settings.silent else tell)
    env = os.environ.copy()
    begun = beginning.decide(settings, faults, env)
    started = time.time()
    folder = _make_folder(settings, begun.run_id, started, faults)
    before = begun.state.start if begun.resumed and begun.state is not None else {}
    link = Link(settings.home, env, faults)
    name = settings.name or before.get("name") or names.new_name(_number(folder.parent))
    start = {
        "project": settings.project,
        "entity": settings.entity,
        "run_id": begun.run_id,
        "rank": settings.rank,
        "attempt_started": round(started * 1e6),
        **begun.start(),
        "role": "run",
        "mode": settings.mode,
        "sampling_seconds": settings.sampling_seconds,
        "host": environment.host(),
        "name": name,
        "notes": settings.notes if settings.notes is not None else before.get("notes"),
        "tags": list(settings.tags) or before.get("tags"),
        "group": settings.group or before.get("group"),
        "job_type": settings.job_type or before.get("job_type"),
    }
    known = environment.capture()
    launch = environment.launch(env)
    if launch is not None:
        known["launch"] = launch

    room = Room(folder.parent)

    def open_writer(forked: bool) -> JournalWriter:
        from pulsetrain.forwarder.liveness import created

        writer_id = os.urandom(16).hex()
        writer = JournalWriter(folder / writer_id, writer=writer_id, refusal=room.refusal)
        pid = os.getpid()
        writer.event(
            "start",
            {
                **start,
                "writer": writer_id,
                "primary": settings.primary and not forked,
                "pid": pid,
                "pid_created": created(pid) or 0.0,
                "environment": {**known, "pid": pid},
            },
            started if not forked else None,
        )
        link.announce(writer_id, writer.directory)
        return writer

    back = _GoingBack(settings, begun)
    history = History(
        open_writer, faults, run_id=begun.run_id, step=begun.step, first_step=begun.first_step, on_back=back.start
    )
    back.history = history
    history.open()
    run = Run(
        settings, run_id=begun.run_id, name=name, attempt=begun.attempt, resumed=begun.resumed, start_time=started,
        folder=folder, history=history, on_finish=_end, start=start,
    )  # fmt: skip
    if begun.state is not None:
        history.carry(begun.state.definitions.to_events(), begun.state.summary)
        history.event("summary", begun.state.record(primary=settings.primary))
        run.config.carry(begun.state.config)
    if not settings.quiet and not settings.silent:
        _introduce(run, folder, link, begun)
    return run, _Active(run, history, link, back)


def _make_folder(settings: RunSettings, run_id: str, started: float, faults: Faults) -> Path:
    prefix = "offline-run" if settings.mode == "offline" else "run"
    name = f"{prefix}-{time.strftime('%Y%m%d_%H%M%S', time.localtime(started))}-{run_id}"
    folder = settings.directory / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        import tempfile

        instead = Path(tempfile.gettempdir()) / f"pulsetrain-{os.getuid()}" / name
        faults.note("folder", f"{settings.directory} cannot be written ({error.strerror}); the run is in {instead}")
        instead.mkdir(parents=True, exist_ok=True, mode=0o700)
        return instead
    return folder


def _number(directory: Path) -> int:
    """Which run of this directory it is, for its name."""
    return sum("run-" in entry.name for entry in os.scandir(directory))


def _introduce(run: Run, folder: Path, link: Link, begun: Beginning) -> None:
    what = "resuming" if run.resumed else "run"
    where = f", from step {begun.step}" if begun.attempt or begun.parent is not None else ""
    origin = "" if begun.parent is None else f", a fork of {begun.parent[0]}"
    tell(f"{what} {run.name} ({run.id}) of project {run.project}{origin}{where}, kept in {folder}")
    if run.mode == "online" and not link.broker_is_known():
        tell(
            "no Kafka is known, so nothing leaves this machine yet: start one with `pulsetrain up`, or set "
            "PULSETRAIN_KAFKA; everything that is logged is kept and sent then"
        )
    elif run.mode == "offline":
        tell(f"offline: `pulsetrain sync {folder}` sends it later")


class _GoingBack:
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


class _Active:
    """A run that has not finished, with what goes on in the background for it."""

    def __init__(
        self, run: Run, history: History | NoHistory, link: Link | None, back: _GoingBack | None = None
    ) -> None:
        self.run = run
        self.history = history
        self.link = link
        self._back = back
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

    def close(self, state: str, exit_code: int, held: HeldInterrupts) -> None:
        """Writes the end down."""
        history = self.history
        if os.getpid() != self.pid:  # a forked child: its own journal ends, the run does not
            data = {"state": state, "exit_code": exit_code, "time": time.time(), "dropped": history.dropped}
            history.close("finish", data)
            return
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


def _end(run: Run, state: str, exit_code: int, quiet: bool) -> None:
    with held_interrupts() as held:
        active = _take_out(run)
        if active is not None:
            since = time.monotonic()
            active.close(state, exit_code, held)
            active.wait(held, quiet=quiet, since=since)


def _take_out(run: Run) -> "_Active | None":
    """The run is not among the active ones any more. None where it was not."""
    global current
    with _lock:
        active = next((one for one in _runs if one.run is run), None)
        if active is not None:
            _runs.remove(active)
        if current is run:
            current = _runs[-1].run if _runs else None
    return active


def finish(exit_code: int | None = None, quiet: bool | None = None) -> None:
    """Ends the current run, see Run.finish. Does nothing when there is none."""
    if current is not None:
        current.finish(exit_code, quiet)


def _finish_all(exit_code: int, state: str) -> None:
    """At the end of the program: first every run's end is written down, then all are waited for."""
    with held_interrupts() as held:
        since = time.monotonic()
        ending = [active for one in reversed(_runs.copy()) if (active := _take_out(one.run)) is not None]
        for active in ending:
            active.close(state, exit_code, held)
        for active in ending:
            active.wait(held, since=since)


def _after_fork() -> None:
    global _lock
    _lock = threading.RLock()
    for active in _runs:
        active.forsake()


_ending = Ending(_finish_all)


def _install_hooks() -> None:
    if _ending.install() and hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_after_fork)


def _silent(_: str) -> None:
    """Says nothing."""
