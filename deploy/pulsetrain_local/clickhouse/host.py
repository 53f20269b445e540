"""What all clients of a server share, by whatever protocol they come: the engine, and who may enter."""

import hmac
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from pulsetrain_local.clickhouse.engine import Engine, EngineConnection, EngineError
from pulsetrain_local.clickhouse.room import Room
from pulsetrain_local.clickhouse.settings import SettingTypes
from pulsetrain_local.clickhouse.statements import first_word
from pulsetrain_local.clickhouse.watcher import Watched, Watcher
from pulsetrain_schemas.sql import identifier, literal

READONLY = 164
DISPLAY_NAME = "pulsetrain"
# Statements that need room on the disk; what takes things away gives room.
_WRITES = frozenset({"INSERT", "CREATE", "ALTER", "OPTIMIZE", "RENAME", "EXCHANGE", "UPDATE", "DELETE", "ATTACH"})


@dataclass(frozen=True, slots=True)
class Login:
    """A user. One that `reads_only` changes nothing, and reaches nothing but tables."""

    user: str
    password: str
    reads_only: bool = False

    def admits(self, user: str, password: str) -> bool:
        """Whether that is the user, with the password. Takes the same time for every wrong one."""
        same_user = hmac.compare_digest(user.encode(), self.user.encode())
        same_password = hmac.compare_digest(password.encode(), self.password.encode())
        return same_user and same_password

    def __repr__(self) -> str:
        return f"Login({self.user!r})"


def refusal(user: str) -> str:
    """What one who may not enter is told."""
    return (
        f"{user}: Authentication failed: password is incorrect, or there is no user with such name. "
        "(AUTHENTICATION_FAILED)"
    )


@dataclass(frozen=True, slots=True)
class Host:
    """What all sessions of a server share."""

    engine: Engine
    watcher: Watcher
    room: Room
    setting_types: SettingTypes
    logins: Sequence[Login]
    version: tuple[int, int, int]
    timezone: str
    http_port: int
    spill_directory: Path
    held_in_memory: int

    def admitted(self, user: str, password: str) -> Login | None:
        """Who that is; None for one who may not enter."""
        found = [login for login in self.logins if login.admits(user, password)]
        return found[0] if found else None

    def room_for(self, sql: str) -> AbstractContextManager[None]:
        """The time in which a statement may write, where it is one that does. EngineError where room is short."""
        return self.room.writing() if first_word(sql) in _WRITES else nullcontext()

    def connected(self, tag: str, database: str) -> EngineConnection:
        """A session of the engine in that database. `tag` marks its queries in system.processes: see `watched`.

        Raises EngineError where there is no such database.
        """
        engine = self.engine.connect(tag)
        if database:
            try:
                engine.query(f"USE {identifier(database)}")
            except EngineError:
                engine.close()
                raise
        return engine

    @contextmanager
    def watched(
        self,
        connection: socket.socket,
        engine: EngineConnection,
        text: str,
        arrived: Callable[[], bytes],
        tell_progress: Callable[[], None],
    ) -> Iterator[Watched]:
        """The time in which the engine works on a query, and the watcher looks after its client."""
        comment = "Settings['log_comment']"
        own = f"{comment} = {literal(engine.tag)}"
        renamed = f"query = {literal(text)} AND NOT startsWith({comment}, 'connection ')"
        query = Watched(connection, arrived, f"{own} OR ({renamed})", tell_progress)
        self.watcher.add(query)
        try:
            yield query
        finally:
            self.watcher.remove(query)


def allow_only_reading(engine: EngineConnection, text: str) -> None:
    """From here on the session of the engine changes nothing, not even its settings. Raises EngineError."""
    if first_word(text) == "KILL":  # which the engine lets pass
        raise EngineError(READONLY, "Cannot execute query in readonly mode. (READONLY)")
    engine.query("SET readonly = 1")
