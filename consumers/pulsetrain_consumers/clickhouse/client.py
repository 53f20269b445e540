"""A small typed client over clickhouse-driver: queries, columnar inserts with a token, and errors that say what to do.

A client is one connection and belongs to one thread. It connects when it is first used and again after a failure.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import clickhouse_driver
import numpy as np
from clickhouse_driver import defines, errors
from clickhouse_driver.block import BlockInfo, ColumnOrientedBlock
from clickhouse_driver.protocol import ClientPacketTypes
from clickhouse_driver.varint import write_varint
from clickhouse_driver.writer import write_binary_str, write_binary_uint8
from numpy.typing import NDArray

from pulsetrain_consumers.clickhouse import native
from pulsetrain_consumers.clickhouse.errors import ClickHouseRefused, ClickHouseUnavailable, from_server
from pulsetrain_consumers.clickhouse.native import ColumnData
from pulsetrain_schemas.addresses import AddressError, ClickHouseAddress

# The driver logs every failed connection with a traceback; the error that we raise says the same in one line.
logging.getLogger("clickhouse_driver.connection").setLevel(logging.CRITICAL)

# A token stands for the whole insert only as long as the server does not cut the block, and as long as it waits for the
# insert: https://clickhouse.com/docs/guides/developer/deduplicating-inserts-on-retries
INSERT_SETTINGS: Mapping[str, Any] = {
    "async_insert": 0,
    "insert_deduplicate": 1,
    "min_insert_block_size_rows": 1_048_449,
    "min_insert_block_size_bytes": 268_402_944,
    "max_partitions_per_insert_block": 0,
    "distributed_foreground_insert": 1,  # where tables are distributed, it waits for the shards too
}


@dataclass(frozen=True, slots=True)
class Result:
    """Rows of a query, with the names and the ClickHouse types of its columns."""

    names: tuple[str, ...]
    types: tuple[str, ...]
    rows: list[tuple[Any, ...]]

    def one(self) -> Any:
        """The only value of a result of one row and one column."""
        ((value,),) = self.rows
        return value

    def dicts(self) -> list[dict[str, Any]]:
        return [dict(zip(self.names, row, strict=True)) for row in self.rows]


class Client:
    """One connection to ClickHouse. Raises ClickHouseUnavailable and ClickHouseRefused, nothing of the driver's."""

    def __init__(self, driver: clickhouse_driver.Client, address: ClickHouseAddress) -> None:
        self.address = address
        self.driver = driver

    def query(
        self, sql: str, params: Mapping[str, Any] | None = None, settings: Mapping[str, Any] | None = None
    ) -> Result:
        """Runs a SELECT. `params` fill `%(name)s` in the statement, escaped."""
        with self._errors():
            rows, columns = self.driver.execute(
                sql, dict(params) if params else None, with_column_types=True, settings=_settings(settings)
            )
        return Result(tuple(name for name, _ in columns), tuple(kind for _, kind in columns), list(rows))

    def arrays(
        self, sql: str, params: Mapping[str, Any] | None = None, settings: Mapping[str, Any] | None = None
    ) -> dict[str, NDArray[Any]]:
        """A SELECT as numpy arrays by column name; LowCardinality comes as pandas Categorical, times as datetime64."""
        with self._errors():
            data, columns = self.driver.execute(
                sql,
                dict(params) if params else None,
                with_column_types=True,
                columnar=True,
                settings={**_settings(settings), "use_numpy": True},
            )
        names = [name for name, _ in columns]
        return dict(zip(names, data, strict=True)) if len(data) else {name: np.empty(0) for name in names}

    def stream(
        self, sql: str, params: Mapping[str, Any] | None = None, settings: Mapping[str, Any] | None = None
    ) -> Iterator[tuple[Any, ...]]:
        """Runs a SELECT and yields its rows as they come, the memory of one block at a time.

        The first item is the columns: a tuple of (name, type) pairs.
        """
        with self._errors():
            yield from self.driver.execute_iter(
                sql, dict(params) if params else None, with_column_types=True, settings=_settings(settings)
            )

    def execute(
        self, sql: str, params: Mapping[str, Any] | None = None, settings: Mapping[str, Any] | None = None
    ) -> None:
        """Runs a statement that returns nothing."""
        with self._errors():
            self.driver.execute(sql, dict(params) if params else None, settings=_settings(settings))

    def insert(
        self,
        table: str,
        columns: Mapping[str, ColumnData],
        *,
        token: str | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> int:
        """Inserts columns as one block and returns once ClickHouse has stored it; the number of rows.

        With a token, a second insert of the same token into the same table stores nothing (within the table's
        deduplication window). ClickHouseUnavailable means that the outcome is unknown: insert again, with the token.
        """
        rows = len(next(iter(columns.values())))
        if not rows:
            return 0
        query_settings = {**INSERT_SETTINGS, **_settings(settings)}
        if token is not None:
            query_settings["insert_deduplication_token"] = token
        names = ", ".join(f"`{name}`" for name in columns)
        statement = f"INSERT INTO `{table}` ({names}) VALUES"
        with self._errors(), self.driver.disconnect_on_error(statement, query_settings):
            self.driver.connection.send_query(statement)
            self.driver.connection.send_external_tables(None)
            expected = self.driver.receive_sample_block().columns_with_types
            blocks = [(name, kind, native.encode(kind, columns[name], rows)) for name, kind in expected]
            self._send_block(blocks, rows)
            self.driver.receive_profile_events()
            self.driver.connection.send_data(ColumnOrientedBlock())
            self.driver.receive_profile_events()
            self.driver.receive_end_of_insert_query()
        return rows

    def ping(self) -> None:
        """Returns when the server answers. Raises ClickHouseUnavailable or ClickHouseRefused (a wrong password)."""
        self.query("SELECT 1")

    def close(self) -> None:
        self.driver.disconnect()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _send_block(self, blocks: Sequence[tuple[str, str, bytes]], rows: int) -> None:
        connection = self.driver.connection
        write_varint(ClientPacketTypes.DATA, connection.fout)
        write_binary_str("", connection.fout)
        out = connection.block_out.fout
        custom = connection.server_info.used_revision >= defines.DBMS_MIN_REVISION_WITH_CUSTOM_SERIALIZATION
        BlockInfo().write(out)
        write_varint(len(blocks), out)
        write_varint(rows, out)
        for name, kind, data in blocks:
            write_binary_str(name, out)
            write_binary_str(kind, out)
            if custom:
                write_binary_uint8(0, out)
            out.write(data)
        connection.block_out.finalize()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        where = f"{self.address.host}:{self.address.port}"
        try:
            yield
        except errors.ServerException as error:
            raise from_server(error) from error
        except (errors.UnknownTypeError, errors.TypeMismatchError) as error:
            raise ClickHouseRefused(int(error.code), type(error).__name__, str(error.message)) from error
        except (errors.Error, OSError, EOFError) as error:
            reason = str(getattr(error, "message", None) or error) or type(error).__name__
            raise ClickHouseUnavailable(f"ClickHouse at {where} did not answer: {reason}") from error


def connect(
    address: ClickHouseAddress,
    *,
    settings: Mapping[str, Any] | None = None,
    connect_timeout: float = 5.0,
    timeout: float = 120.0,
    database: str | None = None,
    client_name: str = "pulsetrain",
) -> Client:
    """A client for an address; it connects when it is first used. Options of the URL's query override what is here.

    Unknown settings are refused by the server rather than ignored, so that a token is never dropped in silence.
    Traffic is compressed unless the server is on this machine, where compression costs more than it saves.
    """
    options = dict(address.options)
    compression: str | bool = options.pop("compression", "") or (
        False if address.host in ("127.0.0.1", "::1", "localhost") else "lz4"
    )
    if compression in ("0", "false", "False"):
        compression = False
    elif compression in ("1", "true", "True"):
        compression = "lz4"
    driver = clickhouse_driver.Client(
        address.host,
        port=address.port,
        user=address.user,
        password=address.password,
        database=address.database if database is None else database,
        secure=address.secure,
        client_name=client_name,
        compression=compression,
        connect_timeout=float(options.pop("connect_timeout", connect_timeout)),
        send_receive_timeout=float(options.pop("send_receive_timeout", timeout)),
        settings=dict(settings or {}),
        settings_is_important=True,
        tcp_keepalive=(30, 10, 3),
        **_connection_options(options),
    )
    return Client(driver, address)


# Of the URL's options, those that the driver's connection takes as they are, and those that are yes or no.
_TEXT_OPTIONS = frozenset({"ca_certs", "certfile", "keyfile", "keypass", "server_hostname", "alt_hosts", "ciphers"})
_FLAG_OPTIONS = frozenset({"verify", "check_hostname"})


def _connection_options(options: Mapping[str, str]) -> dict[str, Any]:
    unknown = sorted(set(options) - _TEXT_OPTIONS - _FLAG_OPTIONS)
    if unknown:
        known = ", ".join(
            sorted(_TEXT_OPTIONS | _FLAG_OPTIONS | {"compression", "connect_timeout", "send_receive_timeout"})
        )
        raise AddressError(f"the ClickHouse address has an unknown option: {', '.join(unknown)}; known are {known}")
    return {
        name: value.lower() not in ("0", "false", "no") if name in _FLAG_OPTIONS else value
        for name, value in options.items()
    }


def _settings(settings: Mapping[str, Any] | None) -> dict[str, Any]:
    return dict(settings) if settings else {}
