"""Pulsetrain: experiment tracking as an event stream. Import it where you train; `log()` costs a few microseconds.

    import pulsetrain

    with pulsetrain.init(project="digits", config={"lr": 1e-3}) as run:
        run.log({"loss": 0.7})

Everything public is here; what begins with an underscore is not. Importing it loads nothing but the standard library.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pulsetrain._run import lifecycle as _lifecycle
from pulsetrain._run.alert import AlertLevel
from pulsetrain._run.definitions import Definition
from pulsetrain._run.errors import ConfigError, Error, InvalidData, UsageError
from pulsetrain._run.lifecycle import finish, init
from pulsetrain._run.run import Run
from pulsetrain._settings import Settings

if TYPE_CHECKING:
    from datetime import timedelta

    from pulsetrain._run.config import Config
    from pulsetrain._run.summary_view import Summary

    __version__: str
    Api: Any
    run: Run | None
    config: Config
    summary: Summary

__all__ = [
    "AlertLevel",
    "Api",
    "ConfigError",
    "Definition",
    "Error",
    "InvalidData",
    "Run",
    "Settings",
    "UsageError",
    "__version__",
    "alert",
    "config",
    "define_metric",
    "finish",
    "init",
    "log",
    "run",
    "summary",
]


def log(data: Mapping[str, Any], step: int | None = None, commit: bool | None = None, sync: bool | None = None) -> None:
    """Logs a row to the current run, see Run.log. Error before init()."""
    current = _lifecycle.current
    if current is None:
        raise Error("call pulsetrain.init() before pulsetrain.log()")
    current.log(data, step, commit, sync)


def alert(
    title: str,
    text: str,
    level: str | AlertLevel | None = None,
    wait_duration: "float | timedelta | None" = None,
) -> None:
    """Tells people of something, see Run.alert. Error before init()."""
    if _lifecycle.current is None:
        raise Error("call pulsetrain.init() before pulsetrain.alert()")
    _lifecycle.current.alert(title, text, level, wait_duration)


def define_metric(
    name: str,
    step_metric: str | None = None,
    step_sync: bool | None = None,
    hidden: bool | None = None,
    summary: str | Sequence[str] | None = None,
    goal: str | None = None,
    overwrite: bool | None = None,
) -> Definition:
    """Says what a metric's step and summary are, see Run.define_metric. Error before init()."""
    if _lifecycle.current is None:
        raise Error("call pulsetrain.init() before pulsetrain.define_metric()")
    return _lifecycle.current.define_metric(name, step_metric, step_sync, hidden, summary, goal, overwrite)


def __getattr__(name: str) -> Any:
    if name == "run":
        return _lifecycle.current
    if name in ("config", "summary"):
        from pulsetrain._run.early import Early

        current = _lifecycle.current
        return Early(name) if current is None else getattr(current, name)
    if name == "Api":
        from pulsetrain._run.early import load_api

        return load_api()
    if name == "__version__":
        from importlib.metadata import version

        return version("pulsetrain")
    raise AttributeError(f"module 'pulsetrain' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
