"""A run: what init() returns."""

import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from pulsetrain._run import names
from pulsetrain._run.alert import AlertLevel, alert_event
from pulsetrain._run.config import Config
from pulsetrain._run.definitions import Definition
from pulsetrain._run.history import History, NoHistory
from pulsetrain._run.summary_view import Summary
from pulsetrain._run.values import clean_text

if TYPE_CHECKING:
    from datetime import timedelta

    from pulsetrain._run.inbox import AlertCallback, Inbox, SignalCallback
    from pulsetrain._run.step_timer import StepTimer
    from pulsetrain._run.summary import SummaryFold
    from pulsetrain._settings import RunSettings
    from pulsetrain.forwarder.tail import Tail
    from pulsetrain.integrations.torch_timing import StepWatch

FINISHED, FAILED, KILLED = "finished", "failed", "killed"
INTERRUPTED_EXIT_CODE = 255


class Run:
    """One run of a program. Safe for threads; in a forked child it goes on with a journal of that child's own.

    Made by `pulsetrain.init()`. As a context manager it finishes at the end of the block, as failed when an exception
    leaves it.
    """

    def __init__(
        self,
        settings: "RunSettings",
        *,
        run_id: str,
        name: str,
        attempt: int,
        resumed: bool,
        start_time: float,
        folder: Path | None,
        history: History | NoHistory,
        on_finish: Callable[["Run", str, int, bool], None],
        start: Mapping[str, Any] | None = None,
        inbox: "Inbox | None" = None,
        timers: "list[StepTimer] | None" = None,
    ) -> None:
        """For `lifecycle`; `folder` is None for a disabled run, `on_finish(run, state, exit_code, quiet)` ends it."""
        self.settings = settings
        self.id = run_id
        self.attempt = attempt
        self.resumed = resumed
        self.start_time = start_time
        self._starting_step = history.step
        self._name = name
        # Of a run that goes on, what the settings leave open is as it was: so says its start record.
        known = start or {}
        self._notes: str | None = known.get("notes", settings.notes)
        self._tags: tuple[str, ...] = tuple(known.get("tags") or settings.tags)
        self._group: str | None = known.get("group", settings.group)
        self._job_type: str | None = known.get("job_type", settings.job_type)
        self._folder = folder
        self._history = history
        self._on_finish = on_finish
        self._inbox = inbox
        self._finished = False
        self._timers: list[StepTimer] = [] if timers is None else timers
        self._config = Config(self._write_config, allow_val_change=settings.allow_val_change)
        self._fold_lock = threading.RLock()
        self._fold: tuple[SummaryFold, Tail] | None = None
        self._kept_summary: dict[str, Any] = {}
        self._summary = Summary(self._read_summary, self._write_summary)

    def __enter__(self) -> "Run":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        exit_code, state = outcome_of(error)
        self.end(state, exit_code)

    def __repr__(self) -> str:
        return f"<Run {self._name} ({self.id}) of {self.project}, {self.mode}>"

    def log(
        self, data: Mapping[str, Any], step: int | None = None, commit: bool | None = None, sync: bool | None = None
    ) -> None:
        """Logs a row: numbers, and whatever else there is, by name.

        Without `step` the row belongs to the current step and the step goes on, unless commit=False. With `step` it
        belongs to that one, also to one that has been before, and the step goes on with commit=True only. When the
        call returns, the row survives the death of this process. Nothing that is given raises, but what is no
        dictionary or has keys that are no text, and a run that has finished. `sync` is W&B's and has no meaning.
        """
        del sync
        self._history.log(data, step, commit)

    def define_metric(
        self,
        name: str,
        step_metric: str | None = None,
        step_sync: bool | None = None,
        hidden: bool | None = None,
        summary: str | Sequence[str] | None = None,
        goal: str | None = None,
        overwrite: bool | None = None,
    ) -> Definition:
        """Says what a metric's step and summary are. `name` may end in *, for all metrics that begin so.

        `summary`: of min, max, mean, first, last, best (with `goal`), none, copy; one or several. With a
        `step_metric`, rows that lack it get its last value, unless step_sync=False. Further calls for the same name
        add to what is known; with `overwrite` they replace it.
        """
        definition = Definition.checked(name, step_metric, step_sync, hidden, summary, goal)
        return self._history.define(definition, overwrite=bool(overwrite))

    def alert(
        self,
        title: str,
        text: str,
        level: str | AlertLevel | None = None,
        wait_duration: "float | timedelta | None" = None,
    ) -> None:
        """Tells people of something: it goes where the monitor's own alerts go.

        `level` is INFO, WARN or ERROR. For `wait_duration` (seconds, or a timedelta) after one alert, further ones of
        the same title are left out.
        """
        self._history.event("alert", alert_event(title, text, level, wait_duration))

    def alert_when(
        self,
        condition: str,
        *,
        for_: "str | float | timedelta | None" = None,
        over: str = "last",
        window: "str | float | timedelta | None" = None,
        severity: str = "warning",
        cooldown: "str | float | timedelta | None" = None,
        labels: Mapping[str, str] | None = None,
        name: str | None = None,
    ) -> str:
        """Has the monitor alert people when a condition holds: `run.alert_when("val/loss > 3", for_="5m")`.

        The condition compares a metric with a number; * in its name stands for anything. `system.temperature_celsius`
        and W&B's `system.gpu.0.temp` are metrics of the hardware. `over` is last, mean, min, max or count of the values
        of a `window` (5m, 2h, seconds or a timedelta), `for_` how long the condition must hold, `cooldown` how long
        after its end an alert does not come again (5m unless said), `severity` info, warning or critical.

        What is logged from now on counts, of all ranks. A rule is kept when the run is resumed; a further one of the
        same `name` takes its place. Returns the name, which `forget_rule` takes. Raises InvalidRule, a ValueError, for
        a rule that cannot be, and nothing else.
        """
        from pulsetrain._run.rules import rule_event

        rule = rule_event(
            condition, for_=for_, over=over, window=window, severity=severity, cooldown=cooldown, labels=labels,
            name=name,
        )  # fmt: skip
        self._history.event("alert_rule", rule)
        return str(rule["name"])

    def forget_rule(self, name: str) -> None:
        """Takes back what alert_when() said under a name; an alert of it that fires is over then."""
        self._history.event("alert_rule", {"name": clean_text(str(name)), "removed": True})

    def on_alert(self, callback: "AlertCallback") -> "AlertCallback":
        """Has `callback(alert)` called for each alert about this run, when it fires and when it is over.

        So that a script may save a checkpoint or stop. It is called on a thread of Pulsetrain's, within about a second
        of the alert; what it raises is said and goes no further. Works as a decorator. Offline runs hear nothing.
        """
        if self._inbox is not None:
            self._inbox.on_alert(callback)
        return callback

    def on_signal(self, action: str, callback: "SignalCallback | None" = None) -> Any:
        """Has `callback(signal)` called when somebody sends this run `action`: `pulsetrain signal RUN checkpoint`.

        Also as a decorator, `@run.on_signal("checkpoint")`. On "stop" the program is interrupted as by Ctrl-C, unless
        there is a callback for it. It is called on a thread of Pulsetrain's; what it raises goes no further.
        """
        if callback is None:
            return lambda given: self.on_signal(action, given)
        if self._inbox is not None:
            self._inbox.on_signal(action, callback)
        return callback

    def step_timer(
        self,
        *,
        examples: float | None = None,
        tokens: float | None = None,
        parameters: float | None = None,
        model: Any = None,
        layers: int | None = None,
        hidden: int | None = None,
        sequence_length: int | None = None,
        peak_flops: float | str | None = "auto",
        dtype: Any = None,
        gpus: int = 1,
        every: int = 1,
    ) -> "StepTimer":
        """A timer for the phases of training steps, see `StepTimer`: seconds by phase, rates, and MFU.

        `examples` and `tokens`: of a step, in this process. MFU needs tokens, and `parameters` (without embeddings) or
        a torch `model`; `layers`, `hidden` (width) and `sequence_length` add what attention costs. `peak_flops` is
        that of one GPU, found by its name and `dtype` (the model's, or bfloat16; with autocast, say which) unless it
        is given; None for no MFU. `gpus` work on this process's tokens together. With `every=N` a row is the mean of
        N steps. Raises UsageError for what is no such number, and nothing later.
        """
        from pulsetrain._run.step_timer import StepTimer

        timer = StepTimer(
            self._history, examples=examples, tokens=tokens, parameters=parameters, model=model, layers=layers,
            hidden=hidden, sequence_length=sequence_length, peak_flops=peak_flops, dtype=dtype, gpus=gpus, every=every,
        )  # fmt: skip
        self._timers.append(timer)
        return timer

    def watch_steps(self, model: Any, optimizer: Any, loader: Any = None, **options: Any) -> "StepWatch":
        """Times the steps of a loop in PyTorch that stays as it is, see `pulsetrain.integrations.torch_timing`.

        `model` is what the loop calls (wrapped or compiled, if so), `optimizer` one or several (the last one's step
        ends a step), `loader` what it iterates over. Examples are the first dimension of a batch; of whole numbers in
        two dimensions, all are tokens. `options` are those of step_timer(). `remove()` of the result takes them off.
        """
        from pulsetrain.integrations.torch_timing import StepWatch

        optimizers = optimizer if isinstance(optimizer, list | tuple) else (optimizer,)
        timer = self.step_timer(**{"model": model, **options})
        return StepWatch(timer, model, optimizers, loader, faults=self._history.faults)

    def finish(self, exit_code: int | None = None, quiet: bool | None = None) -> None:
        """Ends the run: finished, or failed with an exit code other than 0. A second call does nothing.

        Online, it waits until Kafka has everything, at most `finish_timeout` (60 s), and about two seconds when the
        broker is away; Ctrl-C leaves the wait. Nothing is lost if it gives up: the forwarder goes on.
        """
        code = int(exit_code or 0)
        self.end(FAILED if code else FINISHED, code, quiet=bool(quiet))

    def end(self, state: str, exit_code: int, *, quiet: bool = False) -> None:
        """As finish(), with a state: for what sees the program end."""
        if self._finished:
            return
        self._finished = True
        for timer in self._timers:
            timer.close()
        self._on_finish(self, state, exit_code, quiet)

    @property
    def config(self) -> Config:
        """What the run was started with."""
        return self._config

    @property
    def summary(self) -> Summary:
        """What the run came to: the last value of each metric, or what define_metric asked for."""
        return self._summary

    @property
    def step(self) -> int:
        """The step that the next log() belongs to."""
        return self._history.step

    @property
    def starting_step(self) -> int:
        """The step that the first log() belonged to: 0, or where the run goes on."""
        return self._starting_step

    @property
    def project(self) -> str:
        return self.settings.project

    @property
    def entity(self) -> str:
        return self.settings.entity

    @property
    def path(self) -> str:
        """entity/project/id, without the entity where there is none."""
        return "/".join(part for part in (self.entity, self.project, self.id) if part)

    @property
    def dir(self) -> str:
        """A folder for files of the run, made when it is asked for; of a disabled run, a temporary one."""
        if self._folder is None:
            import tempfile

            self._folder = Path(tempfile.mkdtemp(prefix="pulsetrain-disabled-"))
        files = self._folder / "files"
        files.mkdir(parents=True, exist_ok=True)
        return str(files)

    @property
    def mode(self) -> str:
        """online, offline or disabled."""
        return self.settings.mode

    @property
    def disabled(self) -> bool:
        return self.mode == "disabled"

    @property
    def offline(self) -> bool:
        return self.mode == "offline"

    @property
    def rank(self) -> int:
        """Which process of a distributed job this is."""
        return self.settings.rank

    @property
    def group(self) -> str | None:
        return self._group

    @property
    def job_type(self) -> str | None:
        return self._job_type

    @property
    def url(self) -> None:
        """There is no page of a server to show: None, where W&B has an address."""
        return

    def get_url(self) -> None:
        """As `url`."""
        return

    def project_name(self) -> str:
        """As `project`."""
        return self.project

    @property
    def name(self) -> str:
        """What people call the run. May be set."""
        return self._name

    @name.setter
    def name(self, name: str) -> None:
        self._name = clean_text(str(name))
        self._history.event("update", {"name": self._name})

    @property
    def notes(self) -> str | None:
        """Free text. May be set."""
        return self._notes

    @notes.setter
    def notes(self, notes: str | None) -> None:
        self._notes = None if notes is None else clean_text(str(notes))
        self._history.event("update", {"notes": self._notes or ""})

    @property
    def tags(self) -> tuple[str, ...]:
        """May be set, and added to with `run.tags += ("a",)`."""
        return self._tags

    @tags.setter
    def tags(self, tags: str | Sequence[str]) -> None:
        self._tags = names.checked_tags(tags)
        self._history.event("update", {"tags": list(self._tags)})

    def _write_config(self, data: dict[str, Any]) -> None:
        self._history.event("config", data)

    def _write_summary(self, data: dict[str, Any]) -> None:
        if isinstance(self._history, NoHistory):
            self._kept_summary.update(data.get("summary", {}))
            for key in data.get("removed", ()):
                self._kept_summary.pop(key, None)
            return
        self._history.event("summary", data)

    def _read_summary(self) -> Mapping[str, Any]:
        """Folds what has been logged since the last time."""
        journal = self._history.directory
        if journal is None:
            return self._kept_summary
        from pulsetrain._run.summary import SummaryFold
        from pulsetrain.forwarder.tail import Tail

        with self._fold_lock:
            if self._fold is None or self._fold[1].journal != journal:
                fold = SummaryFold()
                self._fold = (fold, Tail(journal, fold))
            fold, tail = self._fold
            tail.read_all()
            tail.close()
            return fold.values()

    def forsake(self) -> None:
        """In a forked child: the parent's journal is left to the parent."""
        self._fold_lock = threading.RLock()
        self._history.forsake()


def outcome_of(error: BaseException | None) -> tuple[int, str]:
    """Exit code and state of a run that this ended."""
    if error is None:
        return 0, FINISHED
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED_EXIT_CODE, KILLED
    if isinstance(error, SystemExit):
        code = exit_code_of(error.code)
        return code, FAILED if code else FINISHED
    return 1, FAILED


def exit_code_of(code: object) -> int:
    """What sys.exit's argument makes the process end with."""
    if code is None:
        return 0
    return code if isinstance(code, int) else 1
