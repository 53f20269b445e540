-- The inverse of gpu_at_step: every sample of the hardware beside the step that its run and rank had come to then.

-- `step` is that of the latest row logged before the sample, to the second and as the latest attempt tells it, `step_ts` when that was logged; both are
-- NULL before the first. Filter by project and run_id: both reach the tables through the window, whose partitions they are.
CREATE VIEW step_at_sample AS
SELECT
    w.project                                                                      AS project,
    w.run_id                                                                       AS run_id,
    w.rank                                                                         AS rank,
    w.host                                                                         AS host,
    w.gpu                                                                          AS gpu,
    w.gpu_index                                                                    AS gpu_index,
    w.metric                                                                       AS metric,
    w.ts                                                                           AS ts,
    w.value                                                                        AS value,
    w.at_step                                                                      AS step,
    w.at_ts                                                                        AS step_ts
FROM
(
    SELECT
        *,
        last_value(step) IGNORE NULLS OVER so_far                                  AS at_step,
        last_value(step_ts) IGNORE NULLS OVER so_far                               AS at_ts
    FROM
    (
        SELECT
            project, run_id, rank, host, gpu, gpu_index, metric, ts, value,
            true                                                                   AS is_sample,
            CAST(NULL, 'Nullable(Int64)')                                          AS step,
            CAST(NULL, 'Nullable(DateTime64(6, \'UTC\'))')                         AS step_ts
        FROM system
        UNION ALL
        SELECT
            s.project, s.run_id, s.rank, '', '', toInt32(-1), '', s.latest, 0., false, toNullable(s.step), toNullable(s.latest)
        FROM
        (
            SELECT
                m.project                                                          AS project,
                m.run_id                                                           AS run_id,
                m.rank                                                             AS rank,
                max(m.ts)                                                          AS latest,
                argMax(m.step, (m.ts, m.step))                                     AS step
            FROM metrics AS m
            ANY LEFT JOIN
            (
                SELECT project, run_id, attempt, toNullable(below) AS below FROM rewinds
            ) AS later ON m.project = later.project AND m.run_id = later.run_id AND m.attempt = later.attempt
            WHERE later.below IS NULL OR m.step < later.below
            GROUP BY project, run_id, rank, toUnixTimestamp(m.ts)
        ) AS s
    )
    WINDOW so_far AS (PARTITION BY project, run_id, rank ORDER BY ts, is_sample ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW)
) AS w
WHERE w.is_sample;
