"""Where the local stack keeps its state, and the small files there: written whole or not at all, for the user alone."""

import contextlib
import fcntl
import json
import os
import secrets
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pulsetrain_schemas import addresses


@dataclass(frozen=True, slots=True)
class Home:
    """The directory of one local stack, PULSETRAIN_HOME. Two homes are two stacks."""

    root: Path

    @property
    def stack(self) -> Path:
        """What others read: written when all is ready, removed when the stack goes down."""
        return addresses.stack_file(self.root)

    @property
    def supervisor(self) -> Path:
        """What the supervisor knows about itself and its processes, from its first moment to its last."""
        return self.root / "supervisor.json"

    @property
    def lock(self) -> Path:
        """Held by the supervisor for as long as it lives."""
        return self.root / "supervisor.lock"

    @property
    def ports(self) -> Path:
        """The ports chosen last, so that a stack that comes back has the same addresses."""
        return self.root / "ports.json"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def kafka(self) -> Path:
        return self.root / "kafka"

    @property
    def clickhouse(self) -> Path:
        return self.root / "clickhouse"

    @property
    def password(self) -> Path:
        return self.root / "clickhouse.password"

    @property
    def reader_password_file(self) -> Path:
        return self.root / "clickhouse.reader.password"

    @property
    def grafana(self) -> Path:
        return self.root / "grafana"

    @property
    def prometheus(self) -> Path:
        return self.root / "prometheus"

    @property
    def grafana_password_file(self) -> Path:
        return self.root / "grafana.password"

    @property
    def rules(self) -> Path:
        """The user's rules for alerts, where there is such a directory."""
        return self.root / "rules"

    def log(self, service: str) -> Path:
        return self.logs / f"{service}.log"

    def create(self) -> None:
        """Makes the directories. Raises OSError."""
        self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.logs.mkdir(exist_ok=True)

    def clickhouse_password(self) -> str:
        """The password of this stack's ClickHouse, made at random the first time."""
        return _secret(self.password)

    def reader_password(self) -> str:
        """That of the user of ClickHouse who only reads."""
        return _secret(self.reader_password_file)

    def grafana_password(self) -> str:
        """That of Grafana's user admin."""
        return _secret(self.grafana_password_file)

    @contextlib.contextmanager
    def supervised(self) -> Iterator[bool]:
        """Holds the supervisor's lock within, with this process's id in it; false where another process holds it."""
        with self.lock.open("a") as file:
            if not _locked(file.fileno()):
                yield False
            else:
                file.truncate(0)
                file.write(str(os.getpid()))
                file.flush()
                yield True

    def supervisor_pid(self) -> int | None:
        """The process that holds the supervisor's lock, where one does."""
        if not self.has_supervisor():
            return None
        try:
            return int(self.lock.read_text())
        except ValueError:
            return None  # it took the lock a moment ago

    def has_supervisor(self) -> bool:
        """Whether a supervisor of this home lives."""
        if not self.lock.exists():
            return False
        with self.lock.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False


def _secret(path: Path) -> str:
    with contextlib.suppress(FileNotFoundError):
        return path.read_text().strip()
    write_private(path, secrets.token_urlsafe(24) + "\n")
    return path.read_text().strip()


def _locked(descriptor: int, patience: float = 0.3) -> bool:
    """Takes the lock. Whoever only looks whether it is held holds it for an instant: that is waited for."""
    deadline = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        else:
            return True


def write_private(path: Path, text: str) -> None:
    """Replaces a file at one stroke, readable by its owner alone."""
    descriptor, name = tempfile.mkstemp(prefix=path.name + ".", dir=path.parent)  # made with mode 0600
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Any) -> None:
    write_private(path, json.dumps(value, indent=2) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """The object in a file; empty where there is no such file or it does not hold one."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
