-- Messages that were put aside, so that they can be listed, counted and watched in SQL; and the fence of a rebuild.

-- What was told about each message that was put aside: the letter itself (action = ''), and what was done about it
-- later. The writer fills it from the topic pulsetrain.dead_letters, which holds the whole payloads; here is their beginning.
-- A message that was put aside twice (a crash between that and the commit) has two rows; the view `dead_letters` has one.
CREATE TABLE dead_letter_events
(
    topic            LowCardinality(String)        COMMENT 'where the message was, by its name in Kafka',
    topic_id         LowCardinality(String)        COMMENT 'the id that Kafka gave the topic: another after it was created again',
    kafka_partition  UInt32,
    kafka_offset     UInt64                        CODEC(DoubleDelta, ZSTD(1)),
    action           LowCardinality(String)        COMMENT 'empty for the letter itself, else replayed or dropped',
    actor            LowCardinality(String)        COMMENT 'who did it',
    ts               DateTime64(6, 'UTC')          COMMENT 'when it was put aside, or done' CODEC(DoubleDelta, ZSTD(1)),
    reason           LowCardinality(String)        COMMENT 'undecodable, unknown_schema, invalid or refused',
    error            String                        CODEC(ZSTD(3)),
    consumer_group   LowCardinality(String),
    record_ts        Nullable(DateTime64(6, 'UTC')) COMMENT 'when the message was sent to its topic',
    key              Nullable(String)              CODEC(ZSTD(3)),
    payload_bytes    Nullable(UInt64)              COMMENT 'NULL where the payload is at its original offset alone',
    payload_start    String                        COMMENT 'the first 1,024 bytes' CODEC(ZSTD(3)),
    letter_partition UInt32                        COMMENT 'where in pulsetrain.dead_letters this was told',
    letter_offset    UInt64                        CODEC(DoubleDelta, ZSTD(1)),
    letter_index     UInt32                        COMMENT 'its place in that message: one may hold many letters'
)
ENGINE = ReplacingMergeTree
ORDER BY (topic, kafka_partition, kafka_offset, topic_id, letter_partition, letter_offset, letter_index)
SETTINGS non_replicated_deduplication_window = 10000;

-- One row a message that was put aside, with what became of it: waiting, replayed or dropped. Right without FINAL.
CREATE VIEW dead_letters AS
SELECT
    topic,
    topic_id,
    kafka_partition,
    kafka_offset,
    if(countIf(action != '') = 0, 'waiting', argMaxIf(action, ts, action != ''))   AS state,
    minIf(ts, action = '')                                                         AS put_aside,
    if(countIf(action != '') = 0, NULL, maxIf(ts, action != ''))                   AS resolved,
    argMaxIf(actor, ts, action != '')                                              AS resolved_by,
    argMaxIf(reason, place, action = '')                                           AS reason,
    argMaxIf(error, place, action = '')                                            AS error,
    argMaxIf(consumer_group, place, action = '')                                   AS consumer_group,
    argMaxIf(record_ts, place, action = '')                                        AS record_ts,
    argMaxIf(key, place, action = '')                                              AS key,
    argMaxIf(payload_bytes, place, action = '')                                    AS payload_bytes,
    argMaxIf(payload_start, place, action = '')                                    AS payload_start,
    tupleElement(maxIf(place, action = ''), 1)                                     AS letter_partition,
    tupleElement(maxIf(place, action = ''), 2)                                     AS letter_offset,
    tupleElement(maxIf(place, action = ''), 3)                                     AS letter_index
FROM
(
    SELECT *, (letter_partition, letter_offset, letter_index)                      AS place
    FROM dead_letter_events
)
GROUP BY topic, topic_id, kafka_partition, kafka_offset
HAVING countIf(action = '') > 0;

-- While a row of it lies in the future, writers store nothing: `pulsetrain migrate --rebuild` exchanges the tables. The row is
-- renewed as long as the rebuild lives; one that died is not waited for.
CREATE TABLE rebuild_fence
(
    until  DateTime64(6, 'UTC'),
    holder String
)
ENGINE = MergeTree
ORDER BY until;
