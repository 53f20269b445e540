"""Alerts by e-mail."""

import smtplib
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from email.message import EmailMessage
from urllib.parse import quote, unquote, urlsplit

from pulsetrain_consumers.monitor.sinks.formats import headline, iso
from pulsetrain_consumers.monitor.sinks.sink import SinkRefused, SinkUnavailable
from pulsetrain_schemas.events import Alert

TIMEOUT_SECONDS = 20.0
_PORTS = {"smtp": 587, "smtps": 465}
_PERMANENT = 500
_THIS_MACHINE = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, slots=True)
class Mail:
    """Sends through an SMTP server: smtp://user:password@host:587 (STARTTLS where it is offered) or smtps://…:465.

    The server has to prove who it is, and gets a password over TLS alone, unless it is this machine.
    """

    server: str = field(repr=False)
    sender: str
    to: Sequence[str]
    name: str = "e-mail"

    def send(self, alert: Alert) -> None:
        url = urlsplit(self.server)
        host, port = url.hostname or "localhost", url.port or _PORTS.get(url.scheme, 25)
        try:
            with _connected(url.scheme, host, port) as connection:
                is_private = url.scheme == "smtps"
                if not is_private:
                    connection.ehlo()
                    is_private = connection.has_extn("starttls")
                    if is_private:
                        connection.starttls(context=ssl.create_default_context())
                if url.username:
                    if not (is_private or host in _THIS_MACHINE):
                        raise SinkRefused(
                            f"{host} offers no STARTTLS: the password is not sent where others can read it"
                        )
                    connection.login(unquote(url.username), unquote(url.password or ""))
                connection.send_message(self._message(alert))
        except (smtplib.SMTPException, OSError) as error:
            failure = SinkRefused if _is_final(error) else SinkUnavailable
            raise failure(f"{host} does not take mail: {type(error).__name__}") from None

    def _message(self, alert: Alert) -> EmailMessage:
        message = EmailMessage()
        # A line break in a header is refused by the library: what a run is called becomes one line.
        message["Subject"] = " ".join(headline(alert).split())
        message["From"] = self.sender
        message["To"] = ", ".join(self.to)
        # The same for every try: who gets it twice sees it once.
        message["Message-ID"] = f"<{quote(alert.alert_id, safe='')[:200]}.{alert.sequence}@pulsetrain>"
        facts = [
            alert.text,
            "",
            f"run       {alert.project}/{alert.run_id}",
            f"state     {alert.state}, {alert.severity}",
            f"began     {iso(alert.started)}",
            f"changed   {iso(alert.time)}",
        ]
        facts += [f"{name:<10}{value}" for name, value in (("host", alert.host), ("gpu", alert.gpu)) if value]
        message.set_content("\n".join(facts) + "\n")
        return message


def _connected(scheme: str, host: str, port: int) -> smtplib.SMTP:
    if scheme == "smtps":
        return smtplib.SMTP_SSL(host, port, timeout=TIMEOUT_SECONDS, context=ssl.create_default_context())
    return smtplib.SMTP(host, port, timeout=TIMEOUT_SECONDS)


def _is_final(error: Exception) -> bool:
    """Whether it is of no use to try again: codes of 400 and more ask for that, as greylisting does."""
    if isinstance(error, smtplib.SMTPRecipientsRefused):
        return all(code >= _PERMANENT for code, _ in error.recipients.values())
    if isinstance(error, smtplib.SMTPResponseException):
        return error.smtp_code >= _PERMANENT
    return isinstance(error, smtplib.SMTPNotSupportedError)
