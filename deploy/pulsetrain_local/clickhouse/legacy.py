"""Types for clients that are older than they are: such a client gets the text of what it cannot read.

A client tells its revision, not the types it knows. The table below says with which revision a type came; before it, a
column that has the type anywhere within is cast to String. That is what `clickhouse-client` would print for it anyway.
"""

from collections.abc import Sequence

from pulsetrain_local.clickhouse.blocks import Column
from pulsetrain_local.clickhouse.columns import UnknownLayout, layout, split_type, without_name
from pulsetrain_schemas.sql import identifier

# The first protocol revision, nearly, whose clients know the type. What stands in no list is as old as the protocol.
FIRST_REVISIONS = {
    "LowCardinality": 54405,
    "IPv4": 54416,
    "IPv6": 54416,
    "SimpleAggregateFunction": 54416,
    "DateTime64": 54431,
    **dict.fromkeys(("Int128", "Int256", "UInt128", "UInt256", "Decimal256"), 54443),
    **dict.fromkeys(("Map", "Point", "Ring", "Polygon", "MultiPolygon"), 54447),
    "Date32": 54449,
    "Bool": 54453,
    **dict.fromkeys(("JSON", "Object", "Variant", "Dynamic", "LineString", "MultiLineString", "Geometry"), 54460),
    **dict.fromkeys(("Time", "Time64", "BFloat16", "QBit"), 54469),
}
# A client of this revision knows all that a server of this revision sends.
CURRENT_REVISION = 54453
COMMAND_LINE_CLIENT = "ClickHouse client"
WIDEST_DECIMAL128 = 38
# So that a query within another keeps its order.
KEEP_ORDER = "query_plan_remove_redundant_sorting = 0, optimize_duplicate_order_by_and_distinct = 0"


def understands(revision: int, type_name: str) -> bool:
    """Whether a client of this revision knows a type and all within it."""
    try:
        name, arguments = split_type(type_name)
    except UnknownLayout:
        return False
    if revision < FIRST_REVISIONS.get(name, 0):
        return False
    if name == "Decimal" and arguments and arguments[0].isdigit() and int(arguments[0]) > WIDEST_DECIMAL128:
        return revision >= FIRST_REVISIONS["Decimal256"]
    if name in {"Array", "Nullable", "LowCardinality", "Map"}:
        return all(understands(revision, argument) for argument in arguments)
    if name in {"Tuple", "Nested"}:
        return all(understands(revision, without_name(argument)) for argument in arguments)
    return True


def for_selecting(columns: Sequence[Column], sql: str, revision: int) -> str:
    """The query, with the columns that the client would not understand cast to String."""
    if all(understands(revision, column.type) for column in columns):
        return sql
    if len({column.name for column in columns}) < len(columns):
        return sql
    expressions = ", ".join(
        identifier(column.name)
        if understands(revision, column.type)
        else f"toString({identifier(column.name)}) AS {identifier(column.name)}"
        for column in columns
    )
    return f"SELECT {expressions} FROM ({sql}\n) SETTINGS {KEEP_ORDER}"  # noqa: S608 - it is the client's own query


def for_inserting(columns: Sequence[Column], revision: int) -> tuple[Column, ...]:
    """The columns that the client is to send: String, which the engine casts, where it or this server lacks a type."""
    return tuple(
        column if understands(revision, column.type) and _can_be_walked(column.type) else Column(column.name, "String")
        for column in columns
    )


def _can_be_walked(type_name: str) -> bool:
    try:
        layout(type_name)
    except UnknownLayout:
        return False
    return True
