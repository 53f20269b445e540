"""The registry client and Confluent's framing, against a small server that answers as Confluent's does."""

import base64
import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest

from pulsetrain_schemas import catalog
from pulsetrain_schemas.columnar import DecodeError
from pulsetrain_schemas.events import LogBatch, MetricBatch, Origin, decode, encode
from pulsetrain_schemas.framing import Confluent, UnknownSchema, subject
from pulsetrain_schemas.registry import IncompatibleSchema, Registry, RegistryError, RegistryUnavailable

USER, PASSWORD = "ada", "hunter/2"
LOGS = LogBatch(
    Origin("p", "r", "w", 0, 0, 1_700_000_000_000_000, 1, 1),
    np.array([1]), np.array([1_700_000_000_000_000]), np.array([1]), ["line"],
)  # fmt: skip


class FakeRegistry(ThreadingHTTPServer):
    """Subjects, schemas by id, one schema that is refused, and a count of what was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.schemas: dict[int, str] = {}
        self.asked: list[str] = []
        self.levels: dict[str, str] = {}
        self.refused: str | None = None
        self.failure: tuple[int, bytes] | None = None
        self.hangs = threading.Event()

    def url(self, credentials: str = f"{USER}:hunter%2F2@") -> str:
        return f"http://{credentials}127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: FakeRegistry

    def log_message(self, *args: Any) -> None:
        """Quiet."""

    def do_GET(self) -> None:
        self._handle()

    def do_POST(self) -> None:
        self._handle()

    def do_PUT(self) -> None:
        self._handle()

    def _handle(self) -> None:
        fake = self.server
        fake.asked.append(f"{self.command} {self.path}")
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else {}
        expected = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        if fake.hangs.is_set():
            self.rfile.read(1)  # until the client gives up
            return
        if fake.failure is not None:
            self._answer(fake.failure[0], fake.failure[1])
        elif self.headers.get("Authorization") != expected:
            self._answer(401, {"error_code": 401, "message": "Unauthorized"})
        elif self.path.startswith("/schemas/ids/"):
            text = fake.schemas.get(int(self.path.rpartition("/")[2]))
            self._answer(*((200, {"schema": text}) if text else (404, {"error_code": 40403, "message": "not found"})))
        elif self.path.startswith("/config/"):
            fake.levels[self.path.rpartition("/")[2]] = body["compatibility"]
            self._answer(200, body)
        elif self.path.startswith("/compatibility/"):
            self._answer(200, {"is_compatible": body["schema"] != fake.refused})
        elif self.path.startswith("/subjects/"):
            if body["schema"] == fake.refused:
                self._answer(409, {"error_code": 409, "message": "READER_FIELD_MISSING_DEFAULT_VALUE"})
                return
            known = {text: number for number, text in fake.schemas.items()}
            number = known.get(body["schema"], 100 + len(fake.schemas))
            fake.schemas[number] = body["schema"]
            self._answer(200, {"id": number})
        else:
            self._answer(404, b"<html>no such page</html>")

    def _answer(self, status: int, content: Any) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture
def fake() -> Iterator[FakeRegistry]:
    server = FakeRegistry()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_schema_is_registered_once_and_found_by_its_id(fake: FakeRegistry):
    registry = Registry(fake.url())
    ids = {registry.register("s-value", catalog.load("logs")) for _ in range(3)}
    assert ids == {100}
    assert fake.asked == ["POST /subjects/s-value/versions"]
    fresh = Registry(fake.url())
    for _ in range(3):
        assert fresh.by_id(100) == catalog.load("logs")
    assert fake.asked[1:] == ["GET /schemas/ids/100"]


def test_an_id_that_the_registry_does_not_have_is_asked_for_again(fake: FakeRegistry):
    registry = Registry(fake.url())
    assert registry.by_id(7) is None
    fake.schemas[7] = json.dumps(catalog.load("logs"))
    assert registry.by_id(7) == catalog.load("logs")


def test_a_schema_that_is_not_compatible_is_told_apart(fake: FakeRegistry):
    registry = Registry(fake.url())
    fake.refused = json.dumps(catalog.load("logs"))
    assert registry.is_compatible("s", catalog.load("runs"))
    assert not registry.is_compatible("s", catalog.load("logs"))
    with pytest.raises(IncompatibleSchema, match="READER_FIELD_MISSING_DEFAULT_VALUE"):
        registry.register("s", catalog.load("logs"))


def test_a_subject_can_be_made_to_hold_all_versions_compatible(fake: FakeRegistry):
    Registry(fake.url()).require_full_transitive(subject("metrics"))
    assert fake.levels == {"pulsetrain.metrics-value": "FULL_TRANSITIVE"}


@pytest.mark.parametrize("credentials", ["", "ada:wrong@"])
def test_a_refused_login_says_where_user_and_password_go_and_never_shows_them(fake: FakeRegistry, credentials: str):
    registry = Registry(fake.url(credentials))
    with pytest.raises(RegistryError, match="PULSETRAIN_SCHEMA_REGISTRY") as refused:
        registry.register("s", catalog.load("logs"))
    assert refused.value.status == 401
    assert "wrong" not in f"{refused.value} {registry!r}"


def test_a_server_that_is_no_registry_is_said_to_be_none(fake: FakeRegistry):
    with pytest.raises(RegistryError, match="registry's address"):
        Registry(fake.url() + "/wrong/path").by_id(1)
    fake.failure = (200, b"<html>hello</html>")
    with pytest.raises(RegistryError, match="is it a schema registry"):
        Registry(fake.url()).by_id(1)
    fake.failure = (200, b'{"schema": 5}')
    with pytest.raises(RegistryError, match="no schema for id 1"):
        Registry(fake.url()).by_id(1)
    fake.failure = (200, b'{"id": "x"}')
    with pytest.raises(RegistryError, match="gave no id"):
        Registry(fake.url()).register("s", {})


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_registry_that_cannot_answer_now_is_unavailable_not_wrong(fake: FakeRegistry, status: int):
    fake.failure = (status, b'{"error_code": 50001, "message": "leader unknown"}')
    with pytest.raises(RegistryUnavailable, match="leader unknown"):
        Registry(fake.url()).by_id(1)


def test_a_registry_that_does_not_answer_is_given_up_after_the_timeout(fake: FakeRegistry):
    fake.hangs.set()
    with pytest.raises(RegistryUnavailable, match="does not answer"):
        Registry(fake.url(), timeout=0.2).by_id(1)


def test_a_registry_that_is_not_there_is_unavailable():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    with pytest.raises(RegistryUnavailable, match="PULSETRAIN_SCHEMA_REGISTRY"):
        Registry(f"http://127.0.0.1:{port}").by_id(1)


@pytest.mark.parametrize(
    "url", ["registry:8081", "ftp://u:hunter2@host", "http://", "http://u:hunter2@h:x", "file:///etc"]
)
def test_an_address_that_is_none_is_refused_without_repeating_it(url: str):
    with pytest.raises(RegistryError) as refused:
        Registry(url)
    assert "hunter2" not in str(refused.value)


def test_events_travel_in_confluents_framing_and_the_registry_is_asked_once(fake: FakeRegistry):
    sending, receiving = Confluent(Registry(fake.url())), Confluent(Registry(fake.url()))
    for _ in range(3):
        payload = encode(LOGS, sending)
        assert payload[:5] == b"\x00\x00\x00\x00\x64"
        assert decode(payload, LogBatch, receiving).lines == ["line"]
    assert fake.asked == ["POST /subjects/pulsetrain.logs-value/versions", "GET /schemas/ids/100"]


def test_a_reader_with_a_registry_reads_single_object_messages_too(fake: FakeRegistry):
    assert decode(encode(LOGS), LogBatch, Confluent(Registry(fake.url()))).lines == ["line"]
    assert fake.asked == []


def test_a_version_that_only_the_registry_knows_is_resolved(fake: FakeRegistry):
    document = catalog.load("logs")
    newer = document | {"fields": [{"name": "level", "type": "int", "default": 0}, *document["fields"]]}
    fake.schemas[9] = json.dumps(newer)
    payload = b"\x00\x00\x00\x00\x09" + b"\x06" + encode(LOGS)[10:]
    assert decode(payload, LogBatch, Confluent(Registry(fake.url()))).lines == ["line"]


def test_a_flood_of_ids_that_are_not_there_costs_twenty_questions_a_second(fake: FakeRegistry):
    now = 0.0
    reader = Confluent(Registry(fake.url()), monotonic=lambda: now)
    for _ in range(2):
        for schema_id in [*range(500), *range(500)]:
            with pytest.raises(UnknownSchema):
                reader.unframe(b"\x00" + schema_id.to_bytes(4, "big") + b"body")
        now += 1.0
    assert len(fake.asked) == 40
    fake.schemas[7] = json.dumps(catalog.load("logs"))
    assert reader.unframe(b"\x00\x00\x00\x00\x07body")[0] is catalog.current("logs")


@pytest.mark.parametrize("schema", ['"string"', '["null", "int"]', '{"type": "record", "name": "Other", "fields": []}'])
def test_a_schema_that_is_none_of_ours_and_an_unknown_id_are_unknown_schemas(fake: FakeRegistry, schema: str):
    fake.schemas[9] = schema
    reader = Confluent(Registry(fake.url()))
    for payload in (b"\x00\x00\x00\x00\x09body", b"\x00\x00\x00\x00\x08body"):
        with pytest.raises(UnknownSchema):
            decode(payload, MetricBatch, reader)
    with pytest.raises(DecodeError, match="framing"):
        decode(b"\x00\x00\x00", MetricBatch, reader)
