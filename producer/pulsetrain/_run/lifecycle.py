"""How a run begins and ends: init(), the hooks that see the program end, forks, and the wait for delivery."""

import os
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pulsetrain import _settings
from pulsetrain._run import beginning, environment, names
from pulsetrain._run.active import ActiveRun, GoingBack
from pulsetrain._run.beginning import Beginning
from pulsetrain._run.config import as_mapping
from pulsetrain._run.ending import Ending, held_interrupts
from pulsetrain._run.errors import UsageError
from pulsetrain._run.faults import Faults, tell
from pulsetrain._run.history import History, NoHistory
from pulsetrain._run.inbox import INBOX, Inbox
from pulsetrain._run.link import Link
from pulsetrain._run.run import Run
from pulsetrain._run.waiting import WaitWatch
from pulsetrain._settings import RunSettings, Settings
from pulsetrain.journal.room import Room
from pulsetrain.journal.writer import JournalWriter

if TYPE_CHECKING:
    from pulsetrain._run.step_timer import StepTimer

_runs: list["ActiveRun"] = []
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
        active = ActiveRun(run, history, None)
    else:
        run, active = _begin_written(settings)
    _runs.append(active)
    run.config.update(config, allow_val_change=True)
    active.begin_watching()
    return run


def _begin_written(settings: RunSettings) -> tuple[Run, "ActiveRun"]:
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

    back = GoingBack(settings, begun)
    history = History(
        open_writer, faults, run_id=begun.run_id, step=begun.step, first_step=begun.first_step, on_back=back.start
    )
    back.history = history
    history.open()
    timers: list[StepTimer] = []
    inbox = Inbox(
        lambda: None if history.directory is None else history.directory / INBOX,
        faults,
        each=WaitWatch(timers, history).look,
        says_alerts=not settings.quiet and not settings.silent,
    )
    run = Run(
        settings, run_id=begun.run_id, name=name, attempt=begun.attempt, resumed=begun.resumed, start_time=started,
        folder=folder, history=history, on_finish=_end, start=start, inbox=inbox,
        timers=timers,
    )  # fmt: skip
    if begun.state is not None:
        history.carry(begun.state.definitions.to_events(), begun.state.summary)
        if settings.primary:
            for rule in begun.state.rules.values():
                history.event("alert_rule", rule)
        history.event("summary", begun.state.record(primary=settings.primary))
        run.config.carry(begun.state.config)
    if not settings.quiet and not settings.silent:
        _introduce(run, folder, link, begun)
    return run, ActiveRun(run, history, link, back, inbox)


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


def _end(run: Run, state: str, exit_code: int, quiet: bool) -> None:
    with held_interrupts() as held:
        active = _take_out(run)
        if active is not None:
            since = time.monotonic()
            active.close(state, exit_code, held)
            active.wait(held, quiet=quiet, since=since)


def _take_out(run: Run) -> "ActiveRun | None":
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
