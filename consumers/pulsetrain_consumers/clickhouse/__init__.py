"""Everything of ours that meets ClickHouse: a typed client, columnar inserts with a token, and two kinds of error.

with connect(addresses.clickhouse()) as client:
client.query("SELECT count() FROM metrics").one()
"""

from pulsetrain_consumers.clickhouse.client import INSERT_SETTINGS, Client, Result, connect
from pulsetrain_consumers.clickhouse.errors import ClickHouseError, ClickHouseRefused, ClickHouseUnavailable
from pulsetrain_consumers.clickhouse.native import ColumnData, ColumnError, Dictionary

__all__ = [
    "INSERT_SETTINGS",
    "ClickHouseError",
    "ClickHouseRefused",
    "ClickHouseUnavailable",
    "Client",
    "ColumnData",
    "ColumnError",
    "Dictionary",
    "Result",
    "connect",
]
