"""The ClickHouse engine as a library (chDB), and the few of its ways that a server relies on.

A path belongs to one process. An EngineConnection is a session of its own: current database, settings, temporary
tables. It does one thing at a time. Calls give the interpreter lock back while they work. What chDB raises becomes
EngineError, with the code and the name that a ClickHouse server would send.

What is exposed: chDB has one user, and lets nobody take grants from it or bound the hosts and files that it reaches. So
SQL reads and writes what this process may, by `file()`, `url()`, `remote()` and the like. Whoever has the password of
this server acts as the person who started it.
"""

import contextlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlencode

import chdb

from pulsetrain_local.clickhouse.blocks import Column
from pulsetrain_local.clickhouse.protocol import Progress
from pulsetrain_schemas.sql import identifier, literal

ERROR = re.compile(r"Code: (?P<code>\d+)\. (?P<name>DB::\w*Exception): (?P<message>.*)", re.DOTALL)
ERROR_NAME = re.compile(r"\((?P<name>[A-Z][A-Z0-9_]+)\)\s*$")
ENGINE_VERSION = re.compile(r"\s*\(version [\w. ()-]+\)\s*$")
UNKNOWN_EXCEPTION = 1002
QUERY_WAS_CANCELLED = 394
NOT_STREAMABLE = "Streaming query is not supported"

# What chDB sets otherwise than a server does: a bare expression is no query, and an INSERT answers when it is stored.
SESSION_DEFAULTS = {"async_insert": "0", "implicit_select": "0"}


class EngineError(Exception):
    """The engine refused or failed. `message` is as a server sends it, after `DB::Exception: `."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"Code: {code}. DB::Exception: {message}")
        self.code = code
        self.message = message

    @classmethod
    def of(cls, error: Exception) -> Self:
        """What chDB raised, read back into code and message."""
        text = str(error)
        match = ERROR.search(text)
        if match is None:
            return cls(UNKNOWN_EXCEPTION, f"{text} (UNKNOWN_EXCEPTION)")
        return cls(int(match["code"]), ENGINE_VERSION.sub("", match["message"]))

    @property
    def name(self) -> str:
        """The error's name, such as UNKNOWN_TABLE; empty where the engine gave none."""
        match = ERROR_NAME.search(self.message)
        return match["name"] if match else ""


class NotStreamable(Exception):
    """The statement is of a kind whose result the engine gives whole."""


class Engine:
    """The engine over one directory, for as long as this process lives."""

    def __init__(self, path: Path, options: Mapping[str, str]) -> None:
        """Opens the directory. `options` are settings of the server (`max_server_memory_usage`, cache sizes).

        Raises EngineError where another process holds the path, or it cannot be opened.
        """
        self._path = path
        path.mkdir(parents=True, exist_ok=True)
        target = f"{path}?{urlencode(options)}" if options else str(path)
        try:
            self._keeper = chdb.connect(target)
        except Exception as error:
            raise EngineError.of(error) from error

    def connect(self, tag: str = "") -> "EngineConnection":
        """A new session."""
        try:
            return EngineConnection(chdb.connect(str(self._path)), tag)
        except Exception as error:
            raise EngineError.of(error) from error

    def close(self) -> None:
        """Closes the engine. Sessions must be closed before."""
        self._keeper.close()


class EngineConnection:
    """One session. `tag` is what marks its queries in system.processes."""

    def __init__(self, connection: Any, tag: str = "") -> None:
        self._connection = connection
        self.tag = tag
        self.progress = Progress()
        connection.set_progress_callback(self._note_progress)
        self.query(settings_statement({**SESSION_DEFAULTS, "log_comment": tag}))

    def _note_progress(self, told: Mapping[str, int]) -> None:
        names = ("read_rows", "read_bytes", "total_rows_to_read", "written_rows", "written_bytes")
        self.progress = Progress(*(told.get(name, 0) for name in names))

    def query(self, sql: str, output_format: str = "Native") -> bytes:
        """Runs a statement and returns its whole result."""
        try:
            return bytes(self._connection.query(sql, output_format).bytes())
        except Exception as error:
            raise EngineError.of(error) from error

    def describe(self, sql: str) -> tuple[Column, ...]:
        """The columns of a query, without running it."""
        answer = self.query(f"DESCRIBE ({sql}\n)", "JSONCompactEachRow")
        return tuple(Column(*json.loads(line)[:2]) for line in answer.splitlines())

    def reads_only(self, sql: str) -> bool:
        """Whether the statement is one that gives rows and changes nothing, in the engine's own judgement."""
        try:
            return str(self._connection._conn.classify_query(sql)["query_class"]).endswith("READ_ONLY")  # noqa: SLF001
        except Exception as error:
            raise EngineError.of(error) from error

    @contextlib.contextmanager
    def stream(self, sql: str) -> Iterator[Iterator[bytes]]:
        """Runs a query and gives its blocks as they come; leaving early cancels it.

        Raises NotStreamable for a statement that is no query.
        """
        try:
            result = self._connection.send_query(sql, "Native")
        except Exception as error:
            if NOT_STREAMABLE in str(error):
                raise NotStreamable from error
            raise EngineError.of(error) from error
        try:
            yield self._blocks(result)
        finally:
            try:
                result.cancel()
            except Exception as error:
                raise EngineError.of(error) from error

    @staticmethod
    def _blocks(result: Any) -> Iterator[bytes]:
        while True:
            try:
                chunk = result.fetch()
            except Exception as error:
                raise EngineError.of(error) from error
            if chunk is None:
                return
            yield bytes(chunk.bytes())

    def insert(self, head: str, columns: Sequence[Column], path: str, file_format: str = "Native") -> None:
        """Stores the rows of a file, laid out as `columns`, by an INSERT.

        `head` is the statement up to where data or FORMAT would stand. chDB has a call that takes the blocks
        themselves (`send_insert`), but that one reports success where a constraint or too many parts kept the rows out.
        """
        structure = ", ".join(f"{identifier(column.name)} {column.type}" for column in columns)
        self.query(f"{head} SELECT * FROM file({literal(path)}, {literal(file_format)}, {literal(structure)})")  # noqa: S608 - quoted

    def close(self) -> None:
        """Ends the session."""
        self._connection.close()


def settings_statement(settings: Mapping[str, str | None]) -> str:
    """`SET` of these settings; None means back to the default."""
    assignments = (f"{name} = {'DEFAULT' if value is None else literal(value)}" for name, value in settings.items())
    return f"SET {', '.join(assignments)}"
