"""One query over HTTP: what is asked, with what settings, and the pieces of its answer.

A query stands in the URL (`query`), in the body, or in both, one behind the other. What follows the head of an INSERT
is data. Parameters of the URL that mean nothing to this server are settings, and `param_x` is the query's `{x:Type}`.
"""

import itertools
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from pulsetrain_local.clickhouse.blocks import for_revision, header_block
from pulsetrain_local.clickhouse.columns import UnknownLayout
from pulsetrain_local.clickhouse.engine import EngineConnection, EngineError, NotStreamable
from pulsetrain_local.clickhouse.holding import HeldBlocks
from pulsetrain_local.clickhouse.host import READONLY, Host, Login, allow_only_reading
from pulsetrain_local.clickhouse.protocol import LONGEST_QUERY, Setting
from pulsetrain_local.clickhouse.settings import SettingsOverlay
from pulsetrain_local.clickhouse.statements import (
    InsertOfText,
    MultipleStatements,
    first_word,
    for_the_engine,
    format_of,
    insert_of_text,
)
from pulsetrain_local.clickhouse.watcher import Watched
from pulsetrain_schemas.sql import literal

SYNTAX_ERROR = 62
TOO_LARGE = 307
UNKNOWN_TYPE = 50
DEFAULT_FORMAT = "TabSeparated"
# What this server itself understands in a URL, or passes over as a server does; all else there is a setting.
OWN_PARAMETERS = frozenset(
    {
        *("query", "user", "password", "database", "default_format", "query_id", "quota_key", "role"),
        *("session_id", "session_timeout", "session_check", "close_session"),
        *("compress", "decompress", "client_protocol_version", "buffer_size", "wait_end_of_query", "stacktrace"),
    }
)

Watching = Callable[[str], AbstractContextManager[Watched]]


@dataclass(frozen=True, slots=True)
class HttpQuery:
    """What is asked. `body` is what follows the text; `may_change` is false for a GET."""

    text: str
    body: Iterator[bytes]
    parameters: Mapping[str, str] = field(repr=False)
    default_format: str
    may_change: bool
    revision: int

    def settings(self) -> tuple[Setting, ...]:
        """The settings of the URL. One that is not known is an error, as a server has it."""
        return tuple(
            Setting(name, value, important=True)
            for name, value in self.parameters.items()
            if name not in OWN_PARAMETERS and not name.startswith("param_")
        )

    def values(self) -> dict[str, str | None]:
        """The query's own parameters."""
        return {name: value for name, value in self.parameters.items() if name.startswith("param_")}


@dataclass(slots=True)
class HttpAnswer:
    """The result. `whole` where it is one piece; else it comes as the engine gives it, and may break off.

    `close` ends what the engine still does for it; to be called in any case.
    """

    format: str = ""
    whole: bytes | None = b""
    pieces: Iterator[bytes] = field(default_factory=lambda: iter(()))
    close: Callable[[], None] = lambda: None


def text_and_data(url_query: str, body: Iterator[bytes]) -> tuple[str, Iterator[bytes]]:
    """The text of a query, and what of the body is data behind it. Raises EngineError where the text is too long."""
    if url_query and insert_of_text(url_query) is not None:
        return url_query, body
    read = bytearray()
    for piece in body:
        read += piece
        if len(read) > LONGEST_QUERY:
            raise EngineError(
                TOO_LARGE,
                f"Query is longer than {LONGEST_QUERY >> 20} MiB: give an INSERT in the URL, as `query`, and its data "
                "in the body. (TOO_MANY_BYTES)",
            )
    text = read.decode("utf-8", "surrogateescape")
    return (f"{url_query}\n{text}" if url_query and text else url_query or text), iter(())


def execute(query: HttpQuery, login: Login, host: Host, engine: EngineConnection, watching: Watching) -> HttpAnswer:
    """Runs a query; what it gives is to be read before the engine's session does anything else. Raises EngineError."""
    overlay = SettingsOverlay(engine, host.setting_types)
    overlay.lay(query.settings())
    for name, value in query.values().items():
        engine.query(f"SET {name} = {literal(value or '')}")
    if login.reads_only:
        allow_only_reading(engine, query.text)
    insert = insert_of_text(query.text)
    if insert is not None:
        _only_where_it_may(query, engine, None)
        _insert(insert, query, host, engine, watching)
        return HttpAnswer()
    try:
        sql = for_the_engine(query.text)
    except MultipleStatements as error:
        raise EngineError(SYNTAX_ERROR, f"{error}. (SYNTAX_ERROR)") from None
    _only_where_it_may(query, engine, sql)
    if first_word(sql) == "SET":
        overlay.lift()
    return _select(sql, format_of(query.text) or query.default_format, query, host, engine, watching)


def _only_where_it_may(query: HttpQuery, engine: EngineConnection, sql: str | None) -> None:
    if not query.may_change and (sql is None or not engine.reads_only(sql)):
        raise EngineError(
            READONLY, "Cannot execute query in readonly mode. For queries over HTTP, method GET only reads. (READONLY)"
        )


def _select(
    sql: str, output_format: str, query: HttpQuery, host: Host, engine: EngineConnection, watching: Watching
) -> HttpAnswer:
    if output_format == "Native":
        try:
            return _stream(sql, query, engine, watching)
        except NotStreamable:
            pass
    with host.room_for(sql), watching(query.text):
        whole = engine.query(sql, output_format)
    if output_format == "Native" and whole:
        whole = for_revision(whole, query.revision)
    return HttpAnswer(output_format, whole)


def _stream(sql: str, query: HttpQuery, engine: EngineConnection, watching: Watching) -> HttpAnswer:
    """Blocks as they come. The first is waited for: until then an error is an error, and not a broken answer."""
    blocks = _blocks(sql, query, engine, watching)
    first = next(blocks)
    return HttpAnswer("Native", None, itertools.chain((first,), blocks), blocks.close)


def _blocks(sql: str, query: HttpQuery, engine: EngineConnection, watching: Watching) -> Generator[bytes, None, None]:
    any_came = False
    with watching(query.text) as watched, engine.stream(sql) as stream:
        for block in stream:
            if watched.cancelled:
                return
            any_came = True
            yield _for_client(block, query.revision)
    if not any_came:
        yield for_revision(header_block(engine.describe(sql)), query.revision)


def _for_client(block: bytes, revision: int) -> bytes:
    try:
        return for_revision(block, revision)
    except UnknownLayout as error:
        raise EngineError(
            UNKNOWN_TYPE, f"{error}: cast it to String, or ask without FORMAT Native. (UNKNOWN_TYPE)"
        ) from error


def _insert(insert: InsertOfText, query: HttpQuery, host: Host, engine: EngineConnection, watching: Watching) -> None:
    columns = engine.describe(insert.sample)
    pieces: Sequence[Iterator[bytes]] = (
        iter((query.text[insert.data :].encode("utf-8", "surrogateescape"),)),
        query.body,
    )
    with HeldBlocks(host.spill_directory, host.held_in_memory) as held:
        for piece in itertools.chain(*pieces):
            if piece:
                held.add(piece)
        if not held.empty:
            with watching(query.text[: insert.data]), host.room.writing():
                engine.insert(insert.head, columns, held.path(), insert.format)
