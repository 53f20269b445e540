"""The HTTP face of a service: /metrics for Prometheus, /healthz (is it alive) and /readyz (can it do its work)."""

import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from pulsetrain_consumers.runtime.health import Health

LOOPBACK = "127.0.0.1"


class ServiceServer:
    """Serves until it is closed. Port 0 takes a free one; `port` says which. Raises OSError where the port is taken."""

    def __init__(self, health: Health, registry: CollectorRegistry, host: str = LOOPBACK, port: int = 0) -> None:
        self._server = ThreadingHTTPServer((host, port), _handler(health, registry))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, name="service-http", daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(timeout=5)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _handler(health: Health, registry: CollectorRegistry) -> type[BaseHTTPRequestHandler]:
    def checked(ask: Callable[[], tuple[bool, str]]) -> tuple[int, str, bytes]:
        good, text = ask()
        return 200 if good else 503, "text/plain; charset=utf-8", f"{text}\n".encode()

    pages: dict[str, Callable[[], tuple[int, str, bytes]]] = {
        "/metrics": lambda: (200, CONTENT_TYPE_LATEST, generate_latest(registry)),
        "/healthz": lambda: checked(health.alive),
        "/readyz": lambda: checked(health.ready),
    }

    class Handler(BaseHTTPRequestHandler):
        """One request."""

        def do_GET(self) -> None:
            page = pages.get(self.path.partition("?")[0])
            status, kind, body = page() if page else (404, "text/plain", b"there are /metrics, /healthz and /readyz\n")
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the base class's name
            """Requests are not logged: probes come every few seconds."""

    return Handler
