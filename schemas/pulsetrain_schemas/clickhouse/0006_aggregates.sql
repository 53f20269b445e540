-- Aggregates: steps summed up in buckets for plots of any length, ranks compared step by step, hardware by 10 s, 1 min and 1 h.
-- The aggregator fills them from the tables of the writer, and computes anew what changed there.
--
-- A row is keyed by what it sums up, and `version` grows with what it was computed from and with nothing else: it counts the
-- rows of the raw table that are in it, and once more those that a later attempt has replaced; neither is ever taken back. So
-- whoever knew more wins, whenever it comes, whatever the clocks say, and computing again what has not changed gives the same row
-- with the same version. No column says when a row was computed. The tables are not partitioned by anything that is no
-- function of the key, so a row always meets its predecessors. Read the views: they show one row a key.
--
-- A rebuild (`pulsetrain migrate --rebuild`) leaves these tables alone, for it brings the same raw rows.

-- Steps in buckets of 64, of 64 * 8, and so on up to level 5 (2,097,152 steps): a bucket is intDiv(step, width), which rounds
-- toward 0 (of steps below 0 too, so bucket 0 is wider where there are such). Each level is computed from the one below it.
-- The level stands before the metric in the key: at the highest one a run has next to one row a series, which is a table of
-- contents, read in one go.
CREATE TABLE metric_buckets
(
    project    LowCardinality(String),
    run_id     LowCardinality(String),
    level      UInt8                                  CODEC(ZSTD(1)),
    metric     LowCardinality(String),
    rank       UInt32                                 CODEC(ZSTD(1)),
    bucket     Int64                                  CODEC(DoubleDelta, ZSTD(1)),
    count      UInt64               COMMENT 'values of any kind; 0 where a later attempt has replaced all of them' CODEC(ZSTD(1)),
    nans       UInt64                                 CODEC(ZSTD(1)),
    pos_infs   UInt64                                 CODEC(ZSTD(1)),
    neg_infs   UInt64                                 CODEC(ZSTD(1)),
    min        Float64              COMMENT 'of the finite values, as are max and sum' CODEC(ZSTD(1)),
    max        Float64                                CODEC(ZSTD(1)),
    min_step   Int64                COMMENT 'the lowest step that has the minimum; as of all steps here, where there are none 0' CODEC(DoubleDelta, ZSTD(1)),
    max_step   Int64                COMMENT 'the lowest step that has the maximum' CODEC(DoubleDelta, ZSTD(1)),
    sum        Float64                                CODEC(ZSTD(1)),
    first      Float64              COMMENT 'the value of the lowest (step, ts), finite or not' CODEC(ZSTD(1)),
    last       Float64              COMMENT 'the value of the highest (step, ts), finite or not' CODEC(ZSTD(1)),
    first_step Int64                                  CODEC(DoubleDelta, ZSTD(1)),
    last_step  Int64                                  CODEC(DoubleDelta, ZSTD(1)),
    first_ts   DateTime64(6, 'UTC')                   CODEC(DoubleDelta, ZSTD(1)),
    last_ts    DateTime64(6, 'UTC')                   CODEC(DoubleDelta, ZSTD(1)),
    version    UInt64                                 CODEC(ZSTD(1))
)
ENGINE = ReplacingMergeTree(version)
ORDER BY (project, run_id, level, metric, rank, bucket)
-- A series has 8,192 steps in 128 rows: granules of 8,192 rows would have those of 64 series read for one.
SETTINGS index_granularity = 1024;

-- The same step of one metric across the ranks, where more than one has it. Several values of one rank at one step all count.
CREATE TABLE rank_steps
(
    project      LowCardinality(String),
    run_id       LowCardinality(String),
    metric       LowCardinality(String),
    step         Int64                                CODEC(DoubleDelta, ZSTD(1)),
    ts           DateTime64(6, 'UTC') COMMENT 'when the last of them logged it' CODEC(DoubleDelta, ZSTD(1)),
    ranks        UInt32               COMMENT 'how many ranks; fewer than two where a later attempt has replaced them' CODEC(ZSTD(1)),
    count        UInt64               COMMENT 'finite values' CODEC(ZSTD(1)),
    not_finite   UInt64                               CODEC(ZSTD(1)),
    min          Float64                              CODEC(ZSTD(1)),
    max          Float64                              CODEC(ZSTD(1)),
    sum          Float64                              CODEC(ZSTD(1)),
    rank_of_min  UInt32               COMMENT 'the lowest rank that has the minimum' CODEC(ZSTD(1)),
    rank_of_max  UInt32               COMMENT 'the highest rank that has the maximum' CODEC(ZSTD(1)),
    version      UInt64                               CODEC(ZSTD(1))
)
ENGINE = ReplacingMergeTree(version)
ORDER BY (project, run_id, metric, step);

-- The hardware by 10 seconds, by minute and by hour. A sample is taken for a run, and two runs on a machine measure the same GPU
-- twice: their samples are pooled in one row, so that a sum over the fleet has each GPU once and a mean is one of all that
-- is known of it; `run_ids` tells whose they are. Only what measures the processes of a run (process_..., container_...) is kept
-- apart by run: there two runs have two values. Everything else has '' for project and run.
-- `sketch` gives quantiles to within 1 %, does not depend on the order of what it was made from, and can be merged on, over
-- hosts or over time: quantilesDDMerge(0.01, 0.5, 0.9, 0.99)(sketch).
-- The TTLs say how long each is kept; a later migration may MODIFY them.
CREATE TABLE system_10s
(
    seconds    UInt16 DEFAULT 10         COMMENT 'of each row of this table: a filter on it tells the tables of the view apart' CODEC(ZSTD(1)),
    host       LowCardinality(String),
    gpu        LowCardinality(String) COMMENT 'the UUID of the GPU; empty for a metric of the host',
    metric     LowCardinality(String),
    project    LowCardinality(String) COMMENT 'empty unless the metric is one of the processes of a run',
    run_id     LowCardinality(String),
    time       DateTime('UTC')      COMMENT 'where the 10 seconds begin' CODEC(DoubleDelta, ZSTD(1)),
    gpu_index  Int32                                  CODEC(ZSTD(1)),
    count      UInt64               COMMENT 'finite samples' CODEC(ZSTD(1)),
    not_finite UInt64                                 CODEC(ZSTD(1)),
    min        Float64                                CODEC(ZSTD(1)),
    max        Float64                                CODEC(ZSTD(1)),
    sum        Float64                                CODEC(ZSTD(1)),
    sketch     AggregateFunction(quantilesDD(0.01, 0.5, 0.9, 0.99), Float64) CODEC(ZSTD(1)),
    run_ids    Array(String)        COMMENT 'the runs that the samples were taken for' CODEC(ZSTD(1)),
    version    UInt64                                 CODEC(ZSTD(1))
)
ENGINE = ReplacingMergeTree(version)
PARTITION BY toDate(time)
ORDER BY (seconds, host, gpu, metric, project, run_id, time)
TTL time + INTERVAL 7 DAY
SETTINGS ttl_only_drop_parts = 1, index_granularity = 2048;

CREATE TABLE system_1m
(
    seconds    UInt16 DEFAULT 60         CODEC(ZSTD(1)),
    host       LowCardinality(String),
    gpu        LowCardinality(String),
    metric     LowCardinality(String),
    project    LowCardinality(String),
    run_id     LowCardinality(String),
    time       DateTime('UTC')      COMMENT 'where the minute begins' CODEC(DoubleDelta, ZSTD(1)),
    gpu_index  Int32                                  CODEC(ZSTD(1)),
    count      UInt64                                 CODEC(ZSTD(1)),
    not_finite UInt64                                 CODEC(ZSTD(1)),
    min        Float64                                CODEC(ZSTD(1)),
    max        Float64                                CODEC(ZSTD(1)),
    sum        Float64                                CODEC(ZSTD(1)),
    sketch     AggregateFunction(quantilesDD(0.01, 0.5, 0.9, 0.99), Float64) CODEC(ZSTD(1)),
    run_ids    Array(String)                          CODEC(ZSTD(1)),
    version    UInt64                                 CODEC(ZSTD(1))
)
ENGINE = ReplacingMergeTree(version)
PARTITION BY toMonday(time)
ORDER BY (seconds, host, gpu, metric, project, run_id, time)
TTL time + INTERVAL 90 DAY
SETTINGS ttl_only_drop_parts = 1, index_granularity = 2048;

CREATE TABLE system_1h
(
    seconds    UInt16 DEFAULT 3600       CODEC(ZSTD(1)),
    host       LowCardinality(String),
    gpu        LowCardinality(String),
    metric     LowCardinality(String),
    project    LowCardinality(String),
    run_id     LowCardinality(String),
    time       DateTime('UTC')      COMMENT 'where the hour begins' CODEC(DoubleDelta, ZSTD(1)),
    gpu_index  Int32                                  CODEC(ZSTD(1)),
    count      UInt64                                 CODEC(ZSTD(1)),
    not_finite UInt64                                 CODEC(ZSTD(1)),
    min        Float64                                CODEC(ZSTD(1)),
    max        Float64                                CODEC(ZSTD(1)),
    sum        Float64                                CODEC(ZSTD(1)),
    sketch     AggregateFunction(quantilesDD(0.01, 0.5, 0.9, 0.99), Float64) CODEC(ZSTD(1)),
    run_ids    Array(String)                          CODEC(ZSTD(1)),
    version    UInt64                                 CODEC(ZSTD(1))
)
ENGINE = ReplacingMergeTree(version)
PARTITION BY toYYYYMM(time)
ORDER BY (seconds, host, gpu, metric, project, run_id, time)
SETTINGS index_granularity = 2048;

-- What an aggregator is about to compute anew: handed over as rows and not in the text of a statement. `round` tells those of one
-- statement from others. Nobody misses them afterwards.
CREATE TABLE metric_changes
(
    round   LowCardinality(String),
    project LowCardinality(String),
    run_id  LowCardinality(String),
    metric  LowCardinality(String),
    rank    UInt32,
    bucket  Int64,
    at      DateTime('UTC') DEFAULT now()
)
ENGINE = MergeTree
PARTITION BY toStartOfTenMinutes(at)
ORDER BY round
TTL at + INTERVAL 1 HOUR
SETTINGS ttl_only_drop_parts = 1;

CREATE TABLE system_changes
(
    round  LowCardinality(String),
    host   LowCardinality(String),
    gpu    LowCardinality(String),
    metric LowCardinality(String),
    time   DateTime('UTC') COMMENT 'where the 10 seconds begin',
    at     DateTime('UTC') DEFAULT now()
)
ENGINE = MergeTree
PARTITION BY toStartOfTenMinutes(at)
ORDER BY round
TTL at + INTERVAL 1 HOUR
SETTINGS ttl_only_drop_parts = 1;

-- Runs that have had a later attempt are few: whoever asks for them reads next to nothing.
ALTER TABLE run_events ADD INDEX IF NOT EXISTS is_later attempt TYPE minmax GRANULARITY 1;

-- The views read with FINAL, which leaves of rows of one key the highest version. A filter on columns of the key is applied
-- before it and reaches the primary key; an argMax of every column by hand does the same work slower.

-- A metric in buckets of `width` steps. Choose the lowest level that has few enough of them for the plot; below some ten
-- thousand steps the points themselves (latest_metrics) are as fast. Shows what latest_metrics shows of the run's own: what a later
-- attempt replaced does not count. What a fork has from its parents is under the parents' ids (view inheritance) and not
-- copied here. min, max and mean are of the finite values, and NULL where there are none.
CREATE VIEW metric_pyramid AS
SELECT
    b.project                                                                      AS project,
    b.run_id                                                                       AS run_id,
    b.level                                                                        AS level,
    b.metric                                                                       AS metric,
    b.rank                                                                         AS rank,
    b.bucket                                                                       AS bucket,
    bitShiftLeft(toInt64(64), 3 * b.level)                                         AS width,
    b.count                                                                        AS count,
    b.nans                                                                         AS nans,
    b.pos_infs                                                                     AS pos_infs,
    b.neg_infs                                                                     AS neg_infs,
    b.count - b.nans - b.pos_infs - b.neg_infs                                     AS finite,
    if(finite > 0, b.min, NULL)                                                    AS min,
    if(finite > 0, b.max, NULL)                                                    AS max,
    if(finite > 0, b.min_step, NULL)                                               AS min_step,
    if(finite > 0, b.max_step, NULL)                                               AS max_step,
    if(finite > 0, b.sum / finite, NULL)                                           AS mean,
    b.first                                                                        AS first,
    b.last                                                                         AS last,
    b.first_step                                                                   AS first_step,
    b.last_step                                                                    AS last_step,
    b.first_ts                                                                     AS first_ts,
    b.last_ts                                                                      AS last_ts
FROM metric_buckets AS b FINAL
WHERE b.count > 0;

-- How far the ranks are apart at each step of the metrics that more than one rank logs, and which rank is at either end.
CREATE VIEW rank_spread AS
SELECT
    s.project                                                                      AS project,
    s.run_id                                                                       AS run_id,
    s.metric                                                                       AS metric,
    s.step                                                                         AS step,
    s.ts                                                                           AS ts,
    s.ranks                                                                        AS ranks,
    s.count                                                                        AS count,
    s.not_finite                                                                   AS not_finite,
    if(s.count > 0, s.min, NULL)                                                   AS min,
    if(s.count > 0, s.max, NULL)                                                   AS max,
    if(s.count > 0, s.sum / s.count, NULL)                                         AS mean,
    if(s.count > 0, s.rank_of_min, NULL)                                           AS rank_of_min,
    if(s.count > 0, s.rank_of_max, NULL)                                           AS rank_of_max
FROM rank_steps AS s FINAL
WHERE s.ranks > 1;

-- The hardware over time, in rows of `seconds` (10, 60 or 3600) each: always name the one that is meant.
CREATE VIEW system_rollups AS
SELECT
    r.seconds                                                                      AS seconds,
    r.host                                                                         AS host,
    r.gpu                                                                          AS gpu,
    r.gpu_index                                                                    AS gpu_index,
    r.metric                                                                       AS metric,
    r.project                                                                      AS project,
    r.run_id                                                                       AS run_id,
    r.time                                                                         AS time,
    r.count                                                                        AS count,
    r.not_finite                                                                   AS not_finite,
    if(r.count > 0, r.min, NULL)                                                   AS min,
    if(r.count > 0, r.max, NULL)                                                   AS max,
    if(r.count > 0, r.sum / r.count, NULL)                                         AS mean,
    if(r.count > 0, r.quantiles[1], NULL)                                          AS p50,
    if(r.count > 0, r.quantiles[2], NULL)                                          AS p90,
    if(r.count > 0, r.quantiles[3], NULL)                                          AS p99,
    r.run_ids                                                                      AS run_ids
FROM
(
    SELECT *, finalizeAggregation(sketch) AS quantiles FROM system_10s FINAL
    UNION ALL
    SELECT *, finalizeAggregation(sketch) AS quantiles FROM system_1m FINAL
    UNION ALL
    SELECT *, finalizeAggregation(sketch) AS quantiles FROM system_1h FINAL
) AS r;
