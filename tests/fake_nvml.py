"""NVML as a C library, made up: the real pynvml runs on top of it.

`FakeNvml` takes the place of `pynvml.nvmlLib`. Its attributes are the C functions: they get ctypes arguments, write
their answers through the pointers and return nvmlReturn_t. A machine stands behind them, whose GPUs are of different
generations, and which fails when it is told to: a function that a GPU does not have, a GPU that is unplugged, a driver
that is restarted, a call that never returns. Function by function it keeps to nvml.h: what is missing is not there,
so pynvml says FUNCTION_NOT_FOUND as it would of an old driver.
"""

import ctypes
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pynvml

from tests.fake_gpus import Gpu, Instance
from tests.fake_nvml_functions import (
    INVALID_ARGUMENT,
    NO_INSTANCE,
    NOT_FOUND,
    NOT_SUPPORTED,
    OF_INSTANCES,
    SUCCESS,
    DeviceFunctions,
    address_of,
    point,
)

UNINITIALIZED = pynvml.NVML_ERROR_UNINITIALIZED
NO_PERMISSION = pynvml.NVML_ERROR_NO_PERMISSION
DRIVER_NOT_LOADED = pynvml.NVML_ERROR_DRIVER_NOT_LOADED
TIMEOUT = pynvml.NVML_ERROR_TIMEOUT
GPU_IS_LOST = pynvml.NVML_ERROR_GPU_IS_LOST
UNKNOWN = pynvml.NVML_ERROR_UNKNOWN


# Seconds that a call takes on a machine with GPUs, and whether the processor is busy for them. The first four were
# measured (shared/facts); the others are taken to cost what a call into the driver costs there.
MEASURED = {
    "nvmlDeviceGetPcieThroughput": (20e-3, False),
    "nvmlDeviceGetFanSpeed": (137e-6, True),
    "nvmlDeviceGetMemoryInfo": (12e-6, True),
    "nvmlDeviceGetUtilizationRates": (2.5e-6, True),
}
ASSUMED = (12e-6, True)
ASSUMED_FIELD = 12e-6  # each field of nvmlDeviceGetFieldValues
ASSUMED_PROCESSES = 137e-6


class CFunction:
    """A function of the library, as ctypes gives it: callable, and its attributes may be set."""

    def __init__(self, library: "FakeNvml", name: str, call: Callable[..., int]) -> None:
        self._library, self._name, self._call = library, name, call

    def __call__(self, *arguments: Any) -> int:
        return self._library.called(self._name, self._call, arguments)


class FakeNvml(DeviceFunctions):
    """The library and the machine behind it. Its clock is what `clock` gives, in seconds."""

    def __init__(self, *gpus: Gpu, clock: Callable[[], float] = time.monotonic, timings: bool = False) -> None:
        self.gpus = list(gpus)
        self.clock = clock
        self.timings = timings
        self.loaded = True
        self.init_code = SUCCESS
        self.calls: list[tuple[str, str]] = []
        """(function, UUID of the device or "")."""
        self.missing_functions: set[str] = set()
        self.seconds = 0.0
        """With `timings`: the processor time that was spent in here."""
        self._initialised = 0
        self._generation = 1
        self._handles: dict[int, Gpu | Instance] = {}
        self._addresses: dict[str, int] = {}
        self._hanging: dict[tuple[str, str], threading.Event] = {}
        self._snapshots: dict[int, tuple[float, dict[int, float]]] = {}
        self._events: dict[int, set[str]] = {}
        self._occurred: list[tuple[str, int, int]] = []
        self._news = threading.Condition()
        self._next = 0x1000

    # What a test does to it.

    def count(self, function: str, uuid: str | None = None) -> int:
        """How often a function was called."""
        return sum(name == function and uuid in (None, device) for name, device in self.calls)

    @contextmanager
    def hang(self, function: str, uuid: str) -> Iterator[threading.Event]:
        """Calls of the function for this GPU do not return until the event is set, or the block is left."""
        released = self._hanging[function, uuid] = threading.Event()
        try:
            yield released
        finally:
            del self._hanging[function, uuid]
            released.set()

    def stop_driver(self) -> None:
        """As `rmmod nvidia`, under a process that has NVML open."""
        with self._news:
            self.loaded = False
            self._initialised = 0
            self._generation += 1
            self._handles.clear()
            self._addresses.clear()
            self._events.clear()
            self._news.notify_all()

    def start_driver(self, *gpus: Gpu) -> None:
        """It is loaded again, with the GPUs that are given or else the same ones."""
        self.gpus = list(gpus) or self.gpus
        self.loaded = True

    def xid(self, uuid: str, number: int, gpu_instance: int = NO_INSTANCE) -> None:
        """The GPU has an error."""
        with self._news:
            self._occurred.append((uuid, number, gpu_instance))
            self._news.notify_all()

    # The way into every function.

    def __getattr__(self, name: str) -> CFunction:
        if name.startswith("nvml") and name not in self.__dict__.get("missing_functions", ()):
            call = getattr(type(self), f"_{name[4:]}", None)
            if call is not None:
                return CFunction(self, name, call.__get__(self))
        raise AttributeError(name)

    def called(self, name: str, call: Callable[..., int], arguments: tuple[Any, ...]) -> int:
        """Answers as the state of the machine makes it."""
        if not self.timings:
            return self._answer(name, call, arguments)
        begun = time.thread_time()
        try:
            return self._answer(name, call, arguments)
        finally:
            self.seconds += time.thread_time() - begun

    def _answer(self, name: str, call: Callable[..., int], arguments: tuple[Any, ...]) -> int:
        if name in ("nvmlInitWithFlags", "nvmlErrorString"):
            return call(*arguments)
        if not self._initialised:
            return UNINITIALIZED
        if not name.startswith("nvmlDevice") or name.startswith(("nvmlDeviceGetCount", "nvmlDeviceGetHandleBy")):
            if name.startswith("nvmlGpm") and name.endswith(("SampleGet", "QueryDeviceSupport")):
                return self._of_device(name, call, arguments)
            self.calls.append((name, ""))
            self._take_time(name, arguments)
            return call(*arguments)
        return self._of_device(name, call, arguments)

    def _of_device(self, name: str, call: Callable[..., int], arguments: tuple[Any, ...]) -> int:
        device = self._handles.get(address_of(arguments[0]))
        if device is None:
            return INVALID_ARGUMENT
        self.calls.append((name, device.uuid))
        hanging = self._hanging.get((name, device.uuid))
        if hanging is not None:
            hanging.wait()
        self._take_time(name, arguments)
        gpu = device.parent if isinstance(device, Instance) else device
        if gpu.unplugged or (isinstance(device, Instance) and device.removed):
            return GPU_IS_LOST if gpu.unplugged else NOT_FOUND
        code = gpu.errors.get(name, SUCCESS)
        if code != SUCCESS:
            return code
        if name in gpu.missing or (isinstance(device, Instance) and name not in OF_INSTANCES):
            return NOT_SUPPORTED
        return call(device, *arguments[1:])

    def _take_time(self, name: str, arguments: tuple[Any, ...]) -> None:
        if not self.timings:
            return
        seconds, busy = MEASURED.get(name, ASSUMED)
        if name == "nvmlDeviceGetFieldValues":
            seconds = ASSUMED_FIELD * arguments[1].value
        elif "Process" in name:
            seconds = ASSUMED_PROCESSES
        if not busy:
            time.sleep(seconds)
            return
        end = time.thread_time() + seconds
        while time.thread_time() < end:
            pass

    def _handle(self, device: Gpu | Instance) -> int:
        address = self._addresses.get(device.uuid)
        if address is None:
            self._next += 0x10
            address = self._addresses[device.uuid] = (self._generation << 32) + self._next
        self._handles[address] = device
        return address

    # The library.

    def _InitWithFlags(self, flags: Any) -> int:
        if self.init_code != SUCCESS or not self.loaded:
            return self.init_code or DRIVER_NOT_LOADED
        if not self._initialised:  # only now does it look which cards there are
            self._handles.clear()
            self._addresses.clear()
            self._generation += 1
            self._seen = [gpu for gpu in self.gpus if not gpu.unplugged]
        self._initialised += 1
        return SUCCESS

    def _Shutdown(self) -> int:
        self._initialised -= 1
        return SUCCESS

    def _ErrorString(self, code: int) -> bytes:
        return b"made up error %d" % getattr(code, "value", code)

    def _DeviceGetCount_v2(self, count: Any) -> int:
        count._obj.value = len(self._seen)
        return SUCCESS

    def _DeviceGetHandleByIndex_v2(self, index: Any, device: Any) -> int:
        if index.value >= len(self._seen):
            return INVALID_ARGUMENT
        gpu = self._seen[index.value]
        if gpu.unplugged:
            return GPU_IS_LOST
        point(device, self._handle(gpu))
        return SUCCESS

    def _DeviceGetHandleByUUID(self, uuid: Any, device: Any) -> int:
        for gpu in self._seen:
            if gpu.uuid.encode() == uuid.value:
                if gpu.unplugged:
                    return GPU_IS_LOST
                point(device, self._handle(gpu))
                return SUCCESS
        return NOT_FOUND

    # Events.

    def _EventSetCreate(self, events: Any) -> int:
        self._next += 0x10
        point(events, self._next)
        self._events[self._next] = set()
        return SUCCESS

    def _EventSetFree(self, events: Any) -> int:
        return SUCCESS if self._events.pop(address_of(events), None) is not None else INVALID_ARGUMENT

    def _DeviceRegisterEvents(self, gpu: Gpu, kinds: Any, events: Any) -> int:
        if not kinds.value & pynvml.nvmlEventTypeXidCriticalError:
            return NOT_SUPPORTED
        self._events[address_of(events)].add(gpu.uuid)
        return SUCCESS

    def _EventSetWait_v2(self, events: Any, data: Any, milliseconds: Any) -> int:
        registered = self._events.get(address_of(events))
        if registered is None:
            return INVALID_ARGUMENT

        def occurred() -> tuple[str, int, int] | None:
            return next((one for one in self._occurred if one[0] in registered), None)

        with self._news:
            self._news.wait_for(lambda: occurred() or not self._initialised, milliseconds.value / 1000)
            if not self._initialised:
                return UNINITIALIZED
            event = occurred()
            if event is None:
                return TIMEOUT
            self._occurred.remove(event)
        answer = data._obj
        point(ctypes.byref(answer, type(answer).device.offset), self._addresses[event[0]])
        answer.eventType = pynvml.nvmlEventTypeXidCriticalError
        answer.eventData, answer.gpuInstanceId, answer.computeInstanceId = event[1], event[2], NO_INSTANCE
        return SUCCESS


@contextmanager
def installed(library: FakeNvml) -> Iterator[Any]:
    """pynvml, with the library in place of the driver's."""
    before, cached = pynvml.nvmlLib, dict(pynvml._nvmlGetFunctionPointer_cache)
    pynvml._nvmlGetFunctionPointer_cache.clear()
    pynvml.nvmlLib = library
    try:
        yield pynvml
    finally:
        pynvml.nvmlLib = before
        pynvml._nvmlGetFunctionPointer_cache.clear()
        pynvml._nvmlGetFunctionPointer_cache.update(cached)
