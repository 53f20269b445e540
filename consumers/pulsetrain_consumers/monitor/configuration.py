"""The monitor's configuration file: where alerts are sent.

    notify:
      - webhook: https://example.org/alerts
        secret: ${ALERTS_SECRET}        # signs each request, see https://www.standardwebhooks.com
        severity: warning               # this and worse; the default is info
        projects: [vision-*]            # the default is all
      - slack: ${SLACK_WEBHOOK}
      - discord: ${DISCORD_WEBHOOK}
        ends: false                     # only when one begins
      - mail: [ml@example.org]
        server: smtp://user:${SMTP_PASSWORD}@mail.example.org
        sender: pulsetrain@example.org

Secrets stay out of it: ${NAME} is the environment's. Grafana gets annotations where PULSETRAIN_GRAFANA says it is.
"""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from pulsetrain_consumers.monitor.notifications import Route
from pulsetrain_consumers.monitor.sinks import web
from pulsetrain_consumers.monitor.sinks.mail import Mail
from pulsetrain_consumers.monitor.sinks.sink import Sink
from pulsetrain_schemas.errors import UserError
from pulsetrain_schemas.events import SEVERITIES

FILE_NAME = "monitor.yaml"
_VARIABLE = re.compile(r"\$\{([^}]*)\}")
_ROUTE_KEYS = ("severity", "projects", "kinds", "ends")


class ConfigurationError(UserError):
    """The file cannot be read, or says what cannot be."""


def read(path: Path, env: Mapping[str, str] = os.environ) -> list[Route]:
    """Where alerts go, as the file says it. Raises ConfigurationError: where in the file, and what is wrong."""
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} is no YAML: {_without_text(error)}") from None
    if document is None:
        return []
    try:
        _known(document, "the file", ("notify",))
        entries = document.get("notify") or []
        if not isinstance(entries, list):
            raise ConfigurationError("notify is a list")
        return [_route(entry, f"notify, entry {number}", env) for number, entry in enumerate(entries, 1)]
    except ConfigurationError as error:
        raise ConfigurationError(f"{path}: {error}") from None


def grafana(address: str) -> Route:
    """Annotations in the Grafana at an address with a token or a user. Raises ConfigurationError where it is none."""
    from pulsetrain_consumers.monitor.sinks.grafana import Grafana

    try:
        return Route(Grafana(address))
    except ValueError as error:
        raise ConfigurationError(f"PULSETRAIN_GRAFANA is no address: {error}") from None


def _web(make: Callable[..., Sink], *more: str) -> Callable[[Mapping[str, Any], str], Sink]:
    def sink(entry: Mapping[str, Any], where: str) -> Sink:
        kind = next(iter(entry))
        url = entry[kind]
        if not _is_address(url, ("http", "https")):
            raise ConfigurationError(f"{where}: {kind} is an address that begins with http:// or https://")
        given = [entry.get(name) for name in more]
        for name, text in zip(more, given, strict=True):
            if not isinstance(text, str | None):
                raise ConfigurationError(f"{where}: {name} is text, in quotes where it looks like a number")
        try:
            return make(url, *given)
        except ValueError as error:
            raise ConfigurationError(f"{where}: {' or '.join(more)} is not right: {error}") from None

    return sink


def _mail(entry: Mapping[str, Any], where: str) -> Sink:
    to = [entry["mail"]] if isinstance(entry["mail"], str) else entry["mail"]
    server, sender = entry.get("server"), entry.get("sender")
    if not isinstance(to, list) or not to or not all(isinstance(one, str) for one in to):
        raise ConfigurationError(f"{where}: mail is an address, or a list of them")
    if not isinstance(server, str) or not _is_address(server, ("smtp", "smtps")):
        raise ConfigurationError(f"{where}: server is smtp://HOST or smtps://HOST, with USER:PASSWORD@ where it asks")
    if not isinstance(sender, str):
        raise ConfigurationError(f"{where}: sender is the address that mail comes from")
    if any(len(one.splitlines()) != 1 for one in (sender, *to)):
        raise ConfigurationError(f"{where}: an address of mail is one line")
    return Mail(server, sender, to)


_SINKS: Mapping[str, tuple[Callable[[Mapping[str, Any], str], Sink], tuple[str, ...]]] = {
    "webhook": (_web(web.webhook, "secret"), ("secret",)),
    "slack": (_web(web.slack), ()),
    "discord": (_web(web.discord), ()),
    "mail": (_mail, ("server", "sender")),
}


def _route(given: Any, where: str, env: Mapping[str, str]) -> Route:
    try:
        entry = _filled(given, env)
    except ConfigurationError as error:
        raise ConfigurationError(f"{where}: {error}") from None
    kinds = [name for name in _SINKS if isinstance(entry, Mapping) and name in entry]
    if len(kinds) != 1:
        raise ConfigurationError(f"{where} names one of {', '.join(_SINKS)}")
    make, more = _SINKS[kinds[0]]
    _known(entry, where, (kinds[0], *more, *_ROUTE_KEYS))
    severity, ends = entry.get("severity", "info"), entry.get("ends", True)
    if severity not in SEVERITIES:
        raise ConfigurationError(f"{where}: severity is one of {', '.join(SEVERITIES)}, not {severity!r}")
    if not isinstance(ends, bool):
        raise ConfigurationError(f"{where}: ends is true or false, not {ends!r}")
    ordered = {kinds[0]: entry[kinds[0]], **entry}
    return Route(
        make(ordered, where), severity, _patterns(entry, "projects", where), _patterns(entry, "kinds", where), ends
    )


def _patterns(entry: Mapping[str, Any], name: str, where: str) -> Sequence[str]:
    given = entry.get(name, ["*"])
    found = [given] if isinstance(given, str) else given
    if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
        raise ConfigurationError(f"{where}: {name} is a list of names, in which * stands for anything")
    return found


def _is_address(value: Any, schemes: Sequence[str]) -> bool:
    """Whether it is a URL with a host, and a port that is a number where it has one."""
    if not isinstance(value, str) or value != value.strip():
        return False
    try:
        url = urlsplit(value)
        return url.scheme in schemes and bool(url.hostname) and url.port != 0
    except ValueError:
        return False


def _without_text(error: Exception) -> str:
    """Where and what, without the text itself, which may hold what is secret."""
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return type(error).__name__
    return f"line {mark.line + 1}, column {mark.column + 1}: {getattr(error, 'problem', None) or 'not understood'}"


def _known(entry: Any, where: str, names: Sequence[str]) -> None:
    if not isinstance(entry, Mapping):
        raise ConfigurationError(f"{where} is no mapping of names to values")
    unknown = [str(name) for name in entry if name not in names]
    if unknown:
        raise ConfigurationError(f"{where} has {', '.join(unknown)}; known are {', '.join(names)}")


def _filled(value: Any, env: Mapping[str, str]) -> Any:
    """The value with ${NAME} filled in, wherever it is."""
    if isinstance(value, Mapping):
        return {key: _filled(one, env) for key, one in value.items()}
    if isinstance(value, list):
        return [_filled(one, env) for one in value]
    if not isinstance(value, str):
        return value

    def variable(found: re.Match[str]) -> str:
        name = found[1]
        if name not in env:
            raise ConfigurationError(f"the environment has no {name}")
        return env[name]

    return _VARIABLE.sub(variable, value)
