"""The state of detectors as JSON, and back: the fields that a constructor does not take.

Of a detector that the constructor does take, what that one remembers. A dict becomes a list of pairs, so its keys keep
their type. Where its values are dataclasses, the field's metadata says which (`metadata={"of": Class}`, a class that
needs no arguments). A field with `metadata={"passing": True}` is left out.
"""

from collections.abc import Callable, Mapping
from dataclasses import Field, fields, is_dataclass
from typing import Any


def dump(detector: Any) -> dict[str, Any]:
    """What a detector remembers. It holds no references to the detector's own lists."""
    return {field.name: _dumped(getattr(detector, field.name)) for field in _remembered(detector)}


def load(detector: Any, state: Mapping[str, Any]) -> None:
    """Puts what `dump` gave into a new detector of the same class. Fields that the state has not stay as they are."""
    for field in _remembered(detector):
        if field.name not in state:
            continue
        value, current = state[field.name], getattr(detector, field.name)
        if is_dataclass(current):
            load(current, value)
        elif isinstance(current, dict):
            setattr(detector, field.name, {key: _loaded(item, field.metadata.get("of")) for key, item in value})
        else:
            setattr(detector, field.name, list(value) if isinstance(value, list) else value)


def _remembered(detector: Any) -> list[Field[Any]]:
    return [
        field
        for field in fields(detector)
        if not field.metadata.get("passing") and (not field.init or is_dataclass(getattr(detector, field.name)))
    ]


def _dumped(value: Any) -> Any:
    if is_dataclass(value):
        return dump(value)
    if isinstance(value, dict):
        return [[key, _dumped(item)] for key, item in value.items()]
    return list(value) if isinstance(value, list) else value


def _loaded(item: Any, kind: Callable[[], Any] | None) -> Any:
    if kind is None:
        return list(item) if isinstance(item, list) else item
    made = kind()
    load(made, item)
    return made
