"""SQL of the dashboards: how a variable gets into a query, and the conditions and parts that many queries share.

Grafana puts a variable into a query as text. Its formats for SQL (`singlequote`, `sqlstring`) leave backslashes as they
are, which ClickHouse takes for escapes, so a metric that is called `\\' OR 1=1 --` would leave its quotes. The format
`queryparam` (var-run=a&var-run=b, percent-encoded) has no character that means anything within quotes, for single and
for several values; it is taken apart in ClickHouse.
"""

from textwrap import dedent

ALL = "$__all"
"""What stands for "All" among the values of a variable."""


def sql(text: str) -> str:
    """A query without the indentation that it has in Python."""
    return dedent(text).strip()


def chosen(variable: str) -> str:
    """The values that are chosen of a variable: an Array(String)."""
    pairs = f"splitByChar('&', '${{{variable}:queryparam}}')"
    return f"arrayMap(p -> decodeURLFormComponent(substring(p, position(p, '=') + 1)), {pairs})"


def one(variable: str) -> str:
    """The value of a variable that has one: a String."""
    return f"{chosen(variable)}[1]"


def number(variable: str, default: int) -> str:
    """The value of a variable that is a whole number."""
    return f"toInt64OrDefault({one(variable)}, toInt64({default}))"


def is_chosen(column: str, variable: str) -> str:
    """That a column has one of the values, or that all are meant."""
    return f"({column} IN (SELECT arrayJoin({chosen(variable)})) OR has({chosen(variable)}, '{ALL}'))"


def of_runs(table: str = "") -> str:
    """That a row belongs to one of the runs that are chosen, by the variables project and run."""
    prefix = f"{table}." if table else ""
    return f"{prefix}project = {one('project')} AND {prefix}run_id IN (SELECT arrayJoin({chosen('run')}))"


ROLLUP = "multiIf($__interval_s < 60, 10, $__interval_s < 3600, 60, 3600)"
"""Which rows of system_rollups are fine enough for the time range and the width of a panel: their seconds."""

RUN_NAMES = f"""
SELECT run_id, if(count() OVER (PARTITION BY told) > 1 OR told = '', concat(told, ' · ', run_id), told) AS run
FROM
(
    SELECT toString(run_id) AS run_id, ifNull(argMaxIf(name, (ts, sequence), name IS NOT NULL), '') AS told
    FROM run_events
    WHERE kind != 'heartbeat' AND {of_runs()}
    GROUP BY run_id
)
""".strip()
"""The chosen runs by the names that a person knows them by; with the id, where two have the same."""
