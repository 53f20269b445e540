"""The packets of ClickHouse's native protocol, as far as a server of revision 54453 reads and writes them.

That revision is the last one without flags of custom serialisation in blocks (54454) and without an addendum to the
handshake (54458). What a packet holds depends on the revision that both sides know, the lower one of the two.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

from pulsetrain_local.clickhouse.wire import ProtocolError, Source, string, varint

SERVER_REVISION = 54453
SERVER_NAME = "ClickHouse"

WITH_SERVER_TIMEZONE = 54058
WITH_QUOTA_KEY = 54060
WITH_DISPLAY_NAME = 54372
WITH_VERSION_PATCH = 54401
WITH_WRITTEN_ROWS = 54420
WITH_SETTINGS_AS_STRINGS = 54429
WITH_INTERSERVER_SECRET = 54441
WITH_OPENTELEMETRY = 54442
WITH_DISTRIBUTED_DEPTH = 54448
WITH_QUERY_START_TIME = 54449
WITH_PARALLEL_REPLICAS = 54453
OLDEST_REVISION = WITH_SERVER_TIMEZONE

LONGEST_NAME = 1 << 16
LONGEST_QUERY = 256 << 20
MOST_SETTINGS = 10_000
TCP_INTERFACE = 1
UNKNOWN_PACKET_FROM_CLIENT = 99
SETTING_IS_IMPORTANT = 1
WRITTEN_AS_VARINT = frozenset(
    {"UInt64", "Int64", "Bool", "Seconds", "Milliseconds", "MaxThreads", "BoolAuto", "UInt64Auto"}
)


class FromClient(IntEnum):
    """The packets that a client sends."""

    HELLO = 0
    QUERY = 1
    DATA = 2
    CANCEL = 3
    PING = 4
    TABLES_STATUS_REQUEST = 5
    KEEP_ALIVE = 6


class FromServer(IntEnum):
    """The packets that a server sends."""

    HELLO = 0
    DATA = 1
    EXCEPTION = 2
    PROGRESS = 3
    PONG = 4
    END_OF_STREAM = 5
    PROFILE_INFO = 6


@dataclass(frozen=True, slots=True)
class ClientHello:
    """Who connects."""

    name: str
    version: str
    revision: int
    database: str
    user: str
    password: str

    def __repr__(self) -> str:
        return f"{self.name} {self.version} (revision {self.revision}), user {self.user!r}"


@dataclass(frozen=True, slots=True)
class Setting:
    """A setting of one query, as text. An important one must not be passed over where it is not known."""

    name: str
    value: str
    important: bool


@dataclass(frozen=True, slots=True)
class Query:
    """A query and what belongs to it."""

    query_id: str
    settings: tuple[Setting, ...]
    compressed: bool
    text: str


def read_hello(source: Source) -> ClientHello:
    """The client's first packet, behind its packet type."""
    name = source.string(LONGEST_NAME)
    major, minor, revision = source.varint(), source.varint(), source.varint()
    database, user, password = (source.string(LONGEST_NAME) for _ in range(3))
    return ClientHello(name, f"{major}.{minor}", revision, database, user, password)


def read_query(source: Source, revision: int, type_of_setting: Callable[[str], str | None]) -> Query:
    """A Query packet, behind its packet type.

    Clients before 54429 write a setting's value in a form that depends on its type, which `type_of_setting` tells.
    """
    query_id = source.string(LONGEST_NAME)
    _skip_client_info(source, revision)
    if revision >= WITH_SETTINGS_AS_STRINGS:
        settings = _read_settings(source)
    else:
        settings = _read_settings_by_type(source, type_of_setting)
    if revision >= WITH_INTERSERVER_SECRET:
        source.string(LONGEST_NAME)
    source.varint()  # the stage to which the query is to be processed: a client asks for the whole
    compressed = source.varint() != 0
    return Query(query_id, settings, compressed, source.string(LONGEST_QUERY))


def _skip_client_info(source: Source, revision: int) -> None:
    if source.byte() == 0:
        return
    for _ in range(3):  # the initial user, query id and address
        source.string(LONGEST_NAME)
    if revision >= WITH_QUERY_START_TIME:
        source.skip(8)
    interface = source.byte()
    if interface != TCP_INTERFACE:
        raise ProtocolError(
            f"a query says that it came by interface {interface}, and only 1, the native one, is served"
        )
    for _ in range(3):  # the user of the system, the host name and the client's name
        source.string(LONGEST_NAME)
    for _ in range(3):  # the client's version and revision
        source.varint()
    if revision >= WITH_QUOTA_KEY:
        source.string(LONGEST_NAME)
    if revision >= WITH_DISTRIBUTED_DEPTH:
        source.varint()
    if revision >= WITH_VERSION_PATCH:
        source.varint()
    if revision >= WITH_OPENTELEMETRY and source.byte():
        source.skip(24)  # trace and span
        source.string(LONGEST_NAME)
        source.skip(1)
    if revision >= WITH_PARALLEL_REPLICAS:
        for _ in range(3):
            source.varint()


def _read_settings(source: Source) -> tuple[Setting, ...]:
    settings = list[Setting]()
    while name := source.string(LONGEST_NAME):
        flags = source.varint()
        settings.append(Setting(name, source.string(LONGEST_QUERY), bool(flags & SETTING_IS_IMPORTANT)))
        if len(settings) > MOST_SETTINGS:
            raise ProtocolError(f"a query brings more than {MOST_SETTINGS:,} settings")
    return tuple(settings)


def _read_settings_by_type(source: Source, type_of_setting: Callable[[str], str | None]) -> tuple[Setting, ...]:
    settings = list[Setting]()
    while name := source.string(LONGEST_NAME):
        kind = type_of_setting(name)
        if kind is None:
            raise ProtocolError(
                f"Unknown setting '{name}'. A client this old writes a value in the form of its type, so what follows "
                "cannot be read. (UNKNOWN_SETTING)",
                115,
            )
        settings.append(Setting(name, _read_typed_value(source, kind), important=True))
        if len(settings) > MOST_SETTINGS:
            raise ProtocolError(f"a query brings more than {MOST_SETTINGS:,} settings")
    return tuple(settings)


def _read_typed_value(source: Source, kind: str) -> str:
    if kind.removeprefix("NonZero") in WRITTEN_AS_VARINT:
        return str(source.varint())
    if kind == "Float":
        (value,) = struct.unpack("<f", source.take(4))
        return repr(value)
    if kind == "Char":
        return chr(source.byte())
    return source.string(LONGEST_QUERY)


def hello(version: tuple[int, int, int], timezone: str, display_name: str, revision: int) -> bytes:
    """The server's first packet; `revision` is the one that both sides know."""
    packet = [
        varint(FromServer.HELLO),
        string(SERVER_NAME),
        varint(version[0]),
        varint(version[1]),
        varint(SERVER_REVISION),
    ]
    if revision >= WITH_SERVER_TIMEZONE:
        packet.append(string(timezone))
    if revision >= WITH_DISPLAY_NAME:
        packet.append(string(display_name))
    if revision >= WITH_VERSION_PATCH:
        packet.append(varint(version[2]))
    return b"".join(packet)


def exception(code: int, message: str) -> bytes:
    """An Exception packet; the message is what stands behind `DB::Exception: `."""
    return b"".join(
        (
            varint(FromServer.EXCEPTION),
            struct.pack("<i", code),
            string("DB::Exception"),
            string(f"DB::Exception: {message}"),
            string(""),  # no stack trace
            b"\x00",  # nothing nested
        )
    )


@dataclass(frozen=True, slots=True)
class Progress:
    """What a query has read and written so far, and how many rows it is known to have to read."""

    rows: int = 0
    size: int = 0
    total_rows: int = 0
    written_rows: int = 0
    written_bytes: int = 0

    def since(self, earlier: "Progress") -> "Progress":
        """What came on top since then."""
        return Progress(
            max(0, self.rows - earlier.rows),
            max(0, self.size - earlier.size),
            max(0, self.total_rows - earlier.total_rows),
            max(0, self.written_rows - earlier.written_rows),
            max(0, self.written_bytes - earlier.written_bytes),
        )


def progress(step: Progress, revision: int) -> bytes:
    """A Progress packet; `step` is what came on top since the last one."""
    packet = varint(FromServer.PROGRESS) + varint(step.rows) + varint(step.size) + varint(step.total_rows)
    if revision >= WITH_WRITTEN_ROWS:
        packet += varint(step.written_rows) + varint(step.written_bytes)
    return packet


def profile_info(rows: int, blocks: int, size: int) -> bytes:
    """The size of a result. Whether a LIMIT cut it is not known here; that it did not is said as if it were.

    Were it said to be unknown, an old client would try to find it out and crash.
    """
    packet = varint(FromServer.PROFILE_INFO) + varint(rows) + varint(blocks) + varint(size)
    applied_limit, rows_before_limit, is_calculated = b"\x00", varint(0), b"\x01"
    return packet + applied_limit + rows_before_limit + is_calculated


DATA_PREFIX = varint(FromServer.DATA) + string("")  # a block of the result: of no external table
PONG = varint(FromServer.PONG)
END_OF_STREAM = varint(FromServer.END_OF_STREAM)
