"""Where the bytes of a column end: the layouts of ClickHouse's types in format Native, as far as walking them needs.

Nothing is decoded. A column is a prefix (the versions of the dictionaries within) and then its rows; a nested type
writes the prefixes of all its parts first. The layouts are those of revisions before 54454: no custom serialisations.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import lru_cache

from pulsetrain_local.clickhouse.wire import ProtocolError, Source

DEEPEST_TYPE = 64

INTEGER_WIDTHS = {f"{sign}{bits}": bits // 8 for sign in ("Int", "UInt") for bits in (8, 16, 32, 64, 128, 256)}
WIDTHS = {
    1: ("Bool", "Enum8", "Nothing"),
    2: ("BFloat16", "Date", "Enum16"),
    4: ("Float32", "Date32", "DateTime", "Time", "IPv4", "Decimal32"),
    8: ("Float64", "DateTime64", "Time64", "Decimal64"),
    16: ("UUID", "IPv6", "Decimal128", "Point"),
    32: ("Decimal256",),
}
FIXED_WIDTHS = INTEGER_WIDTHS | {name: width for width, names in WIDTHS.items() for name in names}
GEOMETRY_DEPTHS = {"Ring": 1, "LineString": 1, "Polygon": 2, "MultiLineString": 2, "MultiPolygon": 3}
DECIMAL_WIDTHS = ((9, 4), (18, 8), (38, 16), (76, 32))


class UnknownLayout(ValueError):
    """A type whose bytes this module cannot walk."""


class Layout(ABC):
    """How a type lies in a column. Most types write nothing before their rows."""

    def skip_prefix(self, source: Source) -> None:
        """Moves past what comes before the rows."""
        del source

    @abstractmethod
    def skip_rows(self, source: Source, rows: int) -> None:
        """Moves past `rows` values."""


class Fixed(Layout):
    """Values of one width."""

    def __init__(self, width: int) -> None:
        self._width = width

    def skip_rows(self, source: Source, rows: int) -> None:
        source.skip(self._width * rows)


class Text(Layout):
    """String: each value a length and its bytes."""

    def skip_rows(self, source: Source, rows: int) -> None:
        buffer, position = source.buffer, source.position
        arrived = len(buffer)
        for _ in range(rows):
            if position >= arrived:
                source.need(position + 1 - source.position)
                arrived = len(buffer)
            length = buffer[position]
            if length < 0x80:
                position += length + 1
            else:
                source.need(position - source.position)
                source.position = position
                length = source.varint()
                position = source.position + length
        source.skip(position - source.position)


class NullableLayout(Layout):
    """A byte a row for NULL, then the values."""

    def __init__(self, inner: Layout) -> None:
        self._inner = inner

    def skip_prefix(self, source: Source) -> None:
        self._inner.skip_prefix(source)

    def skip_rows(self, source: Source, rows: int) -> None:
        source.skip(rows)
        self._inner.skip_rows(source, rows)


class ArrayLayout(Layout):
    """The end of each array, then the values of all of them."""

    def __init__(self, inner: Layout) -> None:
        self._inner = inner

    def skip_prefix(self, source: Source) -> None:
        self._inner.skip_prefix(source)

    def skip_rows(self, source: Source, rows: int) -> None:
        if rows == 0:
            return
        source.skip(8 * (rows - 1))
        self._inner.skip_rows(source, source.uint64())


class TupleLayout(Layout):
    """The columns of the elements, one after another."""

    def __init__(self, elements: Sequence[Layout]) -> None:
        self._elements = elements

    def skip_prefix(self, source: Source) -> None:
        for element in self._elements:
            element.skip_prefix(source)

    def skip_rows(self, source: Source, rows: int) -> None:
        for element in self._elements:
            element.skip_rows(source, rows)


class LowCardinalityLayout(Layout):
    """A dictionary and the rows' indexes into it."""

    SHARED_DICTIONARIES_WITH_ADDITIONAL_KEYS = 1
    NEEDS_GLOBAL_DICTIONARY = 1 << 8
    HAS_ADDITIONAL_KEYS = 1 << 9

    def __init__(self, keys: Layout) -> None:
        self._keys = keys

    def skip_prefix(self, source: Source) -> None:
        version = source.uint64()
        if version != self.SHARED_DICTIONARIES_WITH_ADDITIONAL_KEYS:
            raise ProtocolError(f"a LowCardinality column has version {version}, and only 1 is known")

    def skip_rows(self, source: Source, rows: int) -> None:
        if rows == 0:
            return
        flags = source.uint64()
        width_exponent = flags & 0xFF
        if width_exponent > 3 or flags & self.NEEDS_GLOBAL_DICTIONARY or not flags & self.HAS_ADDITIONAL_KEYS:
            raise ProtocolError(f"a LowCardinality column has flags {flags:#x}, which the native protocol does not use")
        self._keys.skip_rows(source, source.uint64())
        indexes = source.uint64()
        if indexes != rows:
            raise ProtocolError(f"a LowCardinality column has {indexes} indexes for {rows} rows")
        source.skip(rows << width_exponent)


@lru_cache(maxsize=1024)
def layout(type_name: str) -> Layout:
    """The layout of a type, given by its full name. Raises UnknownLayout for one that cannot be walked."""
    return _layout(type_name, DEEPEST_TYPE)


def _layout(type_name: str, depth: int) -> Layout:
    if depth == 0:
        raise UnknownLayout(f"the type {type_name} is nested too deep")
    name, arguments = split_type(type_name)

    def inner(position: int) -> Layout:
        if position >= len(arguments):
            raise UnknownLayout(f"the type {type_name} lacks an argument")
        return _layout(arguments[position], depth - 1)

    match name:
        case "String":
            return Text()
        case "FixedString":
            return Fixed(_number(type_name, arguments[:1]))
        case "Decimal":
            precision = _number(type_name, arguments[:1])
            for largest, width in DECIMAL_WIDTHS:
                if precision <= largest:
                    return Fixed(width)
            raise UnknownLayout(f"the type {type_name} has too many digits")
        case "Nullable":
            return NullableLayout(inner(0))
        case "Array":
            return ArrayLayout(inner(0))
        case "Map":
            return ArrayLayout(TupleLayout([inner(0), inner(1)]))
        case "Tuple" if arguments:
            return TupleLayout([_layout(without_name(element), depth - 1) for element in arguments])
        case "Nested" if arguments:
            return ArrayLayout(TupleLayout([_layout(without_name(element), depth - 1) for element in arguments]))
        case "LowCardinality":
            keys = arguments[0] if arguments else ""
            kind, nested = split_type(keys)
            return LowCardinalityLayout(_layout(nested[0] if kind == "Nullable" and nested else keys, depth - 1))
        case "SimpleAggregateFunction":
            return inner(1)
    if name in FIXED_WIDTHS:
        return Fixed(FIXED_WIDTHS[name])
    if name in GEOMETRY_DEPTHS:
        nested_layout: Layout = Fixed(FIXED_WIDTHS["Point"])
        for _ in range(GEOMETRY_DEPTHS[name]):
            nested_layout = ArrayLayout(nested_layout)
        return nested_layout
    if name.startswith("Interval"):
        return Fixed(8)
    raise UnknownLayout(f"the type {type_name} cannot be taken here")


def split_type(type_name: str) -> tuple[str, list[str]]:
    """A type's name and its arguments: `Map(String, Array(UInt8))` -> `Map`, [`String`, `Array(UInt8)`]."""
    name, bracket, rest = type_name.strip().partition("(")
    if not bracket:
        return name.strip(), []
    if not rest.endswith(")"):
        raise UnknownLayout(f"the type {type_name} does not close its bracket")
    arguments, depth, start, body = [], 0, 0, rest[:-1]
    for match in re.finditer(r"'(?:[^'\\]|\\.)*+'|`(?:[^`\\]|\\.)*+`|[(),]", body):
        match match.group():
            case "(":
                depth += 1
            case ")":
                depth -= 1
            case "," if depth == 0:
                arguments.append(body[start : match.start()].strip())
                start = match.end()
    last = body[start:].strip()
    if last:
        arguments.append(last)
    return name.strip(), arguments


def without_name(element: str) -> str:
    """The type of a tuple's element, which may have a name before it: `a Array(Int8)` -> `Array(Int8)`."""
    match = re.match(r"(?:`(?:[^`\\]|\\.)*+`|\w+)\s+(?=\w)", element)
    return element[match.end() :] if match else element


def _number(type_name: str, arguments: Sequence[str]) -> int:
    if not arguments or not arguments[0].isdigit():
        raise UnknownLayout(f"the type {type_name} lacks its number")
    return int(arguments[0])
