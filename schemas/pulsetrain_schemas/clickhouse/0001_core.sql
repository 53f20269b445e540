-- The tables that the writer fills, one statement after another, each ended by a semicolon at the end of a line.
--
-- Every table is partitioned by a function of its key (the month in which the attempt started), never by the time
-- of insertion, so that a row that comes twice meets itself. `non_replicated_deduplication_window` makes the
-- token of an insert count; ReplacingMergeTree on the natural key (writer, sequence) is the backstop behind it.

-- The codec of `value`, measured on 5 million values of noisy loss, accuracy, learning rate, gradient norm and step time,
-- in bytes a value, with loss and norm once from float32 and once float64: ZSTD(1) 4.67 and 6.08; Gorilla, ZSTD(1) 4.27
-- and 5.77; Delta, ZSTD(1) 4.25 and 5.59, read as fast (17 ns of CPU a value); FPC, ZSTD(1) 4.28 and 5.34, 40 % slower.
CREATE TABLE metrics
(
    project         LowCardinality(String),
    run_id          LowCardinality(String),
    metric          LowCardinality(String),
    rank            UInt32                 CODEC(ZSTD(1)),
    step            Int64                  CODEC(DoubleDelta, ZSTD(1)),
    ts              DateTime64(6, 'UTC')   CODEC(DoubleDelta, ZSTD(1)),
    value           Float64                CODEC(Delta, ZSTD(1)),
    attempt         UInt32                 CODEC(ZSTD(1)),
    writer          LowCardinality(String),
    sequence        UInt64                 CODEC(DoubleDelta, ZSTD(1)),
    attempt_started DateTime('UTC')        CODEC(ZSTD(1))
)
ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMM(attempt_started)
ORDER BY (project, run_id, metric, rank, step, writer, sequence)
SETTINGS non_replicated_deduplication_window = 10000;

CREATE TABLE texts
(
    project         LowCardinality(String),
    run_id          LowCardinality(String),
    key             LowCardinality(String),
    rank            UInt32                 CODEC(ZSTD(1)),
    step            Int64                  CODEC(DoubleDelta, ZSTD(1)),
    ts              DateTime64(6, 'UTC')   CODEC(DoubleDelta, ZSTD(1)),
    value           String                 COMMENT 'JSON' CODEC(ZSTD(3)),
    attempt         UInt32                 CODEC(ZSTD(1)),
    writer          LowCardinality(String),
    sequence        UInt64                 CODEC(DoubleDelta, ZSTD(1)),
    attempt_started DateTime('UTC')        CODEC(ZSTD(1))
)
ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMM(attempt_started)
ORDER BY (project, run_id, key, rank, step, writer, sequence)
SETTINGS non_replicated_deduplication_window = 10000;

CREATE TABLE system
(
    host            LowCardinality(String),
    gpu             LowCardinality(String) COMMENT 'the UUID of the GPU; empty for a metric of the host',
    gpu_index       Int32                  COMMENT '-1 for a metric of the host' CODEC(ZSTD(1)),
    metric          LowCardinality(String),
    ts              DateTime64(6, 'UTC')   CODEC(DoubleDelta, ZSTD(1)),
    value           Float64                CODEC(ZSTD(1)),
    project         LowCardinality(String),
    run_id          LowCardinality(String),
    rank            UInt32                 CODEC(ZSTD(1)),
    writer          LowCardinality(String),
    sequence        UInt64                 CODEC(DoubleDelta, ZSTD(1)),
    attempt_started DateTime('UTC')        CODEC(ZSTD(1))
)
ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMM(attempt_started)
ORDER BY (host, gpu, metric, project, run_id, ts, writer, sequence)
SETTINGS non_replicated_deduplication_window = 10000;

CREATE TABLE logs
(
    project         LowCardinality(String),
    run_id          LowCardinality(String),
    rank            UInt32                 CODEC(ZSTD(1)),
    ts              DateTime64(6, 'UTC')   CODEC(DoubleDelta, ZSTD(1)),
    stream          LowCardinality(String) COMMENT 'stdout or stderr',
    line            String                 CODEC(ZSTD(3)),
    attempt         UInt32                 CODEC(ZSTD(1)),
    writer          LowCardinality(String),
    sequence        UInt64                 CODEC(DoubleDelta, ZSTD(1)),
    attempt_started DateTime('UTC')        CODEC(ZSTD(1))
)
ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMM(attempt_started)
ORDER BY (project, run_id, rank, ts, writer, sequence)
SETTINGS non_replicated_deduplication_window = 10000;

-- What happened to a run, as its writers told it: one row an event. A NULL says that the event leaves the field as it was.
CREATE TABLE run_events
(
    project         LowCardinality(String),
    run_id          LowCardinality(String),
    writer          LowCardinality(String),
    sequence        UInt64,
    kind            LowCardinality(String) COMMENT 'start, update, heartbeat or finish',
    ts              DateTime64(6, 'UTC'),
    attempt         UInt32,
    attempt_started DateTime64(6, 'UTC'),
    rank            UInt32,
    is_primary      Bool                   COMMENT 'whether this writer speaks for the state of the run',
    name            Nullable(String),
    notes           Nullable(String),
    tags            Array(String),
    tags_set        Bool                   COMMENT 'whether tags is meant: an array cannot be NULL',
    run_group       Nullable(String),
    job_type        Nullable(String),
    state           Nullable(String),
    exit_code       Nullable(Int32),
    rows            UInt64                 COMMENT 'history rows that the writer has logged so far',
    points          UInt64                 COMMENT 'numeric points that the writer has logged so far',
    texts           UInt64                 COMMENT 'non-numeric values that the writer has logged so far'
)
ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMM(attempt_started)
ORDER BY (project, run_id, writer, sequence, kind)
SETTINGS non_replicated_deduplication_window = 10000;

-- Config, summary and environment of a run, a row a key. The latest (ts, sequence) counts; merges leave no more than it, by
-- writer, for a summary that changes every few seconds would else grow to millions of rows a run.
CREATE TABLE run_values
(
    project         LowCardinality(String),
    run_id          LowCardinality(String),
    section         LowCardinality(String) COMMENT 'config, summary or environment',
    key             String,
    value           Nullable(String)       COMMENT 'JSON; NULL where the key was removed',
    number          Nullable(Float64)      COMMENT 'the value, where it is a number',
    attempt         UInt32,
    rank            UInt32,
    ts              DateTime64(6, 'UTC'),
    writer          LowCardinality(String),
    sequence        UInt64,
    attempt_started DateTime64(6, 'UTC')
)
ENGINE = ReplacingMergeTree(ts)
PARTITION BY toYYYYMM(attempt_started)
ORDER BY (project, run_id, section, key, writer)
SETTINGS non_replicated_deduplication_window = 10000;

-- The ledger: which sequences of which writer are stored, from which offsets. Written after the rows themselves; a row
-- that is written again on replay says the same, so it needs no token.
CREATE TABLE stored_batches
(
    topic           LowCardinality(String),
    project         LowCardinality(String),
    run_id          LowCardinality(String),
    writer          LowCardinality(String),
    first_sequence  UInt64                 CODEC(DoubleDelta, ZSTD(1)),
    last_sequence   UInt64                 CODEC(DoubleDelta, ZSTD(1)),
    kafka_partition UInt32,
    kafka_offset    UInt64                 CODEC(DoubleDelta, ZSTD(1)),
    rows            UInt64                 COMMENT 'rows that reached the tables' CODEC(ZSTD(1)),
    first_ts        DateTime64(6, 'UTC')   COMMENT 'when the oldest row of the message was logged' CODEC(DoubleDelta, ZSTD(1)),
    last_ts         DateTime64(6, 'UTC')   COMMENT 'when the newest row of the message was logged' CODEC(DoubleDelta, ZSTD(1)),
    stored_at       DateTime64(6, 'UTC')   CODEC(DoubleDelta, ZSTD(1))
)
ENGINE = ReplacingMergeTree
ORDER BY (project, run_id, writer, topic, first_sequence, kafka_partition, kafka_offset);
