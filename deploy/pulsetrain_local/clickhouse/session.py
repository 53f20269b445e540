"""One client's connection, from its Hello to its end: reads packets, asks the engine, answers.

A session has its own session of the engine, so `USE`, `SET` and temporary tables are its own. It lives on one thread.
"""

import functools
import json
import logging
import socket
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager

from pulsetrain_local.clickhouse import legacy, protocol
from pulsetrain_local.clickhouse.blocks import Column, Extent, find_block, header_block, skip_block_info
from pulsetrain_local.clickhouse.columns import UnknownLayout
from pulsetrain_local.clickhouse.compression import DecompressedSource
from pulsetrain_local.clickhouse.engine import EngineConnection, EngineError, NotStreamable
from pulsetrain_local.clickhouse.handshake import greet
from pulsetrain_local.clickhouse.holding import HeldBlocks
from pulsetrain_local.clickhouse.host import DISPLAY_NAME, Host, allow_only_reading
from pulsetrain_local.clickhouse.protocol import ClientHello, FromClient, Query
from pulsetrain_local.clickhouse.replies import Replies
from pulsetrain_local.clickhouse.settings import SettingsOverlay
from pulsetrain_local.clickhouse.statements import (
    InsertOfBlocks,
    MultipleStatements,
    first_word,
    for_the_engine,
    insert_of_blocks,
)
from pulsetrain_local.clickhouse.watcher import Watched
from pulsetrain_local.clickhouse.wire import ConnectionEnded, MemorySource, ProtocolError, SocketSource, Source
from pulsetrain_schemas.sql import identifier

log = logging.getLogger(__name__)

HELLO_SECONDS = 10
PACKET_SECONDS = 300
IDLE_SECONDS = 3600
LARGEST_BLOCK = 1 << 30
LARGEST_HELLO = 1 << 20
SYNTAX_ERROR = 62
UNKNOWN_TYPE = 50
UNEXPECTED_PACKET = 101


class Session:
    """A connection that has been accepted. `run()` returns when it is over; the caller closes the socket."""

    def __init__(self, connection: socket.socket, peer: str, host: Host, tag: str) -> None:
        """`tag` is unlike every other session's; it marks this one's queries in system.processes."""
        self._connection = connection
        self._peer = peer
        self._host = host
        self._tag = tag
        self._source = SocketSource(connection, LARGEST_HELLO)
        self._replies = Replies(connection)
        self._revision = 0
        self._client_revision = 0
        self._sends_rows_as_blocks = False
        self._reads_only = False

    def run(self) -> None:
        """Serves the client until it leaves, or sends what cannot be understood."""
        try:
            self._connection.settimeout(HELLO_SECONDS)
            port = self._connection.getsockname()[1]
            greeted = greet(self._source, self._replies, self._host, self._peer, port)
            if greeted is not None:
                hello, login = greeted
                self._reads_only = login.reads_only
                self._serve(hello)
        except ConnectionEnded as ended:
            if ended.in_the_middle:
                log.warning("%s: %s", self._peer, ended)
        except ProtocolError as error:
            log.warning("%s: closing the connection: %s", self._peer, error)
            self._try_to_tell(error)
        except TimeoutError:
            log.warning("%s: closing the connection: nothing came, or nothing was taken, for too long", self._peer)
        except OSError as error:
            log.warning("%s: the connection broke: %s", self._peer, error)

    def _serve(self, hello: ClientHello) -> None:
        log.debug("%s: %r", self._peer, hello)
        self._client_revision = hello.revision
        self._sends_rows_as_blocks = (
            hello.name == legacy.COMMAND_LINE_CLIENT and hello.revision < legacy.CURRENT_REVISION
        )
        self._revision = self._replies.revision = min(hello.revision, protocol.SERVER_REVISION)
        try:
            engine = self._host.connected(self._tag, hello.database)
        except EngineError as error:
            self._replies.send(protocol.exception(error.code, error.message))
            self._replies.flush()
            return
        try:
            self._replies.send(protocol.hello(self._host.version, self._host.timezone, DISPLAY_NAME, self._revision))
            self._replies.flush()
            self._source.limit = LARGEST_BLOCK
            overlay = SettingsOverlay(engine, self._host.setting_types)
            while self._next_packet(engine, overlay, hello.database):
                pass
        finally:
            engine.close()

    def _next_packet(self, engine: EngineConnection, overlay: SettingsOverlay, database: str) -> bool:
        self._connection.settimeout(IDLE_SECONDS)
        try:
            self._source.wait()
        except TimeoutError:
            log.info("%s: closing the connection, which was idle for %d s", self._peer, IDLE_SECONDS)
            return False
        self._connection.settimeout(PACKET_SECONDS)
        match self._source.varint():
            case FromClient.PING:
                self._replies.send(protocol.PONG)
                self._replies.flush()
            case FromClient.CANCEL | FromClient.KEEP_ALIVE:
                pass  # what it is to cancel is over
            case FromClient.QUERY:
                query = protocol.read_query(self._source, self._revision, self._host.setting_types.of)
                if self._reads_only:
                    # One of its own for each: once a session is read-only, the settings of a query cannot be laid over.
                    with closing(self._host.connected(self._tag, database)) as own:
                        self._answer(query, own, SettingsOverlay(own, self._host.setting_types))
                else:
                    self._answer(query, engine, overlay)
            case kind:
                raise ProtocolError(f"Unknown packet {kind} from client", protocol.UNKNOWN_PACKET_FROM_CLIENT)
        return True

    def _answer(self, query: Query, engine: EngineConnection, overlay: SettingsOverlay) -> None:
        self._replies.begin(compressed=query.compressed)
        engine.progress = protocol.Progress()
        tables = list[str]()
        try:
            try:
                self._take_external_tables(engine, tables)
                self._execute(query, engine, overlay)
            except MultipleStatements as error:
                self._replies.send(protocol.exception(SYNTAX_ERROR, f"{error}. (SYNTAX_ERROR)"))
            except EngineError as error:
                log.info("%s: %s", self._peer, error)
                self._replies.send(protocol.exception(error.code, error.message))
            self._replies.flush()
        finally:
            for table in () if self._reads_only else tables:
                engine.query(f"DROP TEMPORARY TABLE IF EXISTS {identifier(table)}")

    def _execute(self, query: Query, engine: EngineConnection, overlay: SettingsOverlay) -> None:
        if first_word(query.text) == "SET":
            overlay.lift()
        else:
            unknown = overlay.lay(query.settings)
            if unknown:
                log.info("%s: passing over unknown settings: %s", self._peer, ", ".join(unknown))
        if self._reads_only:
            allow_only_reading(engine, query.text)
        insert = insert_of_blocks(query.text, blocks_always_follow=self._sends_rows_as_blocks)
        if insert is not None:
            self._insert(insert, query.text, engine)
            return
        sql = for_the_engine(query.text)
        with self._host.room_for(sql), self._watched(engine, query.text) as watched:
            try:
                self._select(sql, engine, watched)
            except EngineError:
                if not watched.cancelled:
                    raise
        self._replies.progress(engine)
        self._replies.send(protocol.END_OF_STREAM)

    @contextmanager
    def _watched(self, engine: EngineConnection, text: str) -> Iterator[Watched]:
        tick = functools.partial(self._replies.tick, engine)
        watching = self._host.watched(self._connection, engine, text, self._source.arrived, tick)
        with watching as query, self._replies.engine_works():
            yield query

    # --- what gives rows

    def _select(self, sql: str, engine: EngineConnection, watched: Watched) -> None:
        if self._client_revision < legacy.CURRENT_REVISION:
            sql = self._for_old_client(sql, engine)
        try:
            try:
                self._send_stream(sql, None, engine, watched)
            except UnknownLayout:
                self._send_stream(sql, engine.describe(sql), engine, watched)
            if not self._replies.blocks and not watched.cancelled:
                self._replies.block(header_block(engine.describe(sql)))
        except NotStreamable:
            for columns, block in _split(engine.query(sql)):
                self._replies.rows_of(columns, block)
            if not self._replies.blocks and engine.reads_only(sql):
                self._replies.block(header_block(_columns_of(engine, sql)))
        self._replies.profile()

    def _send_stream(
        self, sql: str, columns: Sequence[Column] | None, engine: EngineConnection, watched: Watched
    ) -> None:
        """Sends the blocks of a query as they come.

        Where `columns` are not given they are read from the first block; raises UnknownLayout, with nothing sent, where
        that cannot be.
        """
        with engine.stream(sql) as stream:
            for block in stream:
                if watched.cancelled:
                    return
                if columns is None:
                    columns = find_block(MemorySource(block)).columns
                if not self._replies.blocks:
                    self._replies.progress(engine)
                self._replies.rows_of(columns, block)

    def _for_old_client(self, sql: str, engine: EngineConnection) -> str:
        try:
            columns = engine.describe(sql)
        except EngineError:
            return sql  # no query, or a wrong one: the engine says so when it gets it
        return legacy.for_selecting(columns, sql, self._client_revision)

    # --- what takes rows

    def _insert(self, insert: InsertOfBlocks, text: str, engine: EngineConnection) -> None:
        columns = engine.describe(insert.sample)
        self._replies.block(header_block(legacy.for_inserting(columns, self._client_revision)))
        self._replies.flush()
        with HeldBlocks(self._host.spill_directory, self._host.held_in_memory) as held:
            try:
                is_whole = self._receive(held)
            except ConnectionEnded:
                log.warning("%s: the client went away in the middle of an INSERT; nothing of it is stored", self._peer)
                raise
            if not is_whole:
                self._replies.send(protocol.END_OF_STREAM)
                return
            with self._watched(engine, text) as watched:
                watched.tells_progress = self._revision >= protocol.WITH_WRITTEN_ROWS
                if not held.empty:
                    with self._host.room.writing():
                        engine.insert(insert.head, columns, held.path())
        if self._revision >= protocol.WITH_WRITTEN_ROWS:  # older clients expect nothing but the end
            self._replies.progress(engine)
        self._replies.send(protocol.END_OF_STREAM)

    def _receive(self, held: HeldBlocks) -> bool:
        """Holds the blocks up to the empty one that ends them. False where the client cancels instead."""
        while True:
            self._source.wait()
            match self._source.varint():
                case FromClient.DATA:
                    self._source.string(protocol.LONGEST_NAME)
                    block, extent = self._read_block()
                    if not extent.columns:
                        return True
                    if extent.rows:
                        held.add(block)
                case FromClient.CANCEL:
                    log.info("%s: an INSERT was cancelled by its client; nothing of it is stored", self._peer)
                    return False
                case FromClient.PING:
                    self._replies.send(protocol.PONG)
                    self._replies.flush()
                case kind:
                    raise ProtocolError(f"Unexpected packet {kind} in the middle of an INSERT", UNEXPECTED_PACKET)

    def _take_external_tables(self, engine: EngineConnection, tables: list[str]) -> None:
        """Makes temporary tables of the blocks that follow a query, up to the empty one; their names go to `tables`."""
        failure: EngineError | None = None
        while True:
            self._source.wait()
            kind = self._source.varint()
            if kind == FromClient.CANCEL:
                continue
            if kind != FromClient.DATA:
                raise ProtocolError(f"Unexpected packet {kind} received after a query", UNEXPECTED_PACKET)
            name = self._source.string(protocol.LONGEST_NAME)
            block, extent = self._read_block()
            if not extent.columns:
                break
            try:
                if name not in tables:
                    _create_temporary_table(engine, name, extent.columns)
                    tables.append(name)
                if extent.rows:
                    with HeldBlocks(self._host.spill_directory, self._host.held_in_memory) as held:
                        held.add(block)
                        engine.insert(f"INSERT INTO {identifier(name)}", extent.columns, held.path())
            except EngineError as error:
                failure = failure or error
        if failure is not None:
            raise failure

    def _read_block(self) -> tuple[bytes, Extent]:
        source: Source = self._source
        if self._replies.compressed:
            source = DecompressedSource(self._source, LARGEST_BLOCK)
        skip_block_info(source)
        try:
            extent = find_block(source)
        except UnknownLayout as error:
            raise ProtocolError(f"{error}. (UNKNOWN_TYPE)", UNKNOWN_TYPE) from error
        with memoryview(source.buffer) as buffer:
            block = bytes(buffer[extent.start : extent.end])
        if self._replies.compressed and source.position != len(source.buffer):
            raise ProtocolError("a compressed block is followed by more than it says")
        self._source.forget()
        return block, extent

    def _try_to_tell(self, error: ProtocolError) -> None:
        self._replies.drop()
        try:
            self._replies.send(protocol.exception(error.code, str(error)))
            self._replies.flush()
        except OSError as broken:
            log.debug("%s: could not tell the client: %s", self._peer, broken)


def _create_temporary_table(engine: EngineConnection, name: str, columns: Sequence[Column]) -> None:
    described = ", ".join(f"{identifier(column.name)} {column.type}" for column in columns)
    engine.query(f"CREATE TEMPORARY TABLE {identifier(name)} ({described})")


def _split(result: bytes) -> Iterator[tuple[tuple[Column, ...], bytes]]:
    """The blocks of a whole result, with their columns."""
    source = MemorySource(result)
    while source.position < len(result):
        extent = find_block(source)
        yield extent.columns, result[extent.start : extent.end]


def _columns_of(engine: EngineConnection, sql: str) -> tuple[Column, ...]:
    """The columns of what gives rows and is no query, such as SHOW. Runs it."""
    meta: Sequence[dict[str, str]] = json.loads(engine.query(sql, "JSONCompact"))["meta"]
    return tuple(Column(column["name"], column["type"]) for column in meta)
