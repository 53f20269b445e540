"""Questions to NVML, one device's: what it does not have is asked for once, and what went wrong is said once."""

from collections.abc import Callable, Hashable
from types import ModuleType
from typing import Any

PERMISSION_PERIOD = 30.0
"""Seconds until something that was not permitted is tried again."""

# NVML's return codes, as nvml.h has them: a pynvml that is older than a code does not name it.
SUCCESS = 0
UNINITIALIZED = 1
INVALID_ARGUMENT = 2
NOT_SUPPORTED = 3
NO_PERMISSION = 4
NOT_FOUND = 6
DRIVER_NOT_LOADED = 9
TIMEOUT = 10
FUNCTION_NOT_FOUND = 13
GPU_IS_LOST = 15
RESET_REQUIRED = 16
LIB_RM_VERSION_MISMATCH = 18
NO_DATA = 21
ARGUMENT_VERSION_MISMATCH = 25
DEPRECATED = 26
GPU_NOT_FOUND = 28

_NEVER = frozenset({NOT_SUPPORTED, FUNCTION_NOT_FOUND, ARGUMENT_VERSION_MISMATCH, DEPRECATED})
_NOTHING = frozenset({SUCCESS, NOT_FOUND, NO_DATA})  # pynvml raises SUCCESS where a list of samples is empty
_LOST = frozenset({GPU_IS_LOST, RESET_REQUIRED, GPU_NOT_FOUND})
_GONE = frozenset({UNINITIALIZED, DRIVER_NOT_LOADED, LIB_RM_VERSION_MISMATCH})


class GpuLost(Exception):
    """The device fell off the bus, or has to be reset before it answers again."""


class DriverGone(Exception):
    """NVML has to be initialised again before it answers: the driver was restarted."""


class Questions:
    """Asks about one device. The answer is None where there is none; GpuLost and DriverGone are raised."""

    def __init__(self, nvml: ModuleType | Any, handle: Any, label: str, report: Callable[[str], None]) -> None:
        self.nvml = nvml
        self.handle = handle
        self.now = 0.0
        self._label = label
        self._report = report
        self._calls: dict[str, Callable[..., Any]] = {}
        self._never: set[Hashable] = set()
        self._not_before: dict[Hashable, float] = {}
        self._said: set[Hashable] = set()

    def ask(self, function: str, *arguments: Any, key: Hashable = None) -> Any:
        """Calls `function` for the device. `key` is what is remembered of it: by default its name and arguments."""
        return self.call(function, self.handle, *arguments, key=(function, arguments) if key is None else key)

    def call(self, function: str, *arguments: Any, key: Hashable) -> Any:
        """As `ask`, where the device is not the first argument."""
        if key in self._never or self._not_before.get(key, self.now) > self.now:
            return None
        call = self._calls.get(function)
        if call is None:
            call = getattr(self.nvml, function, None)
            if call is None:  # a pynvml that is older than the function
                self._never.add(key)
                return None
            self._calls[function] = call
        try:
            return call(*arguments)
        except Exception as error:  # noqa: BLE001 - pynvml has errors that are no NVMLError, and its own misreadings
            self.learn(key, getattr(error, "value", None), error)
            return None

    def learn(self, key: Hashable, code: int | None, error: object) -> bool:
        """Remembers a failure; whether it is for good. Raises GpuLost or DriverGone where it means that."""
        if code in _LOST:
            raise GpuLost(str(error))
        if code in _GONE or (code == INVALID_ARGUMENT and not self._handle_is_good()):
            raise DriverGone(str(error))
        if code in _NOTHING:
            return False
        if code in _NEVER or code == INVALID_ARGUMENT:
            self._never.add(key)
            return True
        if code == NO_PERMISSION:
            self._not_before[key] = self.now + PERMISSION_PERIOD
        if key not in self._said:
            self._said.add(key)
            name = key[0] if isinstance(key, tuple) else key
            self._report(f"{self._label}: {name} cannot be read: {error}")
        return False

    def _handle_is_good(self) -> bool:
        """After a driver's restart the handles of before are invalid arguments."""
        try:
            self.nvml.nvmlDeviceGetUUID(self.handle)
        except self.nvml.NVMLError as error:
            return getattr(error, "value", None) not in (INVALID_ARGUMENT, *_GONE)
        return True
