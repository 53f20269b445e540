"""Servers on loopback that write down what they are asked, and answer as a test says: HTTP and SMTP."""

import base64
import socketserver
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import cast


@dataclass(frozen=True, slots=True)
class Request:
    """One request. Names of headers are in lower case."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


Answer = tuple[int, Mapping[str, str], bytes]
"""A status, headers and a body."""


@dataclass(slots=True)
class HttpServer:
    """`answers` are given in turn, the last one again and again; one that is a function is asked what to answer."""

    answers: list[Answer | Callable[[Request], Answer]]
    requests: list[Request] = field(default_factory=list)
    address: str = ""


@contextmanager
def http_server(*answers: int | Answer | Callable[[Request], Answer]) -> Iterator[HttpServer]:
    """An HTTP server that answers so; 204 where nothing is said."""
    state = HttpServer([(answer, {}, b"") if isinstance(answer, int) else answer for answer in answers or (204,)])

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            headers = {name.lower(): value for name, value in self.headers.items()}
            request = Request(self.command, self.path, headers, body)
            state.requests.append(request)
            answer = state.answers.pop(0) if len(state.answers) > 1 else state.answers[0]
            status, more, text = answer(request) if callable(answer) else answer
            self.send_response(status)
            for name, value in {**more, "Content-Length": str(len(text))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(text)

        do_POST = do_PUT = do_GET = _answer

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    state.address = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@dataclass(slots=True)
class SmtpServer:
    """`replies` are what a verb (MAIL, RCPT, DATA, AUTH) is answered in place of yes, by the verb."""

    replies: dict[str, str] = field(default_factory=dict)
    commands: list[str] = field(default_factory=list)
    messages: list[EmailMessage] = field(default_factory=list)
    logins: list[tuple[str, str]] = field(default_factory=list)
    port: int = 0


@contextmanager
def smtp_server(host: str = "127.0.0.1", *, auth: bool = False, **replies: str) -> Iterator[SmtpServer]:
    """An SMTP server without TLS."""
    state = SmtpServer(replies)

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self._say("220 here")
            while line := self.rfile.readline():
                text = line.decode().rstrip("\r\n")
                verb = text.partition(" ")[0].upper()
                state.commands.append(text)
                if verb == "EHLO":
                    self._say("250-here", "250-AUTH PLAIN" if auth else "250-8BITMIME", "250 SMTPUTF8")
                elif verb == "QUIT":
                    self._say("221 bye")
                    return
                elif verb in state.replies:
                    self._say(state.replies[verb])
                elif verb == "AUTH":
                    _, user, password = base64.b64decode(text.split()[-1]).decode().split("\0")
                    state.logins.append((user, password))
                    self._say("235 welcome")
                elif verb == "DATA":
                    self._say("354 go on")
                    lines: list[bytes] = []
                    while (part := self.rfile.readline()) != b".\r\n":
                        lines.append(part.removeprefix(b".") if part.startswith(b"..") else part)
                    state.messages.append(
                        cast(EmailMessage, message_from_bytes(b"".join(lines), policy=policy.default))
                    )
                    self._say("250 taken")
                else:
                    self._say("250 yes")

        def _say(self, *lines: str) -> None:
            self.wfile.write("".join(f"{line}\r\n" for line in lines).encode())

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        allow_reuse_address = True

    server = Server((host, 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    state.port = server.server_address[1]
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
