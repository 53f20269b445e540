"""All GPUs: which are idle, throttled or broken, and what they cost."""

from pulsetrain_grafana.boards import Board, Row, host_variable, price_variable
from pulsetrain_grafana.colours import BAD, GOOD, WARN
from pulsetrain_grafana.hardware import OF_HOST, gpu
from pulsetrain_grafana.panels import figure, heat, rows, series
from pulsetrain_grafana.sql import ROLLUP, one, sql

_LATEST = f"""
    FROM
    (
        SELECT r.host AS host, r.gpu AS gpu, r.metric AS metric, argMax(r.mean, r.time) AS value
        FROM system_rollups AS r
        WHERE r.seconds = 10 AND r.gpu != '' AND r.time >= $__toTime - INTERVAL 2 MINUTE AND r.time <= $__toTime
            AND {OF_HOST}
            AND r.metric IN ('utilization_percent', 'throttled_thermal', 'throttled_power', 'throttled_hardware',
                'power_watts')
        GROUP BY host, gpu, metric
    )
"""
_HEAT = sql(f"""
    SELECT $__timeInterval(r.time) AS time, concat(r.host, ' ', toString(any(r.gpu_index))) AS gpu,
        avg(r.mean) AS Value
    FROM system_rollups AS r
    WHERE r.seconds = {ROLLUP} AND r.metric = 'utilization_percent' AND r.gpu != '' AND $__timeFilter(r.time)
        AND {OF_HOST}
    GROUP BY time, r.host, r.gpu
    ORDER BY time, gpu
""")
_POWER = sql(f"""
    SELECT time, sum(watts) AS watts
    FROM
    (
        SELECT $__timeInterval(r.time) AS time, r.gpu AS gpu, avg(r.mean) AS watts
        FROM system_rollups AS r
        WHERE r.seconds = {ROLLUP} AND r.metric = 'power_watts' AND r.gpu != '' AND $__timeFilter(r.time) AND {OF_HOST}
        GROUP BY time, gpu
    )
    GROUP BY time
    ORDER BY time
""")
_PRICE = f"toFloat64OrZero({one('price')})"
_RUNS = sql(f"""
    SELECT r.project AS project, r.name AS run, users.user AS user, r.state AS state, used.gpus AS gpus,
        used.hours AS `GPU hours`,
        used.idle / used.hours AS `idle`, used.kwh AS energy, used.hours * {_PRICE} AS cost
    FROM
    (
        SELECT run_id, uniqExact(gpu) AS gpus,
            sumIf(rows, metric = 'utilization_percent') * {ROLLUP} / 3600 AS hours,
            sumIf(idle_rows, metric = 'utilization_percent') * {ROLLUP} / 3600 AS idle,
            sumIf(total, metric = 'power_watts') * {ROLLUP} / 3.6e6 AS kwh
        FROM
        (
            SELECT arrayJoin(r.run_ids) AS run_id, r.gpu AS gpu, r.metric AS metric, count() AS rows,
                countIf(r.mean < 5) AS idle_rows, sum(r.mean) AS total
            FROM system_rollups AS r
            WHERE r.seconds = {ROLLUP} AND r.metric IN ('utilization_percent', 'power_watts') AND r.gpu != ''
                AND $__timeFilter(r.time) AND {OF_HOST}
            GROUP BY run_id, gpu, metric
        )
        GROUP BY run_id
    ) AS used
    INNER JOIN runs AS r ON r.run_id = used.run_id
    LEFT JOIN
    (
        SELECT run_id, JSONExtractString(argMax(ifNull(value, ''), ts)) AS user FROM run_values
            WHERE section = 'environment' AND key = 'user' GROUP BY run_id
    ) AS users ON users.run_id = used.run_id
    ORDER BY `GPU hours` DESC
    LIMIT 1000
""")
_ERRORS = sql(f"""
    SELECT r.host AS host, any(r.gpu_index) AS gpu, r.metric AS counter,
        max(r.max) - min(r.min) AS `within the range`, max(r.max) AS `in all`, max(r.time) AS latest
    FROM system_rollups AS r
    WHERE r.seconds = {ROLLUP} AND r.gpu != '' AND $__timeFilter(r.time) AND {OF_HOST}
        AND r.metric IN ('ecc_uncorrected_errors', 'ecc_corrected_errors', 'xid_errors', 'remapped_rows_uncorrected',
            'retired_pages_uncorrected', 'pcie_replays')
    GROUP BY host, r.gpu, counter
    ORDER BY counter IN ('xid_errors', 'ecc_uncorrected_errors') DESC, `within the range` DESC, `in all` DESC
    LIMIT 1000
""")
_STRAGGLERS = sql("""
    SELECT project, run_id AS run, metric, rank_of_max AS `slowest rank`, count() AS steps,
        avg(max / mean) AS `of the mean`
    FROM rank_spread
    WHERE metric IN ('pulsetrain/forward_seconds', 'pulsetrain/step_seconds') AND mean > 0 AND $__timeFilter(ts)
    GROUP BY project, run_id, metric, rank_of_max
    HAVING steps >= 10
    ORDER BY `of the mean` DESC
    LIMIT 100
""")
_HOT = sql(f"""
    SELECT uniqExactIf(gpu, metric IN ('throttled_thermal', 'throttled_hardware') AND value > 0.5) AS gpus
    {_LATEST.strip()}
""")

BOARD = Board(
    "fleet",
    "Pulsetrain / GPU fleet",
    "All GPUs by time: idle and throttled ones, memory, power, energy and cost by run and user, errors, stragglers.",
    [
        Row(
            "Now",
            [
                figure(
                    "GPUs",
                    "That sent a sample within the last two minutes of the time range",
                    "short",
                    sql(f"SELECT uniqExact(gpu) AS gpus {_LATEST}"),
                ),
                figure(
                    "Idle",
                    "Under 5 % utilisation",
                    "short",
                    sql(f"SELECT countIf(metric = 'utilization_percent' AND value < 5) AS gpus {_LATEST}"),
                    colour=GOOD,
                    steps={1: WARN},
                ),
                figure(
                    "Throttled by heat",
                    "Held back by heat or by the hardware's own protection",
                    "short",
                    _HOT,
                    colour=GOOD,
                    steps={1: BAD},
                ),
                figure(
                    "At the power limit",
                    "Normal under full load",
                    "short",
                    sql(f"SELECT countIf(metric = 'throttled_power' AND value > 0.5) AS gpus {_LATEST}"),
                ),
                figure(
                    "Mean utilisation",
                    "Of all GPUs",
                    "percent",
                    sql(f"SELECT avgIf(value, metric = 'utilization_percent') AS utilization {_LATEST}"),
                ),
                figure(
                    "Power",
                    "Of all GPUs together",
                    "watt",
                    sql(f"SELECT sumIf(value, metric = 'power_watts') AS watts {_LATEST}"),
                ),
            ],
        ),
        Row(
            "By time",
            [
                heat(
                    "Utilisation of every GPU",
                    "A row a GPU; red does nothing, green is busy",
                    _HEAT,
                    height=10,
                ),
                series("Power of all", "Sum over the GPUs", "watt", _POWER, width=8, fill=20),
                gpu("memory_percent", OF_HOST, "Memory"),
                gpu("temperature_celsius", OF_HOST, "Temperature"),
            ],
        ),
        Row(
            "What it costs, and for whom",
            [
                rows(
                    "Runs by GPU hours",
                    "GPU time, the share of it under 5 % utilisation, energy, and cost at the price above",
                    _RUNS,
                    units={"GPU hours": "h", "idle": "percentunit", "energy": "kwatth", "cost": "currencyUSD"},
                ),
            ],
        ),
        Row(
            "What is broken",
            [
                rows(
                    "Errors",
                    "Counters of the GPUs: within the time range, and since the driver was loaded",
                    _ERRORS,
                    width=12,
                    units={"latest": "dateTimeAsIso"},
                ),
                rows(
                    "Stragglers",
                    "Ranks that were the slowest of their job, and by how much",
                    _STRAGGLERS,
                    width=12,
                    units={"of the mean": "percentunit"},
                ),
            ],
        ),
    ],
    variables=[host_variable(), price_variable()],
)
