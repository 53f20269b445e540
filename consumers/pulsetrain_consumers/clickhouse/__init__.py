"""Everything of ours that meets ClickHouse: a typed client, columnar inserts with a token, and two kinds of error.

with connect(addresses.clickhouse()) as client:
client.query("SELECT count() FROM metrics").one()
"""

import os

# Otherwise the driver lists every date there is at each start, for an eighth of a second. (The name is spelled so.)
os.environ.setdefault("CLICKHOUSE_DRIVER_LASY_DATE_LUT", "1")

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
