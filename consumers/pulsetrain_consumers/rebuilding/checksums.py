"""What a table holds, as two numbers that do not depend on the order of its rows or on how they came."""

from collections.abc import Sequence
from dataclasses import dataclass

from pulsetrain_consumers.clickhouse import Client
from pulsetrain_consumers.writer.sink import LEDGER
from pulsetrain_schemas.sql import identifier

WRITER_TABLES = (
    LEDGER, "metrics", "texts", "system", "logs", "run_events", "run_values", "alert_events", "dead_letter_events"
)  # fmt: skip
"""The tables that writers fill, all of them from the log alone; the ledger first."""

# When a row was stored is no matter of the log.
_OTHERWISE_BY_NATURE = ("stored_at",)
# Tables of which merges may leave less than was inserted: of a value that changed the latest, of a batch or of a change
# of an alert one row. In the others a row that is there twice is an error, and must show.
_MERGED = (LEDGER, "run_values", "alert_events")


@dataclass(frozen=True, slots=True)
class Checksum:
    """The rows of a table, and the sum (modulo 2**64) of a hash of each."""

    table: str
    rows: int
    hash: str


def checksum(client: Client, table: str, database: str | None = None) -> Checksum:
    """Of one table; of the client's database where no other is named. Raises ClickHouseError."""
    home = database if database is not None else client.address.database
    columns = client.query(
        "SELECT name FROM system.columns WHERE database = %(database)s AND table = %(table)s "
        "AND name NOT IN %(left_out)s ORDER BY name",
        {"database": home, "table": table, "left_out": list(_OTHERWISE_BY_NATURE)},
    ).rows
    names = ", ".join(f"`{name}`" for (name,) in columns)
    final = "FINAL" if table in _MERGED else ""
    # A tuple, since the hash of a bare NULL is NULL.
    rows, found = client.query(
        f"SELECT count(), sum(cityHash64(tuple({names}))) FROM {identifier(home)}.`{table}` {final}"  # noqa: S608
    ).rows[0]
    return Checksum(table, int(rows), f"{int(found or 0):016x}")


def checksums(client: Client, tables: Sequence[str] = WRITER_TABLES, database: str | None = None) -> list[Checksum]:
    """Of each table, in their order."""
    return [checksum(client, table, database) for table in tables]
