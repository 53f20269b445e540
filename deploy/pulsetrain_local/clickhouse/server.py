"""The listener: accepts connections on loopback, gives each a thread and a session, and closes them in order."""

import itertools
import logging
import re
import socket
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from pulsetrain_local.clickhouse import mending, protocol
from pulsetrain_local.clickhouse.host import Host, Login
from pulsetrain_local.clickhouse.http_server import HttpHandler, HttpSide
from pulsetrain_local.clickhouse.http_sessions import HttpSessions
from pulsetrain_local.clickhouse.room import Room
from pulsetrain_local.clickhouse.session import Session
from pulsetrain_local.clickhouse.settings import SettingTypes
from pulsetrain_local.clickhouse.watcher import Watcher

log = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"
MOST_CONNECTIONS = 100
GRACE_SECONDS = 3.0
REFUSAL_SECONDS = 0.5
TOO_MANY_CONNECTIONS = 202
HELD_IN_MEMORY = 128 << 20
LEAST_ENGINE_MEMORY = 1 << 30


@dataclass(frozen=True, slots=True)
class Options:
    """How a server is to run. Port 0 takes a free one."""

    path: Path
    port: int
    http_port: int
    user: str
    password: str
    readers: tuple[Login, ...] = ()
    engine_memory: int | None = None
    most_connections: int = MOST_CONNECTIONS
    held_in_memory: int = HELD_IN_MEMORY


def engine_options(memory: int | None, machine_memory: int) -> Mapping[str, str]:
    """The server settings of an engine that shares a machine: small caches, and a bound on what queries may take."""
    return {
        "max_server_memory_usage": str(memory or max(LEAST_ENGINE_MEMORY, machine_memory // 4)),
        "mark_cache_size": str(64 << 20),
        "index_mark_cache_size": str(16 << 20),
        "primary_index_cache_size": str(64 << 20),
        "query_condition_cache_size": str(8 << 20),
        "max_thread_pool_size": "500",
    }


class Server:
    """Serves one engine. `serve()` returns after `stop()`, which any thread or a signal handler may call."""

    def __init__(self, options: Options) -> None:
        """Opens the engine and the port, once there is room on the disk. Raises EngineError, OSError."""
        self._options = options
        options.path.mkdir(parents=True, exist_ok=True)
        self._room = Room(options.path)
        self._room.wait()
        self._listener = socket.create_server((LOOPBACK, options.port), backlog=128)
        self._http_listener = socket.create_server((LOOPBACK, options.http_port), backlog=128)
        self.port: int = self._listener.getsockname()[1]
        self.http_port: int = self._http_listener.getsockname()[1]
        self._engine = mending.open_whole(
            options.path / "engine", engine_options(options.engine_memory, psutil.virtual_memory().total)
        )
        self._watcher = Watcher(self._engine)
        with_engine = self._engine.connect()
        version, timezone = (
            with_engine.query("SELECT version(), timezone()", "TabSeparated").decode().rstrip("\n").split("\t")
        )
        self.engine_version = version
        self._host = Host(
            engine=self._engine,
            watcher=self._watcher,
            room=self._room,
            setting_types=SettingTypes(with_engine),
            logins=(Login(options.user, options.password), *options.readers),
            version=_version(version),
            timezone=timezone,
            http_port=self.http_port,
            spill_directory=options.path / "held",
            held_in_memory=options.held_in_memory,
        )
        with_engine.close()
        self._http = HttpSide(self._host, HttpSessions())
        self._threads: dict[threading.Thread, socket.socket] = {}
        self._lock = threading.Lock()
        self._stopping = threading.Event()

    def serve(self) -> None:
        """Accepts connections until `stop()`, then lets what is under way end, within a grace; closes the engine."""
        self._watcher.start()
        self._room.watch(self._engine.connect())
        threading.Thread(target=self._accept, args=(self._http_listener, _Http(self._http)), daemon=True).start()
        self._accept(self._listener, _Native(self._host))
        self._close()

    def stop(self) -> None:
        """Makes `serve()` return."""
        self._stopping.set()
        for listener in (self._listener, self._http_listener):
            listener.shutdown(socket.SHUT_RDWR)

    def _accept(self, listener: socket.socket, protocol: "_Native | _Http") -> None:
        for number in itertools.count(1):
            try:
                connection, (address, port) = listener.accept()
            except OSError:
                if not self._stopping.is_set():
                    raise
                return
            self._admit(connection, protocol, f"{address}:{port}", number)

    def _admit(self, connection: socket.socket, protocol: "_Native | _Http", peer: str, number: int) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with self._lock:
            if len(self._threads) < self._options.most_connections:
                thread = threading.Thread(
                    target=self._serve_one,
                    args=(connection, protocol, peer, number),
                    name=f"connection {number}",
                    daemon=True,
                )
                self._threads[thread] = connection
                thread.start()
                return
        log.warning("%s: refused, for there are %d connections already", peer, self._options.most_connections)
        message = f"Too many connections: {self._options.most_connections} are the most."
        with connection:
            try:
                connection.settimeout(REFUSAL_SECONDS)
                connection.recv(1 << 16)  # its Hello: closing with it unread would take the answer back
                connection.sendall(protocol.refusal(f"{message} (TOO_MANY_SIMULTANEOUS_QUERIES)"))
            except OSError as error:
                log.debug("a refused client could not be told: %s", error)

    def _serve_one(self, connection: socket.socket, protocol: "_Native | _Http", peer: str, number: int) -> None:
        try:
            with connection:
                protocol.serve(connection, peer, number)
        except Exception:
            log.exception("%s: closing the connection after an error of this server's own", peer)
        finally:
            with self._lock:
                del self._threads[threading.current_thread()]

    def _close(self) -> None:
        self._listener.close()
        self._http_listener.close()
        self._watcher.leave()
        with self._lock:
            threads = dict(self._threads)
        _shut(threads.values(), socket.SHUT_RD)
        if not _joined(threads, GRACE_SECONDS):
            self._watcher.cancel_all()
            _shut(threads.values(), socket.SHUT_RDWR)  # for those that wait until their client takes what they send
            if not _joined(threads, GRACE_SECONDS):
                log.warning("queries are still running after %g s: leaving them", 2 * GRACE_SECONDS)
                return
        self._watcher.stop()
        self._room.stop()
        self._http.sessions.close()
        self._engine.close()


class _Native:
    """The native protocol."""

    def __init__(self, host: Host) -> None:
        self._host = host

    def serve(self, connection: socket.socket, peer: str, number: int) -> None:
        """Serves a client until it leaves."""
        Session(connection, peer, self._host, f"connection {number}").run()

    def refusal(self, message: str) -> bytes:
        """What a client gets that cannot be served."""
        return protocol.exception(TOO_MANY_CONNECTIONS, message)


class _Http:
    """The protocol of the web."""

    def __init__(self, side: HttpSide) -> None:
        self._side = side

    def serve(self, connection: socket.socket, peer: str, number: int) -> None:
        """Serves a client until it leaves."""
        del number
        address, _, port = peer.rpartition(":")
        try:
            HttpHandler(connection, (address, int(port)), self._side)  # type: ignore[arg-type]
        except OSError as error:
            log.info("%s: the connection broke: %s", peer, error)

    def refusal(self, message: str) -> bytes:
        """What a client gets that cannot be served."""
        text = f"Code: {TOO_MANY_CONNECTIONS}. DB::Exception: {message}\n".encode()
        head = f"HTTP/1.1 503 Service Unavailable\r\nContent-Length: {len(text)}\r\nConnection: close\r\n\r\n"
        return head.encode() + text


def _shut(connections: Iterable[socket.socket], how: int) -> None:
    for connection in connections:
        try:
            connection.shutdown(how)
        except OSError as error:
            log.debug("a connection was closed already: %s", error)


def _joined(threads: Mapping[threading.Thread, socket.socket], seconds: float) -> bool:
    """Whether all threads ended within the time."""
    deadline = time.monotonic() + seconds
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return not any(thread.is_alive() for thread in threads)


def _version(text: str) -> tuple[int, int, int]:
    """`26.9.2.1` -> (26, 9, 2)."""
    major, minor, patch = (int(part) for part in re.findall(r"\d+", text)[:3])
    return major, minor, patch
