-- The views that a person queries. They are right without FINAL: a row that is stored twice changes no maximum.

-- One row a run. What an event leaves NULL stays as it was; of several processes that speak for a run, the lowest rank of
-- the latest attempt says its state. A run that is said to be running, and of which nothing was heard for five
-- minutes, has crashed. `duration` is in seconds, summed over the attempts, without the time between them.
-- Heartbeats are most of the events and tell nothing but the time and the counters: `heard` alone reads them.
CREATE VIEW runs AS
SELECT
    told.project                                                                   AS project,
    told.run_id                                                                    AS run_id,
    if(told.told_name = '', toString(told.run_id), told.told_name)                 AS name,
    multiIf(told.outcome.1 IS NOT NULL AND told.outcome.1 != 'running', assumeNotNull(told.outcome.1),
            heard.heard < now64(6, 'UTC') - INTERVAL 5 MINUTE, 'crashed',
            'running')                                                             AS state,
    concat('{', arrayStringConcat(noted.config, ','), '}')                         AS config,
    concat('{', arrayStringConcat(noted.summary, ','), '}')                        AS summary,
    told.told_tags                                                                 AS tags,
    told.told_group                                                                AS `group`,
    told.told_job_type                                                             AS job_type,
    told.told_notes                                                                AS notes,
    noted.host                                                                     AS host,
    noted.git_commit                                                               AS git_commit,
    noted.program                                                                  AS program,
    heard.latest_attempt                                                                AS attempt,
    if(told.outcome.1 = 'running', NULL, told.outcome.2)                           AS exit_code,
    heard.created                                                                  AS created,
    if(told.outcome.1 IS NULL OR told.outcome.1 = 'running', NULL, told.outcome.3) AS finished,
    heard.last_seen                                                                AS last_seen,
    heard.duration                                                                 AS duration
FROM
(
    SELECT
        project,
        run_id,
        ifNull(argMaxIf(name, (ts, sequence), name IS NOT NULL), '')               AS told_name,
        ifNull(argMaxIf(notes, (ts, sequence), notes IS NOT NULL), '')             AS told_notes,
        ifNull(argMaxIf(run_group, (ts, sequence), run_group IS NOT NULL), '')     AS told_group,
        ifNull(argMaxIf(job_type, (ts, sequence), job_type IS NOT NULL), '')       AS told_job_type,
        argMaxIf(tags, (ts, sequence), tags_set)                                   AS told_tags,
        argMaxIf((state, exit_code, ts), (attempt, -toInt64(rank), ts, sequence),
                 is_primary AND state IS NOT NULL)                                 AS outcome
    FROM run_events
    WHERE kind != 'heartbeat'
    GROUP BY project, run_id
) AS told
INNER JOIN
(
    SELECT
        project,
        run_id,
        max(attempt)                                                               AS latest_attempt,
        min(started)                                                               AS created,
        max(seen)                                                                  AS last_seen,
        argMax(seen, (is_primary, attempt, -toInt64(rank)))                        AS heard,
        arraySum(arrayMap((to_, from_) -> toUnixTimestamp64Micro(to_) - toUnixTimestamp64Micro(from_),
                          mapValues(maxMap(map(attempt, seen))),
                          mapValues(minMap(map(attempt, started))))) / 1e6         AS duration
    FROM
    (
        SELECT project, run_id, attempt, rank, is_primary, min(attempt_started) AS started, max(ts) AS seen
        FROM run_events
        GROUP BY project, run_id, attempt, rank, is_primary
    )
    GROUP BY project, run_id
) AS heard ON told.project = heard.project AND told.run_id = heard.run_id
LEFT JOIN
(
    SELECT
        project,
        run_id,
        arraySort(groupArrayIf(entry, section = 'config'))                         AS config,
        arraySort(groupArrayIf(entry, section = 'summary'))                        AS summary,
        anyIf(JSONExtractString(latest), section = 'environment' AND key = 'host') AS host,
        anyIf(JSONExtractString(latest), section = 'environment' AND key = 'git_commit') AS git_commit,
        anyIf(JSONExtractString(latest), section = 'environment' AND key = 'program') AS program
    FROM
    (
        SELECT
            project,
            run_id,
            section,
            key,
            -- The latest by (ts, sequence), which as one number compares faster; '' is no JSON and stands for NULL.
            argMax(ifNull(value, ''), bitShiftLeft(toUInt128(toUnixTimestamp64Micro(ts)), 64) + sequence) AS latest,
            concat(toJSONString(key), ':', latest)                                 AS entry
        FROM run_values
        WHERE section IN ('config', 'summary') OR key IN ('host', 'git_commit', 'program')
        GROUP BY project, run_id, section, key
        HAVING latest != ''
    )
    GROUP BY project, run_id
) AS noted ON told.project = noted.project AND told.run_id = noted.run_id;

-- The loss account: what each writer says that it has logged, and what of it is in the tables. `missing` counts points and
-- texts; it is more than nothing while they are on their way, and nothing once they are there. `latency` is the median,
-- over the stored messages, of the seconds from the log() of the oldest row to its being stored; `latency_max` the worst.
CREATE VIEW ingest AS
SELECT
    project,
    run_id,
    writer,
    max(told_rows)                                                                 AS produced_rows,
    max(told_points)                                                               AS produced_points,
    max(told_texts)                                                                AS produced_texts,
    groupBitmapIf(sequence, is_point OR is_text)                                   AS stored_rows,
    countIf(is_point)                                                              AS stored_points,
    countIf(is_text)                                                               AS stored_texts,
    toInt64(produced_points + produced_texts) - toInt64(stored_points + stored_texts) AS missing,
    multiIf(argMaxIf(told_state, (ts, sequence), told_state IS NOT NULL) AS last_state IS NOT NULL AND last_state != 'running',
            assumeNotNull(last_state),
            maxIf(ts, is_event) < now64(6, 'UTC') - INTERVAL 5 MINUTE, 'crashed',
            'running')                                                             AS state,
    quantileIf(0.5)(delay, is_batch)                                               AS latency,
    maxIf(delay, is_batch)                                                         AS latency_max
FROM
(
    SELECT project, run_id, writer, sequence, ts, state AS told_state, rows AS told_rows, points AS told_points, texts AS told_texts,
           true AS is_event, false AS is_point, false AS is_text, false AS is_batch, 0. AS delay
    FROM run_events
    UNION ALL
    SELECT project, run_id, writer, sequence, ts, NULL, 0, 0, 0, false, true, false, false, 0. FROM metrics
    UNION ALL
    SELECT project, run_id, writer, sequence, ts, NULL, 0, 0, 0, false, true, false, false, 0. FROM system
    UNION ALL
    SELECT project, run_id, writer, sequence, ts, NULL, 0, 0, 0, false, false, true, false, 0. FROM texts
    UNION ALL
    SELECT project, run_id, writer, last_sequence, stored_at, NULL, 0, 0, 0, false, false, false, true,
           (toUnixTimestamp64Micro(stored_at) - toUnixTimestamp64Micro(first_ts)) / 1e6
    FROM stored_batches
    WHERE topic IN ('metrics', 'pulsetrain.metrics')
)
GROUP BY project, run_id, writer
HAVING countIf(is_event) > 0;

-- Every point of a run's metrics beside the latest sample, at most ten seconds old, of each GPU that was sampled for the
-- same run and rank. Where there is none, what the GPU did is NULL.
-- An ASOF JOIN would say it more briefly, but does not hand a filter on the run to its right side: it would read every
-- sample of the fleet. So samples are gathered by ten seconds, each for its own ten and the next, and joined by equality.
CREATE VIEW gpu_at_step AS
SELECT
    project,
    run_id,
    metric,
    rank,
    step,
    ts,
    value,
    gpu,
    gpu_index,
    if(fresh, sample.2, NULL)                                                      AS utilization_percent,
    if(fresh, sample.3, NULL)                                                      AS memory_used_bytes,
    if(fresh, sample.4, NULL)                                                      AS power_watts,
    if(fresh, sample.5, NULL)                                                      AS temperature_celsius,
    if(fresh, sample.1, NULL)                                                      AS sample_ts
FROM
(
    SELECT
        m.project                                                                  AS project,
        m.run_id                                                                   AS run_id,
        m.metric                                                                   AS metric,
        m.rank                                                                     AS rank,
        m.step                                                                     AS step,
        m.ts                                                                       AS ts,
        m.value                                                                    AS value,
        g.gpu                                                                      AS gpu,
        g.gpu_index                                                                AS gpu_index,
        arrayLast(s -> s.1 <= m.ts, gathered.samples)                              AS sample,
        sample.1 >= m.ts - INTERVAL 10 SECOND                                      AS fresh
    FROM metrics AS m
    INNER JOIN
    (
        SELECT project, run_id, rank, gpu, any(gpu_index) AS gpu_index
        FROM system
        WHERE gpu != '' AND metric = 'utilization_percent'
        GROUP BY project, run_id, rank, gpu
    ) AS g ON m.project = g.project AND m.run_id = g.run_id AND m.rank = g.rank
    LEFT JOIN
    (
        SELECT
            project,
            run_id,
            rank,
            gpu,
            intDiv(toUnixTimestamp64Micro(ts), 10000000) + arrayJoin([0, 1])       AS bucket,
            arraySort(s -> s.1, groupArray((ts, utilization_percent, memory_used_bytes, power_watts,
                                            temperature_celsius)))                 AS samples
        FROM
        (
            SELECT
                project,
                run_id,
                rank,
                gpu,
                ts,
                anyIf(toNullable(value), metric = 'utilization_percent')           AS utilization_percent,
                anyIf(toNullable(value), metric = 'memory_used_bytes')             AS memory_used_bytes,
                anyIf(toNullable(value), metric = 'power_watts')                   AS power_watts,
                anyIf(toNullable(value), metric = 'temperature_celsius')           AS temperature_celsius
            FROM system
            WHERE gpu != ''
                AND metric IN ('utilization_percent', 'memory_used_bytes', 'power_watts', 'temperature_celsius')
            GROUP BY project, run_id, rank, gpu, ts
        )
        GROUP BY project, run_id, rank, gpu, bucket
    ) AS gathered
    ON m.project = gathered.project AND m.run_id = gathered.run_id AND m.rank = gathered.rank
        AND g.gpu = gathered.gpu AND intDiv(toUnixTimestamp64Micro(m.ts), 10000000) = gathered.bucket
);

-- The metrics as the latest attempt tells them: where an attempt begins at a step, what earlier attempts have from that step
-- on is left out. The table `metrics` has all.
CREATE VIEW latest_metrics AS
SELECT m.*
FROM metrics AS m
LEFT JOIN
(
    SELECT project, run_id, attempt, toNullable(min(first_step)) AS rewound_to
    FROM
    (
        SELECT project, run_id, arrayJoin(range(later)) AS attempt, first_step
        FROM
        (
            SELECT project, run_id, attempt AS later, min(step) AS first_step
            FROM metrics
            WHERE attempt > 0
            GROUP BY project, run_id, attempt
        )
    )
    GROUP BY project, run_id, attempt
) AS rewinds ON m.project = rewinds.project AND m.run_id = rewinds.run_id AND m.attempt = rewinds.attempt
WHERE rewinds.rewound_to IS NULL OR m.step < rewinds.rewound_to;
