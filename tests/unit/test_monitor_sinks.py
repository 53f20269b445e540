"""What each sink sends, to real servers on loopback, and what it makes of their answers."""

import base64
import hashlib
import hmac
import json
import logging
import math
import socket
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from pulsetrain_consumers.monitor.sinks import web
from pulsetrain_consumers.monitor.sinks.formats import as_json, headline
from pulsetrain_consumers.monitor.sinks.grafana import Grafana
from pulsetrain_consumers.monitor.sinks.mail import Mail
from pulsetrain_consumers.monitor.sinks.sink import Sink, SinkRefused, SinkUnavailable
from pulsetrain_schemas.events import Alert
from tests.local_servers import HttpServer, Request, http_server, smtp_server

ALERT = Alert(
    "vision", "run-1", "0123abcd", 0, "nan", "train/loss", "firing", "critical", "Not a number: train/loss",
    "train/loss is NaN at step 1234 (rank 0)", 1_700_000_001_500_000, 1_700_000_000_000_000, "pulsetrain-monitor",
    step=1234, value=math.nan, rank=0, host="node-7", gpu="GPU-1", labels={"team": "vision"},
)  # fmt: skip
RESOLVED = replace(ALERT, state="resolved", sequence=1, text="finite again")
HOSTILE = replace(
    ALERT,
    project="<!channel>&<@U1>",
    run_id="r\r\nX-Evil: 1",
    alert_id="w\r\nX-Evil: 1-5",
    title="<script>alert(1)</script> @everyone \ud55c\uad6d\uc5b4 \U0001f600",
    text="]]> & <https://evil|click> `x` " + "&" * 100_000,
)
SECRET = b"\x00\x01 a secret \xff"
SIGNING = "whsec_" + base64.b64encode(SECRET).decode()
PATH = "/services/T00SECRET/B00SECRET"


def verified(request: Request, secret: bytes, now: float) -> Any:
    """The body of a request, as a receiver checks it by https://www.standardwebhooks.com. Raises AssertionError."""
    identity, sent = request.headers["webhook-id"], request.headers["webhook-timestamp"]
    assert abs(now - int(sent)) < 300, "too old"
    signed = identity.encode() + b"." + sent.encode() + b"." + request.body
    expected = base64.b64encode(hmac.new(secret, signed, hashlib.sha256).digest())
    given = [part.split(",") for part in request.headers["webhook-signature"].split(" ")]
    assert any(version == "v1" and hmac.compare_digest(text.encode(), expected) for version, text in given)
    return json.loads(request.body)


def test_a_webhook_gets_the_alert_as_json_signed_so_that_a_receiver_can_check_it():
    with http_server() as server:
        sink = web.webhook(f"{server.address}/alerts?team=a", SIGNING, now=lambda: 1_700_000_900.7)
        sink.send(ALERT)
    (request,) = server.requests
    assert (request.method, request.path) == ("POST", "/alerts?team=a")
    assert request.headers["content-type"] == "application/json"
    assert request.headers["webhook-id"] == "0123abcd-0"
    assert request.headers["webhook-timestamp"] == "1700000900"
    body = verified(request, SECRET, 1_700_000_901)
    assert body == {
        "project": "vision", "run_id": "run-1", "alert_id": "0123abcd", "sequence": 0, "kind": "nan",
        "subject": "train/loss", "state": "firing", "severity": "critical", "title": "Not a number: train/loss",
        "text": "train/loss is NaN at step 1234 (rank 0)", "time": "2023-11-14T22:13:21.500000+00:00",
        "started": "2023-11-14T22:13:20+00:00", "source": "pulsetrain-monitor", "step": 1234, "value": "nan", "rank": 0,
        "host": "node-7", "gpu": "GPU-1", "silenced": False, "labels": {"team": "vision"},
    }  # fmt: skip
    with pytest.raises(AssertionError):
        verified(replace(request, body=request.body + b" "), SECRET, 1_700_000_901)
    with pytest.raises(AssertionError):
        verified(request, b"another", 1_700_000_901)


def test_a_try_again_has_the_same_id_and_a_time_and_signature_of_its_own():
    times = iter([1_700_000_000.0, 1_700_000_400.0])
    with http_server(500, 204) as server:
        sink = web.webhook(server.address, "plain secret", now=lambda: next(times))
        with pytest.raises(SinkUnavailable, match="answers 500"):
            sink.send(ALERT)
        sink.send(ALERT)
        sink = web.webhook(server.address)
        sink.send(RESOLVED)
    first, second, third = server.requests
    assert first.headers["webhook-id"] == second.headers["webhook-id"] != third.headers["webhook-id"]
    verified(first, b"plain secret", 1_700_000_000)
    verified(second, b"plain secret", 1_700_000_400)
    assert "webhook-signature" not in third.headers


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_in_json_is_text_there(value: float):
    with http_server() as server:
        web.webhook(server.address).send(replace(ALERT, value=value))
    assert json.loads(server.requests[0].body)["value"] == str(value)


def test_what_an_alert_does_not_have_is_left_out_and_zeros_are_not():
    bare = replace(ALERT, step=0, value=0.0, rank=None, host="", gpu="", labels={})
    fields = as_json(bare)
    assert (fields["step"], fields["value"], fields["sequence"]) == (0, 0.0, 0)
    assert not {"rank", "host", "gpu", "labels"} & set(fields)


@pytest.mark.parametrize("secret", ["whsec_", "whsec_***", "whsec_a", ""])
def test_a_secret_that_is_none_is_refused_before_anything_is_sent(secret: str):
    with pytest.raises(ValueError, match=r"base64|empty") as error:
        web.webhook("http://h", secret)
    assert "***" not in str(error.value)


def web_sinks(address: str) -> list[Sink]:
    return [web.webhook(address + PATH, SIGNING), web.slack(address + PATH), web.discord(address + PATH)]


def text_of(request: Request) -> str:
    return json.dumps(json.loads(request.body), ensure_ascii=False)


@pytest.mark.parametrize("kind", range(3))
def test_a_redirection_is_not_followed(kind: int):
    with http_server(200) as elsewhere, http_server((302, {"Location": f"{elsewhere.address}/x"}, b"")) as server:
        with pytest.raises(SinkRefused, match="answers 302"):
            web_sinks(server.address)[kind].send(ALERT)
        assert (len(server.requests), elsewhere.requests) == (1, [])


@pytest.mark.parametrize("kind", range(3))
@pytest.mark.parametrize(
    ("status", "error"),
    [(500, SinkUnavailable), (503, SinkUnavailable), (429, SinkUnavailable), (400, SinkRefused), (404, SinkRefused)],
)
def test_what_is_the_servers_fault_is_tried_again_and_what_is_ours_is_not(
    kind: int, status: int, error: type[Exception]
):
    with http_server(status) as server, pytest.raises(error, match=f"answers {status}"):
        web_sinks(server.address)[kind].send(ALERT)


@pytest.mark.parametrize("kind", range(3))
def test_a_place_that_is_away_is_tried_again_and_an_address_that_is_none_is_not(kind: int):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and nobody listens
        with pytest.raises(SinkUnavailable, match="cannot be reached"):
            web_sinks(f"http://127.0.0.1:{taken.getsockname()[1]}")[kind].send(ALERT)
    with pytest.raises(SinkRefused, match="cannot be reached"):
        web_sinks("ftp://h")[kind].send(ALERT)


@pytest.mark.parametrize("kind", range(3))
def test_secrets_and_addresses_are_in_no_message_and_no_repr(kind: int, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.WARNING)
    with http_server((400, {}, f"no such hook: {PATH}\nand more".encode()), 500) as server:
        sink = web_sinks(server.address)[kind]
        with pytest.raises(SinkRefused) as refused:
            sink.send(ALERT)
        with pytest.raises(SinkUnavailable) as unavailable:
            sink.send(ALERT)
    said = f"{refused.value} {unavailable.value} {sink!r} {sink.name} {caplog.text}"
    assert "no such hook" in said
    assert "\n" not in str(refused.value)
    for secret in ("SECRET", SIGNING, SECRET.decode("latin-1")):
        assert secret not in said


@pytest.mark.parametrize("kind", range(3))
def test_whatever_an_alert_says_is_data_to_the_place_that_gets_it(kind: int):
    with http_server() as server:
        web_sinks(server.address)[kind].send(HOSTILE)
    (request,) = server.requests
    assert "x-evil" not in request.headers
    text = text_of(request)
    assert "\ud55c\uad6d\uc5b4 \U0001f600" in text
    body = json.loads(request.body)
    if kind == 1:
        assert "<" not in text
        assert ">" not in text
        assert all(len(block["text"]["text"]) <= 3_000 for block in body["blocks"])
        assert all(
            block["text"]["text"].replace("&amp;", "").count("&") == text_entities(block) for block in body["blocks"]
        )
        assert len(body["text"]) <= 3_000
    if kind == 2:
        assert body["allowed_mentions"] == {"parse": []}
        assert len(body["embeds"][0]["title"]) <= 256
        assert len(body["embeds"][0]["description"]) <= 4_096


def text_entities(block: Mapping[str, Any]) -> int:
    text = str(block["text"]["text"])
    return text.count("&lt;") + text.count("&gt;")


def test_slack_gets_the_headline_and_the_text():
    with http_server() as server:
        web.slack(server.address).send(ALERT)
        web.slack(server.address).send(replace(ALERT, text=" "))
    body, bare = (json.loads(request.body) for request in server.requests)
    assert body["text"] == headline(ALERT) == "[firing] Not a number: train/loss (vision/run-1 at step 1,234)"
    assert [block["text"]["text"] for block in body["blocks"]] == [f"*{headline(ALERT)}*", ALERT.text]
    assert len(bare["blocks"]) == 1


def test_discord_gets_a_colour_for_how_bad_it_is():
    with http_server() as server:
        for alert in (ALERT, replace(ALERT, severity="info"), RESOLVED):
            web.discord(server.address).send(alert)
    embeds = [json.loads(request.body)["embeds"][0] for request in server.requests]
    assert len({embed["color"] for embed in embeds}) == 3
    assert embeds[0]["timestamp"] == "2023-11-14T22:13:21.500000+00:00"


# --- mail


def mail(port: int, user: str = "", host: str = "127.0.0.1", to: tuple[str, ...] = ("a@x.org", "b@x.org")) -> Mail:
    return Mail(f"smtp://{user}{host}:{port}", "pulsetrain@x.org", to)


def test_a_mail_says_what_happened_to_everybody_it_is_for():
    with smtp_server() as server:
        mail(server.port).send(ALERT)
    (message,) = server.messages
    assert message["Subject"] == headline(ALERT)
    assert (message["From"], message["To"]) == ("pulsetrain@x.org", "a@x.org, b@x.org")
    assert [command for command in server.commands if command.upper().startswith("RCPT")] == [
        "rcpt TO:<a@x.org>",
        "rcpt TO:<b@x.org>",
    ]
    text = message.get_content()
    for fact in (ALERT.text, "vision/run-1", "firing, critical", "2023-11-14T22:13:20+00:00", "node-7", "GPU-1"):
        assert fact in text


def test_a_mail_that_comes_twice_is_the_same_mail():
    with smtp_server() as server:
        mail(server.port).send(ALERT)
        mail(server.port).send(ALERT)
        mail(server.port).send(RESOLVED)
    first, second, third = (message["Message-ID"] for message in server.messages)
    assert first == second != third


def test_whatever_a_run_is_called_a_mail_has_our_headers_alone():
    with smtp_server() as server:
        mail(server.port).send(replace(HOSTILE, title="a\r\nBcc: evil@x.org\x85\u2028b", text=".\r\n.\r\nQUIT\r\n"))
    (message,) = server.messages
    assert "Bcc" not in message
    assert "X-Evil" not in message
    assert "\n" not in message["Subject"]
    assert "QUIT" in message.get_content()


def test_the_password_is_used_and_nowhere_to_be_seen():
    with smtp_server(auth=True) as server:
        sink = mail(server.port, "me:pa%2Fss%40word@")
        sink.send(ALERT)
    assert server.logins == [("me", "pa/ss@word")]
    assert "pa" not in repr(sink).replace("pa=", "")[:40]
    assert "ss%40word" not in repr(sink)


def test_a_password_is_not_sent_in_the_clear_to_another_machine():
    with smtp_server("127.0.0.2", auth=True) as server, pytest.raises(SinkRefused, match="STARTTLS"):
        mail(server.port, "me:password@", "127.0.0.2").send(ALERT)
    assert not server.logins
    assert not any(command.upper().startswith("AUTH") for command in server.commands)


@pytest.mark.parametrize(
    ("replies", "error"),
    [
        ({"RCPT": "550 no such user"}, SinkRefused),
        ({"RCPT": "450 greylisted"}, SinkUnavailable),
        ({"MAIL": "553 not you"}, SinkRefused),
        ({"MAIL": "451 later"}, SinkUnavailable),
        ({"DATA": "554 spam"}, SinkRefused),
        ({"DATA": "452 full"}, SinkUnavailable),
        ({"AUTH": "535 wrong"}, SinkRefused),
        ({"AUTH": "454 later"}, SinkUnavailable),
    ],
)
def test_mail_that_is_refused_for_now_is_tried_again_and_for_ever_is_not(
    replies: dict[str, str], error: type[Exception]
):
    user = "me:hunter2@" if "AUTH" in replies else ""
    with smtp_server(auth="AUTH" in replies, **replies) as server, pytest.raises(error) as raised:
        mail(server.port, user).send(ALERT)
    assert "hunter2" not in str(raised.value)


def test_a_mail_server_that_is_away_is_tried_again():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(SinkUnavailable):
            mail(taken.getsockname()[1]).send(ALERT)


# --- Grafana


def annotations(server: HttpServer) -> list[Any]:
    return [json.loads(request.body) for request in server.requests]


TAKEN = (200, {"Content-Type": "application/json"}, b'{"message":"Annotation added","id":1}')


def test_grafana_gets_an_annotation_at_the_moment_that_it_is_about():
    with http_server(TAKEN) as server:
        Grafana(server.address.replace("http://", "http://glsa_token@") + "/grafana/").send(ALERT)
        Grafana(server.address.replace("http://", "http://admin:p%40ss@")).send(RESOLVED)
    first, second = server.requests
    assert (first.method, first.path, first.headers["authorization"]) == (
        ("POST", "/grafana/api/annotations", "Bearer glsa_token")
    )
    assert second.path == "/api/annotations"
    assert second.headers["authorization"] == "Basic " + base64.b64encode(b"admin:p@ss").decode()
    firing, resolved = annotations(server)
    assert firing["time"] == firing["timeEnd"] == 1_700_000_000_000
    assert resolved["time"] == 1_700_000_001_500
    assert firing["tags"] == [
        "pulsetrain", "project:vision", "run:run-1", "kind:nan", "critical", "firing", "step:1234",
        "alert:0123abcd",
    ]  # fmt: skip
    assert firing["text"] == f"{headline(ALERT)}\n{ALERT.text}"


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ((401, {}, b'{"message":"invalid API key"}'), SinkRefused),
        ((403, {}, b'{"message":"no"}'), SinkRefused),
        ((404, {}, b"not here"), SinkRefused),
        ((429, {}, b'{"message":"slower"}'), SinkUnavailable),
        ((500, {}, b'{"message":"broken"}'), SinkUnavailable),
        ((502, {}, b"<html>"), SinkUnavailable),
        ((502, {}, b"<html>An error message</html>"), SinkUnavailable),
        ((502, {}, b'"bad message"'), SinkUnavailable),
        ((503, {}, b'["message"]'), SinkUnavailable),
        ((503, {}, b"null"), SinkUnavailable),
        ((200, {}, b"<html>a login page</html>"), SinkUnavailable),
        ((200, {}, b"[]"), SinkRefused),
    ],
)
def test_what_grafana_answers_decides_whether_it_is_tried_again(answer: Any, error: type[Exception]):
    with http_server(answer) as server, pytest.raises(error) as raised:
        Grafana(server.address.replace("http://", "http://glsa_token@")).send(ALERT)
    assert "glsa_token" not in str(raised.value)


def test_names_of_any_length_make_tags_that_grafana_can_hold():
    named = replace(ALERT, project="프" * 128, run_id="실" * 64, step=10**12)
    with http_server(TAKEN) as server:
        Grafana(server.address).send(named)
    (annotation,) = annotations(server)
    assert all(len(tag.encode()) <= 100 for tag in annotation["tags"])
    assert len(json.dumps(annotation["tags"], ensure_ascii=False).encode()) <= 500


def test_an_annotation_that_a_redirection_turned_into_a_question_does_not_count_as_sent():
    with http_server((200, {}, b"[]")) as elsewhere:
        target = {"Location": f"{elsewhere.address}/api/annotations"}
        with http_server((301, target, b"")) as server, pytest.raises(SinkRefused, match="is the address right"):
            Grafana(server.address).send(ALERT)


@pytest.mark.parametrize("address", ["localhost:3000", "ftp://h", "http://", "", "http://h:port"])
def test_an_address_of_grafana_that_is_none_is_refused(address: str):
    with pytest.raises(ValueError, match=r"."):
        Grafana(address)
