"""The kinds of panels of the dashboards, each as it looks everywhere: a title, a description, a unit, queries.

Sizes are in Grafana's grid of 24 columns; a row of panels is a height of 8. Units are Grafana's ids
(https://grafana.com/docs/grafana/latest/panels-visualizations/configure-standard-options/#unit).
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from grafana_foundation_sdk.builders import common as common_builders
from grafana_foundation_sdk.builders import dashboard as dashboard_builders
from grafana_foundation_sdk.builders import heatmap, logs, stat, statetimeline, table, timeseries, trend
from grafana_foundation_sdk.models import common, dashboard
from grafana_foundation_sdk.models import heatmap as heatmap_models

from pulsetrain_grafana.colours import BUSY, SEVERITIES, STATES
from pulsetrain_grafana.queries import Format, Measured, Query

AnyPanel = timeseries.Panel | trend.Panel | stat.Panel | table.Panel | heatmap.Panel | logs.Panel | statetimeline.Panel
_P = TypeVar(
    "_P", timeseries.Panel, trend.Panel, stat.Panel, table.Panel, heatmap.Panel, logs.Panel, statetimeline.Panel
)


def _made(panel: _P, title: str, description: str, queries: Sequence[Query | Measured], width: int, height: int) -> _P:
    panel.title(title).description(description).datasource(queries[0].source).span(width).height(height)
    panel.no_value("–")
    for query in queries:
        panel.with_target(query)
    return panel


def series(
    title: str,
    description: str,
    unit: str,
    *queries: str | Measured,
    by: str = "",
    width: int = 12,
    height: int = 8,
    fill: int = 0,
) -> timeseries.Panel:
    """Lines over time. SQL gives a column `time` and figures; `by` is the column whose texts name the lines."""
    made = [Query(query, Format.SERIES) if isinstance(query, str) else query for query in queries]
    asked = [replace(query, ref=chr(ord("A") + i)) for i, query in enumerate(made)]
    panel = _made(timeseries.Panel(), title, description, asked, width, height).unit(unit)
    panel.line_width(1).fill_opacity(fill).show_points(common.VisibilityMode.AUTO).point_size(4).span_nulls(False)
    panel.tooltip(
        common_builders.VizTooltipOptions().mode(common.TooltipDisplayMode.MULTI).sort(common.SortOrder.DESCENDING)
    )
    if by:
        panel.display_name(f"${{__field.labels.{by}}}")
    return panel.legend(_legend())


def by_step(
    title: str, description: str, unit: str, query: str, *, x: str = "step", width: int = 12, height: int = 8
) -> trend.Panel:
    """Lines over a number, `x`, that grows from row to row: mostly the step."""
    panel = _made(trend.Panel(), title, description, [Query(query)], width, height).unit(unit)
    panel.x_field(x).line_width(1).fill_opacity(0).show_points(common.VisibilityMode.AUTO).point_size(4)
    panel.tooltip(
        common_builders.VizTooltipOptions().mode(common.TooltipDisplayMode.MULTI).sort(common.SortOrder.DESCENDING)
    )
    panel.override_by_name(x, [_property("unit", "locale"), _property("displayName", "step")])
    return panel.legend(_legend())


def matrix(rows: str, columns: str, value: str) -> dashboard.DataTransformerConfig:
    """One column for each value of a column, as the x of a `by_step` needs it: its name is then `matrix_x`."""
    options = {"rowField": rows, "columnField": columns, "valueField": value, "emptyValue": "null"}
    return dashboard.DataTransformerConfig(id_val="groupingToMatrix", options=options)


def matrix_x(rows: str, columns: str) -> str:
    """What `matrix` calls its first column."""
    return f"{rows}\\{columns}"


def figure(
    title: str,
    description: str,
    unit: str,
    query: str | Measured,
    *,
    width: int = 4,
    height: int = 4,
    colour: str = "text",
    steps: Mapping[float, str] | None = None,
) -> stat.Panel:
    """One number, large; `steps` colours it from each value on."""
    asked = Query(query) if isinstance(query, str) else query
    panel = _made(stat.Panel(), title, description, [asked], width, height).unit(unit)
    panel.graph_mode(common.BigValueGraphMode.NONE).color_mode(common.BigValueColorMode.VALUE)
    panel.reduce_options(common_builders.ReduceDataOptions().calcs(["lastNotNull"]).values(False).fields(""))
    return panel.thresholds(thresholds(colour, steps or {}))


def words(title: str, description: str, query: str, *, width: int = 4, height: int = 4) -> stat.Panel:
    """One word, large; a state or a severity has its colour."""
    panel = _made(stat.Panel(), title, description, [Query(query)], width, height).unit("none")
    panel.graph_mode(common.BigValueGraphMode.NONE).color_mode(common.BigValueColorMode.VALUE)
    panel.reduce_options(common_builders.ReduceDataOptions().calcs(["lastNotNull"]).values(False).fields("/.*/"))
    panel.override_by_name("state", [_property("mappings", _mapping(STATES))])
    return panel.thresholds(thresholds("text", {}))


def rows(
    title: str,
    description: str,
    query: str,
    *,
    width: int = 24,
    height: int = 10,
    units: Mapping[str, str] | None = None,
    shares: Sequence[str] = (),
    beside: Sequence[str] = (),
    order: Sequence[str] = (),
) -> table.Panel:
    """A table. `units` are by column, `shares` columns of 0 to 1, drawn as bars.

    Queries `beside` the first give more columns of the rows that have the same values in the columns that they share;
    the columns of `order` come first. Columns state and severity have their colours, texts their width.
    """
    asked = [Query(text, ref=chr(ord("A") + i)) for i, text in enumerate((query, *beside))]
    panel = _made(table.Panel(), title, description, asked, width, height).unit("none")
    if beside:
        panel.with_transformation(dashboard.DataTransformerConfig(id_val="merge", options={}))
        places = {name: place for place, name in enumerate(order)}
        panel.with_transformation(dashboard.DataTransformerConfig(id_val="organize", options={"indexByName": places}))
    panel.cell_height(common.TableCellHeight.SM).show_header(True).filterable(True)
    for name, unit in (units or {}).items():
        panel.override_by_name(name, [_property("unit", unit)])
    for name in shares:
        panel.override_by_name(name, _BAR)
    for name, pixels in _WIDTHS.items():
        panel.override_by_name(name, [_property("custom.width", pixels)])
    panel.override_by_name("state", [_property("mappings", _mapping(STATES)), *_COLOURED])
    panel.override_by_name("severity", [_property("mappings", _mapping(SEVERITIES)), *_COLOURED])
    return panel


def right(panel: timeseries.Panel, query: str, unit: str) -> timeseries.Panel:
    """The panel, with the lines of a query as areas on an axis of their own at the right."""
    panel.override_by_query(
        query,
        [
            _property("custom.axisPlacement", "right"),
            _property("unit", unit),
            _property("custom.fillOpacity", 8),
            _property("custom.lineWidth", 0),
        ],
    )
    return panel


def stacked(panel: timeseries.Panel) -> timeseries.Panel:
    """The panel, its lines one upon the other."""
    return panel.stacking(common_builders.StackingConfig().mode(common.StackingMode.NORMAL)).fill_opacity(60)


def banded(panel: trend.Panel, low: str, high: str) -> trend.Panel:
    """The panel, the space between two lines filled and they themselves hidden."""
    quiet = [
        _property("custom.lineWidth", 0),
        _property("custom.hideFrom", {"legend": True, "tooltip": False, "viz": False}),
    ]
    panel.override_by_name(high, [_property("custom.fillBelowTo", low), _property("custom.fillOpacity", 18), *quiet])
    return panel.override_by_name(low, quiet)


def linked(panel: table.Panel, column: str, title: str, url: str, hidden: Sequence[str] = ()) -> table.Panel:
    """The table, with a link on a column. In the address, ${__data.fields.NAME} is a value of the row."""
    panel.override_by_name(column, [_property("links", [{"title": title, "url": url}])])
    for name in hidden:
        panel.override_by_name(name, [_property("custom.hidden", True)])
    return panel


def heat(title: str, description: str, query: str, *, width: int = 24, height: int = 9) -> heatmap.Panel:
    """One row of cells for each line of the query, coloured by its figure, 0 to 100 %.

    The column of the figure is to be called Value: only then is a row called by its label alone.
    """
    panel = _made(heatmap.Panel(), title, description, [Query(query, Format.SERIES)], width, height).unit("percent")
    panel.calculate(False).cell_gap(1)
    panel.color(
        heatmap.HeatmapColorOptions()
        .mode(heatmap_models.HeatmapColorMode.SCHEME)
        .scheme("RdYlGn")
        .reverse(True)
        .steps(64)
        .exponent(1)
        .fill("dark-red")
        .min(0)
        .max(100)
    )
    return panel.show_value(common.VisibilityMode.NEVER)


def lines(title: str, description: str, query: str, *, width: int = 24, height: int = 10) -> logs.Panel:
    """Lines of text, the newest first."""
    panel = _made(logs.Panel(), title, description, [Query(query, Format.LOGS)], width, height).unit("none")
    panel.show_time(True).wrap_log_message(True).sort_order(common.LogsSortOrder.DESCENDING)
    return panel.dedup_strategy(common.LogsDedupStrategy.NONE).enable_log_details(False)


def thresholds(base: str, steps: Mapping[float, str]) -> dashboard_builders.ThresholdsConfig:
    """Colours from values on; `base` below the first."""
    made = [dashboard.Threshold(value=None, color=base)]
    made += [dashboard.Threshold(value=value, color=colour) for value, colour in sorted(steps.items())]
    return dashboard_builders.ThresholdsConfig().mode(dashboard.ThresholdsMode.ABSOLUTE).steps(made)


def _legend() -> common_builders.VizLegendOptions:
    return (
        common_builders.VizLegendOptions()
        .display_mode(common.LegendDisplayMode.LIST)
        .placement(common.LegendPlacement.BOTTOM)
        .show_legend(True)
        .calcs([])
    )


def _property(name: str, value: Any) -> dashboard.DynamicConfigValue:
    return dashboard.DynamicConfigValue(id_val=name, value=value)


def _mapping(colours: Mapping[str, str]) -> list[dict[str, Any]]:
    options = {value: {"color": colour, "index": i} for i, (value, colour) in enumerate(colours.items())}
    return [{"type": "value", "options": options}]


# Texts that are long, and in every table the same.
_WIDTHS = {
    "title": 230,
    "text": 430,
    "ending": 260,
    "metric": 230,
    "writer": 290,
    "counter": 220,
    "example": 300,
    "run": 160,
    "curve": 190,
}
_BAR = [
    _property("unit", "percentunit"),
    _property("min", 0),
    _property("max", 1),
    _property("color", {"mode": "fixed", "fixedColor": BUSY}),
    _property("custom.cellOptions", {"type": "gauge", "mode": "basic", "valueDisplayMode": "text"}),
    _property("custom.width", 130),
]
_COLOURED = [_property("custom.cellOptions", {"type": "color-text"}), _property("custom.width", 100)]
