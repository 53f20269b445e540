-- Silences: alerts that nobody is told of for a while.

-- A row a change of one: `pulsetrain alerts silence` makes it, `pulsetrain alerts lift` ends it. The latest counts. Patterns, in which
-- * stands for anything. It is no table of the log's: a rebuild leaves it as it is.
CREATE TABLE silences
(
    silence_id String,
    changed    DateTime64(6, 'UTC'),
    project    String               COMMENT 'a pattern, as run, kind and subject are',
    run        String               COMMENT 'the id of the run',
    kind       String               COMMENT 'of the alert: the word of a detector, rule, or user for run.alert()',
    subject    String               COMMENT 'what of the run the alert is about',
    starts     DateTime64(6, 'UTC'),
    ends       DateTime64(6, 'UTC') COMMENT 'when it was lifted, where it was',
    reason     String,
    actor      String               COMMENT 'who made it'
)
ENGINE = ReplacingMergeTree(changed)
ORDER BY silence_id
TTL toDateTime(ends) + INTERVAL 90 DAY;
