"""The monitor's configuration: where alerts are sent, rules of the user's, and silences.

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
    rules:                              # see pulsetrain_schemas.alert_rules; a directory of rules has them too
      - name: accuracy collapsed
        metric: val/accuracy
        condition: < 0.2
        for: 5m
    silences:                           # patterns, of which all that are given must fit
      - kind: plateau
        project: toy-*
        until: 2026-12-01               # for good, unless it is said
        reason: nobody minds

Secrets stay out of it: ${NAME} is the environment's. Grafana gets annotations where PULSETRAIN_GRAFANA says it is.
"""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from pulsetrain_consumers.monitor.notifications import Route
from pulsetrain_consumers.monitor.silences import Silence
from pulsetrain_consumers.monitor.sinks import web
from pulsetrain_consumers.monitor.sinks.mail import Mail
from pulsetrain_consumers.monitor.sinks.sink import Sink
from pulsetrain_schemas import alert_rules
from pulsetrain_schemas.alert_rules import Rule, RuleError
from pulsetrain_schemas.errors import UserError
from pulsetrain_schemas.events import SEVERITIES

FILE_NAME = "monitor.yaml"
RULES_NAME = "rules"
_VARIABLE = re.compile(r"\$\{([^}]*)\}")
_BARE_CONDITION = re.compile(r"condition:\s*>")
_ROUTE_KEYS = ("severity", "projects", "kinds", "ends")
_SILENCE_PATTERNS = ("project", "run", "kind", "subject")


class ConfigurationError(UserError):
    """The file cannot be read, or says what cannot be."""


@dataclass(frozen=True, slots=True)
class Configuration:
    """What monitor.yaml says. Rules are by name; None stands for one that is switched off."""

    routes: Sequence[Route] = ()
    rules: Mapping[str, Rule | None] = field(default_factory=dict)
    silences: Sequence[Silence] = ()


def read(path: Path, env: Mapping[str, str] = os.environ) -> Configuration:
    """What the file says. Raises ConfigurationError: where in the file, what is wrong, and what would be right."""
    document = _document(path, ("notify", "rules", "silences"))
    try:
        return Configuration(
            [_route(entry, f"notify, entry {number}", env) for number, entry in _entries(document, "notify")],
            _rules(document),
            [_silence(entry, f"silences, entry {number}") for number, entry in _entries(document, "silences")],
        )
    except (ConfigurationError, RuleError) as error:
        raise ConfigurationError(f"{path}: {error}") from None


def read_rules(directories: Sequence[Path], more: Mapping[str, Rule | None]) -> list[Rule]:
    """The rules of all *.yaml files of directories, and `more`. Raises ConfigurationError, as `read`.

    A later directory's rule takes the place of an earlier one's of the same name, and one of `more` that of both; one
    that is switched off takes it too, and is none. Within a directory a name is there once.
    """
    found: dict[str, Rule | None] = {}
    for directory in directories:
        if not directory.is_dir():
            raise ConfigurationError(f"{directory} is no directory: rules are read from its *.yaml files")
        here: dict[str, Path] = {}
        for path in sorted(directory.glob("*.yaml")):
            document = _document(path, ("rules",))
            try:
                rules = _rules(document)
            except (ConfigurationError, RuleError) as error:
                raise ConfigurationError(f"{path}: {error}") from None
            for name in rules:
                if name in here:
                    raise ConfigurationError(f"{path}: {here[name].name} has a rule {name} too: give it another name")
                here[name] = path
            found |= rules
    return [rule for rule in {**found, **more}.values() if rule is not None]


def grafana(address: str) -> Route:
    """Annotations in the Grafana at an address with a token or a user. Raises ConfigurationError where it is none."""
    from pulsetrain_consumers.monitor.sinks.grafana import Grafana

    try:
        return Route(Grafana(address))
    except ValueError as error:
        raise ConfigurationError(f"PULSETRAIN_GRAFANA is no address: {error}") from None


def _document(path: Path, names: Sequence[str]) -> Mapping[str, Any]:
    """The mapping of a file, which has none but these names."""
    text = ""
    try:
        text = path.read_text(encoding="utf-8")
        document = yaml.safe_load(text)
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} is no YAML: {_without_text(error)}{_hint(error, text)}") from None
    if document is None:
        return {}
    try:
        _known(document, "the file", names)
    except ConfigurationError as error:
        raise ConfigurationError(f"{path}: {error}") from None
    return document  # type: ignore[no-any-return]


def _entries(document: Mapping[str, Any], name: str) -> enumerate[Any]:
    entries = document.get(name) or []
    if not isinstance(entries, list):
        raise ConfigurationError(f"{name} is a list")
    return enumerate(entries, 1)


def _rules(document: Mapping[str, Any]) -> dict[str, Rule | None]:
    """By name; None is one that is switched off, for which its name is enough."""
    found: dict[str, Rule | None] = {}
    for number, entry in _entries(document, "rules"):
        where = f"rules, entry {number}"
        rule: Rule | None = None
        if isinstance(entry, Mapping) and "enabled" in entry:
            enabled, name = entry["enabled"], entry.get("name")
            if not isinstance(enabled, bool) or not isinstance(name, str):
                raise ConfigurationError(f"{where}: enabled is true or false, beside the name of the rule")
            entry = {key: value for key, value in entry.items() if key != "enabled"}
        else:
            enabled, name = True, ""
        if enabled:
            rule = alert_rules.parse(entry, where)
            name = rule.name
        if name in found:
            raise ConfigurationError(f"{where}: there is a rule {name} before it: give it another name")
        found[name] = rule
    return found


def _silence(entry: Any, where: str) -> Silence:
    _known(entry, where, (*_SILENCE_PATTERNS, "until", "reason"))
    given = {name: entry[name] for name in _SILENCE_PATTERNS if name in entry}
    if not given or not all(isinstance(pattern, str) and pattern for pattern in given.values()):
        raise ConfigurationError(
            f"{where} says what is silent, by one or several of {', '.join(_SILENCE_PATTERNS)}, as text, in which * "
            "stands for anything"
        )
    return Silence(**given, ends=_until(entry.get("until"), where), reason=str(entry.get("reason", "")))


def _until(given: Any, where: str) -> float | None:
    """Seconds since the epoch. A day means its beginning, and a time without a zone UTC."""
    if given is None:
        return None
    if isinstance(given, str):
        try:
            given = datetime.fromisoformat(given)
        except ValueError:
            given = None
    elif isinstance(given, date) and not isinstance(given, datetime):
        given = datetime.combine(given, time())
    if not isinstance(given, datetime):
        raise ConfigurationError(f"{where}: until is a day or a time, as in 2026-12-01 or 2026-12-01T08:00:00+01:00")
    return (given if given.tzinfo is not None else given.replace(tzinfo=UTC)).timestamp()


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


def _hint(error: Exception, text: str) -> str:
    """What is the matter with a condition that YAML takes for the beginning of a block of text."""
    mark = getattr(error, "problem_mark", None)
    line = "" if mark is None else "".join(text.splitlines()[mark.line : mark.line + 1])
    return '; a condition that begins with > stands in quotes: "> 90"' if _BARE_CONDITION.search(line) else ""


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
