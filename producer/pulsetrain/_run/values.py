"""What log() is given, made into numbers and JSON: the way of everything that is no plain row of numbers.

Libraries whose values come here (numpy, torch, jax, pandas …) are recognised by what their values can do, and never
imported.
"""

import json
import math
from collections.abc import Mapping
from typing import Any

# Nested deeper, a value is shown by its repr.
MAX_DEPTH = 32
# A text beyond this is replaced by its beginning: a message to Kafka has to stay small.
MAX_TEXT_CHARACTERS = 200_000
HEAD_CHARACTERS = 1_000
TRUNCATED = '{"_type":"truncated",'
# Arrays up to this size are kept as lists, larger ones by their shape and type.
MAX_ARRAY_ITEMS = 10_000


def split(data: Mapping[str, Any]) -> tuple[dict[str, float], dict[str, str]]:
    """Numbers by key, and everything else as JSON by key. Nested dictionaries are joined with dots."""
    numbers: dict[str, float] = {}
    texts: dict[str, str] = {}
    _split(data, "", numbers, texts, 0)
    return numbers, texts


def _split(data: Mapping[Any, Any], prefix: str, numbers: dict[str, float], texts: dict[str, str], depth: int) -> None:
    for key, value in data.items():
        name = prefix + clean_text(key if isinstance(key, str) else str(key))
        numbers.pop(name, None)  # the later of two spellings of one key counts
        texts.pop(name, None)
        found = number(value)
        if found is not None:
            numbers[name] = found
        elif isinstance(value, Mapping) and value and depth < MAX_DEPTH:
            _split(value, f"{name}.", numbers, texts, depth + 1)
        else:
            texts[name] = to_json(value)


def number(value: Any) -> float | None:
    """The value as a float64, if it is one number: also a scalar or an array of one element of any library."""
    if isinstance(value, bool | int | float):
        try:
            return float(value)
        except OverflowError:
            return None
    if value is None or isinstance(value, str | bytes | bytearray | Mapping | list | tuple | set | frozenset):
        return None
    try:
        if math.prod(getattr(value, "shape", ())) != 1:
            return None
        item = value.item() if hasattr(value, "item") else value
        return None if isinstance(item, str | bytes) or not hasattr(item, "__float__") else float(item)
    except Exception:  # noqa: BLE001 - the value is of a foreign class and may raise anything: then it is no number
        return None


def plain(value: Any, depth: int = 0) -> Any:
    """The value as what JSON has: NaN and the infinities become strings, what is unknown its repr."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, int):
        # Python refuses to write integers of more than 4,300 digits in decimal.
        return int(value) if value.bit_length() < 10_000 else hex(value)
    if isinstance(value, float):
        if math.isfinite(value):
            return float(value)
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if depth >= MAX_DEPTH:
        return _shown(value)
    if isinstance(value, Mapping):
        return {clean_text(str(key)): plain(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item, depth + 1) for item in value]
    found = number(value)
    if found is not None:
        return plain(found if not found.is_integer() or _is_floating(value) else int(found))
    return _foreign(value, depth)


def _is_floating(value: Any) -> bool:
    return "int" not in str(getattr(value, "dtype", "")) and "bool" not in str(getattr(value, "dtype", ""))


def _foreign(value: Any, depth: int) -> Any:
    try:
        shape = getattr(value, "shape", None)
        if isinstance(shape, tuple) and hasattr(value, "tolist"):
            if math.prod(shape) <= MAX_ARRAY_ITEMS:
                return plain(value.tolist(), depth + 1)
            return {"_type": "array", "shape": list(shape), "dtype": str(getattr(value, "dtype", ""))}
        if hasattr(value, "isoformat"):
            return clean_text(str(value.isoformat()))
    except Exception:  # noqa: BLE001 - as in number()
        return _shown(value)
    return _shown(value)


def _shown(value: Any) -> str:
    try:
        return clean_text(repr(value)[:HEAD_CHARACTERS])
    except Exception:  # noqa: BLE001 - a repr may raise anything
        return f"<{type(value).__name__}>"


def to_json(value: Any) -> str:
    """The value as JSON that every reader takes, of bounded length."""
    text = json.dumps(plain(value), allow_nan=False, separators=(",", ":"), ensure_ascii=False)
    if len(text) > MAX_TEXT_CHARACTERS:
        cut = {"_type": "truncated", "characters": len(text), "head": text[:HEAD_CHARACTERS]}
        return json.dumps(cut, ensure_ascii=False, separators=(",", ":"))
    return text


def clean_text(text: str) -> str:
    """The text without what UTF-8 cannot hold (halves of surrogate pairs, as they come from odd file names)."""
    if text.isascii():
        return str(text)
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
