"""`run.config`: what the run was started with. Each change is an event in the journal."""

import json
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from pathlib import Path
from typing import Any

from pulsetrain._run.errors import ConfigError, UsageError
from pulsetrain._run.values import clean_text, plain


class Config(MutableMapping[str, Any]):
    """Values by key, also as attributes. A value that is there is changed only with allow_val_change, as in W&B."""

    def __init__(self, write: Callable[[dict[str, Any]], None], *, allow_val_change: bool = False) -> None:
        object.__setattr__(self, "_values", {})
        object.__setattr__(self, "_write", write)
        object.__setattr__(self, "_allow", allow_val_change)

    def __getitem__(self, key: str) -> Any:
        return self._values[clean_text(str(key))]

    def __setitem__(self, key: str, value: Any) -> None:
        self._change({key: value}, self._allow)

    def __delitem__(self, key: str) -> None:
        key = clean_text(str(key))
        del self._values[key]
        self._write({"removed": [key]})

    def __iter__(self) -> Iterator[str]:
        return iter(dict(self._values))

    def __len__(self) -> int:
        return len(self._values)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # our own attributes, before they are set, and what Python asks for
            raise AttributeError(name)
        try:
            return self._values[name]
        except KeyError:
            raise AttributeError(f"the config has no {name!r}") from None

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value

    def __repr__(self) -> str:
        return repr(self._values)

    def update(self, *others: Any, allow_val_change: bool | None = None, **more: Any) -> None:
        """Takes a dictionary, an argparse Namespace, absl flags, or the path of a YAML or JSON file.

        ConfigError where a value would change and that is not allowed; then nothing has changed.
        """
        values = dict(more)
        for other in others:
            values = {**as_mapping(other), **values}
        self._change(values, self._allow if allow_val_change is None else allow_val_change)

    def setdefaults(self, other: Any) -> None:
        """Sets what is not there yet."""
        self._change({key: value for key, value in as_mapping(other).items() if key not in self}, True)

    def carry(self, values: Mapping[str, Any]) -> None:
        """Takes over what an earlier attempt, or the run that this is a fork of, was started with."""
        self._change(values, True)

    def as_dict(self) -> dict[str, Any]:
        """A copy of all values."""
        return dict(self._values)

    def _change(self, given: Mapping[Any, Any], allowed: bool) -> None:
        values = {clean_text(str(key)): plain(value) for key, value in given.items()}
        known = self._values
        for key, value in values.items():
            if key in known and known[key] != value and not allowed:
                raise ConfigError(
                    f"config.{key} is {known[key]!r} and was to become {value!r}; "
                    f"if that is meant, use config.update({{{key!r}: …}}, allow_val_change=True)"
                )
        changed = {key: value for key, value in values.items() if key not in known or known[key] != value}
        if changed:
            known.update(changed)
            self._write({"config": changed})


def as_mapping(given: Any) -> Mapping[Any, Any]:
    """What W&B takes for a config, as a mapping. UsageError says what it cannot be."""
    if given is None:
        return {}
    if isinstance(given, Mapping):
        return given
    if isinstance(given, str | Path):
        return _from_file(Path(given))
    if hasattr(given, "flag_values_dict"):
        flags: Mapping[Any, Any] = given.flag_values_dict()
        return flags
    if hasattr(given, "__dict__") and not isinstance(given, type):
        attributes: Mapping[Any, Any] = vars(given)
        return attributes
    raise UsageError(
        f"config is to be a dictionary, a Namespace or the path of a YAML file, not {type(given).__name__}"
    )


def _from_file(path: Path) -> Mapping[Any, Any]:
    try:
        text = path.read_text("utf-8")
    except (OSError, ValueError) as error:
        raise UsageError(f"the config file {path} cannot be read: {error}") from None
    try:
        loaded = json.loads(text) if path.suffix == ".json" else _yaml(text, path)
    except ValueError as error:
        raise UsageError(f"the config file {path} is not understood: {error}") from None
    if not isinstance(loaded, Mapping):
        raise UsageError(f"the config file {path} holds no dictionary")
    return {
        key: value["value"]
        if isinstance(value, Mapping) and set(value) <= {"desc", "value"} and "value" in value
        else value
        for key, value in loaded.items()
        if key != "wandb_version"
    }


def _yaml(text: str, path: Path) -> Any:
    try:
        import yaml
    except ImportError:
        raise UsageError(f"to read {path}, PyYAML is needed: pip install pyyaml") from None
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from None
