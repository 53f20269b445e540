"""What a payload is, as far as that can be told: its schema and fields, else its text, else its bytes.

Nothing of it is run or obeyed. A payload that breaks off, or that was written wrong, shows the fields before that.
"""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pulsetrain_schemas.columnar import DecodeError
from pulsetrain_schemas.framing import Framing
from pulsetrain_schemas.registry import RegistryError

_SHOWN_ITEMS = 8
_SHOWN_CHARACTERS = 400
_SHOWN_BYTES = 256


@dataclass(frozen=True, slots=True)
class Preview:
    """`fields` as Avro has them (differences where the schema says so); `problem` says what could not be read."""

    size: int
    schema: str | None = None
    fingerprint: str | None = None
    fields: Mapping[str, Any] | None = None
    problem: str | None = None
    text: str | None = None
    hex: str | None = None


def preview(payload: bytes, framing: Framing) -> Preview:
    """Looks into a payload. Never raises for what it holds."""
    try:
        schema, body = framing.unframe(payload)
    except (DecodeError, RegistryError) as error:
        text, raw = _text_or_hex(payload)
        return Preview(len(payload), problem=str(error), text=text, hex=raw)
    fields, problem = _fields(dict(schema.document), bytes(body))
    raw = None if fields else bytes(body[:_SHOWN_BYTES]).hex(" ")
    return Preview(len(payload), schema.name, schema.fingerprint.hex(), fields, problem, hex=raw)


def _fields(document: dict[str, Any], body: bytes) -> tuple[dict[str, Any], str | None]:
    """The fields, all or those before the first that cannot be read, and what was wrong."""
    from fastavro import schemaless_reader

    problem = None
    for count in range(len(document["fields"]), 0, -1):
        stream = io.BytesIO(body)
        try:
            record: Any = schemaless_reader(stream, {**document, "fields": document["fields"][:count]}, None)
        except Exception as error:  # noqa: BLE001  on malformed bytes fastavro raises whatever its reading meets
            problem = f"{document['fields'][count - 1]['name']} cannot be read: {type(error).__name__}: {error}"
            continue
        if problem is None and stream.tell() < len(body):
            problem = f"{len(body) - stream.tell()} bytes follow the end of the {document['name']}"
        return {name: _shortened(value) for name, value in record.items()}, problem
    return {}, problem


def _shortened(value: Any) -> Any:
    match value:
        case bytes():
            text, raw = _text_or_hex(value)
            return text if raw is None else f"{len(value)} bytes: {raw}"
        case str() if len(value) > _SHOWN_CHARACTERS:
            return f"{value[:_SHOWN_CHARACTERS]}… ({len(value):,} characters)"
        case list():
            shown = [_shortened(item) for item in value[:_SHOWN_ITEMS]]
            return shown if len(value) <= _SHOWN_ITEMS else [*shown, f"… {len(value):,} in all"]
        case dict():
            shown_items = dict(list(value.items())[:_SHOWN_ITEMS])
            more = {"…": f"{len(value):,} in all"} if len(value) > _SHOWN_ITEMS else {}
            return {key: _shortened(item) for key, item in shown_items.items()} | more
        case _:
            return value


def _text_or_hex(payload: bytes) -> tuple[str | None, str | None]:
    """The payload as text where it is text, else as hexadecimal digits; the beginning of it."""
    start = payload[:_SHOWN_CHARACTERS]
    try:
        # A cut may go through the last character.
        text = start.decode("utf-8") if len(start) == len(payload) else start[:-4].decode("utf-8", "ignore")
    except UnicodeDecodeError:
        text = None
    if text is not None and all(character.isprintable() or character in "\n\t" for character in text):
        return text + ("…" if len(payload) > len(start) else ""), None
    return None, payload[:_SHOWN_BYTES].hex(" ") + (" …" if len(payload) > _SHOWN_BYTES else "")
