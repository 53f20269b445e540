"""How a run begins and ends: init(), the hooks that see the program end, forks, and the wait for delivery."""

import os
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pulsetrain import _settings
from pulsetrain._run import environment, names
from pulsetrain._run.config import as_mapping
from pulsetrain._run.console import ConsoleCapture
from pulsetrain._run.ending import Ending
from pulsetrain._run.errors import UsageError
from pulsetrain._run.faults import Faults, tell
from pulsetrain._run.history import History, NoHistory
from pulsetrain._run.link import Link
from pulsetrain._run.run import Run
from pulsetrain._settings import RunSettings, Settings
from pulsetrain.journal.writer import JournalWriter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pulsetrain._run.attempts import Earlier

GIT_JOIN_SECONDS = 1.0

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
    step.
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
    earlier, resumed, first_step = _earlier(settings)
    run_id = earlier.run_id if resumed and earlier else settings.run_id or names.new_run_id()
    # A process that joins a run which is being resumed belongs to the attempt that another process began.
    attempt = 0 if earlier is None or settings.fork is not None else earlier.attempt + (not earlier.running)
    started = time.time()
    folder = _make_folder(settings, run_id, started, faults)
    before = earlier.start if resumed and earlier else {}
    link = Link(settings.home, os.environ.copy(), faults)
    name = settings.name or before.get("name") or names.new_name(_number(folder.parent))
    start = {
        "project": settings.project,
        "entity": settings.entity,
        "run_id": run_id,
        "rank": settings.rank,
        "attempt": attempt,
        "attempt_started": round(started * 1e6),
        "first_step": first_step,
        "role": "run",
        "mode": settings.mode,
        "host": environment.host(),
        "name": name,
        "notes": settings.notes if settings.notes is not None else before.get("notes"),
        "tags": list(settings.tags) or before.get("tags"),
        "group": settings.group or before.get("group"),
        "job_type": settings.job_type or before.get("job_type"),
    }
    known = environment.capture()
    if settings.fork is not None:
        known["forked_from"] = f"{settings.fork[0]}?_step={settings.fork[1]}"

    def open_writer(forked: bool) -> JournalWriter:
        from pulsetrain.forwarder.liveness import created

        writer_id = os.urandom(16).hex()
        writer = JournalWriter(folder / writer_id, writer=writer_id)
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

    history = History(open_writer, faults, run_id=run_id, first_step=first_step)
    history.open()
    run = Run(
        settings, run_id=run_id, name=name, attempt=attempt, resumed=resumed, start_time=started, folder=folder,
        history=history, on_finish=_end, start=start,
    )  # fmt: skip
    if earlier is not None and (resumed or settings.fork is not None):
        run.config.update(earlier.config, allow_val_change=True)
        if resumed and earlier.summary:
            history.event("summary", {"summary": dict(earlier.summary), "carried": True})
    if not settings.quiet and not settings.silent:
        _introduce(run, folder, link)
    return run, _Active(run, history, link)


def _earlier(settings: RunSettings) -> tuple["Earlier | None", bool, int]:
    """The attempt that this one follows, whether it goes on from there, and with which step."""
    if settings.run_id is None and settings.fork is None and settings.resume != "auto":
        if settings.resume == "must":
            raise UsageError('resume="must" needs the id of the run: init(id=…), or PULSETRAIN_RUN_ID')
        return None, False, 0
    from pulsetrain._run import attempts

    where, project = settings.directory, settings.project
    if settings.fork is not None:
        origin = attempts.find(where, project, settings.fork[0])
        if origin is None:
            raise UsageError(f"fork_from: no run {settings.fork[0]!r} of project {project!r} is known")
        return origin, False, settings.fork[1] + 1
    if settings.run_id is None:
        earlier = attempts.last_unfinished(where, project)
    elif settings.resume is None and settings.rewind is None:
        earlier = attempts.local(where, project, settings.run_id)
        # Of processes that share a run, none begins a new attempt.
        return (None if earlier is None or earlier.running else earlier), False, 0
    else:
        earlier = attempts.find(where, project, settings.run_id)
    if earlier is None:
        if settings.resume == "must" or settings.rewind is not None:
            raise UsageError(
                f"no run {settings.run_id!r} of project {project!r} is known, neither in {where} nor by the read side; "
                'to start it, use resume="allow"'
            )
        return None, False, 0
    if settings.resume == "never":
        raise UsageError(f'run {settings.run_id!r} of project {project!r} is there already, and resume is "never"')
    if settings.rewind is not None:
        return earlier, True, settings.rewind[1] + 1
    if earlier.running:
        return earlier, True, int(earlier.start.get("first_step", 0))
    return earlier, True, 0 if earlier.last_step is None else earlier.last_step + 1


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


def _introduce(run: Run, folder: Path, link: Link) -> None:
    what = "resuming" if run.resumed else "run"
    tell(f"{what} {run.name} ({run.id}) of project {run.project}, kept in {folder}")
    if run.mode == "online" and not link.broker_is_known():
        tell(
            "no Kafka is known, so nothing leaves this machine yet: start one with `pulsetrain up`, or set "
            "PULSETRAIN_KAFKA; everything that is logged is kept and sent then"
        )
    elif run.mode == "offline":
        tell(f"offline: `pulsetrain sync {folder}` sends it later")


class _Active:
    """A run that has not finished, with what goes on in the background for it."""

    def __init__(self, run: Run, history: History | NoHistory, link: Link | None) -> None:
        self.run = run
        self.history = history
        self.link = link
        self.pid = os.getpid()
        self._console: ConsoleCapture | None = None
        self._git: threading.Thread | None = None

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

    def end(self, state: str, exit_code: int, *, quiet: bool) -> None:
        """Writes the end down, and waits for its delivery."""
        history = self.history
        if os.getpid() != self.pid:  # a forked child: its own journal ends, the run does not
            history.close("finish", {"state": state, "exit_code": exit_code, "time": time.time()})
            return
        if self._console is not None:
            self._console.stop()
        if self._git is not None:
            self._git.join(GIT_JOIN_SECONDS)
        data = {"state": state, "exit_code": exit_code, "time": time.time(), "dropped": history.dropped}
        history.close("finish", data)
        if self.link is None:
            return
        settings = self.run.settings
        quiet = quiet or settings.quiet or settings.silent
        if history.dropped and not settings.silent:
            tell(f"{history.dropped:,} rows of run {self.run.name} were not kept")
        if settings.mode == "online" and history.directory is not None:
            self.link.wait_delivered(history.directory, history.sequence, settings.finish_timeout, quiet=quiet)
        self.link.stop()
        if not quiet:
            tell(f"run {self.run.name} ({self.run.id}) {state}" + (f", exit code {exit_code}" if exit_code else ""))

    def forsake(self) -> None:
        """In a forked child: nothing in the background goes on here, and the journal is the parent's."""
        if self._console is not None:
            self._console.mute()
        self._git = None
        self.run.forsake()

    def _console_line(self, stream: str, line: str) -> None:
        self.history.event("console", {"stream": stream, "line": line})

    def _find_git(self) -> None:
        known = environment.git(Path(sys.argv[0]).absolute().parent if sys.argv and sys.argv[0] else Path.cwd())
        if known:
            self.history.event("update", {"environment": known})


def _end(run: Run, state: str, exit_code: int, quiet: bool) -> None:
    global current
    with _lock:
        active = next((one for one in _runs if one.run is run), None)
        if active is not None:
            _runs.remove(active)
        if current is run:
            current = _runs[-1].run if _runs else None
    if active is not None:
        active.end(state, exit_code, quiet=quiet)


def finish(exit_code: int | None = None, quiet: bool | None = None) -> None:
    """Ends the current run, see Run.finish. Does nothing when there is none."""
    if current is not None:
        current.finish(exit_code, quiet)


def _finish_all(exit_code: int, state: str) -> None:
    for active in reversed(_runs.copy()):
        active.run.end(state, exit_code)


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
