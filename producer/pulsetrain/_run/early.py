"""What the module `pulsetrain` gives out when it is asked for a thing that is not there yet, or not installed."""

from collections.abc import Iterator
from typing import Any

from pulsetrain._run import lifecycle
from pulsetrain._run.errors import Error


class Early:
    """`pulsetrain.config` or `pulsetrain.summary`, taken before init(): the current run's, once there is one."""

    __slots__ = ("_name",)

    def __init__(self, name: str) -> None:
        object.__setattr__(self, "_name", name)

    def _target(self) -> Any:
        if lifecycle.current is None:
            raise Error(f"call pulsetrain.init() before pulsetrain.{self._name}")
        return getattr(lifecycle.current, self._name)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._target(), name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._target(), name, value)

    def __getitem__(self, key: str) -> Any:
        return self._target()[key]

    def __setitem__(self, key: str, value: Any) -> None:
        self._target()[key] = value

    def __delitem__(self, key: str) -> None:
        del self._target()[key]

    def __contains__(self, key: object) -> bool:
        return key in self._target()

    def __iter__(self) -> Iterator[str]:
        return iter(self._target())

    def __len__(self) -> int:
        return len(self._target())

    def __repr__(self) -> str:
        return f"<pulsetrain.{self._name}: no run>" if lifecycle.current is None else repr(self._target())


def load_api() -> Any:
    """The read side's Api. Error names what to install where it is missing."""
    from importlib.metadata import entry_points

    for point in entry_points(group="pulsetrain.api", name="Api"):
        try:
            return point.load()
        except ImportError as error:
            raise Error(
                f"pulsetrain.Api needs what is not installed ({error}): pip install 'pulsetrain[consumers]'"
            ) from error
    raise Error("pulsetrain.Api comes with the read side: pip install 'pulsetrain[consumers]'")
