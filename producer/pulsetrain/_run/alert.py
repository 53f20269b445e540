"""What `run.alert()` takes: a title, a text, how bad it is, and for how long one of them is enough."""

from enum import StrEnum
from typing import TYPE_CHECKING, Any

from pulsetrain._run.errors import UsageError
from pulsetrain._run.values import clean_text

if TYPE_CHECKING:
    from datetime import timedelta


class AlertLevel(StrEnum):
    """How bad it is, in W&B's words."""

    INFO = "INFO"
    WARN = "WARN"
    ERROR = "ERROR"


def alert_event(
    title: str,
    text: str,
    level: str | AlertLevel | None = None,
    wait_duration: "float | timedelta | None" = None,
) -> dict[str, Any]:
    """The journal's record of an alert. Raises UsageError for a level that there is not, or a duration that is none."""
    try:
        # W&B's own AlertLevel is no text, and has one.
        chosen = AlertLevel.INFO if level is None else AlertLevel(str(getattr(level, "value", level)).upper())
    except ValueError:
        raise UsageError(f"level is INFO, WARN or ERROR, not {level!r}") from None
    try:
        given: Any = wait_duration or 0
        seconds = float(given.total_seconds() if hasattr(given, "total_seconds") else given)
    except (TypeError, ValueError):
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise UsageError(f"wait_duration is a number of seconds or a timedelta, not {wait_duration!r}")
    return {
        "title": clean_text(str(title)),
        "text": clean_text(str(text)),
        "level": chosen.value,
        "wait_seconds": seconds,
    }
