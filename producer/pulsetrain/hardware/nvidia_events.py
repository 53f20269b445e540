"""XID errors: what the driver says of a GPU in trouble, as it happens.

NVML gives them by a call that waits, so it is made on a daemon thread of its own: should it never return, nothing waits
for it. A count lives as long as the forwarder does, over restarts of the driver.
"""

import ctypes
import threading
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

from pulsetrain.hardware.nvidia_questions import TIMEOUT
from pulsetrain.hardware.sampler import Sample

WAIT_MILLISECONDS = 1000
PAUSE = 5.0  # seconds after an error, which a lost GPU makes of every wait
NO_INSTANCE = 0xFFFFFFFF


class Xids:
    """How many XID errors each GPU has had, and the last one's number; by UUID and, with MIG, by GPU instance."""

    def __init__(self) -> None:
        self._seen: dict[tuple[str, int | None], tuple[int, int]] = {}

    def add(self, uuid: str, xid: int, instance: int | None) -> None:
        """One occurred. With an instance it counts for the GPU too."""
        for place in {(uuid, None), (uuid, instance)}:
            self._seen[place] = (self._seen.get(place, (0, 0))[0] + 1, xid)

    def write(self, uuid: str, instance: int | None, into: Sample) -> None:
        """Adds `xid_errors` and `xid_last` if any has occurred."""
        seen = self._seen.get((uuid, instance))
        if seen is not None:
            into["xid_errors"], into["xid_last"] = float(seen[0]), float(seen[1])


class XidWatch:
    """Waits for the events of the GPUs until it is stopped; `handles` are NVML's, by UUID."""

    def __init__(
        self,
        nvml: ModuleType | Any,
        handles: Mapping[str, Any],
        xids: Xids,
        report: Callable[[str], None],
    ) -> None:
        self._nvml = nvml
        self._uuids = {_address(handle): uuid for uuid, handle in handles.items()}
        self._handles = handles
        self._xids = xids
        self._report = report
        self._said: set[tuple[str, int]] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sampler-xid", daemon=True)
        self._thread.start()

    def stop(self, timeout: float = 2 * WAIT_MILLISECONDS / 1000) -> bool:
        """Ends the waiting; whether that came about in time."""
        self._stop.set()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        nvml = self._nvml
        try:
            events = nvml.nvmlEventSetCreate()
        except Exception:  # noqa: BLE001 - a driver without events, or one that leaves just now
            return
        try:
            if self._register(events):
                self._wait(events)
        finally:
            try:
                nvml.nvmlEventSetFree(events)
            except Exception:  # noqa: BLE001, S110 - it went with the driver
                pass

    def _register(self, events: Any) -> bool:
        nvml = self._nvml
        registered = False
        for handle in self._handles.values():
            try:
                nvml.nvmlDeviceRegisterEvents(handle, nvml.nvmlEventTypeXidCriticalError, events)
                registered = True
            except Exception:  # noqa: BLE001, S112 - a GPU without events, or one that is lost
                continue
        return registered

    def _wait(self, events: Any) -> None:
        while not self._stop.is_set():
            try:
                event = self._nvml.nvmlEventSetWait_v2(events, WAIT_MILLISECONDS)
                self._note(event)
            except Exception as error:  # noqa: BLE001 - nothing may end the thread but being told to
                if getattr(error, "value", None) != TIMEOUT:
                    self._stop.wait(PAUSE)

    def _note(self, event: Any) -> None:
        uuid = self._uuids.get(_address(event.device))
        if uuid is None or not event.eventType & self._nvml.nvmlEventTypeXidCriticalError:
            return
        xid = int(event.eventData)
        instance = None if event.gpuInstanceId == NO_INSTANCE else int(event.gpuInstanceId)
        self._xids.add(uuid, xid, instance)
        if (uuid, xid) not in self._said:
            self._said.add((uuid, xid))
            self._report(f"GPU {uuid} reports XID {xid}")


def _address(handle: Any) -> int | None:
    """NVML gives a device's handle as a pointer; each time the same one."""
    return ctypes.cast(handle, ctypes.c_void_p).value
