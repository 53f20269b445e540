-- What is not kept: runs that were deleted, and for how long those of each project are.

-- A run that was deleted stays so: what its attempts from before have sent or will send is not stored, be it replayed from Kafka
-- or sent at last by a machine that was away. An attempt that begins afterwards, under the same id, is another matter.
CREATE TABLE deletions
(
    project    LowCardinality(String),
    run_id     String,
    deleted_at DateTime64(6, 'UTC'),
    actor      LowCardinality(String) COMMENT 'who deleted it'
)
ENGINE = ReplacingMergeTree(deleted_at)
ORDER BY (project, run_id);

-- For how many days the data of a project is kept; the latest says. The TTLs of the tables are made of it: see `pulsetrain retention`.
CREATE TABLE retention
(
    project LowCardinality(String)  COMMENT 'empty: every project that has no row of this kind of its own',
    kind    LowCardinality(String)  COMMENT 'runs, samples or logs',
    days    Nullable(UInt32)        COMMENT 'NULL: for ever',
    set_at  DateTime64(6, 'UTC'),
    actor   LowCardinality(String)
)
ENGINE = ReplacingMergeTree(set_at)
ORDER BY (project, kind);
