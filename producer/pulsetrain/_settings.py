"""What a run is started with, gathered: init()'s arguments, else the settings given to it, else the environment."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pulsetrain._run import names
from pulsetrain._run.environment import rank as rank_of
from pulsetrain._run.errors import UsageError
from pulsetrain._run.values import clean_text
from pulsetrain_schemas import addresses

DEFAULT_PROJECT = "uncategorized"
FINISH_SECONDS = 60.0
SAMPLING_SECONDS = (0.1, 60.0)
"""The shortest and the longest time between two samples of the hardware."""

# W&B's words for modes: "run" and "dryrun" are its older ones; "shared" says who is primary by settings.
MODES = {
    "online": "online",
    "run": "online",
    "shared": "online",
    "offline": "offline",
    "dryrun": "offline",
    "disabled": "disabled",
}
RESUMES = ("allow", "must", "never", "auto")
REINITS = ("default", "return_previous", "finish_previous", "create_new")
CONSOLES = {"auto": True, "wrap": True, "wrap_raw": True, "wrap_emu": True, "redirect": True, "off": False}
_TRUE = frozenset({"1", "true", "yes", "on"})


class Settings:
    """What `init(settings=…)` takes, by name; a dictionary does as well.

    console ("auto", "wrap", "off"), finish_timeout (seconds), rank, quiet, silent, disable_git, x_primary,
    x_stats_sampling_interval (seconds between two samples of the hardware, 0.1 to 60; longer counts as 60), and every
    argument of init().
    Further settings of W&B are accepted and have no effect.
    """

    def __init__(self, **given: Any) -> None:
        self.given = given

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__dict__["given"][name]
        except KeyError:
            raise AttributeError(name) from None

    def __repr__(self) -> str:
        return f"Settings({', '.join(f'{name}={value!r}' for name, value in self.given.items())})"


@dataclass(frozen=True, slots=True)
class RunSettings:
    """Everything decided and checked."""

    mode: str
    project: str
    entity: str
    run_id: str | None
    name: str | None
    notes: str | None
    tags: tuple[str, ...]
    group: str | None
    job_type: str | None
    resume: str | None
    rewind: tuple[str, int] | None
    """(run id, step): the run goes on after that step, whatever it logged beyond it."""
    fork: tuple[str, int] | None
    """(run id, step): a new run begins after that step of another."""
    directory: Path
    home: Path
    reinit: str
    rank: int
    primary: bool
    """Whether this process speaks for the state of the run."""
    shares: bool
    """Whether it was said that another process does."""
    capture_console: bool
    finish_timeout: float
    sampling_seconds: float | None
    """Between two samples of the hardware; None where nothing was said of it."""
    quiet: bool
    silent: bool
    use_git: bool
    allow_val_change: bool


def resolve(
    arguments: Mapping[str, Any],
    settings: Settings | Mapping[str, Any] | None = None,
    env: Mapping[str, str] = os.environ,
) -> RunSettings:
    """Decides; UsageError says which argument is wrong and what it may be."""
    given = _given(settings)

    def choose(name: str, variable: str | None = None, setting: str | None = None) -> Any:
        for value in (arguments.get(name), given.get(setting or name)):
            if value is not None:
                return value
        return addresses.environment(variable, env) if variable else None

    run_id = choose("id", "RUN_ID", "run_id")
    resume = _resume(choose("resume", "RESUME"))
    rewind, fork = _moment("resume_from", choose("resume_from")), _moment("fork_from", choose("fork_from"))
    if sum(one is not None for one in (resume, rewind, fork)) > 1:
        raise UsageError("resume, resume_from and fork_from cannot be combined")
    if rewind is not None:
        if run_id is not None and str(run_id) != rewind[0]:
            raise UsageError(f"id is {run_id!r} and resume_from names run {rewind[0]!r}; give one of them")
        run_id = rewind[0]
    project = choose("project", "PROJECT")
    rank = int(_number("rank", choose("rank"), rank_of(env)))
    primary = given.get("x_primary")
    directory = choose("dir", "DIR")
    return RunSettings(
        mode=_mode(choose("mode", "MODE"), env),
        project=DEFAULT_PROJECT if project is None else names.checked_project(project),
        entity=str(choose("entity", "ENTITY") or ""),
        run_id=None if run_id is None else names.checked_run_id(run_id),
        name=_text(choose("name", "NAME", "run_name")),
        notes=_text(choose("notes", "NOTES", "run_notes")),
        tags=_tags(choose("tags", None, "run_tags"), env),
        group=_text(choose("group", "RUN_GROUP", "run_group")),
        job_type=_text(choose("job_type", "JOB_TYPE", "run_job_type")),
        resume=resume,
        rewind=rewind,
        fork=fork,
        directory=Path(directory if directory is not None else "pulsetrain").expanduser().absolute(),
        home=addresses.home(env),
        reinit=_reinit(choose("reinit", "REINIT")),
        rank=rank,
        # Where several processes were given one run, the first of them speaks for it.
        primary=bool(primary) if primary is not None else not (rank and run_id is not None),
        shares=primary is not None and not primary,
        capture_console=_console(choose("console", "CONSOLE")),
        finish_timeout=_number("finish_timeout", choose("finish_timeout", "FINISH_TIMEOUT"), FINISH_SECONDS),
        sampling_seconds=_sampling(given.get("x_stats_sampling_interval"), env),
        quiet=_flag(choose("quiet", "QUIET")),
        silent=_flag(choose("silent", "SILENT")),
        use_git=not _flag(choose("disable_git", "DISABLE_GIT")),
        allow_val_change=_flag(arguments.get("allow_val_change")),
    )


def _given(settings: Any) -> Mapping[str, Any]:
    if settings is None:
        return {}
    if isinstance(settings, Settings):
        return settings.given
    if isinstance(settings, Mapping):
        return settings
    return {name: value for name, value in vars(settings).items() if not name.startswith("_")}


def _mode(mode: Any, env: Mapping[str, str]) -> str:
    if mode is None:
        return "disabled" if _flag(addresses.environment("DISABLED", env)) else "online"
    if mode not in MODES:
        raise UsageError(f"mode is online, offline or disabled, not {mode!r}")
    return MODES[mode]


def _resume(resume: Any) -> str | None:
    if resume is None or resume is False or resume == "false":
        return None
    if resume is True or resume == "true":
        return "auto"
    if resume not in RESUMES:
        raise UsageError(f"resume is one of {', '.join(RESUMES)}, not {resume!r}")
    return str(resume)


def _moment(what: str, given: Any) -> tuple[str, int] | None:
    if given is None:
        return None
    run_id, separator, step = str(given).partition("?_step=")
    if not separator or not step.isdecimal():
        raise UsageError(f"{what} is written RUN_ID?_step=NUMBER, not {given!r}")
    return names.checked_run_id(run_id), int(step)


def _reinit(reinit: Any) -> str:
    if reinit is None:
        return "default"
    if isinstance(reinit, bool):
        return "finish_previous" if reinit else "return_previous"
    if str(reinit).lower() in _TRUE:
        return "finish_previous"
    if reinit not in REINITS:
        raise UsageError(f"reinit is one of {', '.join(REINITS)}, not {reinit!r}")
    return str(reinit)


def _console(console: Any) -> bool:
    if console is None:
        return True
    if console not in CONSOLES:
        raise UsageError(f"console is auto, wrap or off, not {console!r}")
    return CONSOLES[console]


def _tags(tags: Any, env: Mapping[str, str]) -> tuple[str, ...]:
    if tags is None:
        text = addresses.environment("TAGS", env) or ""
        tags = [tag.strip() for tag in text.split(",") if tag.strip()]
    return names.checked_tags(tags)


def _text(value: Any) -> str | None:
    return None if value is None else clean_text(str(value))


def _number(what: str, given: Any, default: float) -> float:
    try:
        return default if given is None else float(given)
    except (TypeError, ValueError):
        raise UsageError(f"{what} is a number, not {given!r}") from None


def _sampling(given: Any, env: Mapping[str, str]) -> float | None:
    if given is None:
        given = env.get("PULSETRAIN_SAMPLING_SECONDS") or env.get("WANDB_X_STATS_SAMPLING_INTERVAL") or None
    if given is None:
        return None
    shortest, longest = SAMPLING_SECONDS
    seconds = _number("x_stats_sampling_interval", given, 1.0)
    if not seconds >= shortest:  # as W&B does; not a number is neither
        raise UsageError(f"the hardware is sampled every {shortest:g} to {longest:g} seconds, not every {given!r}")
    return min(seconds, longest)


def _flag(value: Any) -> bool:
    return value.lower() in _TRUE if isinstance(value, str) else bool(value)
