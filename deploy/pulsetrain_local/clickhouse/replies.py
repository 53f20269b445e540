"""What goes back to the client: packets, gathered and sent together, and progress, which the watcher may send between.

The session's thread and the watcher's send under one lock. The watcher sends only while the engine works.
"""

import select
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from pulsetrain_local.clickhouse import protocol
from pulsetrain_local.clickhouse.blocks import BLOCK_INFO, Column, header_block
from pulsetrain_local.clickhouse.compression import compress
from pulsetrain_local.clickhouse.engine import EngineConnection
from pulsetrain_local.clickhouse.protocol import Progress
from pulsetrain_local.clickhouse.watcher import ready
from pulsetrain_local.clickhouse.wire import MemorySource

SEND_AT = 1 << 16
PROGRESS_SECONDS = 0.1


class Replies:
    """The way back to one client. `revision` and `compressed` are set as they become known."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._lock = threading.Lock()
        self._waiting: list[bytes] = []
        self._size = 0
        self._working = False
        self._told = Progress()
        self._told_at = 0.0
        self.revision = 0
        self.compressed = False
        self.rows = self.blocks = self.bytes = 0

    def begin(self, *, compressed: bool) -> None:
        """A query begins: nothing of a result was sent, and no progress was told."""
        self.compressed = compressed
        self.rows = self.blocks = self.bytes = 0
        self._told = Progress()
        self._told_at = time.monotonic()

    def send(self, *pieces: bytes) -> None:
        """Sends packets, at the latest at the next `flush()`."""
        self._waiting += pieces
        self._size += sum(map(len, pieces))
        if self._size >= SEND_AT:
            self.flush()

    def flush(self) -> None:
        """Sends what waits. Raises OSError, TimeoutError where the client does not take it."""
        packets, self._waiting, self._size = self._waiting, [], 0
        with self._lock:
            self._connection.sendall(b"".join(packets))

    def drop(self) -> None:
        """Forgets what waits."""
        self._waiting, self._size = [], 0

    def block(self, block: bytes) -> None:
        """Sends a block as it stands."""
        if self.compressed:
            self.send(protocol.DATA_PREFIX, compress(BLOCK_INFO, block))
        else:
            self.send(protocol.DATA_PREFIX, BLOCK_INFO, block)

    def rows_of(self, columns: Sequence[Column], block: bytes) -> None:
        """Sends a block of a result; before the first one a block of the columns alone, which clients wait for."""
        if not self.blocks:
            self.block(header_block(columns))
        self.rows += _number_of_rows(block)
        self.blocks += 1
        self.bytes += len(block)
        self.block(block)

    def profile(self) -> None:
        """Tells the size of the result."""
        self.send(protocol.profile_info(self.rows, self.blocks, self.bytes))

    def progress(self, engine: EngineConnection) -> None:
        """Tells how far the query has come."""
        self.send(self._progress_packet(engine))

    @contextmanager
    def engine_works(self) -> Iterator[None]:
        """The time in which `tick` may tell progress."""
        self._working = True
        try:
            yield
        finally:
            with self._lock:
                self._working = False

    def tick(self, engine: EngineConnection) -> None:
        """Called by the watcher: tells progress where none was told for a while and the client takes it at once."""
        if time.monotonic() - self._told_at < PROGRESS_SECONDS or not self._lock.acquire(blocking=False):
            return
        try:
            if self._working and ready(self._connection, select.POLLOUT):
                self._connection.sendall(self._progress_packet(engine))
        finally:
            self._lock.release()

    def _progress_packet(self, engine: EngineConnection) -> bytes:
        now, before = engine.progress, self._told
        self._told, self._told_at = now, time.monotonic()
        return protocol.progress(now.since(before), self.revision)


def _number_of_rows(block: bytes) -> int:
    source = MemorySource(block[:20])
    source.varint()
    return source.varint()
