"""Where the parts of the pipeline are: the environment variables and the file of the local stack that name them.

Everything that connects to anything asks here, so that the SDK, the services and the command agree. A variable that is
set wins; else the local stack that runs under the same home counts. This module needs the standard library alone and
is cheap to import, for training processes do so: what only some callers need is imported where it is used. Nothing here
shows a password in its repr, its str or its errors.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

STACK_VERSION = 1

_KAFKA_SECURITY = {
    "PULSETRAIN_KAFKA_SECURITY_PROTOCOL": "security_protocol",
    "PULSETRAIN_KAFKA_SASL_MECHANISM": "sasl_mechanism",
    "PULSETRAIN_KAFKA_SASL_USERNAME": "sasl_plain_username",
    "PULSETRAIN_KAFKA_SASL_PASSWORD": "sasl_plain_password",
    "PULSETRAIN_KAFKA_SASL_KERBEROS_NAME": "sasl_kerberos_name",
    "PULSETRAIN_KAFKA_SASL_KERBEROS_SERVICE_NAME": "sasl_kerberos_service_name",
    "PULSETRAIN_KAFKA_SASL_KERBEROS_DOMAIN_NAME": "sasl_kerberos_domain_name",
    "PULSETRAIN_KAFKA_SSL_CAFILE": "ssl_cafile",
    "PULSETRAIN_KAFKA_SSL_CERTFILE": "ssl_certfile",
    "PULSETRAIN_KAFKA_SSL_KEYFILE": "ssl_keyfile",
    "PULSETRAIN_KAFKA_SSL_PASSWORD": "ssl_password",
    "PULSETRAIN_KAFKA_SSL_CRLFILE": "ssl_crlfile",
    "PULSETRAIN_KAFKA_SSL_CHECK_HOSTNAME": "ssl_check_hostname",
}
_SECRETS = frozenset({"sasl_plain_password", "ssl_password"})
_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off"})


class AddressError(ValueError):
    """An address, or the file that should hold it, is not understood; the text says which, and what is expected."""


def environment(name: str, env: Mapping[str, str] = os.environ) -> str | None:
    """The value of PULSETRAIN_<name>, else of WANDB_<name>; an empty one counts as not set."""
    return env.get(f"PULSETRAIN_{name}") or env.get(f"WANDB_{name}") or None


def home(env: Mapping[str, str] = os.environ) -> Path:
    """The directory of the local stack's state: PULSETRAIN_HOME, else ~/.pulsetrain. It need not exist."""
    given = env.get("PULSETRAIN_HOME")
    if given:
        return Path(given).expanduser().absolute()
    user_home = env.get("HOME")
    return (Path(user_home) if user_home else Path.home()) / ".pulsetrain"


def stack_file(home: Path) -> Path:
    """The file that the local stack of this home writes when all of it is ready."""
    return home / "stack.json"


@dataclass(frozen=True, slots=True, repr=False)
class KafkaAddress:
    """Bootstrap servers, and the security settings under the names that kafka-python's clients take."""

    bootstrap_servers: tuple[str, ...]
    security: Mapping[str, Any] = field(default_factory=dict)

    def client_config(self) -> dict[str, Any]:
        """Keyword arguments for a kafka-python client."""
        return {"bootstrap_servers": list(self.bootstrap_servers), **self.security}

    def __str__(self) -> str:
        return ",".join(self.bootstrap_servers)

    def __repr__(self) -> str:
        shown = {name: "***" if name in _SECRETS else value for name, value in self.security.items()}
        return f"KafkaAddress(bootstrap_servers={self.bootstrap_servers!r}, security={shown!r})"


@dataclass(frozen=True, slots=True)
class ClickHouseAddress:
    """What `clickhouse://user:password@host:port/database?option=value` says; `clickhouses://` means TLS."""

    host: str
    port: int
    user: str
    password: str = field(repr=False)
    database: str
    secure: bool = False
    options: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, url: str) -> "ClickHouseAddress":
        """Reads a URL; user, password and database may be percent-encoded. AddressError hides the password."""
        from urllib.parse import parse_qsl, unquote, urlsplit

        expected = "expected clickhouse://user:password@host:port/database (special characters percent-encoded)"
        try:
            parts = urlsplit(url)
            port = parts.port
            host = parts.hostname
        except ValueError:
            # The text of the original error may hold a piece of the password.
            raise AddressError(f"the ClickHouse address has no valid host and port; {expected}") from None
        if parts.scheme not in ("clickhouse", "clickhouses"):
            raise AddressError(f"the ClickHouse address does not start with clickhouse://; {expected}")
        if not host:
            raise AddressError(f"the ClickHouse address names no host; {expected}")
        if "/" in parts.path.removeprefix("/"):
            raise AddressError(f"the ClickHouse address has more than a database after the host; {expected}")
        if parts.fragment:
            raise AddressError(f"the ClickHouse address has a # in it; {expected}")
        options = dict(parse_qsl(parts.query, keep_blank_values=True))
        secure = parts.scheme == "clickhouses"
        if "secure" in options:
            secure = _flag("secure in the ClickHouse address", options.pop("secure"))
        return cls(
            host=host,
            port=port if port is not None else (9440 if secure else 9000),
            user=unquote(parts.username or "default"),
            password=unquote(parts.password or ""),
            database=unquote(parts.path.removeprefix("/")) or "pulsetrain",
            secure=secure,
            options=options,
        )

    def url(self, *, with_password: bool = True) -> str:
        """The address as a URL that `parse` reads back; without its password where it is to be shown."""
        from urllib.parse import quote, urlencode

        user = quote(self.user, safe="")
        if self.password:
            user += ":" + (quote(self.password, safe="") if with_password else "***")
        host = f"[{self.host}]" if ":" in self.host else self.host
        scheme = "clickhouses" if self.secure else "clickhouse"
        query = "?" + urlencode(self.options) if self.options else ""
        return f"{scheme}://{user}@{host}:{self.port}/{quote(self.database, safe='')}{query}"

    def __str__(self) -> str:
        return self.url(with_password=False)


@dataclass(frozen=True, slots=True)
class GrafanaAddress:
    """What `http://TOKEN@host:port/path` says (a service account's token), or `http://user:password@…`; https too."""

    scheme: str
    host: str
    port: int | None
    path: str
    token: str = field(default="", repr=False)
    user: str = ""
    password: str = field(default="", repr=False)

    @classmethod
    def parse(cls, url: str) -> "GrafanaAddress":
        """Reads a URL; token, user and password may be percent-encoded. AddressError hides them."""
        from urllib.parse import unquote, urlsplit

        expected = "it is http://TOKEN@HOST:3000 or http://USER:PASSWORD@HOST:3000"
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            raise AddressError(expected) from None
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise AddressError(expected)
        user, password = unquote(parts.username or ""), unquote(parts.password or "")
        who = {"user": user, "password": password} if password else {"token": user}
        return cls(parts.scheme, parts.hostname, port, parts.path.strip("/"), **who)

    def client_config(self) -> dict[str, Any]:
        """The arguments of grafana-api's GrafanaFace that reach it."""
        return {
            "auth": (self.user, self.password) if self.password else self.token,
            "host": f"[{self.host}]" if ":" in self.host else self.host,
            "port": self.port,
            "protocol": self.scheme,
            "url_path_prefix": f"{self.path}/" if self.path else "",
        }

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port is None else f":{self.port}"
        return f"{self.scheme}://{host}{port}" + (f"/{self.path}" if self.path else "")


def kafka(env: Mapping[str, str] = os.environ) -> KafkaAddress | None:
    """Where Kafka is: PULSETRAIN_KAFKA and its PULSETRAIN_KAFKA_* security settings, else the local stack."""
    given = env.get("PULSETRAIN_KAFKA")
    if given:
        return KafkaAddress(_bootstrap_servers(given, "PULSETRAIN_KAFKA"), _kafka_security(env))
    local = _stack_environment(env).get("PULSETRAIN_KAFKA")
    return KafkaAddress(_bootstrap_servers(local, str(stack_file(home(env))))) if local else None


def clickhouse(env: Mapping[str, str] = os.environ) -> ClickHouseAddress | None:
    """Where ClickHouse is: PULSETRAIN_CLICKHOUSE, else the local stack, else None."""
    url = env.get("PULSETRAIN_CLICKHOUSE") or _stack_environment(env).get("PULSETRAIN_CLICKHOUSE")
    return ClickHouseAddress.parse(url) if url else None


def grafana(env: Mapping[str, str] = os.environ) -> GrafanaAddress | None:
    """Where Grafana is: PULSETRAIN_GRAFANA, else the local stack's, else None."""
    url = env.get("PULSETRAIN_GRAFANA") or _stack_environment(env).get("PULSETRAIN_GRAFANA")
    return GrafanaAddress.parse(url) if url else None


def registry_url(env: Mapping[str, str] = os.environ) -> str | None:
    """The URL of the schema registry, PULSETRAIN_SCHEMA_REGISTRY; None means that messages carry a fingerprint."""
    return env.get("PULSETRAIN_SCHEMA_REGISTRY") or None


def running_stack(home: Path) -> dict[str, Any] | None:
    """What stack.json of this home says, or None where there is none or the supervisor that wrote it is gone.

    Raises AddressError for a file that is there and cannot be read or understood.
    """
    import json

    path = stack_file(home)
    try:
        stack = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise AddressError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise AddressError(f"{path} is not JSON; remove it and run `pulsetrain up` again") from error
    if not isinstance(stack, dict) or stack.get("version") != STACK_VERSION:
        raise AddressError(f"{path} was not written by this version of pulsetrain; run `pulsetrain down`, then `up`")
    pid, started, variables = stack.get("pid"), stack.get("started"), stack.get("environment")
    if not (isinstance(pid, int) and isinstance(started, int | float) and isinstance(variables, dict)):
        raise AddressError(f"{path} lacks pid, started or environment; run `pulsetrain down`, then `up`")
    return stack if _runs(pid, started) else None


def _stack_environment(env: Mapping[str, str]) -> Mapping[str, str]:
    stack = running_stack(home(env))
    return {} if stack is None else stack["environment"]


def _runs(pid: int, since: float) -> bool:
    """Whether process `pid` runs and is no newer than `since`: after a reboot the number may be another's."""
    if pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # it runs, as another user
    except OverflowError:
        return False
    try:
        # Fields after the command in parentheses: state is the first, the start time in clock ticks the twentieth.
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        boot = next(line for line in Path("/proc/stat").read_text().splitlines() if line.startswith("btime "))
        created = int(boot.split()[1]) + int(fields[19]) / os.sysconf("SC_CLK_TCK")
    except (OSError, StopIteration, IndexError, ValueError):
        return True  # no /proc on this system: the signal said that it runs
    return fields[0] not in ("Z", "X") and created <= since + 5


def _bootstrap_servers(text: str, where: str) -> tuple[str, ...]:
    servers = tuple(server.strip() for server in text.split(",") if server.strip())
    if not servers:
        raise AddressError(f"{where} names no server; expected host:port[,host:port…]")
    for server in servers:
        host, colon, port = server.rpartition(":")
        bare = not colon or (server.startswith("[") and server.endswith("]"))
        if "/" in server or "@" in server or not (bare or (host and port.isdecimal() and 0 < int(port) < 65536)):
            # A mistaken entry may be a URL with a password, so it is not repeated.
            raise AddressError(f"{where} holds an entry that is not host:port; expected host:port[,host:port…]")
    return servers


def _kafka_security(env: Mapping[str, str]) -> dict[str, Any]:
    security: dict[str, Any] = {name: env[variable] for variable, name in _KAFKA_SECURITY.items() if env.get(variable)}
    if "ssl_check_hostname" in security:
        security["ssl_check_hostname"] = _flag("PULSETRAIN_KAFKA_SSL_CHECK_HOSTNAME", security["ssl_check_hostname"])
    return security


def _flag(what: str, text: str) -> bool:
    if text.lower() in _TRUE:
        return True
    if text.lower() in _FALSE:
        return False
    raise AddressError(f"{what} is neither true nor false")
