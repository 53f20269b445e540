"""The run events of one writer: from the records of its journal, and of what the forwarder itself sees.

An event accounts for the sequences from the one after its predecessor's range to the record that it was made from.
"""

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pulsetrain.forwarder.acknowledgement import Counters
from pulsetrain.forwarder.packing import MICROSECONDS, clipped, clipped_json
from pulsetrain.forwarder.tail import Identity
from pulsetrain.journal.reader import Event
from pulsetrain_schemas.events import Inherited, RunEvent, UserAlert, Waiting

KINDS = frozenset(
    {"start", "config", "update", "define_metric", "alert_rule", "heartbeat", "alert", "waiting", "finish"}
)
# Kinds of records that follow one another in one event.
_TOGETHER = frozenset({"config", "update", "define_metric", "alert_rule"})

_ALONE = frozenset({"alert", "waiting"})


@dataclass(slots=True)
class _Draft:
    """A start or an update that later records of the same read may still add to."""

    kind: str
    time: float
    sequence: int
    fields: dict[str, Any] = field(default_factory=dict)


def run_events(
    identity: Identity, first: int, events: Iterable[Event], counters: Counters, summary: Mapping[str, str | None]
) -> Iterator[RunEvent]:
    """The events for these records, in order; `summary` is what changed, for the event of the run's end to carry.

    Records of config, definitions, rules and updates that follow one another become one event. An alert stays by
    itself: its sequence names it, wherever a read has ended.
    """
    draft: _Draft | None = None
    for event in events:
        if draft is not None and (event.kind not in _TOGETHER or draft.kind in _ALONE):
            yield _run_event(identity, first, draft, counters)
            first, draft = draft.sequence + 1, None
        if event.kind == "finish":
            fields = {
                "state": str(event.data.get("state", "finished")),
                "exit_code": event.data.get("exit_code"),
                "summary": summary,
            }
            yield _run_event(identity, first, _Draft("finish", event.time, event.sequence, fields), counters)
            first = event.sequence + 1
            continue
        if draft is None:
            kind = event.kind if event.kind in ("start", "heartbeat", *_ALONE) else "update"
            draft = _Draft(kind, event.time, event.sequence)
        draft.sequence = event.sequence
        draft.time = event.time
        _add(draft.fields, event)
    if draft is not None:
        yield _run_event(identity, first, draft, counters)


def progress(
    identity: Identity, first: int, last: int, time: float, counters: Counters, summary: Mapping[str, str | None]
) -> RunEvent:
    """A heartbeat with the counters and what changed in the summary, up to the record `last`."""
    return _run_event(identity, first, _Draft("heartbeat", time, last, {"summary": summary}), counters)


def killed(
    identity: Identity, first: int, last: int, time: float, counters: Counters, summary: Mapping[str, str | None]
) -> RunEvent:
    """The end of a run whose process is gone without a word. It takes the sequence that the process did not use."""
    fields = {"state": "killed", "summary": summary}
    return _run_event(identity, first, _Draft("finish", time, last, fields), counters)


def _add(fields: dict[str, Any], event: Event) -> None:
    data = event.data
    if event.kind == "alert":
        fields["alert"] = UserAlert(
            title=clipped(str(data.get("title", ""))),
            text=clipped(str(data.get("text", ""))),
            level=str(data.get("level", "INFO")),
            wait_seconds=float(data.get("wait_seconds", 0)),
        )
        return
    if event.kind == "waiting":
        fields["waiting"] = Waiting(
            waits_for=str(data.get("for", "")),
            seconds=float(data.get("seconds", 0)),
            steps=int(data.get("steps", 0)),
            is_over=bool(data.get("is_over", False)),
        )
        return
    if event.kind == "define_metric":
        definitions = fields.setdefault("definitions", {})
        definitions[str(data.get("name", ""))] = to_json(data)
        return
    if event.kind == "alert_rule":
        rules = fields.setdefault("rules", {})
        rules[str(data.get("name", ""))] = None if data.get("removed") else to_json(data)
        return
    if data.get("first_step") is not None:
        fields["first_step"] = min(int(data["first_step"]), fields.get("first_step", int(data["first_step"])))
    if data.get("parent_run_id") is not None:
        fields["parent_run_id"] = str(data["parent_run_id"])
        fields["parent_step"] = int(data["parent_step"])
    fields.setdefault("inherited", []).extend(
        Inherited(run_id=str(part["run_id"]), attempt=int(part["attempt"]), below=int(part["below"]))
        for part in data.get("inherited", ())
    )
    if event.kind == "start":
        fields["state"] = "running"
    for name, key in (("name", "name"), ("notes", "notes"), ("run_group", "group"), ("job_type", "job_type")):
        if data.get(key) is not None:
            fields[name] = str(data[key])
    if data.get("tags") is not None:
        fields["tags"] = [str(tag) for tag in data["tags"]]
    environment = fields.setdefault("environment", {})
    environment.update({str(key): to_json(value) for key, value in data.get("environment", {}).items()})
    config = fields.setdefault("config", {})
    config.update({str(key): to_json(value) for key, value in data.get("config", {}).items()})
    config.update({str(key): None for key in data.get("removed", ())})


def _run_event(identity: Identity, first: int, draft: _Draft, counters: Counters) -> RunEvent:
    return RunEvent(
        origin=identity.origin(first, draft.sequence),
        kind=draft.kind,
        time=round(draft.time * MICROSECONDS),
        is_primary=_speaks(identity, draft.kind),
        rows=counters.rows,
        points=counters.points,
        texts=counters.texts,
        **draft.fields,
    )


def _speaks(identity: Identity, kind: str) -> bool:
    """Whether the event counts for the state of the run: that its samples end says nothing of the run itself."""
    return identity.primary and not (identity.role == "system" and kind == "finish")


def to_json(value: Any) -> str:
    """The value as JSON that every reader takes: NaN and the infinities, which JSON has not, become strings."""
    try:
        text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    except ValueError:
        text = json.dumps(_finite(value), separators=(",", ":"))
    return clipped_json(text)


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
