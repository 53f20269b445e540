-- Attempts, rewinds and forks: where each attempt begins, what a fork has from other runs, and views that show of each step
-- what the latest attempt logged.

-- An attempt stands in place of what earlier ones logged from its first step on. The start of an attempt tells that step, and
-- an update tells a lower one where its first row went back further.
ALTER TABLE run_events
    ADD COLUMN first_step         Nullable(Int64)  COMMENT 'the step that the attempt begins at',
    ADD COLUMN parent_run_id      Nullable(String) COMMENT 'the run that this one was forked from',
    ADD COLUMN parent_step        Nullable(Int64)  COMMENT 'the last step that it has from there',
    ADD COLUMN inherited_runs     Array(String)    COMMENT 'what a fork has from others: of which run',
    ADD COLUMN inherited_attempts Array(UInt32)    COMMENT 'of which attempt of that',
    ADD COLUMN inherited_below    Array(Int64)     COMMENT 'the steps under this one',
    -- Forks are few: whoever looks for all of them reads next to nothing.
    ADD INDEX  is_fork notEmpty(inherited_runs) TYPE minmax GRANULARITY 1;

-- What later attempts replaced: of this attempt, the steps from `below` on. Attempts that nothing replaced have no row. It reads
-- no metrics, so it is small; no array function touches the keys, so a filter on the run reaches the table.
CREATE VIEW rewinds AS
SELECT project, run_id, attempt, min(first) AS below
FROM
(
    SELECT project, run_id, arrayJoin(range(later)) AS attempt, first
    FROM
    (
        SELECT project, run_id, attempt AS later, assumeNotNull(min(first_step)) AS first
        FROM run_events
        WHERE kind != 'heartbeat' AND attempt > 0 AND first_step IS NOT NULL
        GROUP BY project, run_id, attempt
    )
)
GROUP BY project, run_id, attempt;

-- What forks have from other runs, a row an attempt of these: the steps under `below`. What a fork inherited was decided when it
-- began, its parent's own inheritance included, so nothing here is recursive. Where it goes back before that, it has less.
CREATE VIEW inheritance AS
SELECT
    project,
    run_id,
    part.1                                                                         AS source_run_id,
    part.2                                                                         AS attempt,
    least(part.3, first)                                                           AS below
FROM
(
    SELECT
        project,
        run_id,
        arrayJoin(origin.2)                                                        AS part,
        arrayMin(arrayMap(told -> if(told.1 >= origin.1, assumeNotNull(told.2), toInt64(9223372036854775807)), firsts)) AS first
    FROM
    (
        SELECT
            project,
            run_id,
            groupArray((attempt, first_step))                                      AS firsts,
            argMaxIf((attempt, arrayZip(inherited_runs, inherited_attempts, inherited_below)), attempt,
                     notEmpty(inherited_runs))                                     AS origin
        FROM run_events
        WHERE kind != 'heartbeat' AND first_step IS NOT NULL
        GROUP BY project, run_id
    )
);

-- What each run shows, a row an attempt: of attempt `attempt` of `source_run_id` (itself, or for a fork also others) the steps
-- under `below`, or all where that is NULL.
CREATE VIEW run_lineage AS
SELECT
    own.project                                                                    AS project,
    own.run_id                                                                     AS run_id,
    toString(own.run_id)                                                           AS source_run_id,
    own.attempt                                                                    AS attempt,
    own.started                                                                    AS started,
    own.first_step                                                                 AS first_step,
    later.below                                                                    AS below
FROM
(
    SELECT project, run_id, attempt, min(attempt_started) AS started, min(first_step) AS first_step
    FROM run_events
    WHERE kind != 'heartbeat'
    GROUP BY project, run_id, attempt
) AS own
LEFT JOIN
(
    SELECT project, run_id, attempt, toNullable(below) AS below FROM rewinds
) AS later ON own.project = later.project AND own.run_id = later.run_id AND own.attempt = later.attempt
UNION ALL
SELECT project, run_id, source_run_id, attempt, NULL, NULL, toNullable(below) FROM inheritance;

-- The metrics as the latest attempt tells them, and for a fork also what it has from its parents, under the fork's own id;
-- `source_run_id` is the run that logged the point. The table `metrics` has all, each point once.
-- A filter on the run reaches the primary key for what the run logged itself. For what forks have from others it does not: there
-- every run of the project that was forked from is read, unless the query names `source_run_id` too.
CREATE OR REPLACE VIEW latest_metrics AS
SELECT m.*, toString(m.run_id) AS source_run_id
FROM metrics AS m
ANY LEFT JOIN
(
    SELECT project, run_id, attempt, toNullable(below) AS below FROM rewinds
) AS later ON m.project = later.project AND m.run_id = later.run_id AND m.attempt = later.attempt
WHERE later.below IS NULL OR m.step < later.below
UNION ALL
SELECT m.* REPLACE (i.run_id AS run_id), toString(m.run_id) AS source_run_id
FROM metrics AS m
INNER JOIN inheritance AS i ON m.project = i.project AND m.run_id = i.source_run_id AND m.attempt = i.attempt
WHERE m.step < i.below AND (m.project, m.run_id) IN
    (
        SELECT project, arrayJoin(inherited_runs) FROM run_events WHERE notEmpty(inherited_runs)
    );

-- The same for what is no number.
CREATE VIEW latest_texts AS
SELECT t.*, toString(t.run_id) AS source_run_id
FROM texts AS t
ANY LEFT JOIN
(
    SELECT project, run_id, attempt, toNullable(below) AS below FROM rewinds
) AS later ON t.project = later.project AND t.run_id = later.run_id AND t.attempt = later.attempt
WHERE later.below IS NULL OR t.step < later.below
UNION ALL
SELECT t.* REPLACE (i.run_id AS run_id), toString(t.run_id) AS source_run_id
FROM texts AS t
INNER JOIN inheritance AS i ON t.project = i.project AND t.run_id = i.source_run_id AND t.attempt = i.attempt
WHERE t.step < i.below AND (t.project, t.run_id) IN
    (
        SELECT project, arrayJoin(inherited_runs) FROM run_events WHERE notEmpty(inherited_runs)
    );

-- One row a run. What an event leaves NULL stays as it was; of several processes that speak for a run, the lowest rank of
-- the latest attempt says its state. A run that is said to be running, and of which nothing was heard for five
-- minutes, has crashed. `duration` is in seconds, summed over the attempts, without the time between them.
-- Config and summary are what the latest attempt says: it carries over what it goes on from, and what an earlier one says late
-- does not count.
-- Heartbeats are most of the events and tell nothing but the time and the counters: `heard` alone reads them.
CREATE OR REPLACE VIEW runs AS
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
    heard.duration                                                                 AS duration,
    told.parent_run_id                                                             AS parent_run_id,
    told.parent_step                                                               AS parent_step
FROM
(
    SELECT
        project,
        run_id,
        ifNull(argMaxIf(name, (ts, sequence), name IS NOT NULL), '')               AS told_name,
        ifNull(argMaxIf(notes, (ts, sequence), notes IS NOT NULL), '')             AS told_notes,
        ifNull(argMaxIf(run_group, (ts, sequence), run_group IS NOT NULL), '')     AS told_group,
        ifNull(argMaxIf(job_type, (ts, sequence), job_type IS NOT NULL), '')       AS told_job_type,
        argMaxIf(parent_run_id, attempt, parent_run_id IS NOT NULL)                AS parent_run_id,
        argMaxIf(parent_step, attempt, parent_step IS NOT NULL)                    AS parent_step,
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
        maxIf(attempt, section = 'config')                                         AS config_attempt,
        maxIf(attempt, section = 'summary')                                        AS summary_attempt,
        arraySort(arrayMap(one -> one.2, arrayFilter(
            one -> one.1 = config_attempt AND one.2 != '', groupArrayIf((attempt, entry), section = 'config'))))   AS config,
        arraySort(arrayMap(one -> one.2, arrayFilter(
            one -> one.1 = summary_attempt AND one.2 != '', groupArrayIf((attempt, entry), section = 'summary')))) AS summary,
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
            max(attempt)                                                           AS attempt,
            -- The latest by (attempt, ts, sequence), which as one number compares faster; '' is no JSON and stands for NULL.
            argMax(ifNull(value, ''), bitShiftLeft(toUInt128(run_values.attempt), 96)
                + bitShiftLeft(toUInt128(toUnixTimestamp64Micro(ts)), 44) + sequence) AS latest,
            if(latest = '', '', concat(toJSONString(key), ':', latest))            AS entry
        FROM run_values
        WHERE section IN ('config', 'summary') OR (section = 'environment' AND key IN ('host', 'git_commit', 'program'))
        GROUP BY project, run_id, section, key
    )
    GROUP BY project, run_id
) AS noted ON told.project = noted.project AND told.run_id = noted.run_id;

-- Every point of a run's metrics, as the latest attempt tells them, beside the latest sample, at most ten seconds old, of each GPU that was sampled for the
-- same run and rank. Where there is none, what the GPU did is NULL.
-- An ASOF JOIN would say it more briefly, but does not hand a filter on the run to its right side: it would read every
-- sample of the fleet. So samples are gathered by ten seconds, each for its own ten and the next, and joined by equality.
CREATE OR REPLACE VIEW gpu_at_step AS
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
    FROM
    (
        SELECT p.*
        FROM metrics AS p
        ANY LEFT JOIN
        (
            SELECT project, run_id, attempt, toNullable(below) AS below FROM rewinds
        ) AS later ON p.project = later.project AND p.run_id = later.run_id AND p.attempt = later.attempt
        WHERE later.below IS NULL OR p.step < later.below
    ) AS m
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
