"""A dashboard: its rows of panels, its variables, and what all of them have in common."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from grafana_foundation_sdk.builders import dashboard as builders
from grafana_foundation_sdk.models import dashboard

from pulsetrain_grafana.panels import AnyPanel
from pulsetrain_grafana.queries import CLICKHOUSE, Format, Query
from pulsetrain_grafana.sql import of_runs, one, sql

TAG = "pulsetrain"
# Those that were heard of last first.
_PROJECTS = """
    SELECT project FROM run_events WHERE kind != 'heartbeat' GROUP BY project ORDER BY max(ts) DESC LIMIT 1000
"""


@dataclass(frozen=True)
class Row:
    """Panels under a heading. A collapsed one asks nothing until it is opened."""

    title: str
    panels: Sequence[AnyPanel]
    collapsed: bool = False


@dataclass(frozen=True)
class Board:
    """What a dashboard is made from; `name` is that of its file, and with pulsetrain- before it its uid."""

    name: str
    title: str
    description: str
    rows: Sequence[Row]
    variables: Sequence[builders.QueryVariable | builders.CustomVariable | builders.TextBoxVariable] = ()
    annotations: Sequence[builders.AnnotationQuery] = ()
    since: str = "now-6h"
    refresh: str = "10s"

    def build(self) -> dashboard.Dashboard:
        """The dashboard, with panels in their places and ids in the order of reading."""
        made = builders.Dashboard(self.title).uid(uid(self.name)).description(self.description).tags([TAG])
        made.time(self.since, "now").refresh(self.refresh).timezone("browser").editable()
        made.tooltip(dashboard.DashboardCursorSync.CROSSHAIR)
        made.link(
            builders.DashboardLink("Pulsetrain")
            .type(dashboard.DashboardLinkType.DASHBOARDS)
            .tags([TAG])
            .as_dropdown(True)
            .include_vars(True)
            .keep_time(True)
        )
        for variable in self.variables:
            made.with_variable(variable)
        for annotation in self.annotations:
            made.annotation(annotation)
        for row in self.rows:
            heading = builders.Row(row.title)
            if row.collapsed:
                for panel in row.panels:
                    heading.with_panel(panel)
            made.with_row(heading)
            if not row.collapsed:
                for panel in row.panels:
                    made.with_panel(panel)
        built = made.build()
        for number, placed in enumerate(_all(built.panels or []), start=1):
            placed.id_val = number
        return built


def _all(panels: Sequence[dashboard.Panel | dashboard.RowPanel]) -> Iterator[dashboard.Panel | dashboard.RowPanel]:
    for panel in panels:
        yield panel
        if isinstance(panel, dashboard.RowPanel):
            yield from panel.panels or []


def uid(name: str) -> str:
    """By what a dashboard is known in addresses."""
    return f"pulsetrain-{name}"


def link_to_run(project: str = "${__data.fields.project:percentencode}", run: str = "run_id") -> str:
    """The address of a run's dashboard, at the same time range; `run` is the column of a table that has its id."""
    parameters = (f"var-project={project}", f"var-run=${{__data.fields.{run}:percentencode}}", "${__url_time_range}")
    return f"/d/{uid('run')}?" + "&".join(parameters)


def variable(
    name: str,
    label: str,
    description: str,
    query: str,
    *,
    regex: str = "",
    several: bool = False,
    everything: bool = False,
) -> builders.QueryVariable:
    """A variable whose values ClickHouse is asked for again when the time range changes."""
    made = builders.QueryVariable(name).label(label).description(description).datasource(CLICKHOUSE)
    made.query(Query(sql(query), Format.TABLE, f"variable-{name}").to_json())
    made.refresh(dashboard.VariableRefresh.ON_TIME_RANGE_CHANGED).sort(dashboard.VariableSort.DISABLED)
    made.multi(several).include_all(everything).regex(regex)
    return made


def project_variable() -> builders.QueryVariable:
    """The projects, those that were heard of last first."""
    return variable(
        "project",
        "Project",
        "The project whose runs are shown",
        _PROJECTS,
    )


def run_variable(*, several: bool = False) -> builders.QueryVariable:
    """The runs of the project by name and id, the newest first."""
    return variable(
        "run",
        "Runs" if several else "Run",
        "By name and id; the newest thousand of the project",
        f"""
        SELECT concat(ifNull(argMaxIf(name, (ts, sequence), name IS NOT NULL), run_id), ' · ', run_id) AS run
        FROM run_events
        WHERE kind != 'heartbeat' AND project = {one("project")}
        GROUP BY run_id
        ORDER BY min(attempt_started) DESC
        LIMIT 1000
    """,
        regex="/^(?<text>.*) · (?<value>[^·]*)$/",
        several=several,
    )


def metric_variable() -> builders.QueryVariable:
    """The metrics of the chosen runs."""
    return variable(
        "metric",
        "Metrics",
        "The metrics of the runs that are chosen",
        f"""
        SELECT metric FROM metrics WHERE {of_runs()} GROUP BY metric
        ORDER BY startsWith(metric, 'train') DESC, positionCaseInsensitive(metric, 'loss') > 0 DESC, metric
        LIMIT 1000
    """,
        several=True,
        everything=True,
    )


def metric_of_project_variable() -> builders.QueryVariable:
    """One metric of the project, by which its runs are compared."""
    return variable(
        "metric",
        "Metric",
        "The metric by which runs are compared",
        f"""
        SELECT metric FROM metric_pyramid WHERE level = 5 AND project = {one("project")} GROUP BY metric
        ORDER BY positionCaseInsensitive(metric, 'val') > 0 DESC, positionCaseInsensitive(metric, 'loss') > 0 DESC,
            metric
        LIMIT 1000
    """,
    )


def goal_variable() -> builders.CustomVariable:
    """Whether small or large is good."""
    return _custom("goal", "Best is", "Which value of the metric is the best of a run", "min", "max")


def scale_variable() -> builders.CustomVariable:
    """Linear or logarithmic curves."""
    return _custom(
        "scale", "Scale", "log10 draws the logarithm; values that are not positive are left out", "linear", "log10"
    )


def smoothing_variable() -> builders.CustomVariable:
    """Over how many rows of a curve is averaged."""
    return _custom("smoothing", "Smoothing", "Each point is the mean of so many before it", "1", "5", "20", "100")


def host_variable() -> builders.QueryVariable:
    """The machines that samples came from."""
    return variable(
        "host",
        "Host",
        "Machines that sent samples within the time range",
        """
        SELECT host FROM system_rollups WHERE seconds = 3600 AND time >= toStartOfHour($__fromTime)
            AND time <= $__toTime
        GROUP BY host ORDER BY host LIMIT 10000
    """,
        several=True,
        everything=True,
    )


def projects_variable() -> builders.QueryVariable:
    """Several projects, or all."""
    return variable(
        "projects",
        "Projects",
        "The projects whose alerts are shown",
        _PROJECTS,
        several=True,
        everything=True,
    )


def price_variable() -> builders.TextBoxVariable:
    """What an hour of a GPU costs."""
    return builders.TextBoxVariable("price").label("Price of a GPU hour").description("In dollars").default_value("2")


def _custom(name: str, label: str, description: str, *values: str) -> builders.CustomVariable:
    made = builders.CustomVariable(name).label(label).description(description).values(",".join(values))
    return made.current(dashboard.VariableOption(selected=True, text=values[0], value=values[0]))


def alert_annotations() -> builders.AnnotationQuery:
    """Alerts of the chosen runs, from their beginning to their end."""
    query = sql(f"""
        SELECT started AS time, ifNull(resolved, now64(3)) AS timeEnd, title, text, [severity, kind, state] AS tags
        FROM alerts
        WHERE {of_runs()} AND fired IS NOT NULL AND started <= $__toTime AND ifNull(resolved, now64(3)) >= $__fromTime
        ORDER BY started
        LIMIT 1000
    """)
    made = builders.AnnotationQuery().name("Alerts").datasource(CLICKHOUSE).enable(True).icon_color("red")
    return made.target(Query(query, Format.TABLE, "Anno"))
