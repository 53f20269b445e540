"""Panels of the hardware, from the aggregates by 10 s, 1 min and 1 h; titles, units and meaning from the catalogue."""

from grafana_foundation_sdk.builders import timeseries

from pulsetrain_grafana.panels import series
from pulsetrain_grafana.sql import ROLLUP, chosen, is_chosen, of_runs, sql
from pulsetrain_schemas.system_metrics import GPU_METRICS, HOST_METRICS

UNITS = {
    "%": "percent",
    "B": "bytes",
    "B/s": "binBps",
    "W": "watt",
    "J": "joule",
    "MHz": "rotmhz",
    "°C": "celsius",
    "1": "short",
    "cores": "short",
    "s/s": "percentunit",
    "0 or 1": "short",
    "XID": "none",
    "bits": "none",
}
"""Grafana's ids of the catalogue's units."""

OF_RUN = (
    "r.host IN (SELECT JSONExtractString(ifNull(value, '')) FROM run_values "
    f"WHERE {of_runs()} AND section = 'environment' AND key = 'host') "
    f"AND (r.run_id = '' AND hasAny(r.run_ids, {chosen('run')}) OR r.run_id IN (SELECT arrayJoin({chosen('run')})))"
)
"""Rows of the hardware that the chosen runs had: of the machine and its GPUs, and of their processes."""
OF_HOST = is_chosen("r.host", "host")


def gpu(metric: str, where: str, title: str, *, width: int = 8, fill: int = 0) -> timeseries.Panel:
    """One metric of each GPU over time."""
    known = GPU_METRICS[metric]
    name = "concat(r.host, ' GPU ', toString(any(r.gpu_index)))"
    return series(
        title,
        f"{known.description}, by GPU",
        UNITS[known.unit],
        _over_time(metric, "gpu", "r.gpu", where, name),
        by="gpu",
        width=width,
        fill=fill,
    )


def host(metric: str, where: str, title: str, *, width: int = 8, fill: int = 0) -> timeseries.Panel:
    """One metric of each machine over time, or of the processes on it."""
    known = HOST_METRICS[metric]
    return series(
        title,
        f"{known.description}, by host",
        UNITS[known.unit],
        _over_time(metric, "host", "r.run_id", where, "r.host"),
        by="host",
        width=width,
        fill=fill,
    )


def _over_time(metric: str, label: str, apart: str, where: str, name: str) -> str:
    is_gpu = "r.gpu != ''" if label == "gpu" else "r.gpu = ''"
    return sql(f"""
        SELECT $__timeInterval(r.time) AS time, {name} AS {label}, avg(r.mean) AS value
        FROM system_rollups AS r
        WHERE r.seconds = {ROLLUP} AND r.metric = '{metric}' AND {is_gpu} AND $__timeFilter(r.time) AND {where}
        GROUP BY time, r.host, {apart}
        ORDER BY time
    """)
