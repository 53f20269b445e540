"""`run.summary`: a dictionary that a person reads and sets, in front of the fold over the run's own journal."""

from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import Any

from pulsetrain._run.values import clean_text, plain

Read = Callable[[], Mapping[str, Any]]
Write = Callable[[dict[str, Any]], None]


class Summary(MutableMapping[str, Any]):
    """Values by key; also as attributes. What is set here stays, and ends what define_metric asked for that key.

    `summary["loss"]` is a dictionary of what define_metric asked for, where it asked: {"min": …, "last": …}; each
    is there under its own name too, `summary["loss.min"]`.
    """

    def __init__(self, read: Read, write: Write) -> None:
        object.__setattr__(self, "_read", read)
        object.__setattr__(self, "_write", write)

    def __getitem__(self, key: str) -> Any:
        values = self._read()
        key = clean_text(str(key))
        if key in values:
            return values[key]
        prefix = f"{key}."
        parts = {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)}
        if parts:
            return parts
        raise KeyError(key)

    def __setitem__(self, key: str, value: Any) -> None:
        self._write({"summary": {clean_text(str(key)): plain(value)}})

    def __delitem__(self, key: str) -> None:
        if key not in self:
            raise KeyError(key)
        self._write({"removed": [clean_text(str(key))]})

    def __iter__(self) -> Iterator[str]:
        return iter(dict(self._read()))

    def __len__(self) -> int:
        return len(self._read())

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # our own attributes, before they are set, and what Python asks for
            raise AttributeError(name)
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"the summary has no {name!r}") from None

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value

    def update(self, *others: Any, **more: Any) -> None:
        """Sets several keys with one record."""
        values = {clean_text(str(key)): plain(value) for key, value in dict(*others, **more).items()}
        if values:
            self._write({"summary": values})

    def __repr__(self) -> str:
        return repr(dict(self))
