"""The HTTP interface of ClickHouse, of the embedded server and of the binary alike: what clients of a database need."""

import gzip
import json
import socket
import threading
import zlib
from collections.abc import Iterator
from typing import Any

import clickhouse_connect
import lz4.frame
import pytest
import requests

from pulsetrain_local.clickhouse.compression import DecompressedSource, compress
from pulsetrain_local.clickhouse.wire import MemorySource
from tests.clickhouse_fixture import READER, READER_PASSWORD, ClickHouse
from tests.waiting import wait_for

pytestmark = pytest.mark.clickhouse


class Http:
    """Asks a server by HTTP, in a database."""

    def __init__(self, server: ClickHouse, database: str) -> None:
        self.url = f"http://{server.host}:{server.http_port}"
        self.database = database
        self.login = (server.user, server.password)
        self.session = requests.Session()

    def post(self, body: Any = b"", *, query: str | None = None, **options: Any) -> requests.Response:
        parameters = {"database": self.database, **options.pop("parameters", {})}
        if query is not None:
            parameters["query"] = query
        login = options.pop("login", self.login)
        return self.session.post(self.url, data=body, params=parameters, auth=login, timeout=30, **options)

    def get(self, query: str, **parameters: str) -> requests.Response:
        parameters = {"database": self.database, "query": query, **parameters}
        return self.session.get(self.url, params=parameters, auth=self.login, timeout=30)

    def text(self, query: str, **parameters: str) -> str:
        answer = self.post(query.encode(), parameters=parameters)
        assert answer.status_code == 200, answer.text
        return answer.text


@pytest.fixture
def http(any_clickhouse: ClickHouse, database: str) -> Iterator[Http]:
    asked = Http(any_clickhouse, database)
    asked.text("CREATE TABLE t (a Int32, b String) ENGINE = MergeTree ORDER BY a")
    yield asked
    asked.session.close()


def test_ping_says_ok_without_a_password(http: Http) -> None:
    for path in ("/ping", "/"):
        answer = requests.get(http.url + path, timeout=10)
        assert (answer.status_code, answer.text) == (200, "Ok.\n")
    assert requests.get(http.url + "/nowhere", timeout=10).status_code == 404


def test_who_has_no_password_gets_nothing(http: Http) -> None:
    for login in (None, (http.login[0], "wrong"), ("nobody", http.login[1])):
        answer = http.post("SELECT 1", login=login)
        assert answer.status_code in (401, 403)
        assert answer.headers["X-ClickHouse-Exception-Code"] in ("194", "516")


def test_a_login_comes_by_header_or_in_the_url(http: Http) -> None:
    user, password = http.login
    by_header = {"X-ClickHouse-User": user, "X-ClickHouse-Key": password}
    assert requests.post(http.url, data="SELECT 1", headers=by_header, timeout=10).text == "1\n"
    in_url = {"user": user, "password": password}
    assert requests.post(http.url, data="SELECT 1", params=in_url, timeout=10).text == "1\n"


def test_a_format_comes_from_the_query_else_from_default_format(http: Http) -> None:
    assert http.text("SELECT 1 AS x, 'a' AS y") == "1\ta\n"
    assert http.text("SELECT 1 AS x", default_format="JSONEachRow") == '{"x":1}\n'
    assert http.text("SELECT 1 AS x FORMAT CSVWithNames", default_format="JSONEachRow") == '"x"\n1\n'
    answer = http.get("SELECT 1 AS x FORMAT JSON")
    assert answer.json()["data"] == [{"x": 1}]
    assert answer.headers["Content-Type"].startswith("application/json")
    assert answer.headers["X-ClickHouse-Format"] == "JSON"
    assert http.text("SELECT 'FORMAT CSV' -- FORMAT XML") == "FORMAT CSV\n"


def test_a_query_takes_parameters_that_are_never_read_as_sql(http: Http) -> None:
    hostile = "'; DROP TABLE t; --\\'한글"
    escaped = hostile.replace("\\", "\\\\")
    assert http.text(
        "SELECT {x:String} = {y:String}, {n:UInt8} + 1", param_x=escaped, param_y=escaped, param_n="6"
    ) == ("1\t7\n")
    assert json.loads(http.text("SELECT {x:String} AS x FORMAT JSONEachRow", param_x=escaped))["x"] == hostile
    assert http.text("SELECT count() FROM {t:Identifier}", param_t="t") == "0\n"
    refused = http.post("SELECT {n:UInt8}", parameters={"param_n": "1 OR 1"})
    assert refused.status_code >= 400


def test_settings_in_the_url_hold_for_their_query_alone(http: Http) -> None:
    assert http.text("SELECT getSetting('max_threads')", max_threads="3") == "3\n"
    assert http.text("SELECT count() FROM numbers(10)", max_rows_to_read="100") == "10\n"
    refused = http.post("SELECT 1", parameters={"no_such_setting": "1"})
    assert (refused.status_code, refused.headers["X-ClickHouse-Exception-Code"]) == (404, "115")
    wrong = http.post("SELECT 1", parameters={"max_threads": "many"})
    assert wrong.status_code >= 400


@pytest.mark.parametrize(
    ("head", "data"),
    [
        ("INSERT INTO t FORMAT CSV", b"1,x\n2,y\n"),
        ("INSERT INTO t (b, a) FORMAT CSV", b"x,1\ny,2\n"),
        ("INSERT INTO t FORMAT JSONEachRow", b'{"a":1,"b":"x"}\n{"b":"y","a":2}\n'),
        ("INSERT INTO t VALUES", b"(1,'x'),(2,'y')"),
        ("INSERT INTO t SETTINGS max_threads = 1 FORMAT RowBinary", b"\x01\0\0\0\x01x\x02\0\0\0\x01y"),
    ],
    ids=["csv", "columns", "json", "values", "binary"],
)
@pytest.mark.parametrize("place", ["url", "body"])
def test_rows_are_stored_whether_the_head_is_in_the_url_or_before_them(
    http: Http, head: str, data: bytes, place: str
) -> None:
    if place == "url":
        answer = http.post(data, query=head)
    else:
        answer = http.post(head.encode() + b"\n" + data)
    assert answer.status_code == 200, answer.text
    assert json.loads(answer.headers["X-ClickHouse-Summary"])["written_rows"] == "2"
    assert http.text("SELECT * FROM t ORDER BY a") == "1\tx\n2\ty\n"


def test_rows_that_are_no_rows_store_nothing_and_say_why(http: Http) -> None:
    answer = http.post(b"1,x\nword,y\n", query="INSERT INTO t FORMAT CSV")
    assert answer.status_code >= 400
    assert "Cannot parse" in answer.text
    assert http.text("SELECT count() FROM t") == "0\n"


def chunked(data: bytes, size: int) -> Iterator[bytes]:
    yield from (data[start : start + size] for start in range(0, len(data), size))


@pytest.mark.parametrize("coding", ["identity", "gzip", "deflate", "lz4", "frames"])
@pytest.mark.parametrize("size", [7, 100_000])
def test_a_body_may_come_in_chunks_and_compressed(http: Http, coding: str, size: int) -> None:
    data = "".join(f"{number},한 {number}\n" for number in range(5_000)).encode()
    encode = {"gzip": gzip.compress, "deflate": zlib.compress, "lz4": lz4.frame.compress, "frames": compress}
    body = encode[coding](data) if coding in encode else data
    headers = {} if coding in ("identity", "frames") else {"Content-Encoding": coding}
    parameters = {"decompress": "1"} if coding == "frames" else {}
    insert = "INSERT INTO t FORMAT CSV"
    answer = http.post(chunked(body, size), query=insert, headers=headers, parameters=parameters)
    assert answer.status_code == 200, answer.text
    assert http.text("SELECT count(), sum(a), any(b) FROM t WHERE a < 1") == "1\t0\t한 0\n"
    assert http.text("SELECT count() FROM t") == "5000\n"


def test_a_body_that_is_damaged_or_cut_stores_nothing(any_clickhouse: ClickHouse, http: Http) -> None:
    damaged = gzip.compress(b"1,x\n" * 1000)[:-20]
    answer = http.post(damaged, query="INSERT INTO t FORMAT CSV", headers={"Content-Encoding": "gzip"})
    assert answer.status_code >= 400
    with socket.create_connection((any_clickhouse.host, any_clickhouse.http_port)) as connection:
        user, password = http.login
        connection.sendall(
            f"POST /?query=INSERT+INTO+t+FORMAT+CSV&database={http.database} HTTP/1.1\r\nHost: x\r\n"
            f"X-ClickHouse-User: {user}\r\nX-ClickHouse-Key: {password}\r\nContent-Length: 1000\r\n\r\n1,x\n".encode()
        )
    assert http.text("SELECT count() FROM t") == "0\n"


def test_an_answer_is_compressed_as_the_client_takes_it(http: Http) -> None:
    query = "SELECT number FROM numbers(10000)"
    plain = http.post(query, headers={"Accept-Encoding": "identity"}).content
    answer = http.post(query, headers={"Accept-Encoding": "gzip"})
    assert answer.headers["Content-Encoding"] == "gzip"
    assert answer.content == plain
    framed = http.post(query, parameters={"compress": "1"}, headers={"Accept-Encoding": "identity"}).content
    source = DecompressedSource(MemorySource(framed), limit=1 << 30)
    assert source.take(len(plain)) == plain


def test_get_reads_and_changes_nothing(http: Http) -> None:
    for statement in ("INSERT INTO t VALUES (1, 'x')", "DROP TABLE t", "CREATE TABLE u (a Int8) ENGINE = Memory"):
        assert http.get(statement).status_code >= 400
    assert http.get("SHOW TABLES").text == "t\n"
    assert http.get("SELECT count() FROM t").text == "0\n"


def test_a_user_who_only_reads_cannot_write_by_any_method(http: Http) -> None:
    reader = (READER, READER_PASSWORD)
    assert http.post("SELECT count() FROM t", login=reader, parameters={"max_execution_time": "7"}).text == "0\n"
    for statement in (
        "INSERT INTO t VALUES (1, 'x')",
        "DROP TABLE t",
        "SET readonly = 0",
        "SELECT 1 SETTINGS readonly = 0",
        "SELECT * FROM file('/etc/passwd', 'LineAsString')",
        "SELECT * FROM url('http://127.0.0.1:1/', 'LineAsString', 'line String')",
        "KILL QUERY WHERE 1",
    ):
        for parameters in ({}, {"session_id": "one"}):
            answer = http.post(statement, login=reader, parameters=parameters)
            assert answer.status_code >= 400, statement
    assert http.text("SELECT count() FROM t") == "0\n"


def test_a_session_keeps_temporary_tables_and_settings_for_who_names_it(http: Http) -> None:
    session = {"session_id": f"{http.database} one"}
    assert http.text("CREATE TEMPORARY TABLE kept (a Int8)", **session) == ""
    assert http.text("SET max_threads = 2", **session) == ""
    assert http.text("SELECT count(), getSetting('max_threads') FROM kept", **session) == "0\t2\n"
    assert http.post("SELECT * FROM kept").status_code == 404
    unknown = http.post("SELECT 1", parameters={"session_id": "other", "session_check": "1"})
    assert unknown.headers["X-ClickHouse-Exception-Code"] == "372"


def test_errors_have_their_code_and_no_second_statement_runs(http: Http) -> None:
    answer = http.post("SELECT * FROM nothing")
    assert (answer.status_code, answer.headers["X-ClickHouse-Exception-Code"]) == (404, "60")
    assert answer.text.startswith("Code: 60. DB::Exception: ")
    two = http.post("SELECT 1; DROP TABLE t")
    assert two.headers["X-ClickHouse-Exception-Code"] == "62"
    assert http.text("EXISTS TABLE t") == "1\n"


def test_an_error_in_the_middle_of_an_answer_is_no_whole_answer(http: Http) -> None:
    query = "SELECT throwIf(number = 3000000) FROM numbers(4000000) SETTINGS max_block_size = 1000 FORMAT Native"
    try:
        answer = http.post(query, headers={"Accept-Encoding": "identity"})
    except requests.exceptions.ChunkedEncodingError:
        return
    assert b"FUNCTION_THROW_IF_VALUE_IS_NON_ZERO" in answer.content[-2000:] or answer.status_code >= 400


def test_a_query_ends_when_its_client_goes_away(any_clickhouse: ClickHouse, http: Http) -> None:
    mark = f"/* {http.database} */"
    running = f"SELECT count() FROM system.processes WHERE query LIKE '%{http.database}%' AND query LIKE '%sleepEach%'"
    user, password = http.login
    head = f"X-ClickHouse-User: {user}\r\nX-ClickHouse-Key: {password}\r\n"
    query = f"SELECT {mark} sum(sleepEachRow(0.1)) FROM numbers(2000) SETTINGS max_block_size = 1"
    with socket.create_connection((any_clickhouse.host, any_clickhouse.http_port)) as connection:
        connection.sendall(f"POST / HTTP/1.1\r\nHost: x\r\n{head}Content-Length: {len(query)}\r\n\r\n{query}".encode())
        other = f"{running} AND query NOT LIKE '%processes%'"
        wait_for(lambda: http.text(other) == "1\n", 10, "the query to run")
    wait_for(lambda: http.text(other) == "0\n", 10, "the query to end")


def test_a_client_that_goes_away_in_the_middle_of_its_answer_leaves_nothing_running(
    any_clickhouse: ClickHouse, http: Http
) -> None:
    user, password = http.login
    query = f"SELECT number AS {http.database} FROM numbers(10000000000) FORMAT Native"
    with socket.create_connection((any_clickhouse.host, any_clickhouse.http_port)) as connection:
        head = f"X-ClickHouse-User: {user}\r\nX-ClickHouse-Key: {password}\r\nContent-Length: {len(query)}\r\n\r\n"
        connection.sendall(f"POST / HTTP/1.1\r\nHost: x\r\n{head}{query}".encode())
        read = 0
        while read < 1 << 20:
            read += len(connection.recv(1 << 16))
    running = (
        f"SELECT count() FROM system.processes WHERE query LIKE '%AS {http.database} %' AND query LIKE '%numbers%'"
    )
    wait_for(lambda: http.text(f"{running} AND query NOT LIKE '%processes%'") == "0\n", 10, "the query to end")


def test_connections_are_kept_and_many_ask_at_once(http: Http) -> None:
    wrong: list[str] = []

    def ask(number: int) -> None:
        with requests.Session() as session:
            for _ in range(20):
                answer = session.post(http.url, data=f"SELECT {number} + 1", auth=http.login, timeout=30)
                if answer.text != f"{number + 1}\n":
                    wrong.append(answer.text)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_clickhouse_connect_reads_and_writes_every_type_of_ours(any_clickhouse: ClickHouse, http: Http) -> None:
    user, password = http.login
    client = clickhouse_connect.get_client(
        host=any_clickhouse.host,
        port=any_clickhouse.http_port,
        username=user,
        password=password,
        database=http.database,
    )
    client.command(
        "CREATE TABLE typed (a Int64, b LowCardinality(String), c DateTime64(6, 'UTC'), d Array(Nullable(Float64)), "
        "e Map(String, String), f Bool) ENGINE = MergeTree ORDER BY a"
    )
    import datetime as dt

    when = dt.datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=dt.UTC)
    rows = [[number, f"한 {number % 3}", when, [1.5, None], {"a": "'b'"}, True] for number in range(1000)]
    client.insert("typed", rows, column_names=list("abcdef"))
    found = client.query("SELECT a, b, c, d, e, f FROM typed ORDER BY a").result_rows
    assert [[*row[:2], *row[3:]] for row in found] == [[*row[:2], *row[3:]] for row in rows]
    assert found[0][2].timestamp() == when.timestamp()
    assert client.query("SELECT {x:String}", parameters={"x": "it's"}).result_rows == [("it's",)]
    assert client.query("SELECT 1 WHERE 0").result_rows == []
    with pytest.raises(clickhouse_connect.driver.exceptions.DatabaseError, match="UNKNOWN_TABLE"):
        client.query("SELECT * FROM nothing")
    client.close()
