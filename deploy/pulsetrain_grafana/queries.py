"""What a panel asks: a query of the ClickHouse data source, as its plugin (4.x) takes it."""

from dataclasses import dataclass
from enum import IntEnum

from grafana_foundation_sdk.cog import builder, variants
from grafana_foundation_sdk.models.common import DataSourceRef

CLICKHOUSE = DataSourceRef(type_val="grafana-clickhouse-datasource", uid="pulsetrain-clickhouse")


class Format(IntEnum):
    """What the rows are made into. Series have a column `time`, texts for labels, and figures."""

    SERIES = 0
    TABLE = 1
    LOGS = 2


_QUERY_TYPES = {Format.SERIES: "timeseries", Format.TABLE: "table", Format.LOGS: "logs"}


@dataclass(frozen=True, slots=True)
class Query(variants.Dataquery, builder.Builder[variants.Dataquery]):
    """One SQL query; `ref` names it among those of its panel."""

    sql: str
    format: Format = Format.TABLE
    ref: str = "A"

    def build(self) -> variants.Dataquery:
        return self

    def to_json(self) -> dict[str, object]:
        """The target of a panel."""
        return {
            "datasource": CLICKHOUSE.to_json(),
            "editorType": "sql",
            "format": int(self.format),
            "queryType": _QUERY_TYPES[self.format],
            "rawSql": self.sql,
            "refId": self.ref,
        }
