"""Alerts over HTTP: a signed webhook, Slack's and Discord's incoming webhooks."""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any
from urllib.parse import quote, urlsplit

import requests

from pulsetrain_consumers.monitor.sinks.formats import as_json, headline, iso
from pulsetrain_consumers.monitor.sinks.sink import SinkRefused, SinkUnavailable
from pulsetrain_schemas.events import Alert

TIMEOUT_SECONDS = 10.0
_COLOURS = {"info": 0x4A90D9, "warning": 0xE0A100, "critical": 0xD0312D}
_RESOLVED_COLOUR = 0x2E9E5B
_SHORTEST_SECRET = 8
_SLACK_ESCAPES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
_DISCORD_TITLE, _DISCORD_TEXT, _SLACK_TEXT = 256, 4_000, 3_000


@dataclass(frozen=True, slots=True)
class Web:
    """Posts JSON to a URL. `body` makes it; `headers` are for the exact bytes that are sent."""

    name: str
    url: str = field(repr=False)
    body: Callable[[Alert], Mapping[str, Any]]
    headers: Callable[[Alert, bytes], Mapping[str, str]] = lambda alert, body: {}  # noqa: ARG005

    def send(self, alert: Alert) -> None:
        body = json.dumps(self.body(alert), allow_nan=False).encode()
        headers = {"Content-Type": "application/json", "User-Agent": "pulsetrain", **self.headers(alert, body)}
        try:
            answer = requests.post(self.url, data=body, headers=headers, timeout=TIMEOUT_SECONDS, allow_redirects=False)
        except requests.RequestException as error:
            # Those that are ValueErrors too are about the address, which does not get better by trying.
            failure = SinkRefused if isinstance(error, ValueError) else SinkUnavailable
            raise failure(f"{self.name} cannot be reached: {type(error).__name__}") from None
        status = answer.status_code
        if status == HTTPStatus.TOO_MANY_REQUESTS or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            raise SinkUnavailable(f"{self.name} answers {status}")
        if status >= HTTPStatus.MULTIPLE_CHOICES:
            raise SinkRefused(f"{self.name} answers {status}: {self._harmless(answer.text)}")

    def _harmless(self, text: str) -> str:
        """The beginning of an answer, on one line, without the secret part of the URL that some answers repeat."""
        url = urlsplit(self.url)
        for secret in (url.path.strip("/"), url.query):
            text = text.replace(secret, "…") if len(secret) >= _SHORTEST_SECRET else text
        return " ".join(text.split())[:200]


def webhook(url: str, secret: str | None = None, now: Callable[[], float] = time.time) -> Web:
    """Alerts as JSON; with a secret, signed as https://www.standardwebhooks.com has it.

    `webhook-id` is the same for every try of one change, so a receiver can tell one that comes twice;
    `webhook-timestamp` is when it was sent, of which receivers expect that it is not old. Raises ValueError for a
    secret that is none.
    """
    key = None if secret is None else _key(secret)

    def headers(alert: Alert, body: bytes) -> Mapping[str, str]:
        # A writer's name is anybody's, a header is not: and the dots are the signature's.
        identity = quote(f"{alert.alert_id}-{alert.sequence}", safe="").replace(".", "%2E")
        sent = str(int(now()))
        signed = {"webhook-id": identity, "webhook-timestamp": sent}
        if key is not None:
            digest = hmac.new(key, f"{identity}.{sent}.".encode() + body, hashlib.sha256).digest()
            signed["webhook-signature"] = f"v1,{base64.b64encode(digest).decode()}"
        return signed

    return Web(f"webhook {_host(url)}", url, as_json_finite, headers)


def slack(url: str) -> Web:
    """A message of Slack's, by an incoming webhook: https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks"""

    def body(alert: Alert) -> Mapping[str, Any]:
        def section(text: str) -> Mapping[str, Any]:
            return {"type": "section", "text": {"type": "mrkdwn", "text": text}}

        head = _slack_text(headline(alert), _SLACK_TEXT - 2)
        blocks = [section(f"*{head}*")]
        if alert.text.strip():
            blocks.append(section(_slack_text(alert.text, _SLACK_TEXT)))
        return {"text": head, "blocks": blocks}

    return Web("slack", url, body)


def discord(url: str) -> Web:
    """A message of Discord's, by a webhook: https://discord.com/developers/docs/resources/webhook#execute-webhook"""

    def body(alert: Alert) -> Mapping[str, Any]:
        colour = _RESOLVED_COLOUR if alert.state == "resolved" else _COLOURS.get(alert.severity, 0)
        embed = {
            "title": headline(alert)[:_DISCORD_TITLE],
            "description": alert.text[:_DISCORD_TEXT],
            "color": colour,
            "timestamp": iso(alert.time),
        }
        # Nobody is called by what a run is named.
        return {"embeds": [embed], "allowed_mentions": {"parse": []}}

    return Web("discord", url, body)


def as_json_finite(alert: Alert) -> Mapping[str, Any]:
    """As `as_json`; NaN and the infinities, which JSON has not, as text."""
    fields = as_json(alert)
    value = fields.get("value")
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        fields["value"] = str(value)
    return fields


def _key(secret: str) -> bytes:
    """The bytes of a secret; one that begins with whsec_ is base64, as the specification has it."""
    prefix = "whsec_"
    try:
        key = (
            base64.b64decode(secret.removeprefix(prefix), validate=True)
            if secret.startswith(prefix)
            else secret.encode()
        )
    except ValueError:
        raise ValueError("what follows whsec_ is not base64") from None
    if not key:
        raise ValueError("it is empty")
    return key


def _slack_text(text: str, most: int) -> str:
    """Text that Slack takes for nothing else: three characters are escaped. At most so long, and not cut within one."""
    escaped, room = [], most
    for character in text:
        piece = _SLACK_ESCAPES.get(character, character)
        room -= len(piece)
        if room < 0:
            break
        escaped.append(piece)
    return "".join(escaped)


def _host(url: str) -> str:
    """The host alone: paths and queries of webhooks are secrets."""
    return urlsplit(url).hostname or "?"
