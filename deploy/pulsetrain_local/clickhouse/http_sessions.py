"""Sessions over HTTP: requests of the same `session_id` share temporary tables and settings, one after another."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from pulsetrain_local.clickhouse.engine import EngineConnection, EngineError

LONGEST_SECONDS = 3600.0
MOST_SESSIONS = 100
SESSION_NOT_FOUND = 372
SESSION_IS_LOCKED = 373
TOO_MANY_SESSIONS = 202


@dataclass(slots=True)
class _Kept:
    engine: EngineConnection
    ends_at: float
    lock: threading.Lock = field(default_factory=threading.Lock)


class HttpSessions:
    """Sessions of the engine that outlive a request, by user and id. One that is not used in time is closed."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._kept: dict[tuple[str, str], _Kept] = {}

    @contextmanager
    def session(
        self, user: str, session_id: str, seconds: float, *, must_exist: bool, connect: Callable[[], EngineConnection]
    ) -> Iterator[EngineConnection]:
        """The session of that id, made by `connect` where there is none, kept for `seconds` after its last use.

        Raises EngineError where it is in use, or must exist and does not.
        """
        key = (user, session_id)
        with self._lock:
            self._close_ended()
            kept = self._kept.get(key)
            if kept is None:
                if must_exist:
                    raise EngineError(SESSION_NOT_FOUND, "Session not found. (SESSION_NOT_FOUND)")
                if len(self._kept) >= MOST_SESSIONS:
                    raise EngineError(
                        TOO_MANY_SESSIONS, f"{MOST_SESSIONS} sessions are the most. (TOO_MANY_SIMULTANEOUS_QUERIES)"
                    )
                kept = self._kept[key] = _Kept(connect(), 0.0)
            if not kept.lock.acquire(blocking=False):
                raise EngineError(SESSION_IS_LOCKED, "Session is locked by a concurrent client. (SESSION_IS_LOCKED)")
        try:
            yield kept.engine
        finally:
            kept.ends_at = self._monotonic() + min(max(seconds, 0.0), LONGEST_SECONDS)
            kept.lock.release()

    def close(self) -> None:
        """Closes all of them."""
        with self._lock:
            for kept in self._kept.values():
                kept.engine.close()
            self._kept.clear()

    def _close_ended(self) -> None:
        now = self._monotonic()
        for key, kept in list(self._kept.items()):
            if not kept.lock.locked() and kept.ends_at <= now:
                del self._kept[key]
                kept.engine.close()
