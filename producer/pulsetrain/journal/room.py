"""How much of the disk journals may take: the ceiling of a directory of runs, and whether it has room for more.

The forwarder measures, every few seconds, and leaves what it found in the directory as `usage.json`; whoever writes a
journal looks there before it begins another segment, and at what the disk has left. So nobody who logs ever counts
files, and the ceiling holds for all processes that share the directory. Standard library alone.
"""

import json
import math
import os
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

USAGE_FILE = "usage.json"
MAX_BYTES_VARIABLE = "PULSETRAIN_JOURNAL_MAX_BYTES"
RETENTION_VARIABLE = "PULSETRAIN_JOURNAL_RETENTION"

DEFAULT_MAX_BYTES = 20 << 30
DEFAULT_RETENTION = 7 * 86400.0
# The default ceiling is this share of the filesystem where that is less.
DEFAULT_SHARE = 4
# What journals leave free on the disk in any case, for everybody else: this much, or a hundredth of a small disk.
RESERVE_BYTES = 512 << 20
RESERVE_SHARE = 100
# What was measured longer ago than this says nothing: no forwarder is there to measure.
STALE_SECONDS = 60.0

BLOCK_BYTES = 512
"""The unit of `st_blocks`."""

_BYTES = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_DECIMAL_BYTES = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 7 * 86400.0}


def parse_bytes(text: str) -> float:
    """`20GiB`, `500 MB`, `1g`, a number of bytes; `none` is no ceiling, infinity. ValueError says what is expected."""
    if text.strip().lower() in ("none", "unlimited"):
        return math.inf
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(i?b)?", text.strip().lower())
    if match is None:
        raise ValueError(f"{text!r} is no size; expected a number of bytes, 500MB, 20GiB or none")
    units = _DECIMAL_BYTES if match[3] == "b" else _BYTES
    return float(int(float(match[1]) * units[match[2]]))


def parse_duration(text: str) -> float:
    """`7d`, `12h`, `30m`, `10s`, `2w`, 0, in seconds; `forever` is infinity. ValueError says what is expected."""
    given = text.strip().lower()
    if given == "forever":
        return math.inf
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhdw])", given)
    if match is None and given != "0":
        raise ValueError(f"{text!r} is no length of time; expected 7d, 12h, 30m, 10s, 0 or forever")
    return 0.0 if match is None else float(match[1]) * _SECONDS[match[2]]


def max_bytes(env: Mapping[str, str] = os.environ) -> float | None:
    """The ceiling that was set; None where none was. ValueError where it is not understood."""
    return _setting(MAX_BYTES_VARIABLE, parse_bytes, env)


def retention(env: Mapping[str, str] = os.environ) -> float:
    """How long what Kafka has is kept, in seconds. ValueError where the setting is not understood."""
    found = _setting(RETENTION_VARIABLE, parse_duration, env)
    return DEFAULT_RETENTION if found is None else found


def limits(env: Mapping[str, str] = os.environ) -> dict[str, str]:
    """What the environment sets of the two, as it stands there: for a forwarder that has another environment."""
    return {name: env[name] for name in (MAX_BYTES_VARIABLE, RETENTION_VARIABLE) if env.get(name)}


def _setting(name: str, parse: Callable[[str], float], env: Mapping[str, str]) -> float | None:
    given = env.get(name)
    if not given:
        return None
    try:
        return parse(given)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def size_text(size: float) -> str:
    """A size for people: 19.5 GiB."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


@dataclass(frozen=True, slots=True)
class Disk:
    """The filesystem of a directory, in bytes."""

    total: int
    free: int

    @classmethod
    def of(cls, directory: Path) -> "Disk":
        """OSError where the directory cannot be asked."""
        found = os.statvfs(directory)
        return cls(found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize)

    @property
    def reserve(self) -> int:
        return min(RESERVE_BYTES, self.total // RESERVE_SHARE)

    @property
    def available(self) -> int:
        """What journals may still take of it; below zero where others have taken the reserve."""
        return self.free - self.reserve


@dataclass(frozen=True, slots=True)
class Usage:
    """What the journals of a directory took when it was measured, and what they may take, in bytes."""

    taken: int
    limit: int
    updated: float
    """Seconds since the epoch."""
    notice: str = ""
    """What the person who trains has to know; empty as long as there is room."""

    @classmethod
    def load(cls, directory: Path) -> "Usage | None":
        """What was measured last; None where nothing was, or what is there is not whole."""
        try:
            found = json.loads((directory / USAGE_FILE).read_bytes())
            return cls(int(found["taken"]), int(found["limit"]), float(found["updated"]), str(found["notice"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def encode(self) -> bytes:
        return json.dumps(asdict(self)).encode()


class Room:
    """Whether the journals of a directory may grow. Asked when a segment is begun, so every few megabytes."""

    def __init__(self, directory: Path, clock: Callable[[], float] = time.time) -> None:
        self._directory = directory
        self._clock = clock

    def refusal(self, size: int) -> str:
        """Why `size` more bytes must not be taken; empty where they may."""
        try:
            disk = Disk.of(self._directory)
        except OSError:
            return ""  # whoever makes the file hears of it
        if disk.available < size:
            return f"the disk has {size_text(disk.free)} left, of which journals leave {size_text(disk.reserve)} alone"
        usage = self.measured()
        if usage is not None and usage.taken + size > usage.limit:
            return f"the journals take {size_text(usage.taken)} of the {size_text(usage.limit)} that they may"
        return ""

    def measured(self) -> Usage | None:
        """What was measured a short while ago; None where nobody measures."""
        usage = Usage.load(self._directory)
        return usage if usage is not None and abs(self._clock() - usage.updated) < STALE_SECONDS else None
