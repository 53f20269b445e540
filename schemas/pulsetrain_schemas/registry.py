"""A small client for a schema registry that speaks Confluent's REST API: register, look up, check compatibility.

Answers that cannot change (an id's schema, a schema's id) are asked once. The standard library does the HTTP; user and
password come in the URL and never appear in an error. https://docs.confluent.io/platform/current/schema-registry/develop/api.html
"""

import base64
import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from http.client import HTTPException
from typing import Any
from urllib.parse import quote, unquote, urlsplit, urlunsplit

_CONTENT_TYPE = "application/vnd.schemaregistry.v1+json"
_LARGEST_ANSWER = 16 << 20
_NOT_FOUND = frozenset({40401, 40402, 40403})  # subject, version, schema


class RegistryError(Exception):
    """The registry refused or answered what it should not; `status` is the HTTP status where there was one."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class RegistryUnavailable(RegistryError):
    """The registry did not answer, or says that it cannot at present; asking again later may help."""


class IncompatibleSchema(RegistryError):
    """The registry holds an earlier version with which the schema is not compatible."""


class Registry:
    """One registry, by its URL (`https://user:password@host:port`). Every call takes at most `timeout` seconds."""

    def __init__(self, url: str, *, timeout: float = 10.0) -> None:
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError:
            host, port = None, None
        if not host or parts.scheme not in ("http", "https"):
            raise RegistryError(
                "the address of the schema registry is not http(s)://[user:password@]host[:port][/path]"
            )
        place = f"[{host}]" if ":" in host else host
        if port is not None:
            place = f"{place}:{port}"
        self.url = urlunsplit((parts.scheme, place, parts.path.rstrip("/"), "", ""))
        self._timeout = timeout
        self._headers = {"Accept": _CONTENT_TYPE, "Content-Type": _CONTENT_TYPE}
        if parts.username is not None:
            credentials = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            self._headers["Authorization"] = "Basic " + base64.b64encode(credentials.encode()).decode()
        self._ids: dict[tuple[str, str], int] = {}
        self._schemas: dict[int, dict[str, Any]] = {}

    def __repr__(self) -> str:
        return f"Registry({self.url!r})"

    def register(self, subject: str, schema: Mapping[str, Any]) -> int:
        """The id of the schema under this subject, registered now if it was not. Raises IncompatibleSchema."""
        text = json.dumps(schema)
        known = self._ids.get((subject, text))
        if known is not None:
            return known
        answer = self._ask("POST", f"/subjects/{quote(subject, safe='')}/versions", {"schema": text})
        schema_id = answer.get("id") if answer else None
        if not isinstance(schema_id, int) or not 0 <= schema_id < 2**32:
            raise RegistryError(f"the schema registry at {self.url} gave no id for {subject}")
        self._ids[subject, text] = schema_id
        return schema_id

    def by_id(self, schema_id: int) -> dict[str, Any] | None:
        """The schema with this id; None where the registry has none."""
        if schema_id not in self._schemas:
            answer = self._ask("GET", f"/schemas/ids/{schema_id}")
            if answer is None:
                return None
            try:
                document = json.loads(answer["schema"])
            except (KeyError, TypeError, ValueError) as error:
                raise RegistryError(f"the schema registry at {self.url} gave no schema for id {schema_id}") from error
            # A schema may be a bare name or a union; no message of ours has one, and the caller says so.
            self._schemas[schema_id] = document if isinstance(document, dict) else {"type": document}
        return self._schemas[schema_id]

    def is_compatible(self, subject: str, schema: Mapping[str, Any]) -> bool:
        """Whether the schema could be registered beside what the subject holds, by the subject's own rule."""
        answer = self._ask(
            "POST",
            f"/compatibility/subjects/{quote(subject, safe='')}/versions",
            {"schema": json.dumps(schema)},
        )
        return answer is None or bool(answer.get("is_compatible"))

    def require_full_transitive(self, subject: str) -> None:
        """Makes the registry hold every new version of the subject against all earlier ones, in both directions."""
        self._ask("PUT", f"/config/{quote(subject, safe='')}", {"compatibility": "FULL_TRANSITIVE"})

    def _ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any] | None:
        """The JSON object of an answer; None where the registry says that it has no such thing."""
        data = None if body is None else json.dumps(body).encode()
        # The scheme was checked to be http or https.
        request = urllib.request.Request(self.url + path, data, self._headers, method=method)  # noqa: S310
        try:
            with urllib.request.urlopen(request, timeout=self._timeout) as response:  # noqa: S310
                content = response.read(_LARGEST_ANSWER)
        except urllib.error.HTTPError as error:
            with error:
                self._raise_unless_not_found(error.code, error.read(_LARGEST_ANSWER), path)
                return None
        except (OSError, HTTPException) as error:
            reason = getattr(error, "reason", error)
            raise RegistryUnavailable(
                f"the schema registry at {self.url} does not answer: {reason}; is PULSETRAIN_SCHEMA_REGISTRY right?"
            ) from error
        answer = _object(content)
        if answer is None:
            raise RegistryError(f"{self.url}{path} answered something that is no JSON object; is it a schema registry?")
        return answer

    def _raise_unless_not_found(self, status: int, content: bytes, path: str) -> None:
        answer = _object(content) or {}
        if status == 404 and answer.get("error_code") in _NOT_FOUND:
            return
        message = str(answer.get("message", "no reason given"))[:1000]
        where = f"the schema registry at {self.url}"
        if status == 404:
            raise RegistryError(f"{where} has no {path}; is PULSETRAIN_SCHEMA_REGISTRY a registry's address?", status)
        if status in (401, 403):
            raise RegistryError(
                f"{where} refused access: {message}; put user and password into PULSETRAIN_SCHEMA_REGISTRY", status
            )
        if status == 409:
            raise IncompatibleSchema(
                f"{where} holds a version that is not compatible: {message}",
                status,
            )
        if status == 429 or status >= 500:
            raise RegistryUnavailable(f"{where} cannot answer at present ({status}): {message}", status)
        raise RegistryError(f"{where} refused {path} ({status}): {message}", status)


def _object(content: bytes) -> dict[str, Any] | None:
    try:
        answer = json.loads(content)
    except ValueError:
        return None
    return answer if isinstance(answer, dict) else None
