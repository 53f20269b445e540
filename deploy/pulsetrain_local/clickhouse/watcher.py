"""Watches queries while the engine works on them: a client that cancels or goes away, and progress to be told.

The thread of a connection is inside the engine then and cannot look at its socket. One thread looks for all of them,
every few hundredths of a second and only while there is something to look at. A short query is over before its first
look.
"""

import logging
import select
import socket
import threading
from collections.abc import Callable

from pulsetrain_local.clickhouse.engine import Engine, EngineConnection, EngineError
from pulsetrain_local.clickhouse.protocol import FromClient

log = logging.getLogger(__name__)

TICK_SECONDS = 0.05


class Watched:
    """A query that the engine works on. `cancelled` becomes true when nobody waits for its result any more."""

    def __init__(
        self,
        connection: socket.socket,
        arrived: Callable[[], bytes],
        condition: str,
        tell_progress: Callable[[], None],
    ) -> None:
        """`arrived` gives the byte that was read from the connection and is not taken yet, or nothing.

        `condition` is what finds the query in system.processes, in SQL.
        """
        self.connection = connection
        self.arrived = arrived
        self.condition = condition
        self.tell_progress = tell_progress
        self.cancelled = False
        self.seen = False
        self.listening = True
        self.tells_progress = True


class Watcher:
    """One thread for all connections. Started by `start()`, ended by `stop()`."""

    def __init__(self, engine: Engine) -> None:
        self._connection: EngineConnection = engine.connect()
        self._queries: set[Watched] = set()
        self._changed = threading.Condition()
        self._stopping = False
        self._leaving = False
        self._thread = threading.Thread(target=self._run, name="watcher", daemon=True)

    def start(self) -> None:
        """Begins to watch."""
        self._thread.start()

    def add(self, query: Watched) -> None:
        """Watches a query until `remove()`."""
        with self._changed:
            self._queries.add(query)
            if len(self._queries) == 1:
                self._changed.notify()

    def remove(self, query: Watched) -> None:
        """Watches a query no longer."""
        with self._changed:
            self._queries.discard(query)

    def leave(self) -> None:
        """From now on an ended connection is this server's own doing and cancels nothing."""
        self._leaving = True

    def cancel_all(self) -> None:
        """Cancels every query that is still worked on."""
        with self._changed:
            queries = list(self._queries)
        for query in queries:
            self._cancel(query, "the server stops")

    def stop(self) -> None:
        """Ends the thread and its session."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join()
        self._connection.close()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._queries and not self._stopping:
                    self._changed.wait()
                if not self._stopping:
                    self._changed.wait(TICK_SECONDS)
                if self._stopping:
                    return
                queries = list(self._queries)
            for query in queries:
                if query.seen:
                    self._look(query)
                query.seen = True

    def _look(self, query: Watched) -> None:
        try:
            if query.listening and not query.cancelled:
                self._listen(query)
            if query.tells_progress:
                query.tell_progress()
        except OSError as error:
            query.listening = False
            self._cancel(query, f"its client is gone: {error}")

    def _listen(self, query: Watched) -> None:
        waiting = query.arrived() or _peek(query.connection)
        if waiting is None:
            return
        query.listening = False
        if not waiting:
            if not self._leaving:
                self._cancel(query, "its client is gone")
        elif waiting[0] == FromClient.CANCEL:
            self._cancel(query, "its client cancelled it")

    def _cancel(self, query: Watched, reason: str) -> None:
        with self._changed:  # while it is held the session cannot go on to another query, which would be hit instead
            if query not in self._queries:
                return
            query.cancelled = True
            log.info("cancelling a query: %s", reason)
            try:
                self._connection.query(f"KILL QUERY WHERE {query.condition} ASYNC")
            except EngineError as error:
                log.warning("could not cancel a query: %s", error)


def _peek(connection: socket.socket) -> bytes | None:
    """The next byte of a connection without taking it: empty at its end, None where there is none yet."""
    return connection.recv(1, socket.MSG_PEEK) if ready(connection, select.POLLIN) else None


def ready(connection: socket.socket, event: int) -> bool:
    """Whether a connection is ready for an event of `select.poll`, now."""
    poll = select.poll()
    poll.register(connection, event)
    return bool(poll.poll(0))
