"""One client's connection, from its Hello to its end: reads packets, asks the engine, answers.

A session has its own session of the engine, so `USE`, `SET` and temporary tables are its own. It lives on one thread; the watcher
alone may send too, progress, under the lock of sending.
"""

import hmac
import json
import logging
import select
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pulsetrain_local.clickhouse import legacy, protocol
from pulsetrain_local.clickhouse.blocks import (
    BLOCK_INFO,
    Column,
    Extent,
    find_block,
    header_block,
    skip_block_info,
)
from pulsetrain_local.clickhouse.columns import UnknownLayout
from pulsetrain_local.clickhouse.compression import DecompressedSource, compress
from pulsetrain_local.clickhouse.engine import (
    Engine,
    EngineConnection,
    EngineError,
    NotStreamable,
    identifier,
    quoted,
)
from pulsetrain_local.clickhouse.holding import HeldBlocks
from pulsetrain_local.clickhouse.protocol import ClientHello, FromClient, Query
from pulsetrain_local.clickhouse.settings import SettingsOverlay, SettingTypes
from pulsetrain_local.clickhouse.statements import (
    InsertOfBlocks,
    MultipleStatements,
    first_word,
    for_the_engine,
    insert_of_blocks,
)
from pulsetrain_local.clickhouse.watcher import Watched, Watcher, ready
from pulsetrain_local.clickhouse.wire import ConnectionEnded, MemorySource, ProtocolError, SocketSource, Source

log = logging.getLogger(__name__)

HELLO_SECONDS = 10
PACKET_SECONDS = 300
IDLE_SECONDS = 3600
LARGEST_BLOCK = 1 << 30
LARGEST_HELLO = 1 << 20
SEND_AT = 1 << 16
PROGRESS_SECONDS = 0.1
AUTHENTICATION_FAILED = 516
SYNTAX_ERROR = 62
UNKNOWN_TYPE = 50
UNEXPECTED_PACKET = 101


@dataclass(frozen=True, slots=True)
class Host:
    """What all sessions of a server share."""

    engine: Engine
    watcher: Watcher
    setting_types: SettingTypes
    user: str
    password: str
    version: tuple[int, int, int]
    timezone: str
    spill_directory: Path
    held_in_memory: int


class Session:
    """A connection that has been accepted. `run()` returns when it is over; the caller closes the socket."""

    def __init__(self, connection: socket.socket, peer: str, host: Host, tag: str) -> None:
        """`tag` is unlike every other session's; it marks this one's queries in system.processes."""
        self._connection = connection
        self._peer = peer
        self._host = host
        self._tag = tag
        self._source = SocketSource(connection, LARGEST_HELLO)
        self._send_lock = threading.Lock()
        self._outbox: list[bytes] = []
        self._outbox_size = 0
        self._rows = self._blocks = self._bytes = 0  # of the result under way
        self._revision = 0
        self._client_revision = 0
        self._compressed = False
        self._working = False
        self._told: dict[str, int] = {}
        self._told_at = 0.0

    def run(self) -> None:
        """Serves the client until it leaves, or sends what cannot be understood."""
        try:
            self._connection.settimeout(HELLO_SECONDS)
            hello = self._greet()
            if hello is not None:
                self._serve(hello)
        except ConnectionEnded as ended:
            if ended.in_the_middle:
                log.warning("%s: the connection ended in the middle of a packet", self._peer)
        except ProtocolError as error:
            log.warning("%s: closing the connection: %s", self._peer, error)
            self._try_to_tell(error.code, str(error))
        except TimeoutError:
            log.warning("%s: closing the connection: nothing came, or nothing was taken, for too long", self._peer)
        except OSError as error:
            log.warning("%s: the connection broke: %s", self._peer, error)

    # --- the handshake

    def _greet(self) -> ClientHello | None:
        kind = self._source.varint()
        if kind in b"GPHO":
            self._refuse_http()
            return None
        if kind != FromClient.HELLO:
            raise ProtocolError(f"the first packet is of type {kind}, and no Hello: this is not a ClickHouse client")
        hello = protocol.read_hello(self._source)
        self._client_revision = hello.revision
        self._revision = min(hello.revision, protocol.SERVER_REVISION)
        if hello.revision < protocol.OLDEST_REVISION:
            raise ProtocolError(f"{hello!r} is too old: revision {protocol.OLDEST_REVISION} is the least")
        if not self._may_enter(hello):
            log.warning("%s: authentication failed for %r", self._peer, hello)
            message = f"{hello.user}: Authentication failed: password is incorrect, or there is no user with such name."
            self._send(protocol.exception(AUTHENTICATION_FAILED, f"{message} (AUTHENTICATION_FAILED)"))
            self._flush()
            return None
        log.debug("%s: %r", self._peer, hello)
        return hello

    def _may_enter(self, hello: ClientHello) -> bool:
        user = hmac.compare_digest(hello.user.encode(), self._host.user.encode())
        password = hmac.compare_digest(hello.password.encode(), self._host.password.encode())
        return user and password

    def _refuse_http(self) -> None:
        log.warning("%s: an HTTP request on the native port", self._peer)
        port = self._connection.getsockname()[1]
        text = (
            f"Port {port} is for clickhouse-client program and the native protocol.\r\n"
            "This server has no HTTP port: use clickhouse-client or clickhouse-driver.\r\n"
        )
        self._send(f"HTTP/1.0 400 Bad Request\r\nContent-Type: text/plain\r\n\r\n{text}".encode())
        self._flush()

    # --- the packets

    def _serve(self, hello: ClientHello) -> None:
        engine = self._host.engine.connect()
        try:
            try:
                engine.query(f"SET log_comment = {quoted(self._tag)}")
                if hello.database:
                    engine.query(f"USE {identifier(hello.database)}")
            except EngineError as error:
                self._send(protocol.exception(error.code, error.message))
                self._flush()
                return
            self._send(protocol.hello(self._host.version, self._host.timezone, "pulsetrain", self._revision))
            self._flush()
            self._source.limit = LARGEST_BLOCK
            overlay = SettingsOverlay(engine, self._host.setting_types)
            while self._next_packet(engine, overlay):
                pass
        finally:
            engine.close()

    def _next_packet(self, engine: EngineConnection, overlay: SettingsOverlay) -> bool:
        self._connection.settimeout(IDLE_SECONDS)
        try:
            self._source.wait()
        except TimeoutError:
            log.info("%s: closing the connection, which was idle for %d s", self._peer, IDLE_SECONDS)
            return False
        self._connection.settimeout(PACKET_SECONDS)
        match self._source.varint():
            case FromClient.PING:
                self._send(protocol.PONG)
                self._flush()
            case FromClient.CANCEL | FromClient.KEEP_ALIVE:
                pass  # what it is to cancel is over
            case FromClient.QUERY:
                query = protocol.read_query(self._source, self._revision, self._host.setting_types.of)
                self._answer(query, engine, overlay)
            case FromClient.DATA:
                raise ProtocolError("Unexpected packet Data received from client", UNEXPECTED_PACKET)
            case kind:
                raise ProtocolError(f"Unknown packet {kind} from client", protocol.UNKNOWN_PACKET_FROM_CLIENT)
        return True

    def _answer(self, query: Query, engine: EngineConnection, overlay: SettingsOverlay) -> None:
        self._compressed = query.compressed
        self._told = {}
        self._told_at = time.monotonic()
        engine.progress = {}
        tables = list[str]()
        try:
            try:
                failure = self._take_external_tables(engine, tables)
                if failure is not None:
                    raise failure
                self._execute(query, engine, overlay)
            except MultipleStatements as error:
                self._drop_outbox()
                self._send(protocol.exception(SYNTAX_ERROR, f"{error}. (SYNTAX_ERROR)"))
            except EngineError as error:
                log.info("%s: %s", self._peer, error)
                self._send(protocol.exception(error.code, error.message))
            self._flush()
        finally:
            for table in tables:
                engine.query(f"DROP TEMPORARY TABLE IF EXISTS {identifier(table)}")

    def _execute(self, query: Query, engine: EngineConnection, overlay: SettingsOverlay) -> None:
        insert = insert_of_blocks(query.text)
        if first_word(query.text) == "SET":
            overlay.lift()
        else:
            unknown = overlay.lay(query.settings)
            if unknown:
                log.info("%s: passing over unknown settings: %s", self._peer, ", ".join(unknown))
        if insert is not None:
            self._insert(insert, query.text, engine)
            return
        sql = for_the_engine(query.text)
        with self._watched(engine, query.text) as watched:
            try:
                self._select(sql, engine, watched)
            except EngineError:
                if not watched.cancelled:
                    raise
        self._send_progress(engine)
        self._send(protocol.END_OF_STREAM)

    # --- what gives rows

    def _select(self, sql: str, engine: EngineConnection, watched: Watched) -> None:
        if self._client_revision < legacy.CURRENT_REVISION:
            sql = self._for_old_client(sql, engine)
        self._rows = self._blocks = self._bytes = 0
        try:
            try:
                self._send_stream(sql, None, engine, watched)
            except UnknownLayout:
                self._send_stream(sql, _described(engine, sql), engine, watched)
            if not self._blocks and not watched.cancelled:
                self._send_block(header_block(_described(engine, sql)))
        except NotStreamable:
            for columns, block in _split(engine.query(sql)):
                self._send_rows(block, columns)
            if not self._blocks and engine.reads_only(sql):
                self._send_block(header_block(_columns_of(engine, sql)))
        self._send(protocol.profile_info(self._rows, self._blocks, self._bytes))

    def _send_stream(
        self, sql: str, columns: Sequence[Column] | None, engine: EngineConnection, watched: Watched
    ) -> None:
        """Sends the blocks of a query as they come. Raises UnknownLayout, with nothing sent, where `columns` must be given."""
        with engine.stream(sql) as stream:
            for block in stream:
                if watched.cancelled:
                    return
                if columns is None:
                    columns = find_block(MemorySource(block)).columns
                if not self._blocks:
                    self._send_progress(engine)
                self._send_rows(block, columns)

    def _send_rows(self, block: bytes, columns: Sequence[Column]) -> None:
        """Sends a block of rows; before the first one a block of the columns alone, from which clients take names and types."""
        if not self._blocks:
            self._send_block(header_block(columns))
        self._rows += _number_of_rows(block)
        self._blocks += 1
        self._bytes += len(block)
        self._send_block(block)

    def _for_old_client(self, sql: str, engine: EngineConnection) -> str:
        try:
            columns = _described(engine, sql)
        except EngineError:
            return sql  # no query, or a wrong one: the engine says so when it gets it
        return legacy.for_selecting(columns, sql, self._client_revision)

    # --- what takes rows

    def _insert(self, insert: InsertOfBlocks, text: str, engine: EngineConnection) -> None:
        columns = legacy.for_inserting(_described(engine, insert.sample), self._client_revision)
        self._send_block(header_block(columns))
        self._flush()
        with HeldBlocks(self._host.spill_directory, self._host.held_in_memory) as held:
            if not self._receive(held):
                self._send(protocol.END_OF_STREAM)
                return
            with self._watched(engine, text) as watched:
                watched.tells_progress = self._revision >= protocol.WITH_WRITTEN_ROWS
                self._store(insert, held, engine)
        if self._revision >= protocol.WITH_WRITTEN_ROWS:  # older clients expect nothing but the end
            self._send_progress(engine)
        self._send(protocol.END_OF_STREAM)

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
                    self._send(protocol.PONG)
                    self._flush()
                case kind:
                    raise ProtocolError(
                        f"Unexpected packet {kind} received in the middle of an INSERT", UNEXPECTED_PACKET
                    )

    @staticmethod
    def _store(insert: InsertOfBlocks, held: HeldBlocks, engine: EngineConnection) -> None:
        pieces = held.pieces()
        first = next(pieces, None)
        if first is None:
            return
        with engine.insert(insert.head) as inserter:
            inserter.append(first)
            for piece in pieces:
                inserter.append(piece)
            inserter.finish()

    def _take_external_tables(self, engine: EngineConnection, tables: list[str]) -> EngineError | None:
        """Makes temporary tables of the blocks that follow a query; their names go to `tables`. Ends at the empty block."""
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
                return failure
            try:
                _fill_temporary_table(engine, name, block, extent, is_new=name not in tables)
                if name not in tables:
                    tables.append(name)
            except EngineError as error:
                failure = failure or error

    def _read_block(self) -> tuple[bytes, Extent]:
        source: Source = self._source
        if self._compressed:
            source = DecompressedSource(self._source, LARGEST_BLOCK)
        skip_block_info(source)
        try:
            extent = find_block(source)
        except UnknownLayout as error:
            raise ProtocolError(f"{error}. (UNKNOWN_TYPE)", UNKNOWN_TYPE) from error
        with memoryview(source.buffer) as buffer:
            block = bytes(buffer[extent.start : extent.end])
        if self._compressed and source.position != len(source.buffer):
            raise ProtocolError("a compressed block is followed by more than it says")
        self._source.forget()
        return block, extent

    # --- sending

    @contextmanager
    def _watched(self, engine: EngineConnection, text: str) -> Iterator[Watched]:
        comment = "Settings['log_comment']"
        condition = (
            f"{comment} = {quoted(self._tag)} OR (query = {quoted(text)} AND NOT startsWith({comment}, 'connection '))"
        )
        query = Watched(self._connection, self._source, condition, lambda: self._progress_tick(engine))
        self._host.watcher.add(query)
        self._working = True
        try:
            yield query
        finally:
            self._host.watcher.remove(query)
            with self._send_lock:
                self._working = False

    def _progress_tick(self, engine: EngineConnection) -> None:
        """Called by the watcher: tells progress where none was told for a while, the client takes it, and nothing else is sent."""
        if time.monotonic() - self._told_at < PROGRESS_SECONDS or not self._send_lock.acquire(blocking=False):
            return
        try:
            if self._working and ready(self._connection, select.POLLOUT):
                self._connection.sendall(self._progress_packet(engine))
        finally:
            self._send_lock.release()

    def _send_progress(self, engine: EngineConnection) -> None:
        self._send(self._progress_packet(engine))

    def _progress_packet(self, engine: EngineConnection) -> bytes:
        now = engine.progress
        names = ("read_rows", "read_bytes", "total_rows_to_read", "written_rows", "written_bytes")
        steps = [max(0, now.get(name, 0) - self._told.get(name, 0)) for name in names]
        self._told = {name: now.get(name, 0) for name in names}
        self._told_at = time.monotonic()
        return protocol.progress(*steps, revision=self._revision)

    def _send_block(self, block: bytes) -> None:
        if self._compressed:
            self._send(protocol.DATA_PREFIX, compress(BLOCK_INFO, block))
        else:
            self._send(protocol.DATA_PREFIX, BLOCK_INFO, block)

    def _send(self, *pieces: bytes) -> None:
        self._outbox += pieces
        self._outbox_size += sum(map(len, pieces))
        if self._outbox_size >= SEND_AT:
            self._flush()

    def _flush(self) -> None:
        packets, self._outbox, self._outbox_size = self._outbox, [], 0
        with self._send_lock:
            self._connection.sendall(b"".join(packets))

    def _drop_outbox(self) -> None:
        self._outbox, self._outbox_size = [], 0

    def _try_to_tell(self, code: int, message: str) -> None:
        self._drop_outbox()
        try:
            self._send(protocol.exception(code, message))
            self._flush()
        except OSError as error:
            log.debug("%s: could not tell the client: %s", self._peer, error)


def _number_of_rows(block: bytes) -> int:
    source = MemorySource(block[:20])
    source.varint()
    return source.varint()


def _split(result: bytes) -> Iterator[tuple[tuple[Column, ...], bytes]]:
    """The blocks of a whole result, with their columns."""
    source = MemorySource(result)
    while source.position < len(result):
        extent = find_block(source)
        yield extent.columns, result[extent.start : extent.end]


def _described(engine: EngineConnection, sql: str) -> tuple[Column, ...]:
    """The columns of a query, without running it."""
    answer = engine.query(f"DESCRIBE ({sql}\n)", "JSONCompactEachRow")
    return tuple(Column(*json.loads(line)[:2]) for line in answer.splitlines())


def _columns_of(engine: EngineConnection, sql: str) -> tuple[Column, ...]:
    """The columns of what gives rows and is no query, such as SHOW. Runs it."""
    meta: Sequence[dict[str, str]] = json.loads(engine.query(sql, "JSONCompact"))["meta"]
    return tuple(Column(column["name"], column["type"]) for column in meta)


def _fill_temporary_table(engine: EngineConnection, name: str, block: bytes, extent: Extent, *, is_new: bool) -> None:
    if is_new:
        columns = ", ".join(f"{identifier(column.name)} {column.type}" for column in extent.columns)
        engine.query(f"CREATE TEMPORARY TABLE {identifier(name)} ({columns})")
    if extent.rows:
        with engine.insert(f"INSERT INTO {identifier(name)}") as inserter:
            inserter.append(block)
            inserter.finish()
