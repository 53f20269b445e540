"""What a panel asks: a query of the ClickHouse data source, as its plugin (4.x) takes it, or one of Prometheus."""

from dataclasses import dataclass, field
from enum import IntEnum

from grafana_foundation_sdk.cog import builder, variants
from grafana_foundation_sdk.models.common import DataSourceRef

CLICKHOUSE = DataSourceRef(type_val="grafana-clickhouse-datasource", uid="pulsetrain-clickhouse")
PROMETHEUS = DataSourceRef(type_val="prometheus", uid="pulsetrain-prometheus")


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
    source: DataSourceRef = field(default_factory=lambda: CLICKHOUSE)

    def build(self) -> variants.Dataquery:
        return self

    def to_json(self) -> dict[str, object]:
        """The target of a panel."""
        return {
            "datasource": self.source.to_json(),
            "editorType": "sql",
            "format": int(self.format),
            "queryType": _QUERY_TYPES[self.format],
            "rawSql": self.sql,
            "refId": self.ref,
        }


@dataclass(frozen=True, slots=True)
class Measured(variants.Dataquery, builder.Builder[variants.Dataquery]):
    """One expression of PromQL over the time range; `legend` names its lines, with labels as {{label}}."""

    expression: str
    legend: str
    ref: str = "A"
    source: DataSourceRef = field(default_factory=lambda: PROMETHEUS)

    def build(self) -> variants.Dataquery:
        return self

    def to_json(self) -> dict[str, object]:
        """The target of a panel."""
        return {
            "datasource": self.source.to_json(),
            "editorMode": "code",
            "expr": self.expression,
            "legendFormat": self.legend,
            "range": True,
            "refId": self.ref,
        }
