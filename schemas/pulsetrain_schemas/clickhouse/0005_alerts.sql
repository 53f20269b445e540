-- Alerts: what the monitor saw, what rules of the user's and run.alert() said, and how each went on.

-- A row a change of an alert's state. The writer fills it from the topic pulsetrain.alerts; a change that was told twice (a monitor
-- that was killed and tells it again) has the same alert_id and sequence, and merges leave one.
CREATE TABLE alert_events
(
    project   LowCardinality(String),
    run_id    LowCardinality(String),
    alert_id  String                 COMMENT 'the same for all changes of one alert',
    sequence  UInt32                 COMMENT '0 for the first change, one more for each further one',
    kind      LowCardinality(String) COMMENT 'the word of a detector (nan, stall, ...), rule, or user for run.alert()',
    subject   String                 COMMENT 'what of the run: a metric, a rank, a GPU, a host, a rule; empty for the run itself',
    state     LowCardinality(String) COMMENT 'pending, firing or resolved',
    severity  LowCardinality(String) COMMENT 'info, warning or critical',
    title     String,
    text      String                 CODEC(ZSTD(3)),
    ts        DateTime64(6, 'UTC')   COMMENT 'when the state changed',
    started   DateTime64(6, 'UTC')   COMMENT 'when the trouble began',
    source    LowCardinality(String) COMMENT 'who says so: a monitor, or the writer that called run.alert()',
    step      Nullable(Int64),
    value     Nullable(Float64),
    rank      Nullable(UInt32),
    host      LowCardinality(String),
    gpu       LowCardinality(String) COMMENT 'the UUID of the GPU',
    silenced  Bool                   COMMENT 'whether a silence kept it from being sent on',
    label_names  Array(String),
    label_values Array(String)
)
ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMM(started)
ORDER BY (project, run_id, alert_id, sequence)
SETTINGS non_replicated_deduplication_window = 10000;

-- One row an alert, as it is now. `fired` is NULL for one that was never more than pending, `resolved` for one that goes on.
-- Right without FINAL: a change that is stored twice changes no maximum.
CREATE VIEW alerts AS
SELECT
    e.project                                                                      AS project,
    e.run_id                                                                       AS run_id,
    e.alert_id                                                                     AS alert_id,
    argMax(e.kind, e.sequence)                                                     AS kind,
    argMax(e.subject, e.sequence)                                                  AS subject,
    argMax(e.state, e.sequence)                                                    AS state,
    argMax(e.severity, e.sequence)                                                 AS severity,
    argMax(e.title, e.sequence)                                                    AS title,
    argMax(e.text, (e.state != 'resolved', e.sequence))                            AS text,
    min(e.started)                                                                 AS started,
    minIf(toNullable(e.ts), e.state = 'firing')                                    AS fired,
    maxIf(toNullable(e.ts), e.state = 'resolved')                                  AS resolved,
    argMax(e.source, e.sequence)                                                   AS source,
    argMaxIf(e.step, e.sequence, e.step IS NOT NULL)                               AS step,
    argMaxIf(e.value, e.sequence, e.value IS NOT NULL)                             AS value,
    argMaxIf(e.rank, e.sequence, e.rank IS NOT NULL)                               AS rank,
    argMax(e.host, e.sequence)                                                     AS host,
    argMax(e.gpu, e.sequence)                                                      AS gpu,
    argMax(e.silenced, e.sequence)                                                 AS silenced,
    mapFromArrays(argMax(e.label_names, e.sequence), argMax(e.label_values, e.sequence)) AS labels
FROM alert_events AS e
GROUP BY project, run_id, alert_id;

-- What the monitor knows of the runs that it watches, as of the offsets that it had read: a monitor that comes up goes on from it.
-- One row a part of that; the latest counts.
CREATE TABLE monitor_state
(
    monitor  LowCardinality(String)  COMMENT 'the consumer group',
    part     String                  COMMENT 'project/run_id of a run, slashes in them as %2F; or offsets',
    version  UInt64                  COMMENT 'which monitor of the group saved it, and which of its saves that was',
    saved    DateTime64(6, 'UTC'),
    state    String                  COMMENT 'JSON; empty where there is nothing to remember any more' CODEC(ZSTD(3))
)
ENGINE = ReplacingMergeTree(version)
ORDER BY (monitor, part)
TTL toDateTime(saved) + INTERVAL 30 DAY;
