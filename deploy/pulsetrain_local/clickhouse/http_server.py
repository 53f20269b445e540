"""ClickHouse's HTTP interface, as far as clients of a database need it: queries, INSERTs, `/ping`.

What is not here: pages for people, query ids that KILL finds, `role`, `X-ClickHouse-Progress`. GET reads only. An error
that comes when a part of the answer is under way is written behind it, and the connection closed, so that it is no
whole answer.
"""

import base64
import json
import logging
import uuid
import zlib
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from urllib.parse import parse_qsl, urlsplit

from pulsetrain_local.clickhouse.compression import compress
from pulsetrain_local.clickhouse.engine import EngineConnection, EngineError
from pulsetrain_local.clickhouse.host import DISPLAY_NAME, Host, Login, refusal
from pulsetrain_local.clickhouse.http_body import body
from pulsetrain_local.clickhouse.http_query import (
    DEFAULT_FORMAT,
    HttpAnswer,
    HttpQuery,
    Watching,
    execute,
    text_and_data,
)
from pulsetrain_local.clickhouse.http_sessions import HttpSessions
from pulsetrain_local.clickhouse.wire import ConnectionEnded, ProtocolError

log = logging.getLogger(__name__)

REQUEST_SECONDS = 300
SESSION_SECONDS = "60"
AUTHENTICATION_FAILED = 516
BAD_REQUEST_PARAMETER = 36
GZIP = 16 + zlib.MAX_WBITS
FAST = 3
# As a ClickHouse server has it; for every other error it is 500.
STATUS_OF_ERRORS = {
    AUTHENTICATION_FAILED: HTTPStatus.FORBIDDEN,
    62: HTTPStatus.BAD_REQUEST,  # SYNTAX_ERROR
    BAD_REQUEST_PARAMETER: HTTPStatus.BAD_REQUEST,
    43: HTTPStatus.BAD_REQUEST,  # ILLEGAL_TYPE_OF_ARGUMENT
    50: HTTPStatus.NOT_FOUND,  # UNKNOWN_TYPE
    73: HTTPStatus.NOT_FOUND,  # UNKNOWN_FORMAT
    46: HTTPStatus.NOT_FOUND,  # UNKNOWN_FUNCTION
    47: HTTPStatus.NOT_FOUND,  # UNKNOWN_IDENTIFIER
    60: HTTPStatus.NOT_FOUND,  # UNKNOWN_TABLE
    81: HTTPStatus.NOT_FOUND,  # UNKNOWN_DATABASE
    115: HTTPStatus.NOT_FOUND,  # UNKNOWN_SETTING
    159: HTTPStatus.REQUEST_TIMEOUT,  # TIMEOUT_EXCEEDED
    307: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
}
CONTENT_TYPES = {
    "TabSeparated": "text/tab-separated-values; charset=UTF-8",
    "TSV": "text/tab-separated-values; charset=UTF-8",
    "CSV": "text/csv; charset=UTF-8",
    "JSON": "application/json; charset=UTF-8",
    "Native": "application/octet-stream",
    "RowBinary": "application/octet-stream",
    "Parquet": "application/octet-stream",
    "Arrow": "application/octet-stream",
    "ORC": "application/octet-stream",
    "Avro": "application/octet-stream",
}


@dataclass(frozen=True, slots=True)
class HttpSide:
    """What all connections over HTTP share."""

    host: Host
    sessions: HttpSessions


class HttpHandler(BaseHTTPRequestHandler):
    """A connection that has been accepted: making one serves it until its end."""

    protocol_version = "HTTP/1.1"
    server_version = "ClickHouse"
    sys_version = ""
    timeout = REQUEST_SECONDS
    server: HttpSide  # type: ignore[assignment]  # what the standard library calls the server is what they share

    def do_GET(self) -> None:
        """Answers a query that only reads."""
        self._serve(may_change=False)

    def do_HEAD(self) -> None:
        """Says what a GET would say of its answer."""
        self._serve(may_change=False)

    def do_POST(self) -> None:
        """Answers any query."""
        self._serve(may_change=True)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the standard library calls it so
        """Logs what went wrong, and never the URL, which may hold a password."""
        log.debug("%s: HTTP %s", self.client_address[0], args[-2] if len(args) > 1 else format)

    def _serve(self, *, may_change: bool) -> None:
        url = urlsplit(self.path)
        parameters = dict(parse_qsl(url.query, keep_blank_values=True))
        if url.path in {"/ping", "/replicas_status"} or (
            url.path == "/" and not may_change and "query" not in parameters
        ):
            self._send_whole(HTTPStatus.OK, "text/plain; charset=UTF-8", b"Ok.\n")
        elif url.path != "/":
            self._refuse(HTTPStatus.NOT_FOUND, "There is no such page: queries are at /, and /ping says Ok.\n")
        else:
            self._query(parameters, may_change=may_change)

    def _query(self, parameters: Mapping[str, str], *, may_change: bool) -> None:
        user, password = self._credentials(parameters)
        login = self.server.host.admitted(user, password)
        try:
            if login is None:
                log.warning("%s: authentication failed for %r, by HTTP", self.client_address[0], user)
                raise EngineError(AUTHENTICATION_FAILED, refusal(user))
            query = self._read(parameters, may_change=may_change)
            with self._engine(login, parameters) as engine:
                answer = execute(query, login, self.server.host, engine, self._watching(engine))
                try:
                    self._send(answer, parameters, engine)
                finally:
                    answer.close()
        except EngineError as error:
            log.info("%s: %s", self.client_address[0], error)
            self._send_error(error.code, str(error))
        except ConnectionEnded:
            log.warning("%s: the client went away in the middle of a request", self.client_address[0])
            self.close_connection = True
        except ProtocolError as error:
            self._send_error(error.code, f"Code: {error.code}. DB::Exception: {error}.")

    def _read(self, parameters: Mapping[str, str], *, may_change: bool) -> HttpQuery:
        pieces = body(self.rfile, self.headers, in_frames=parameters.get("decompress") == "1")  # type: ignore[arg-type]
        text, data = text_and_data(parameters.get("query", ""), pieces)
        revision = parameters.get("client_protocol_version", "0")
        if not (revision.isascii() and revision.isdigit()):
            raise EngineError(BAD_REQUEST_PARAMETER, "client_protocol_version is not a number. (BAD_ARGUMENTS)")
        wanted = parameters.get("default_format") or self.headers.get("X-ClickHouse-Format") or DEFAULT_FORMAT
        return HttpQuery(text, data, parameters, wanted, may_change, int(revision))

    def _credentials(self, parameters: Mapping[str, str]) -> tuple[str, str]:
        scheme, _, encoded = (self.headers.get("Authorization") or "").partition(" ")
        if scheme.lower() == "basic":
            try:
                user, _, password = base64.b64decode(encoded.strip(), validate=True).decode().partition(":")
            except ValueError:
                return "", ""
            return user, password
        user = self.headers.get("X-ClickHouse-User") or parameters.get("user") or "default"
        return user, self.headers.get("X-ClickHouse-Key") or parameters.get("password") or ""

    def _engine(self, login: Login, parameters: Mapping[str, str]) -> AbstractContextManager[EngineConnection]:
        """A session of the engine: the one that is named, else one for this request alone.

        One who only reads has nothing to keep in a session, and could not be given back the right to change settings.
        """
        database = parameters.get("database") or self.headers.get("X-ClickHouse-Database") or ""
        session_id = parameters.get("session_id")
        if not session_id or login.reads_only:
            return closing(self.server.host.connected(self._tag, database))
        try:
            seconds = float(parameters.get("session_timeout", SESSION_SECONDS))
        except ValueError:
            raise EngineError(BAD_REQUEST_PARAMETER, "session_timeout is not a number. (BAD_ARGUMENTS)") from None
        return self.server.sessions.session(
            login.user,
            session_id,
            seconds,
            must_exist=parameters.get("session_check") == "1",
            connect=lambda: self.server.host.connected(f"connection {uuid.uuid4()}", database),
        )

    @property
    def _tag(self) -> str:
        return f"connection {self.client_address[0]}:{self.client_address[1]}"

    def _watching(self, engine: EngineConnection) -> Watching:
        return lambda text: self.server.host.watched(self.connection, engine, text, lambda: b"", lambda: None)

    # --- what goes back

    def _send(self, answer: HttpAnswer, parameters: Mapping[str, str], engine: EngineConnection) -> None:
        headers = self._answer_headers(answer, parameters, engine)
        coding = self._coding(parameters) if answer.format else ""
        if coding:
            headers["Content-Encoding"] = coding
        if answer.whole is not None:
            whole = _encoded(iter((answer.whole,)), coding, in_frames=parameters.get("compress") == "1")
            self._send_whole(HTTPStatus.OK, _content_type(answer.format), b"".join(whole), headers)
            return
        self._begin(HTTPStatus.OK, _content_type(answer.format), {**headers, "Transfer-Encoding": "chunked"})
        try:
            for piece in _encoded(answer.pieces, coding, in_frames=parameters.get("compress") == "1"):
                if piece:
                    self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
        except EngineError as error:
            log.info("%s: %s", self.client_address[0], error)
            message = str(error).encode()
            self.wfile.write(b"%x\r\n%b\r\n" % (len(message), message))
            self.close_connection = True
            return
        self.wfile.write(b"0\r\n\r\n")

    def _answer_headers(
        self, answer: HttpAnswer, parameters: Mapping[str, str], engine: EngineConnection
    ) -> dict[str, str]:
        told = engine.progress
        summary = {
            "read_rows": told.rows,
            "read_bytes": told.size,
            "written_rows": told.written_rows,
            "written_bytes": told.written_bytes,
            "total_rows_to_read": told.total_rows,
        }
        headers = {
            "X-ClickHouse-Summary": json.dumps({name: str(value) for name, value in summary.items()}),
            "X-ClickHouse-Query-Id": _header_safe(parameters.get("query_id") or str(uuid.uuid4())),
            "X-ClickHouse-Server-Display-Name": DISPLAY_NAME,
            "X-ClickHouse-Timezone": self.server.host.timezone,
        }
        if answer.format:
            headers["X-ClickHouse-Format"] = _header_safe(answer.format)
        return headers

    def _coding(self, parameters: Mapping[str, str]) -> str:
        """How the answer is compressed for HTTP: as the client takes it, if at all."""
        if parameters.get("enable_http_compression") == "0" or parameters.get("compress") == "1":
            return ""
        offered = {part.partition(";")[0].strip() for part in (self.headers.get("Accept-Encoding") or "").split(",")}
        return next((coding for coding in ("gzip", "deflate") if coding in offered), "")

    def _send_error(self, code: int, message: str) -> None:
        self.close_connection = True  # what is left of the body is not read
        status = STATUS_OF_ERRORS.get(code, HTTPStatus.INTERNAL_SERVER_ERROR)
        self._send_whole(
            status, "text/plain; charset=UTF-8", f"{message}\n".encode(), {"X-ClickHouse-Exception-Code": str(code)}
        )

    def _refuse(self, status: HTTPStatus, text: str) -> None:
        self.close_connection = True
        self._send_whole(status, "text/plain; charset=UTF-8", text.encode())

    def _send_whole(
        self, status: HTTPStatus, content_type: str, content: bytes, headers: Mapping[str, str] | None = None
    ) -> None:
        self._begin(status, content_type, {**(headers or {}), "Content-Length": str(len(content))})
        if self.command != "HEAD":
            self.wfile.write(content)

    def _begin(self, status: HTTPStatus, content_type: str, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        for name, value in headers.items():
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()


def _content_type(name: str) -> str:
    longest = max((known for known in CONTENT_TYPES if name.startswith(known)), key=len, default="")
    return CONTENT_TYPES.get(longest, "text/plain; charset=UTF-8")


def _header_safe(text: str) -> str:
    """Text without what would end a header, or could not be written in one."""
    return "".join(letter for letter in text if " " <= letter <= "~")[:200]


def _encoded(pieces: Iterator[bytes], coding: str, *, in_frames: bool) -> Iterator[bytes]:
    if in_frames:
        yield from (compress(piece) for piece in pieces if piece)
    elif coding:
        compressor = zlib.compressobj(FAST, wbits=GZIP if coding == "gzip" else zlib.MAX_WBITS)
        for piece in pieces:
            yield compressor.compress(piece)
        yield compressor.flush()
    else:
        yield from pieces
