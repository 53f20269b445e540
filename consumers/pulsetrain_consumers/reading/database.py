"""Where the read side asks: ClickHouse behind three questions (rows, arrays, a stream), with errors for a person."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from pulsetrain_consumers.clickhouse import ClickHouseError, ClickHouseRefused, Client, connect
from pulsetrain_consumers.reading.errors import NotReachable, from_refusal
from pulsetrain_consumers.reading.parameters import bind
from pulsetrain_schemas import addresses
from pulsetrain_schemas.addresses import AddressError, ClickHouseAddress

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True)
class Result:
    """Rows of a query with the names and ClickHouse's types of their columns."""

    columns: tuple[str, ...]
    types: tuple[str, ...]
    rows: list[tuple[Any, ...]]

    def to_pandas(self) -> pd.DataFrame:
        """The rows as a pandas DataFrame."""
        import pandas as pd

        return pd.DataFrame.from_records(self.rows, columns=list(self.columns))


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the query is: rows that ClickHouse has read, of how many (0 while it does not know)."""

    rows: int
    total: int


def locate(url: str | None = None, env: Mapping[str, str] = os.environ) -> ClickHouseAddress:
    """The address to ask: the URL, else what the environment or the local stack says. Raises NotReachable."""
    try:
        address = ClickHouseAddress.parse(url) if url else addresses.clickhouse(env)
    except AddressError as error:
        raise NotReachable(str(error)) from error
    if address is None:
        raise NotReachable(
            "there is no ClickHouse to ask: start the local stack with `pulsetrain up`, or set PULSETRAIN_CLICKHOUSE "
            "to clickhouse://user:password@host:port/pulsetrain"
        )
    return address


class Database:
    """Asks one ClickHouse. Belongs to one thread; connects when first asked.

    Queries take `{name:Type}` parameters. Every failure is a UserError: NotReachable or QueryError.
    """

    def __init__(self, address: ClickHouseAddress) -> None:
        self.address = address
        self._rows = connect(address, client_name="pulsetrain reading")
        # The driver decides for a whole connection whether columns come as numpy arrays.
        self._arrays = connect(address, client_name="pulsetrain reading", settings={"use_numpy": True})

    def query(self, sql: str, **params: Any) -> Result:
        """All rows of a SELECT."""
        with self._errors(bound := bind(sql, params)):
            result = self._rows.query(bound)
        return Result(result.names, result.types, result.rows)

    def arrays(self, sql: str, **params: Any) -> dict[str, NDArray[Any]]:
        """A SELECT as numpy arrays by column: numbers as they are, strings as objects."""
        with self._errors(bound := bind(sql, params)):
            columns = self._arrays.arrays(bound)
        return {name: np.asarray(values) for name, values in columns.items()}

    def stream(self, sql: str, params: Mapping[str, Any] | None = None) -> Iterator[tuple[Any, ...]]:
        """The rows of a query as they come. The first item is the columns, as (name, type) pairs; a statement
        that returns nothing yields nothing. A consumer that stops early calls `cancel`.
        """
        with self._errors(bound := bind(sql, params)):
            yield from self._rows.stream(bound)

    @property
    def progress(self) -> Progress:
        """Of the query that `stream` runs. May be read from another thread."""
        query = self._rows.driver.last_query
        progress = query.progress if query is not None else None
        return Progress(int(progress.rows), int(progress.total_rows)) if progress else Progress(0, 0)

    def cancel(self) -> None:
        """Ends what `stream` runs, on the server too: it gives a query up whose client has gone."""
        _hang_up(self._rows)

    def close(self) -> None:
        """Ends the connections; the next question connects again."""
        self._rows.close()
        self._arrays.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @contextmanager
    def _errors(self, sql: str) -> Iterator[None]:
        try:
            yield
        except ClickHouseRefused as error:
            raise from_refusal(error, sql) from error
        except ClickHouseError as error:
            raise NotReachable(
                f"{error}. `pulsetrain status` says whether the local stack runs; the address asked was {self.address}"
            ) from error


def _hang_up(client: Client) -> None:
    try:
        client.driver.connection.send_cancel()
    except (OSError, EOFError, AttributeError):
        pass  # The connection is gone already (or never was): nothing runs on it.
    client.close()
