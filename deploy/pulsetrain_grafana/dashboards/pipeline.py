"""The pipeline itself: is it fast, is it behind, does it lose anything."""

from pulsetrain_grafana.boards import Board, Row
from pulsetrain_grafana.colours import BAD, GOOD, WARN
from pulsetrain_grafana.panels import figure, rows, series
from pulsetrain_grafana.sql import sql

DELAY = "(toUnixTimestamp64Micro(stored_at) - toUnixTimestamp64Micro(first_ts)) / 1e6"
_LATENCY = sql(f"""
    SELECT $__timeInterval(stored_at) AS time, quantile(0.5)({DELAY}) AS median, quantile(0.99)({DELAY}) AS p99,
        max({DELAY}) AS greatest
    FROM stored_batches
    WHERE $__timeFilter(stored_at) AND topic LIKE '%metrics'
    GROUP BY time
    ORDER BY time
""")
_THROUGHPUT = sql("""
    SELECT $__timeInterval(stored_at) AS time, topic, sum(rows) / $__interval_s AS rows
    FROM stored_batches
    WHERE $__timeFilter(stored_at)
    GROUP BY time, topic
    ORDER BY time
""")
_BATCHES = sql("""
    SELECT $__timeInterval(stored_at) AS time, topic, avg(rows) AS rows
    FROM stored_batches
    WHERE $__timeFilter(stored_at)
    GROUP BY time, topic
    ORDER BY time
""")
_PARTITIONS = sql("""
    SELECT topic, kafka_partition AS partition, count() AS messages, sum(rows) AS rows,
        max(kafka_offset) AS `last offset`, max(stored_at) AS stored
    FROM stored_batches
    WHERE $__timeFilter(stored_at)
    GROUP BY topic, partition
    ORDER BY topic, partition
    LIMIT 1000
""")
_ACCOUNT = """
    FROM
    (
        SELECT project, run_id, writer, max(points) + max(texts) AS told, max(ts) AS heard,
            argMaxIf(state, (ts, sequence), state IS NOT NULL) AS state
        FROM run_events
        GROUP BY project, run_id, writer
        HAVING heard >= $__fromTime
    ) AS told
    LEFT JOIN
    (
        SELECT project, run_id, writer, sum(rows) AS stored
        FROM
        (
            -- A message that the forwarder sent twice counts once. (DISTINCT says the same, forty times slower.)
            SELECT project, run_id, writer, any(rows) AS rows
            FROM stored_batches
            WHERE (topic LIKE '%metrics' OR topic LIKE '%system')
                AND (project, run_id) IN (SELECT project, run_id FROM run_events WHERE ts >= $__fromTime)
            GROUP BY project, run_id, writer, topic, first_sequence, last_sequence
        )
        GROUP BY project, run_id, writer
    ) AS stored ON told.project = stored.project AND told.run_id = stored.run_id AND told.writer = stored.writer
"""
_LOST = sql(f"""
    SELECT project, run_id AS run, writer, ifNull(state, 'running') AS state, told.told AS logged,
        stored.stored AS stored, toInt64(logged) - toInt64(stored) AS missing, heard
    {_ACCOUNT}
    ORDER BY missing DESC, heard DESC
    LIMIT 1000
""")
MISSING = sql(f"""
    SELECT sumIf(toInt64(told.told) - toInt64(stored.stored), state IS NOT NULL AND state != 'running') AS missing
    {_ACCOUNT}
""")
_ALIVE = sql("""
    SELECT uniqExact(writer) AS writers
    FROM run_events
    WHERE kind = 'heartbeat' AND ts >= $__toTime - INTERVAL 1 MINUTE AND ts <= $__toTime
""")
_ALIVE_BY_TIME = sql("""
    SELECT $__timeInterval(ts) AS time, uniqExact(writer) AS writers
    FROM run_events
    WHERE kind = 'heartbeat' AND $__timeFilter(ts)
    GROUP BY time
    ORDER BY time
""")
_LETTERS = sql("""
    SELECT state, reason, topic, count() AS messages, max(put_aside) AS latest, any(error) AS example
    FROM dead_letters
    GROUP BY state, reason, topic
    ORDER BY state = 'waiting' DESC, messages DESC
    LIMIT 1000
""")
_PARTS = sql("""
    SELECT table, sum(parts_in_partition) AS parts, max(parts_in_partition) AS `most in a partition`, sum(rows) AS rows,
        sum(bytes) AS bytes
    FROM
    (
        SELECT table, partition, count() AS parts_in_partition, sum(rows) AS rows, sum(bytes_on_disk) AS bytes
        FROM system.parts
        WHERE active AND database = currentDatabase()
        GROUP BY table, partition
    )
    GROUP BY table
    ORDER BY bytes DESC
""")
_MERGES = sql("""
    SELECT count() AS merges FROM system.merges WHERE database = currentDatabase()
""")

BOARD = Board(
    "pipeline",
    "Pulsetrain / Pipeline",
    "The pipeline itself: from log() to stored, throughput, dead letters, who is alive, what is missing, parts.",
    [
        Row(
            "Is anything lost?",
            [
                figure(
                    "Missing",
                    "Values that writers which have ended said that they logged, and that are not stored: none",
                    "locale",
                    MISSING,
                    width=6,
                    colour=GOOD,
                    steps={1: BAD},
                ),
                figure(
                    "Dead letters",
                    "Messages that could not be read and wait for `pulsetrain dlq`",
                    "short",
                    sql("SELECT countIf(state = 'waiting') AS letters FROM dead_letters"),
                    width=6,
                    colour=GOOD,
                    steps={1: WARN},
                ),
                figure(
                    "Writers alive",
                    "Processes and samplers whose heartbeat came within the last minute of the time range",
                    "short",
                    _ALIVE,
                    width=6,
                ),
                figure("Merges", "That ClickHouse is at", "short", _MERGES, width=6),
            ],
        ),
        Row(
            "Speed",
            [
                series("From log() to stored", "Of the oldest row of each message of metrics", "s", _LATENCY),
                series(
                    "Throughput",
                    "Rows that reached the tables a second, by topic",
                    "rows/s",
                    _THROUGHPUT,
                    by="topic",
                    fill=10,
                ),
                series("Size of messages", "Rows in a message, on average, by topic", "short", _BATCHES, by="topic"),
                series("Writers alive", "Whose heartbeat came", "short", _ALIVE_BY_TIME),
            ],
        ),
        Row(
            "Accounts",
            [
                rows(
                    "Loss account",
                    "What each writer logged and what is stored of it; while it runs, some is on its way",
                    _LOST,
                    width=12,
                    units={"heard": "dateTimeFromNow"},
                ),
                rows(
                    "Partitions",
                    "What was stored of each within the time range",
                    _PARTITIONS,
                    width=12,
                    units={"stored": "dateTimeFromNow"},
                ),
                rows(
                    "Dead letters",
                    "By state, reason and topic; `pulsetrain dlq show` has each",
                    _LETTERS,
                    width=12,
                    height=8,
                    units={"latest": "dateTimeAsIso"},
                ),
                rows(
                    "Parts of the tables",
                    "More than 300 in one partition slow inserts down",
                    _PARTS,
                    width=12,
                    height=8,
                    units={"bytes": "bytes"},
                ),
            ],
        ),
    ],
    since="now-1h",
)
