"""What Grafana and its ClickHouse plugin (4.x) make of a query before ClickHouse has it.

First the browser puts in the variables, then the plugin's backend the macros. Variables are known in the format
`queryparam` alone, which is the only one that our dashboards may use: see pulsetrain_grafana.sql.

Sources: grafana/scenes, formatRegistry and MultiValueVariable; grafana/grafana, packages/grafana-data/src/utils/url.ts;
grafana/clickhouse-datasource, pkg/macros; grafana/grafana-plugin-sdk-go, data/sqlutil/macros.go.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import quote

_VARIABLE = re.compile(r"\$\{(\w+):queryparam\}")
_ANY_VARIABLE = re.compile(r"\$(?!__)\w+|\$\{(?!__)[^}]*\}")


@dataclass(frozen=True)
class Range:
    """The time range of a dashboard, in seconds since the epoch, and the interval of a panel in seconds."""

    begin: float
    end: float
    interval: float = 10.0


def interpolated(sql: str, variables: Mapping[str, Sequence[str]]) -> str:
    """The query with its variables. Raises KeyError for one that there is not, ValueError for any other format."""
    if others := {found for found in _ANY_VARIABLE.findall(sql) if not _VARIABLE.fullmatch(found)}:
        raise ValueError(f"variables that are not encoded: {', '.join(sorted(others))}")
    return _VARIABLE.sub(lambda found: _as_url(found[1], variables[found[1]]), sql)


def _as_url(name: str, values: Sequence[str]) -> str:
    # encodeURIComponentAsAngularJS with spaces as %20
    return "&".join(f"var-{name}={quote(value, safe='-_.~@:$,;')}" for value in values)


def expanded(sql: str, over: Range) -> str:
    """The query with its macros. Raises ValueError for one that there is not, or with a wrong number of arguments."""
    macros = {
        "fromTime": lambda: _time(over.begin),
        "toTime": lambda: _time(over.end),
        "fromTime_ms": lambda: _time_ms(over.begin),
        "toTime_ms": lambda: _time_ms(over.end),
        "timeFilter": lambda column: f"{column} >= {_time(over.begin)} AND {column} <= {_time(over.end)}",
        "timeFilter_ms": lambda column: f"{column} >= {_time_ms(over.begin)} AND {column} <= {_time_ms(over.end)}",
        "dateFilter": lambda column: f"{column} >= {_date(over.begin)} AND {column} <= {_date(over.end)}",
        "timeInterval": lambda column: (
            f"toStartOfInterval(toDateTime({column}), INTERVAL {int(max(over.interval, 1))} second)"
        ),
        "timeInterval_ms": lambda column: (
            f"toStartOfInterval(toDateTime64({column}, 3), INTERVAL {int(max(over.interval * 1000, 1))} millisecond)"
        ),
        "interval_s": lambda: str(int(max(over.interval, 1))),
    }
    for name in sorted(macros, key=len, reverse=True):
        for found in list(re.finditer(rf"\$__{name}\b", sql)):
            arguments, length = _arguments(found.string[found.end() :])
            whole = found.string[found.start() : found.end() + length]
            try:
                sql = sql.replace(whole, macros[name](*arguments))
            except TypeError:
                raise ValueError(f"{whole}: {len(arguments)} arguments") from None
    if left := re.search(r"\$__(?!all\b)\w+", sql):
        raise ValueError(f"no macro: {left[0]}")
    return sql


def _arguments(text: str) -> tuple[list[str], int]:
    if not text.startswith("("):
        return [], 0
    depth, found = 0, [""]
    for place, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if depth == 0:
            return [one.strip() for one in found], place + 1
        if letter == "," and depth == 1:
            found.append("")
        elif place:
            found[-1] += letter
    raise ValueError("failed to parse macro arguments (missing close bracket?)")


def expanded_promql(text: str, over: Range, scrape_seconds: float = 5) -> str:
    """An expression for Prometheus with what Grafana puts in: the range, and one that rate() finds samples in.

    Source: https://grafana.com/docs/grafana/latest/datasources/prometheus/template-variables/#use-__rate_interval
    """
    rate = max(over.interval + scrape_seconds, 4 * scrape_seconds)
    text = text.replace("$__rate_interval", f"{int(rate)}s").replace("$__range", f"{int(over.end - over.begin)}s")
    if "$" in text:
        raise ValueError(f"not known: {text}")
    return text


def _time(seconds: float) -> str:
    return f"toDateTime({int(seconds)})"


def _time_ms(seconds: float) -> str:
    return f"fromUnixTimestamp64Milli({int(seconds * 1000)})"


def _date(seconds: float) -> str:
    return f"toDate('{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d}')"
