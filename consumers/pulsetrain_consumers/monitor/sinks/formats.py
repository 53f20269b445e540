"""An alert in words, and as JSON."""

from datetime import UTC, datetime
from typing import Any

from pulsetrain_schemas.events import Alert


def headline(alert: Alert) -> str:
    """One line: state, title, run, step."""
    step = "" if alert.step is None else f" at step {alert.step:,}"
    return f"[{alert.state}] {alert.title} ({alert.project}/{alert.run_id}{step})"


def as_json(alert: Alert) -> dict[str, Any]:
    """What a webhook gets: the fields of the alert, times in ISO 8601, without what it does not have."""
    fields = {name: getattr(alert, name) for name in Alert.__dataclass_fields__}
    fields["time"], fields["started"] = iso(alert.time), iso(alert.started)
    return {name: value for name, value in fields.items() if value not in (None, "", {})}


def iso(microseconds: int) -> str:
    """A time as ISO 8601, in UTC."""
    return datetime.fromtimestamp(microseconds / 1e6, UTC).isoformat()
